package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

type extractOptions struct {
	adapterFlags
	base, tuned, out, budget, saveModules string
	maxError                              float64
	threads                               int
}

func newExtract(a *app) *cobra.Command {
	o := &extractOptions{}
	c := &cobra.Command{
		Use:   "extract --base MODEL --tuned MODEL -o ADAPTER",
		Short: "Make an adapter of what fine-tuning changed",
		Long: `Approximates the difference of two checkpoints, layer by layer, by an adapter:
LoRA by truncated singular value decomposition, LSR by alternating least squares
from several starts, KronA by the nearest sum of Kronecker products. The size is
fixed (--rank, --terms), the smallest within a relative error per layer
(--max-error), or a number of parameters for the whole adapter that goes where
it lowers the error most (--budget). An LSR update whose size is free may also get
other splits where they cost less: the factors of LoRA, which are LSR's with the
splits in x 1 and out x 1, or one of them with a Kronecker product on the other side. Names and shapes are compared before any work starts; one matrix is in
memory at a time, never a model.`,
		Example: `  lsrsurgeon extract --base MODEL --tuned FINE_TUNED -o adapter --method lora --rank 16 --target all-linear
  lsrsurgeon extract --base MODEL --tuned FINE_TUNED -o adapter --method lsr --rank 4x4 --terms 8
  lsrsurgeon extract --base MODEL --tuned FINE_TUNED -o adapter --max-error 0.1
  lsrsurgeon extract --base MODEL --tuned FINE_TUNED -o adapter --method lora --budget 100k`,
		Args: exactArgs(),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			_, err := o.options(nil)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runExtract(cmd.Context(), a, o) },
	}
	f := c.Flags()
	f.StringVar(&o.base, "base", "", "base model")
	f.StringVar(&o.tuned, "tuned", "", "fine-tuned model")
	f.StringVarP(&o.out, "output", "o", "", "directory to write the adapter to")
	enumFlag(c, &o.method, "method", "adapter method", adapter.MethodLSR, adapter.MethodLoRA, adapter.MethodKronA)
	f.StringVar(&o.rank, "rank", "", "rank: r1xr2 for lsr (2x2), r for lora (8); the largest, with --max-error or --budget")
	f.IntVar(&o.terms, "terms", 0, "separation rank: Kronecker terms (lsr 16, krona 1)")
	f.Float64Var(&o.maxError, "max-error", 0, "smallest update of each layer within this error, relative to the difference")
	f.StringVar(&o.budget, "budget", "", "parameters of the whole adapter, spread over the layers: 100k, 2M")
	f.StringVar(&o.target, "target", "", "modules, by name: query,value; or all-linear (default: all linear layers)")
	f.StringVar(&o.targetRegex, "target-regex", "", "modules, by a regular expression over the whole path")
	f.StringVar(&o.exclude, "exclude", "", "modules to leave out, by name")
	f.StringVar(&o.layers, "layers", "", "only these layers: 8-11 or 0,2,5-7")
	f.StringVar(&o.split, "split", "", "split of the dimensions that it fits: 32x24 (default: the most even)")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the random starts")
	f.StringVar(&o.saveModules, "modules-to-save", "", "modules carried whole (default: a head that only the fine-tuned model has)")
	f.IntVar(&o.threads, "threads", 0, "threads (default: one per processor); the result does not depend on it")
	for _, n := range []string{"base", "tuned", "output"} {
		must(c.MarkFlagRequired(n))
	}
	o.init = "zero"
	return c
}

// parseCount reads a number of parameters: 100k, 2M, 50000.
func parseCount(s string) (int64, error) {
	unit := 1.0
	t := strings.ToLower(strings.TrimSpace(s))
	for suffix, u := range map[string]float64{"k": 1e3, "m": 1e6, "b": 1e9} {
		if rest, ok := strings.CutSuffix(t, suffix); ok {
			t, unit = rest, u
			break
		}
	}
	v, err := strconv.ParseFloat(t, 64)
	if err != nil || !(v*unit >= 1) || v*unit > 1e15 {
		return 0, usagef("--budget %q: write a number of parameters, as 100k or 2M", s)
	}
	return int64(v * unit), nil
}

// options makes the library's options of the flags.
func (o *extractOptions) options(sites []adapter.Site) (decompose.ExtractOptions, error) {
	x := decompose.ExtractOptions{MaxError: o.maxError, Threads: threads(o.threads), Save: splitList(o.saveModules)}
	switch {
	case o.set["max-error"] && o.set["budget"]:
		return x, usagef("--max-error and --budget both choose the size: give one of them")
	case o.set["target"] && o.set["target-regex"]:
		return x, usagef("--target and --target-regex both choose the modules: give one of them")
	case o.target == "" && o.targetRegex == "":
		o.target = "all-linear"
	}
	var err error
	if x.Config, err = o.config(sites); err != nil {
		return x, err
	}
	if o.set["max-error"] && !(o.maxError > 0 && o.maxError < 1) {
		return x, usagef("--max-error %v: want a number between 0 and 1", o.maxError)
	}
	if o.budget != "" {
		if x.Budget, err = parseCount(o.budget); err != nil {
			return x, err
		}
	}
	if sized := x.Budget > 0 || x.MaxError > 0; sized && o.rank != "" {
		x.FixedRank, x.MaxRank = o.method == adapter.MethodLSR, x.Config.Rank.R()
	}
	return x, nil
}

