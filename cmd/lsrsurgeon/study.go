package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/recipe"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

type studyOptions struct {
	set               []string
	dryRun, keepGoing bool
}

func newStudy(a *app) *cobra.Command {
	o := &studyOptions{}
	c := &cobra.Command{
		Use:   "study STUDY.yaml",
		Short: "Train configurations with several seeds each and compare them",
		Long: `Makes and trains an adapter for every configuration of a study and every seed, one
after the other (docs/recipes.md). The runs are in OUTPUT/CONFIGURATION/seed-N, and
OUTPUT gets report.md, report.csv and runs.csv. The table shows for each
configuration the mean of every metric ± the sample standard deviation (n - 1) over
the seeds, and in brackets n, the number of runs in which the metric is defined; a
single run has no deviation.

Started again, a study leaves out the runs that are done and goes on with one that was
interrupted where it was. Runs that were made with other settings are not touched,
unless --force replaces them.`,
		Example: `  lsrsurgeon study study.yaml --dry-run
  lsrsurgeon study study.yaml --set steps=500 --keep-going`,
		Args: exactArgs("STUDY.yaml"),
		RunE: func(cmd *cobra.Command, args []string) error { return runStudy(cmd.Context(), a, args[0], o) },
	}
	f := c.Flags()
	f.StringArrayVar(&o.set, "set", nil, "another value for a variable: name=value (repeatable)")
	f.BoolVar(&o.dryRun, "dry-run", false, "check the study and print the command lines that it stands for")
	f.BoolVar(&o.keepGoing, "keep-going", false, "go on with the other runs when one fails")
	return c
}

func runStudy(ctx context.Context, a *app, path string, o *studyOptions) error {
	text, set, err := readRecipe(path, o.set)
	if err != nil {
		return err
	}
	st, err := recipe.ParseStudy(path, text, set)
	if err != nil {
		return err
	}
	for _, v := range st.Unused {
		a.warn("%s:%d: nothing uses the variable %s", path, v.Pos.Line, v.Value)
	}
	runs := st.Runs()
	var steps []recipe.Step
	for _, r := range runs {
		steps = append(steps, r.Inject, r.Train)
	}
	plan, err := planSteps(path, steps)
	if err != nil {
		return err
	}
	s := &stepRunner{a: a, plan: plan, resume: true, study: true, out: a.err, journalPath: filepath.Join(st.Output, "study.journal.json")}
	if a.quiet {
		s.out = discard{}
	}
	defer s.close()
	if err := s.open(o.dryRun); err != nil {
		return err
	}
	if err := s.ownReports(st.Output); err != nil {
		return err
	}
	for _, p := range plan { // before the first run starts
		if _, err := s.decide(ctx, p); err != nil {
			return &failedStep{p.Name, err}
		}
	}
	if o.dryRun {
		return s.print(ctx, path)
	}
	failed, err := s.runAll(ctx, o.keepGoing)
	if err != nil {
		return err
	}
	rep, err := studyReport(a, st, runs, failed)
	if err != nil {
		return err
	}
	if err := rep.write(); err != nil {
		return err
	}
	if n := len(failed); n > 0 {
		first := failed[slices.Min(slices.Collect(maps.Keys(failed)))]
		err = fmt.Errorf("%d of %d runs failed; the first: %w", n, len(runs), first)
	}
	return errors.Join(err, rep.print(a, err))
}

// runAll trains run after run: two steps each. With keepGoing, the errors of runs are
// returned by their numbers and the others go on.
func (s *stepRunner) runAll(ctx context.Context, keepGoing bool) (map[int]error, error) {
	s.list()
	failed := map[int]error{}
	for i := 0; i < len(s.plan); i += 2 {
		for k := i; k < i+2; k++ {
			err := s.step(ctx, k, s.plan[k])
			if err == nil {
				continue
			}
			err = &failedStep{s.plan[k].Name, err}
			if code, msg, _ := verdict(err); keepGoing && code != exitInterrupted && code != exitUsage {
				s.a.warn("%s", msg)
				failed[i/2] = err
				break
			}
			return nil, err
		}
	}
	return failed, nil
}

// decideStudy says what is to be done with a step of a study. Whether a training is
// done, train's own records say; what other settings or inputs have made is refused, or
// with --force replaced.
func (s *stepRunner) decideStudy(ctx context.Context, p *plannedStep) (decision, error) {
	out := p.outputs[0]
	if !exists(out) {
		return decision{}, nil
	}
	isTrain := p.Command.Value == "train"
	e := s.journal.Steps[p.key]
	if e == nil {
		switch {
		case s.journal.Wrote(out) && s.a.force:
			return decision{force: true}, nil
		case s.journal.Wrote(out):
			return decision{}, otherSettings(out, "settings")
		case isTrain: // which refuses what does not belong to it
			return decision{more: []string{"--resume"}}, nil
		}
		return decision{force: true}, nil
	}
	in, err := s.sumAll(ctx, p.inputs)
	if err != nil {
		return decision{}, err
	}
	if !sameContents(in, e.Inputs) {
		if s.a.force {
			return decision{force: true}, nil
		}
		var changed []string
		for _, name := range p.inputs {
			if in[name].Contents != e.Inputs[name].Contents {
				changed = append(changed, name)
			}
		}
		return decision{}, otherSettings(out, "contents of "+strings.Join(changed, ", "))
	}
	if isTrain {
		if _, err := train.ReadSummary(out); err == nil && e.Done {
			return decision{skip: true}, nil
		}
		return decision{more: []string{"--resume"}}, nil
	}
	sums, err := s.sumAll(ctx, p.outputs)
	if err == nil && e.Done && sameContents(sums, e.Outputs) {
		return decision{skip: true}, nil
	}
	return decision{force: true}, err
}

