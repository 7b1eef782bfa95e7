package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

func newCompare(a *app) *cobra.Command {
	sort, fold := "", false
	c := &cobra.Command{
		Use:   "compare RUN...",
		Short: "Show training runs side by side: settings, parameters, metrics",
		Long: `Shows runs of train, best first: the adapter, its trainable parameters, the
settings in which the runs differ, and the metrics of the parameters that were
kept. --by-config shows runs that differ in nothing but the seed as one line,
with the mean and the standard deviation (n - 1) of every metric, of the runs in
which it is defined.`,
		Example: `  lsrsurgeon compare run-lora run-lsr
  lsrsurgeon compare runs/* --by-config --sort f1`,
		Args: minArgs(1, "RUN"),
		RunE: func(_ *cobra.Command, args []string) error { return runCompare(a, args, sort, fold) },
	}
	c.Flags().StringVar(&sort, "sort", "", "metric to sort by (default: the one that the first run was to improve)")
	c.Flags().BoolVar(&fold, "by-config", false, "one line for runs that differ only in the seed")
	return c
}

// comparedRun is one run.
type comparedRun struct {
	Run        string              `json:"run"`
	Method     string              `json:"method"`
	Settings   string              `json:"settings"`
	Parameters int                 `json:"parameters"` // trainable, with a head
	Steps      int                 `json:"steps"`
	BestStep   int                 `json:"best_step"`
	Config     map[string]string   `json:"config"`  // of the training and, as "adapter ...", of the adapter
	Metrics    map[string]*float64 `json:"metrics"` // null where one is not defined
	Seconds    float64             `json:"seconds"`

	names []string // of the metrics, in their order
}

// comparedGroup are runs that differ in nothing but the seed.
type comparedGroup struct {
	Runs       []string           `json:"runs"`
	Method     string             `json:"method"`
	Settings   string             `json:"settings"`
	Parameters int                `json:"parameters"`
	Mean       map[string]float64 `json:"mean"`
	SD         map[string]float64 `json:"sd"` // none of a single run

	first *comparedRun
	stats map[string]recipe.Stat
}

// notShown are settings that follow from others, are hashes, or have a column anyway.
var notShown = []string{"program", "starting parameters", "base model", "training data", "evaluation data", "task", "steps"}

func runCompare(a *app, paths []string, sort string, fold bool) error {
	var runs []*comparedRun
	for _, p := range paths {
		r, err := readRun(p)
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	names := metricNames(runs)
	if sort == "" {
		sort = cmp.Or(runs[0].Config["metric"], "loss")
	} else if len(names) == 0 {
		return usagef("no metric to sort by: the runs were trained without evaluation data")
	} else if !slices.Contains(names, sort) {
		return usagef("no run has the metric %q; they have %s", sort, strings.Join(names, ", "))
	}
	for _, key := range []string{"task", "evaluation data"} {
		if differs(runs, key) {
			a.warn("the runs differ in their %s: metrics do not compare", key)
		}
	}
	if differs(runs, "base model") {
		a.note("the runs have different base models")
	}
	groups := groupRuns(runs, names)
	slices.SortStableFunc(runs, func(x, y *comparedRun) int { return byMetric(sort, x.metric(sort), y.metric(sort)) })
	slices.SortStableFunc(groups, func(x, y *comparedGroup) int { return byMetric(sort, x.metric(sort), y.metric(sort)) })
	if a.json {
		doc := map[string]any{"schema": schemaVersion, "sort": sort, "runs": runs}
		if fold {
			doc["groups"] = groups
		}
		return a.printJSON(doc)
	}
	all := map[string]string{}
	for _, r := range runs {
		maps.Copy(all, r.Config)
	}
	keys := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(k string) bool {
		return slices.Contains(notShown, k) || fold && k == "seed" || !differs(runs, k)
	})
	var t *table
	if fold {
		t = tableOfGroups(groups, names, keys)
	} else {
		t = tableOfRuns(runs, names, keys)
	}
	t.write(a.out, a.outTTY)
	return nil
}

// readRun reads what train left of a run.
func readRun(path string) (*comparedRun, error) {
	s, err := train.ReadSummary(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &formats.Error{Path: path, Reason: "no finished run: it has no " + train.RunFile, Hint: "give directories that train wrote; train --resume ends an interrupted one", Err: formats.ErrNotFound}
	}
	if err != nil {
		return nil, &formats.Error{Path: filepath.Join(path, train.RunFile), Reason: "it cannot be read: " + err.Error(), Hint: "train again, with this version of the program", Err: formats.ErrMalformed}
	}
	ad, err := adapter.Load(path, nil)
	if err != nil {
		return nil, err
	}
	r := &comparedRun{Run: path, Method: ad.Method, Settings: settingsText(ad.Settings), Parameters: s.Parameters, Steps: s.Steps, BestStep: s.BestStep,
		Config: map[string]string{}, Metrics: map[string]*float64{}, Seconds: s.Seconds}
	maps.Copy(r.Config, s.Config)
	for key, v := range map[string]string{
		"alpha": strconv.FormatFloat(ad.Alpha, 'g', -1, 64), "scaling": string(ad.Scaling), "init": string(ad.Init),
		"dropout": strconv.FormatFloat(ad.Dropout, 'g', -1, 64), "target": strings.Join(targetNames(ad.Targets), ","), "layers": ad.Targets.Layers.String(),
	} {
		r.Config["adapter "+key] = v
	}
	for _, m := range s.Metrics {
		r.names = append(r.names, m.Name)
		if r.Metrics[m.Name] = nil; !math.IsNaN(m.Value) {
			r.Metrics[m.Name] = &m.Value
		}
	}
	return r, nil
}

