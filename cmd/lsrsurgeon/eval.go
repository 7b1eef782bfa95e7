package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

type evalOptions struct {
	dataFlags
	engineFlags
	base, data, split, pool string
	batch                   int
}

func (o *evalOptions) add(c *cobra.Command) {
	o.dataFlags.add(c)
	o.engineFlags.add(c)
	f := c.Flags()
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapter names)")
	f.StringVar(&o.data, "data", "", "data: a file, or a directory of the task")
	f.IntVar(&o.batch, "batch-size", 32, "sequences of a batch; results do not depend on it")
	enumFlag(c, &o.pool, "pool", "what the head reads of a sequence", "auto", "cls", "mean", "last")
	must(c.MarkFlagRequired("data"))
}

func newEval(a *app) *cobra.Command {
	o := &evalOptions{}
	c := &cobra.Command{
		Use:   "eval ADAPTER|MODEL",
		Short: "Compute the metrics of a task",
		Example: `  lsrsurgeon eval run --task mrpc --data glue/MRPC
  lsrsurgeon eval MODEL --task lm --data held-out.txt --json`,
		Args:    exactArgs("ADAPTER or MODEL"),
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE:    func(cmd *cobra.Command, args []string) error { return runEval(cmd.Context(), a, args[0], o) },
	}
	o.add(c)
	enumFlag(c, &o.split, "split", "part of the data", "dev", "train", "test")
	return c
}

func runEval(ctx context.Context, a *app, path string, o *evalOptions) error {
	s, err := o.open(a, path)
	if err != nil {
		return err
	}
	defer s.close()
	sp, err := o.spec(s)
	if err != nil {
		return err
	}
	split := map[string]task.Split{"dev": task.Dev, "train": task.Train, "test": task.Test}[o.split]
	data, set, err := s.dataset(ctx, &o.dataFlags, sp, o.data, split, false)
	if err != nil {
		return err
	}
	out, err := evaluate(ctx, a, s, data.Spec, set, o)
	if err != nil {
		return err
	}
	m, err := task.Score(data.Spec, data.Examples, out)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "path": path, "task": sp.Name, "data": data.Path, "sequences": set.Len(), "tokens": set.Tokens(), "metrics": metricValues(m)})
	}
	t := newTable("metric", ">value")
	for _, v := range m {
		t.add(v.Name, fmt.Sprintf("%.4f", v.Value))
	}
	t.write(a.out, a.outTTY)
	return nil
}

// check refuses values that mean nothing.
func (o *evalOptions) check() error {
	return cmp.Or(o.dataFlags.check(), o.engineFlags.check())
}

// open opens what is evaluated, filling in what is known of it.
func (o *evalOptions) open(a *app, path string) (*session, error) {
	s, err := openSession(a, path, o.base)
	if err != nil {
		return nil, err
	}
	if err := s.checkBase(path, true); err != nil {
		s.close()
		return nil, err
	}
	o.known(s, path)
	return s, nil
}

func metricValues(m []task.Metric) map[string]any {
	out := map[string]any{}
	for _, v := range m {
		if v.Value == v.Value {
			out[v.Name] = v.Value
		} else {
			out[v.Name] = nil // not defined
		}
	}
	return out
}

// evaluate runs the model over a dataset.
func evaluate(ctx context.Context, a *app, s *session, sp task.Spec, set *task.Dataset, o *evalOptions) ([]task.Output, error) {
	net, built, err := s.net(sp, model.BuildOptions{Pool: pools[o.pool]})
	if err != nil {
		return nil, err
	}
	if err := s.headKnown(built); err != nil {
		return nil, err
	}
	e, err := o.engineFlags.open(a)
	if err != nil {
		return nil, err
	}
	ev, err := train.NewEvaluator(e, net, set, task.BatchOptions{Size: o.batch})
	if err != nil {
		return nil, err
	}
	defer ev.Close()
	bar := a.progress("eval")
	defer bar.done()
	return ev.Run(ctx, func(done, total int) { bar.update(int64(done), int64(total), "") })
}