func runExtract(ctx context.Context, a *app, o *extractOptions) error {
	if samePlace(o.base, o.tuned) {
		return usagef("--base and --tuned are the same model")
	}
	base, err := a.open(o.base)
	if err != nil {
		return err
	}
	defer base.Close()
	tuned, err := a.open(o.tuned)
	if err != nil {
		return err
	}
	defer tuned.Close()
	for _, in := range []string{o.base, o.tuned} {
		if err := a.checkOutputs(in, o.out); err != nil {
			return err
		}
	}
	sites, _, err := model.SitesOf(base)
	if err != nil {
		return err
	}
	x, err := o.options(sites)
	if err != nil {
		return err
	}
	x.Config.BaseModel = baseName(o.base)
	if x.Config.BaseHash, err = base.Fingerprint(); err != nil {
		return err
	}
	if o.saveModules == "" {
		x.Save = newHeads(base, tuned)
	}
	if m, err := model.Open(tuned); err == nil {
		x.Config.TaskType = taskTypeOf(m)
	}
	bar := a.progress("extract")
	x.Progress = func(done, total int64) { bar.update(done, total, commas(total)+" elements") }
	ad, rep, err := decompose.Extract(ctx, base, tuned, sites, x)
	bar.done()
	if err != nil {
		return err
	}
	from, err := baseSource(base)
	if err != nil {
		return err
	}
	of, err := baseSource(tuned)
	if err != nil {
		return err
	}
	of.Role = "tuned"
	if err := ad.SaveWith(o.out, adapter.SaveOptions{Replace: a.force, Finish: a.finish(tuned.Dir(), from, of)}); err != nil {
		return err
	}
	return printExtract(a, o, ad, rep)
}

// taskTypeOf is PEFT's task type of a model with a head.
func taskTypeOf(m *model.Model) string {
	for _, arch := range m.Config().Architectures {
		switch {
		case strings.HasSuffix(arch, "ForCausalLM"), strings.HasSuffix(arch, "LMHeadModel"):
			return "CAUSAL_LM"
		case strings.HasSuffix(arch, "ForSequenceClassification"):
			return "SEQ_CLS"
		}
	}
	return ""
}

// newHeads lists the classification heads that only the tuned model has.
func newHeads(base, tuned *formats.Checkpoint) []string {
	var heads []string
	for _, n := range []string{"classifier", "score"} {
		has := func(c *formats.Checkpoint) bool {
			for _, t := range c.Tensors() {
				if strings.HasPrefix(t.Name, n+".") {
					return true
				}
			}
			return false
		}
		if has(tuned) && !has(base) {
			heads = append(heads, n)
		}
	}
	return heads
}

type extractRow struct {
	Module     string  `json:"module"`
	In         int     `json:"in"`
	Out        int     `json:"out"`
	Rank       string  `json:"rank"`
	Terms      int     `json:"terms"`
	SplitIn    string  `json:"split_in,omitempty"` // of lsr
	SplitOut   string  `json:"split_out,omitempty"`
	Parameters int     `json:"parameters"`
	DeltaNorm  float64 `json:"delta_norm"`
	Relative   float64 `json:"relative_norm"`
	Error      float64 `json:"relative_error"`
	Reached    *bool   `json:"reached,omitempty"` // with --max-error
}

func printExtract(a *app, o *extractOptions, ad *adapter.Adapter, rep *decompose.ExtractReport) error {
	rows := []extractRow{}
	short := 0
	for _, m := range rep.Modules {
		r := extractRow{m.Module, m.In, m.Out, m.Rank.String(), m.Terms, "", "", m.Params, m.Norm, m.Relative, m.Error, nil}
		if m.SplitIn != [2]int{} {
			r.SplitIn, r.SplitOut = splitText(m.SplitIn), splitText(m.SplitOut)
		}
		if o.maxError > 0 {
			ok := m.Reached
			r.Reached = &ok
			if !ok {
				short++
			}
		}
		rows = append(rows, r)
	}
	if short > 0 {
		a.warn("%d of %d modules do not reach an error of %v; see --rank for the largest rank, and --method", short, len(rows), o.maxError)
	}
	warnNames(a, "%d tensors changed that the adapter does not carry: %s", rep.Changed)
	warnNames(a, "%d tensors of the fine-tuned model are not in the base and not carried: %s", rep.Added)
	warnNames(a, "%d tensors of the base are not in the fine-tuned model: %s", rep.Missing)
	n := adapter.ParamCount(ad.Modules)
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "adapter": o.out, "method": ad.Method, "modules": rows, "trainable": n, "relative_error": rep.Error,
			"unchanged": nonNil(rep.Unchanged), "changed": nonNil(rep.Changed), "added": nonNil(rep.Added), "missing": nonNil(rep.Missing), "modules_to_save": nonNil(ad.ModulesToSave)})
	}
	t := newTable("module", "rank", ">terms", ">parameters", ">|dW|/|W|", ">error/|dW|")
	for _, r := range rows {
		t.add(r.Module, r.Rank, strconv.Itoa(r.Terms), commas(int64(r.Parameters)), float(r.Relative), float(r.Error))
	}
	t.write(a.out, a.outTTY)
	fmt.Fprintf(a.out, "%s: %s of %d modules, %s parameters, error %s of the difference\n", o.out, ad.Method, len(rows), commas(n), float(rep.Error))
	if len(rep.Unchanged) > 0 {
		fmt.Fprintf(a.out, "without an update: %d modules\n", len(rep.Unchanged))
	}
	return nil
}

// warnNames warns of a list of names, of which the first three are shown.
func warnNames(a *app, format string, names []string) {
	if len(names) == 0 {
		return
	}
	text := strings.Join(names[:min(3, len(names))], ", ")
	if len(names) > 3 {
		text += ", ..."
	}
	a.warn(format, len(names), text)
}