// metricNames are those of all runs, in the order in which they come first.
func metricNames(runs []*comparedRun) (names []string) {
	for _, r := range runs {
		for _, n := range r.names {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

// metric is a run's, or NaN.
func (r *comparedRun) metric(name string) float64 {
	if v := r.Metrics[name]; v != nil {
		return *v
	}
	return math.NaN()
}

// metric is a group's mean, or NaN.
func (g *comparedGroup) metric(name string) float64 {
	if v, ok := g.Mean[name]; ok {
		return v
	}
	return math.NaN()
}

// byMetric compares two values of a metric for sorting: the best first, NaN last.
func byMetric(name string, x, y float64) int {
	switch {
	case math.IsNaN(x) || math.IsNaN(y):
		return cmp.Compare(y, x) // NaN is the least
	case task.HigherIsBetter(name):
		return cmp.Compare(y, x)
	}
	return cmp.Compare(x, y)
}

func differs(runs []*comparedRun, key string) bool {
	return slices.ContainsFunc(runs, func(r *comparedRun) bool { return r.Config[key] != runs[0].Config[key] })
}

// groupRuns folds runs whose adapter and settings are the same but for the seed, and what
// follows from it: the starting parameters.
func groupRuns(runs []*comparedRun, names []string) (groups []*comparedGroup) {
	cut := func(r *comparedRun) map[string]string {
		c := maps.Clone(r.Config)
		delete(c, "seed")
		delete(c, "starting parameters")
		return c
	}
	for _, members := range recipe.Group(runs, func(x, y *comparedRun) bool {
		return x.Method == y.Method && x.Settings == y.Settings && x.Parameters == y.Parameters && maps.Equal(cut(x), cut(y))
	}) {
		groups = append(groups, foldRuns(members, names))
	}
	return groups
}

// foldRuns is the group of runs, of which there is at least one.
func foldRuns(members []*comparedRun, names []string) *comparedGroup {
	r := members[0]
	g := &comparedGroup{Method: r.Method, Settings: r.Settings, Parameters: r.Parameters, Mean: map[string]float64{}, SD: map[string]float64{}, first: r, stats: map[string]recipe.Stat{}}
	for _, r := range members {
		g.Runs = append(g.Runs, r.Run)
	}
	for _, n := range names {
		var values []float64
		for _, r := range members {
			values = append(values, r.metric(n))
		}
		s := recipe.Summarize(values)
		g.stats[n] = s
		if !math.IsNaN(s.Mean) {
			g.Mean[n] = s.Mean
		}
		if !math.IsNaN(s.SD) {
			g.SD[n] = s.SD
		}
	}
	return g
}

func tableOfRuns(runs []*comparedRun, names, keys []string) *table {
	head := []string{"run", "method", "settings", ">parameters"}
	for _, k := range slices.Concat(keys, []string{"steps", "best step"}, names, []string{"seconds"}) {
		head = append(head, ">"+k)
	}
	t := newTable(head...)
	for _, r := range runs {
		cells := []string{r.Run, r.Method, r.Settings, commas(int64(r.Parameters))}
		for _, k := range keys {
			cells = append(cells, r.Config[k])
		}
		cells = append(cells, strconv.Itoa(r.Steps), strconv.Itoa(r.BestStep))
		for _, n := range names {
			cells = append(cells, metricText(r.metric(n)))
		}
		t.add(append(cells, fmt.Sprintf("%.1f", r.Seconds))...)
	}
	return t
}

func tableOfGroups(groups []*comparedGroup, names, keys []string) *table {
	head := []string{">runs", "method", "settings", ">parameters"}
	for _, k := range slices.Concat(keys, names) {
		head = append(head, ">"+k)
	}
	t := newTable(head...)
	for _, g := range groups {
		cells := []string{strconv.Itoa(len(g.Runs)), g.Method, g.Settings, commas(int64(g.Parameters))}
		for _, k := range keys {
			cells = append(cells, g.first.Config[k])
		}
		for _, n := range names {
			cells = append(cells, g.stats[n].Format(4))
		}
		t.add(cells...)
	}
	return t
}

// metricText shows a metric; one that is not defined is left empty.
func metricText(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return fmt.Sprintf("%.4f", v)
}