func newPredict(a *app) *cobra.Command {
	o := &evalOptions{}
	c := &cobra.Command{
		Use:   "predict ADAPTER|MODEL",
		Short: "Predict for every example: one JSON object a line on stdout",
		Long: `Prints a JSON object for every example: the likeliest class with all
probabilities, the value of a regression, or for a language model the mean loss
of the example's tokens.`,
		Example: `  echo '{"text": "A fine film."}' | lsrsurgeon predict run --data - --labels negative,positive
  lsrsurgeon predict run --task mrpc --data pairs.tsv`,
		Args:    exactArgs("ADAPTER or MODEL"),
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE:    func(cmd *cobra.Command, args []string) error { return runPredict(cmd.Context(), a, args[0], o) },
	}
	o.add(c)
	return c
}

func runPredict(ctx context.Context, a *app, path string, o *evalOptions) error {
	s, err := o.open(a, path)
	if err != nil {
		return err
	}
	defer s.close()
	sp, err := o.spec(s)
	if err != nil {
		return err
	}
	data, err := readPredict(a, s, o, sp)
	if err != nil {
		return err
	}
	lm := data.Spec.Kind == task.LM
	if lm {
		o.batch = 1 // a program computes the loss of a batch
	}
	set, err := s.encode(ctx, &o.dataFlags, data, true)
	if err != nil {
		return err
	}
	out, err := evaluate(ctx, a, s, data.Spec, set, o)
	if err != nil {
		return err
	}
	if lm {
		return printTextLosses(a, data, set, out)
	}
	answers, err := task.Predictions(data.Spec, data.Examples, out)
	if err != nil {
		return err
	}
	e := json.NewEncoder(a.out)
	for _, p := range answers {
		if err := e.Encode(p); err != nil {
			return err
		}
	}
	return nil
}

// printTextLosses prints the mean loss of each example of a language model; that of
// an example without a token to predict is null.
func printTextLosses(a *app, data *task.Data, set *task.Dataset, out []task.Output) error {
	of := make([]task.Output, len(data.Examples))
	for i, x := range out {
		sum := &of[set.Source(i)]
		sum.Loss, sum.Count = sum.Loss+x.Loss, sum.Count+x.Count
	}
	e := json.NewEncoder(a.out)
	for i, x := range of {
		line := map[string]any{"id": data.Examples[i].ID, "index": i, "loss": nil, "tokens": x.Count}
		if x.Count > 0 {
			line["loss"] = x.Loss / float64(x.Count)
		}
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// known fills task, labels and pooling in from the run that made the adapter, else from
// the model's configuration, where the user gave none.
func (o *evalOptions) known(s *session, path string) {
	if r, err := train.ReadSummary(path); err == nil {
		if o.task == "" {
			o.task = r.Task
		}
		if o.task == r.Task {
			o.names = r.Labels
		}
		if n, err := strconv.Atoi(r.Config["max length"]); err == nil && o.maxLength == 0 {
			o.maxLength = n // as it was trained
		}
		if o.pool == "auto" {
			o.pool = trainedPool(path)
		}
	}
	if o.names == nil {
		o.names = s.base.Config().LabelNames
	}
}

// readPredict reads the input, from stdin where it is "-": JSON lines if it
// starts with a brace, tab-separated text otherwise.
func readPredict(a *app, s *session, o *evalOptions, sp task.Spec) (*task.Data, error) {
	ro, err := o.read(s, sp)
	if err != nil {
		return nil, err
	}
	ro.Unlabelled = true
	if o.data != "-" {
		if _, err := os.Stat(o.data); err != nil {
			return nil, err
		}
		return task.Read(sp, o.data, task.Test, ro)
	}
	b, err := io.ReadAll(a.in)
	if err != nil {
		return nil, err
	}
	format := "tsv"
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		format = "jsonl"
	} else if sp.Kind == task.LM {
		format = "txt"
	}
	return task.ReadFrom(sp, bytes.NewReader(b), "standard input", format, task.Test, ro)
}
