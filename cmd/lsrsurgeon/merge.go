package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

type mergeOptions struct {
	engineFlags
	out, base, weights, dtype, rounding, shard string
	names                                      string
	seed                                       uint64
	reversible, prove, allowUnchanged, anyBase bool
	manifest, inPlace, resume                  bool
	residual                                   string
	residualRank                               int
	workers                                    int
	tolerance                                  float64
	set                                        map[string]bool // flags that the user gave
}

// check refuses flags that contradict each other or have no use.
func (o *mergeOptions) check(adapters int) error {
	switch {
	case o.reversible && o.dtype != "keep":
		return usagef("--reversible keeps the dtype: leave out --dtype %s", o.dtype)
	case o.prove && adapters > 1:
		return usagef("--check compares with one adapter at a time")
	case o.set["tolerance"] && !o.prove:
		return usagef("--tolerance is of --check")
	case o.set["residual-rank"] && o.residual == "":
		return usagef("--residual-rank is of --keep-residual")
	case o.residual != "" && o.residualRank < 1:
		return usagef("--residual-rank %d: want at least 1", o.residualRank)
	}
	return nil
}

func newMerge(a *app) *cobra.Command {
	o := &mergeOptions{}
	c := &cobra.Command{
		Use:   "merge ADAPTER... -o MODEL_OUT",
		Short: "Fold adapters into the base weights",
		Long: `Writes a copy of the base model with the adapters' updates added to its weights.
Tensors are streamed tile by tile, every element is rounded once from a wider
sum, and the output appears whole or not at all. The report says what rounding
to the output's dtype destroyed of each update.

--in-place changes the base instead. The new bytes go to a journal beside it
(` + merge.JournalFile + `) first, which takes the space of the tensors that change; a crash
leaves the old model, or is made good when the model is next opened by any command.`,
		Example: `  lsrsurgeon merge run -o merged --check
  lsrsurgeon merge style task -o merged --weights 0.5,1 --dtype bf16
  lsrsurgeon merge run -o merged --rounding stochastic --seed 1 --reversible
  lsrsurgeon merge run -o merged --keep-residual rest --residual-rank 16`,
		Args: minArgs(1, "ADAPTER"),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			o.set = changed(cmd)
			if _, err := parseWeights(o.weights, len(args)); err != nil {
				return err
			}
			return o.check(len(args))
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runMerge(cmd.Context(), a, args, o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory of the merged model, or a .safetensors file (.onnx for an ONNX model; its external data come to lie beside it)")
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapters name)")
	f.StringVar(&o.names, "names-from", "", namesFromHelp)
	f.StringVar(&o.weights, "weights", "", "weight of each adapter: 1,0.5 (default: all 1)")
	enumFlag(c, &o.dtype, "dtype", "dtype of the merged weights", "keep", "f32", "bf16", "f16")
	enumFlag(c, &o.rounding, "rounding", "rounding to the dtype", "nearest", "stochastic", "error-feedback")
	f.Uint64Var(&o.seed, "seed", 0, "seed of stochastic rounding")
	f.BoolVar(&o.reversible, "reversible", false, "keep what unmerge needs to restore the base bit for bit")
	f.StringVar(&o.shard, "max-shard-size", "", "cut the output into files of at most this size: 5GB (default: as the base)")
	f.BoolVar(&o.prove, "check", false, "compare the outputs of base and adapter with those of the merged model")
	f.Float64Var(&o.tolerance, "tolerance", 0, "largest difference that --check accepts (default 1e-4 in f32, 5e-2 of the largest output otherwise)")
	f.BoolVar(&o.inPlace, "in-place", false, "change the base model's own files, by way of a journal that survives a crash")
	f.BoolVar(&o.resume, "resume", false, "go on with a merge to the same output that was killed; the result is the same")
	f.StringVar(&o.residual, "keep-residual", "", "also write an adapter (LoRA) for the merged model with what rounding lost")
	f.IntVar(&o.residualRank, "residual-rank", 16, "rank of that adapter")
	f.BoolVar(&o.manifest, "manifest", true, "write checksums and provenance of the output (see verify)")
	f.IntVar(&o.workers, "workers", 0, "parallel workers (default: one per processor); the result does not depend on it")
	f.BoolVar(&o.allowUnchanged, "allow-unchanged", false, "accept tensors whose whole update rounding destroyed")
	f.BoolVar(&o.anyBase, "any-base", false, "accept a base whose weights are not those that the adapter was made for")
	c.MarkFlagsOneRequired("output", "in-place")
	for _, n := range []string{"output", "resume", "check", "keep-residual", "dtype", "max-shard-size"} {
		c.MarkFlagsMutuallyExclusive("in-place", n)
	}
	o.memory, o.device, o.precision, o.baseDType = "", "cpu", "f32", "f32"
	return c
}

var dtypeNames = map[string]tensor.DType{"keep": tensor.Invalid, "f32": tensor.F32, "bf16": tensor.BF16, "f16": tensor.F16}

// mergeGC is how much, in percent, the heap of a merge may grow beyond what is live. That
// is arrays of numbers, which are collected in no time, so little room is enough.
const mergeGC = 25

func runMerge(ctx context.Context, a *app, adapters []string, o *mergeOptions) error {
	defer debug.SetGCPercent(debug.SetGCPercent(mergeGC))
	weights, err := parseWeights(o.weights, len(adapters))
	if err != nil {
		return err
	}
	base, err := mergeBase(adapters, o)
	if err != nil {
		return err
	}
	ended, err := a.recoverMerge(base)
	if err != nil {
		return err
	}
	ck, err := a.open(base)
	if err != nil {
		if o.base == "" && errors.Is(err, formats.ErrNotFound) {
			return withHint(err, "the adapter names this base model; give its place with --model")
		}
		return err
	}
	defer ck.Close()
	if !o.inPlace {
		if err := a.checkAllOutputs(append([]string{base, ck.Path()}, adapters...), o.out, o.residual); err != nil {
			return err
		}
	}
	sites, _, err := model.SitesOf(ck)
	if err != nil {
		return err
	}
	if sites, err = namesFrom(a, ck, sites, o.names); err != nil {
		return err
	}
	loaded, sources, err := loadSources(a, ck, sites, adapters, weights, o.anyBase || o.inPlace && ended != "")
	if err != nil {
		return err
	}
	from, err := mergeProvenance(a, ck, adapters, o)
	if err != nil {
		return err
	}
	plan, err := newMergePlan(a, ck, loaded, sources, from, o)
	if err != nil {
		return err
	}
	for _, n := range plan.LeftOut() {
		a.note("not carried along: %s", n)
	}
	if o.inPlace && ended != "" {
		if sources, err := plan.Sources(); err != nil || sources == ended {
			return errors.Join(err, printEnded(a, base))
		}
		return fmt.Errorf("%w: another merge into %s had been interrupted and is complete now", merge.ErrMismatch, base)
	}
	if o.inPlace {
		o.out = base
	}
	rep, err := executeMerge(ctx, a, ck, plan, o)
	if err != nil {
		return err
	}
	a.warnPool(o.out, loaded...)
	if err := keepResidual(ctx, a, ck, loaded, weights, sites, o); err != nil {
		return err
	}
	var proof *comparison
	if o.prove {
		if proof, err = compareMerged(ctx, a, ck, loaded[0], o); err != nil {
			return err
		}
	}
	if err := printMerge(a, o.out, rep, proof); err != nil {
		return err
	}
	if proof != nil && !proof.OK {
		return fmt.Errorf("%w: outputs differ by %.3g, more than %.3g; the merged model is in %s", errCheck, proof.MaxDifference, proof.Tolerance, o.out)
	}
	return nil
}

// mergeBase is the model to merge into: the one given, or that of the first adapter.
func mergeBase(adapters []string, o *mergeOptions) (string, error) {
	for _, p := range adapters {
		if err := unfinished(p); err != nil {
			return "", err
		}
	}
	if o.base != "" {
		return o.base, nil
	}
	if !exists(adapters[0]) {
		return "", withHint(fmt.Errorf("%s: %w", adapters[0], fs.ErrNotExist), "give directories that inject or train wrote, or PEFT adapters")
	}
	if !isAdapterDir(adapters[0]) {
		return "", withHint(&usageError{msg: adapters[0] + " is not an adapter directory"}, "give directories that inject or train wrote, or PEFT adapters")
	}
	return baseOf(adapters[0], "")
}

// executeMerge carries out the plan, with progress.
func executeMerge(ctx context.Context, a *app, ck *formats.Checkpoint, plan *merge.Plan, o *mergeOptions) (*merge.Report, error) {
	bar := a.progress("merge")
	defer bar.done()
	show := func(done, total int64) { bar.update(done, total, bytesText(total)) }
	if o.inPlace {
		return plan.RunInPlace(ctx, show)
	}
	return runPlan(ctx, a, ck, plan, o.out, show)
}

// errCheck is a merge whose outputs are not those of base and adapter.
var errCheck = errors.New("the check failed")

func parseWeights(s string, n int) ([]float64, error) {
	w := make([]float64, n)
	for i := range w {
		w[i] = 1
	}
	if s == "" {
		return w, nil
	}
	parts := splitList(s)
	if len(parts) != n {
		return nil, usagef("--weights has %d numbers for %d adapters", len(parts), n)
	}
	for i, p := range parts {
		v, err := strconv.ParseFloat(p, 64)
		if err != nil {
			return nil, usagef("--weights: %q is not a number", p)
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, usagef("--weights: %q is not a finite number", p)
		}
		w[i] = v
	}
	return w, nil
}

func loadSources(a *app, ck *formats.Checkpoint, sites []adapter.Site, paths []string, weights []float64, anyBase bool) ([]*adapter.Adapter, []merge.Source, error) {
	var loaded []*adapter.Adapter
	var sources []merge.Source
	for i, p := range paths {
		ad, err := adapter.Load(p, sites)
		if err != nil {
			return nil, nil, err
		}
		if err := a.checkBase(ck, ad, p, anyBase); err != nil {
			return nil, nil, err
		}
		src, err := merge.FromAdapter(ad, weights[i])
		if err != nil {
			return nil, nil, err
		}
		if ck.Format() == formats.FormatONNX {
			src.Head = graphHead(src.Head, sites)
		}
		loaded, sources = append(loaded, ad), append(sources, src)
	}
	return loaded, sources, nil
}

// checkBase refuses an adapter that was made for other weights than those of
// ck, or with anyBase warns.
func (a *app) checkBase(ck *formats.Checkpoint, ad *adapter.Adapter, path string, anyBase bool) error {
	if ad.BaseHash == "" {
		return nil
	}
	print, err := ck.Fingerprint()
	if err != nil || print == ad.BaseHash {
		return err
	}
	if !anyBase {
		return withHint(fmt.Errorf("%w: %s was made for other weights than those of %s", merge.ErrMismatch, path, ck.Path()), "give the right base with --model, or --any-base if you mean it")
	}
	a.warn("%s was made for other weights than those of %s", path, ck.Path())
	return nil
}

// mergeProvenance says where the merged model comes from, nil for no manifest.
func mergeProvenance(a *app, ck *formats.Checkpoint, adapters []string, o *mergeOptions) (*manifest.Provenance, error) {
	if !o.manifest || isGraphFile(o.out) { // a file has no place for one
		return nil, nil
	}
	base, err := baseSource(ck)
	if err != nil {
		return nil, err
	}
	sources := []manifest.Source{base}
	for _, path := range adapters {
		s, err := sumSource(a.cmd.Context(), "adapter", path)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	return a.provenance(sources...), nil
}

func newMergePlan(a *app, ck *formats.Checkpoint, loaded []*adapter.Adapter, sources []merge.Source, from *manifest.Provenance, o *mergeOptions) (*merge.Plan, error) {
	m := merge.Options{Manifest: from, DType: dtypeNames[o.dtype], Rounding: merge.Rounding(o.rounding), Seed: o.seed, Workers: threads(o.workers), Replace: a.force, Resume: o.resume, Reversible: o.reversible, AllowUnchanged: o.allowUnchanged}
	var err error
	if m.MaxShardSize, err = parseBytes(o.shard); err != nil {
		return nil, err
	}
	if md, err := model.Open(ck); err == nil {
		if m.Tied, err = md.Tied(); err != nil {
			return nil, err
		}
		m.Config = headConfig(md, loaded)
	}
	return merge.NewPlan(ck, sources, m)
}

// headConfig is what config.json must say about a trained head that the base
// model has not.
func headConfig(m *model.Model, loaded []*adapter.Adapter) []merge.ConfigValue {
	for _, ad := range loaded {
		for _, t := range ad.Head {
			classifier := strings.HasSuffix(t.Name, "classifier.weight") || strings.HasSuffix(t.Name, "out_proj.weight") || strings.HasSuffix(t.Name, "score.weight")
			if !classifier || len(t.Shape) != 2 {
				continue
			}
			arch := m.ClassifierArchitecture()
			if arch == "" {
				continue
			}
			labels, ids := map[string]string{}, map[string]int{}
			names := m.Config().LabelNames
			if r, err := train.ReadSummary(ad.Dir); err == nil && len(r.Labels) == t.Shape[0] {
				names = r.Labels // what the head was trained on
			}
			for i := range t.Shape[0] {
				n := fmt.Sprintf("LABEL_%d", i)
				if len(names) == t.Shape[0] {
					n = names[i]
				}
				labels[strconv.Itoa(i)], ids[n] = n, i
			}
			return []merge.ConfigValue{{Key: "architectures", Value: []string{arch}}, {Key: "id2label", Value: labels}, {Key: "label2id", Value: ids}}
		}
	}
	return nil
}

type mergeRow struct {
	Tensor        string  `json:"tensor"`
	From          string  `json:"from"`
	To            string  `json:"to"`
	Elements      int64   `json:"elements"`
	Unchanged     int64   `json:"unchanged"`
	Share         float64 `json:"unchanged_share"`
	DeltaNorm     float64 `json:"delta_norm"`
	RelativeError float64 `json:"relative_error"`
	MaxError      float64 `json:"max_error"`
}

func mergeRowOf(t merge.TensorReport) mergeRow {
	return mergeRow{t.Name, t.From.String(), t.To.String(), t.Elements, t.Unchanged, t.Share, t.DeltaNorm, t.RelativeError, t.MaxError}
}

// warnLoss warns of updates that rounding destroyed, in total and of the layers that
// lost most.
func warnLoss(a *app, r *merge.Report) {
	lost := slices.DeleteFunc(slices.Clone(r.Tensors), func(t merge.TensorReport) bool { return t.RelativeError <= lossWarning })
	if len(lost) == 0 {
		return
	}
	slices.SortStableFunc(lost, func(x, y merge.TensorReport) int { return cmp.Compare(y.RelativeError, x.RelativeError) })
	var worst []string
	for _, t := range lost[:min(3, len(lost))] {
		worst = append(worst, fmt.Sprintf("%s (%.0f %%)", t.Name, 100*t.RelativeError))
	}
	a.warn("rounding destroyed much of the update: %.1f %% of the elements did not change, the error is %.0f %% of the update; worst of %d such tensors: %s; see --dtype, --rounding and --keep-residual",
		100*r.Total.Share, 100*r.Total.RelativeError, len(lost), strings.Join(worst, ", "))
}

// lossWarning is the relative error from which a merge is worth a warning: a
// fifth of the update is noise.
const lossWarning = 0.2

func printMerge(a *app, out string, r *merge.Report, proof *comparison) error {
	total := mergeRowOf(r.Total)
	warnLoss(a, r)
	if a.json {
		rows := []mergeRow{}
		for _, t := range r.Tensors {
			rows = append(rows, mergeRowOf(t))
		}
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": out, "files": r.Files, "bytes": r.Bytes, "merged": rows, "total": total, "copied": r.Copied, "added": nonNil(r.Added), "untied": nonNil(r.Untied), "check": proof})
	}
	t := newTable("tensor", "dtype", ">elements", ">unchanged", ">|dW|", ">error/|dW|")
	rows := append(slices.Clone(r.Tensors), r.Total)
	if a.brief {
		rows = rows[len(rows)-1:]
	}
	for _, x := range rows {
		dt := x.From.String()
		if x.To != x.From {
			dt += " > " + x.To.String()
		}
		if x.Name == "total" {
			dt = ""
		}
		t.add(x.Name, dt, commas(x.Elements), fmt.Sprintf("%.1f %%", 100*x.Share), float(x.DeltaNorm), float(x.RelativeError))
	}
	t.write(a.out, a.outTTY)
	fmt.Fprintf(a.out, "%s: %d tensors merged, %d copied, %d added, %s\n", out, len(r.Tensors), r.Copied, len(r.Added), bytesText(r.Bytes))
	if proof != nil {
		printProof(a, proof)
	}
	return nil
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