func otherSettings(out, what string) error {
	return &usageError{msg: out + " was made with other " + what, hint: "give the study another output, or --force to replace it"}
}

// studyTable are the columns of a study's results.
type studyTable struct {
	st     *recipe.Study
	sort   string // the metric that decides the order
	names  []string
	config []*studyConfig // best first
	runs   []*studyRun    // in the order of the study
}

// studyConfig is a configuration in JSON.
type studyConfig struct {
	Config     string             `json:"config"`
	Inject     map[string]string  `json:"inject"`
	Train      map[string]string  `json:"train"`
	Method     string             `json:"method"`
	Settings   string             `json:"settings"`
	Parameters int                `json:"parameters"` // trainable, with a head
	Runs       []*studyRun        `json:"runs"`
	N          map[string]int     `json:"n"` // runs in which a metric is defined
	Mean       map[string]float64 `json:"mean"`
	SD         map[string]float64 `json:"sd"`      // sample standard deviation (n - 1); none of a single run
	Seconds    float64            `json:"seconds"` // mean

	group   *comparedGroup
	seconds recipe.Stat
}

// studyRun is a run in JSON.
type studyRun struct {
	Config  string              `json:"config"`
	Seed    uint64              `json:"seed"`
	Run     string              `json:"run"`
	Error   string              `json:"error,omitempty"`
	Steps   int                 `json:"steps"`
	Best    int                 `json:"best_step"`
	Metrics map[string]*float64 `json:"metrics"`
	Seconds float64             `json:"seconds"`

	read *comparedRun // nil if it failed
}

// studyReport gathers what the runs have left.
func studyReport(a *app, st *recipe.Study, runs []recipe.Run, failed map[int]error) (*studyTable, error) {
	t := &studyTable{st: st}
	var all []*comparedRun
	for i, r := range runs {
		x := &studyRun{Config: st.Configs[r.Config].Slug, Seed: r.Seed, Run: r.Dir}
		t.runs = append(t.runs, x)
		if err := failed[i]; err != nil {
			_, x.Error, _ = verdict(err)
			continue
		}
		var err error
		if x.read, err = readRun(r.Dir); err != nil {
			return nil, err
		}
		x.Steps, x.Best, x.Metrics, x.Seconds = x.read.Steps, x.read.BestStep, x.read.Metrics, x.read.Seconds
		all = append(all, x.read)
	}
	if len(all) == 0 { // every run failed
		return nil, failed[0]
	}
	t.names = metricNames(all)
	if t.sort = all[0].Config["metric"]; t.sort == "" {
		t.sort = "loss"
	}
	for _, key := range []string{"task", "evaluation data"} {
		if differs(all, key) {
			a.warn("the runs differ in their %s: metrics do not compare", key)
		}
	}
	if len(t.names) == 0 {
		a.warn("the runs have no metrics: give eval-data in train")
	}
	for i, c := range st.Configs {
		t.config = append(t.config, t.fold(i, c, runs))
	}
	slices.SortStableFunc(t.config, func(x, y *studyConfig) int { return byMetric(t.sort, x.group.metric(t.sort), y.group.metric(t.sort)) })
	return t, nil
}

// fold is the configuration i with the statistics of its runs.
func (t *studyTable) fold(i int, c recipe.Config, runs []recipe.Run) *studyConfig {
	out := &studyConfig{Config: c.Slug, Inject: flagMap(c.Inject), Train: flagMap(c.Train), N: map[string]int{}, group: &comparedGroup{}}
	var members []*comparedRun
	var seconds []float64
	for k, r := range runs {
		if r.Config != i {
			continue
		}
		x := t.runs[k]
		out.Runs = append(out.Runs, x)
		if x.read != nil {
			members, seconds = append(members, x.read), append(seconds, x.Seconds)
		}
	}
	if len(members) > 0 {
		out.group = foldRuns(members, t.names)
		out.Method, out.Settings, out.Parameters = out.group.Method, out.group.Settings, out.group.Parameters
		out.Mean, out.SD = out.group.Mean, out.group.SD
	}
	for _, n := range t.names {
		out.N[n] = out.group.stats[n].N
	}
	if out.seconds = recipe.Summarize(seconds); out.seconds.N > 0 {
		out.Seconds = out.seconds.Mean
	}
	return out
}

// flagMap are flags as they are written.
func flagMap(flags []recipe.Flag) map[string]string {
	m := map[string]string{}
	for _, f := range flags {
		m[f.Name.Value] = joinTexts(f.Values, " ")
	}
	return m
}

// print shows the table, or all of it as JSON, with the code of what failed.
func (t *studyTable) print(a *app, failure error) error {
	if a.json {
		exit := exitOK
		if failure != nil {
			exit, _, _ = verdict(failure)
		}
		return a.printJSON(map[string]any{"schema": schemaVersion, "study": t.st.Path, "output": t.st.Output, "sort": t.sort, "configs": t.config, "exit_code": exit})
	}
	head, rows := t.cells()
	out := newTable(head...)
	for _, r := range rows {
		out.add(r...)
	}
	out.write(a.out, a.outTTY)
	a.note("mean ± sample standard deviation (n - 1) over seeds, in brackets the number of runs; %s has the report", filepath.Join(t.st.Output, "report.md"))
	return nil
}
