package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/testdata/stories260k"
)

type demoOptions struct {
	keep  string
	steps int
}

func newDemo(a *app) *cobra.Command {
	o := &demoOptions{}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run inject, train, eval and merge on an embedded real model",
		Long: `Adapts an embedded language model of 260 thousand parameters, trained on
children's stories, to Shakespeare: inject, train, eval, merge and check, as
you would by hand. Nothing is downloaded; files go to a temporary directory
unless --keep names one.`,
		Example: "  lsrsurgeon demo\n  lsrsurgeon demo --keep demo-files",
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), a, o) },
	}
	c.Flags().StringVar(&o.keep, "keep", "", "keep the files in this new directory")
	c.Flags().IntVar(&o.steps, "steps", 120, "training steps")
	return c
}

// demoResult is the demo in JSON.
type demoResult struct {
	Schema      int         `json:"schema"`
	BaseLoss    float64     `json:"base_loss"`
	AdaptedLoss float64     `json:"adapted_loss"`
	MergedLoss  float64     `json:"merged_loss"`
	Trainable   int64       `json:"trainable"`
	Frozen      int64       `json:"frozen"`
	Check       *comparison `json:"check"`
}

func runDemo(ctx context.Context, a *app, o *demoOptions) error {
	if o.steps < 1 {
		return usagef("--steps %d: want at least 1", o.steps)
	}
	dir, err := demoDir(o.keep)
	if err != nil {
		return err
	}
	if o.keep == "" {
		defer os.RemoveAll(dir)
	}
	base, ad, run, merged := filepath.Join(dir, "base"), filepath.Join(dir, "adapter"), filepath.Join(dir, "run"), filepath.Join(dir, "merged")
	if err := unpack(stories260k.Files, base); err != nil {
		return err
	}
	quiet := *a // the commands below report through this one
	quiet.json, quiet.out, quiet.outTTY, quiet.brief = false, a.err, a.errTTY, true
	if a.quiet || a.json {
		quiet.quiet, quiet.out = true, discard{}
	}
	step := func(format string, args ...any) {
		if !quiet.quiet {
			a.note("\n$ lsrsurgeon "+format, args...)
		}
	}

	step("inject base -o adapter --method lsr --rank 2x2 --terms 8 --target all-linear")
	inj := &injectOptions{adapterFlags: adapterFlags{method: "lsr", rank: "2x2", terms: 8, scaling: "lora", init: "zero", target: "all-linear", set: map[string]bool{"terms": true}}, out: ad, taskType: "auto"}
	if err := runInject(&quiet, base, inj); err != nil {
		return err
	}
	step("inspect param-counts base --method lsr --rank 2x2 --terms 8 --target all-linear")
	counts := &countsOptions{adapterFlags: inj.adapterFlags, by: "module"}
	counts.set = map[string]bool{"terms": true, "target": true}
	r, err := countsOf(&quiet, base, counts)
	if err != nil {
		return err
	}
	r.print(&quiet, "module")

	step("train adapter -o run --task lm --data demo_train.txt --eval-data demo_eval.txt --steps %d --batch-size 8", o.steps)
	tr := &trainOptions{dataFlags: demoData(), engineFlags: demoEngine(), out: run, data: filepath.Join(base, "demo_train.txt"), evalData: filepath.Join(base, "demo_eval.txt"),
		schedule: "linear", pool: "auto", steps: o.steps, batch: 8, accumulate: 1, warmup: 0.06, weightDecay: 0.01, clip: 1, hiddenDropout: -1, attnDropout: -1, evalEvery: max(o.steps/3, 1), saveInterval: 0}
	if err := runTrain(ctx, &quiet, ad, tr); err != nil {
		return err
	}
	step("merge run -o merged --check")
	mo := &mergeOptions{engineFlags: demoEngine(), out: merged, dtype: "keep", rounding: "nearest"}
	proof, err := demoMerge(ctx, &quiet, run, mo)
	if err != nil {
		return err
	}
	res := &demoResult{Schema: schemaVersion, Trainable: r.Cost.Trainable, Frozen: r.Parameters, Check: proof}
	for path, dst := range map[string]*float64{base: &res.BaseLoss, run: &res.AdaptedLoss, merged: &res.MergedLoss} {
		if *dst, err = demoLoss(ctx, &quiet, path, base); err != nil {
			return err
		}
	}
	if o.keep != "" {
		a.note("files are in %s", dir)
	}
	return printDemo(a, res)
}

func printDemo(a *app, r *demoResult) error {
	if !(r.AdaptedLoss < r.BaseLoss) {
		return fmt.Errorf("the loss did not fall: %.4f from %.4f", r.AdaptedLoss, r.BaseLoss)
	}
	if a.json {
		return a.printJSON(r)
	}
	a.note("")
	t := newTable("model", ">loss on held-out text", ">trainable", ">frozen")
	t.add("base", fmt.Sprintf("%.4f", r.BaseLoss), "", commas(r.Frozen))
	t.add("base + LSR adapter", fmt.Sprintf("%.4f", r.AdaptedLoss), commas(r.Trainable), commas(r.Frozen))
	t.add("merged", fmt.Sprintf("%.4f", r.MergedLoss), "", commas(r.Frozen))
	t.write(a.out, true)
	fmt.Fprintf(a.out, "merged model: largest difference of %s from base + adapter %.2g (accepted: %.2g)\n", r.Check.What, r.Check.MaxDifference, r.Check.Tolerance)
	return nil
}

// discard is a stream that nobody reads.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func demoDir(keep string) (string, error) {
	if keep == "" {
		return os.MkdirTemp("", "lsrsurgeon-demo-")
	}
	if exists(keep) {
		return "", usagef("--keep %s exists; name a new directory", keep)
	}
	return keep, os.MkdirAll(keep, 0o777)
}

// unpack writes the embedded files to a directory.
func unpack(files fs.FS, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, p), b, 0o666)
	})
}

func demoData() dataFlags { return dataFlags{task: "lm", maxLength: 128} }

func demoEngine() engineFlags {
	return engineFlags{device: "auto", precision: "f32", baseDType: "auto"}
}

// demoMerge merges and returns the proof.
func demoMerge(ctx context.Context, a *app, run string, o *mergeOptions) (*comparison, error) {
	if err := runMerge(ctx, a, []string{run}, o); err != nil {
		return nil, err
	}
	s, err := openSession(a, run, "")
	if err != nil {
		return nil, err
	}
	defer s.close()
	return compareMerged(ctx, a, s.ck, s.adapter, o)
}

// demoLoss is the mean loss per token on the held-out text.
func demoLoss(ctx context.Context, a *app, path, base string) (float64, error) {
	s, err := openSession(a, path, "")
	if err != nil {
		return 0, err
	}
	defer s.close()
	o := &evalOptions{dataFlags: demoData(), engineFlags: demoEngine(), batch: 8, pool: "auto"}
	sp, err := o.spec(s)
	if err != nil {
		return 0, err
	}
	d, set, err := s.dataset(ctx, &o.dataFlags, sp, filepath.Join(base, "demo_eval.txt"), task.Dev, false)
	if err != nil {
		return 0, err
	}
	out, err := evaluate(ctx, a, s, d.Spec, set, o)
	if err != nil {
		return 0, err
	}
	m, err := task.Score(d.Spec, d.Examples, out)
	if err != nil {
		return 0, err
	}
	return m[0].Value, nil
}
