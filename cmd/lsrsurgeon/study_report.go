package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
)

// cells are the table's head, with > before columns of numbers, and its rows.
func (t *studyTable) cells() (head []string, rows [][]string) {
	head = []string{"configuration", "method", "settings", ">parameters"}
	for _, n := range t.names {
		head = append(head, ">"+n)
	}
	head = append(head, ">seconds")
	for _, c := range t.config {
		row := []string{c.Config, c.Method, c.Settings, commas(int64(c.Parameters))}
		for _, n := range t.names {
			row = append(row, withCount(c.group.stats[n], 4))
		}
		rows = append(rows, append(row, withCount(c.seconds, 1)))
	}
	return head, rows
}

// withCount is "mean ± sd (n)", or empty.
func withCount(s recipe.Stat, decimals int) string {
	if s.N == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%d)", s.Format(decimals), s.N)
}

// reports are the files of a study beside its runs.
var reports = []string{"report.md", "report.csv", "runs.csv"}

// ownReports refuses to replace files that have the names of reports and are none.
func (s *stepRunner) ownReports(dir string) error {
	if s.a.force || exists(s.journalPath) {
		return nil
	}
	runs, err := os.ReadFile(filepath.Join(dir, reports[2]))
	if err == nil && bytes.HasPrefix(runs, []byte("configuration,seed,run,")) { // a study whose journal was lost
		return nil
	}
	for _, name := range reports {
		if out := filepath.Join(dir, name); exists(out) {
			return &usageError{msg: "output " + out + " exists, and no study wrote it", hint: "give the study another output, or --force to replace it"}
		}
	}
	return nil
}

// write writes the reports, each whole or not at all.
func (t *studyTable) write() error {
	for i, to := range []func(io.Writer) error{t.markdown, t.csvOfConfigs, t.csvOfRuns} {
		if err := atomicfile.WriteFile(filepath.Join(t.st.Output, reports[i]), 0o666, to); err != nil {
			return err
		}
	}
	return nil
}

// markdown is the report for people.
func (t *studyTable) markdown(w io.Writer) error {
	var b strings.Builder
	seeds := make([]string, len(t.st.Seeds))
	for i, s := range t.st.Seeds {
		seeds[i] = strconv.FormatUint(s, 10)
	}
	fmt.Fprintf(&b, "# %s\n\n", filepath.Base(t.st.Path))
	fmt.Fprintf(&b, "%d configurations, seeds %s. Mean ± sample standard deviation (n - 1) over the seeds, in brackets the number of runs in which the metric is defined; a single run has no deviation. Best %s first.\n\n", len(t.config), strings.Join(seeds, ", "), t.sort)
	b.WriteString("Metrics are of the evaluation data, for the parameters that were kept: unless train has keep-last, those of the step that was best on the same data, which makes them a little better than on data that decided nothing.\n\n")
	head, rows := t.cells()
	rule := make([]string, len(head))
	for i, h := range head {
		if rule[i] = "---"; strings.HasPrefix(h, ">") {
			rule[i] = "---:"
		}
		head[i] = strings.TrimPrefix(h, ">")
	}
	for _, r := range slices.Concat([][]string{head, rule}, rows) {
		b.WriteString("| " + strings.Join(r, " | ") + " |\n")
	}
	b.WriteString("\n## Settings\n\n")
	for _, c := range t.config {
		fmt.Fprintf(&b, "- %s\n", c.Config)
		for _, part := range []struct {
			name  string
			flags map[string]string
		}{{"inject", c.Inject}, {"train", c.Train}} {
			var words []string
			for _, k := range slices.Sorted(maps.Keys(part.flags)) {
				words = append(words, k+": "+part.flags[k])
			}
			fmt.Fprintf(&b, "  - %s: `%s`\n", part.name, strings.Join(words, ", "))
		}
	}
	if failed := slices.DeleteFunc(slices.Clone(t.runs), func(r *studyRun) bool { return r.Error == "" }); len(failed) > 0 {
		b.WriteString("\n## Failed\n\n")
		for _, r := range failed {
			fmt.Fprintf(&b, "- %s, seed %d: %s\n", r.Config, r.Seed, r.Error)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// csvOfConfigs has a line for each configuration.
func (t *studyTable) csvOfConfigs(w io.Writer) error {
	head := []string{"configuration", "method", "settings", "parameters", "runs"}
	for _, n := range t.names {
		head = append(head, n+"_mean", n+"_sd", n+"_n")
	}
	rows := [][]string{append(head, "seconds_mean")}
	for _, c := range t.config {
		row := []string{c.Config, c.Method, c.Settings, strconv.Itoa(c.Parameters), strconv.Itoa(c.seconds.N)}
		for _, n := range t.names {
			s := c.group.stats[n]
			row = append(row, csvNumber(s.Mean), csvNumber(s.SD), strconv.Itoa(s.N))
		}
		rows = append(rows, append(row, csvNumber(c.seconds.Mean)))
	}
	return csv.NewWriter(w).WriteAll(rows)
}

// csvOfRuns has a line for each run.
func (t *studyTable) csvOfRuns(w io.Writer) error {
	head := append([]string{"configuration", "seed", "run", "steps", "best_step"}, t.names...)
	rows := [][]string{append(head, "seconds", "error")}
	for _, r := range t.runs {
		row := []string{r.Config, strconv.FormatUint(r.Seed, 10), r.Run, strconv.Itoa(r.Steps), strconv.Itoa(r.Best)}
		for _, n := range t.names {
			v := math.NaN()
			if r.read != nil {
				v = r.read.metric(n)
			}
			row = append(row, csvNumber(v))
		}
		rows = append(rows, append(row, csvNumber(r.Seconds), r.Error))
	}
	return csv.NewWriter(w).WriteAll(rows)
}

// csvNumber has all digits; what is not defined is empty.
func csvNumber(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
