package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/convert"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// openForConvert opens an adapter of any form, with its base where that is found:
// forms that do not need it are converted without.
func openForConvert(a *app, path string, o *convertOptions) (_ *session, err error) {
	if filepath.Ext(path) == onnxmodel.AdapterExt {
		return openLoraAdapter(a, path, o)
	}
	form := convert.Detect(path)
	if form == "" {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			err := &usageError{msg: path + " is a model; --to " + o.to + " takes an adapter"}
			if o.to == "mlx" {
				err.hint = "mlx_lm loads models in safetensors as they are"
			}
			return nil, err
		}
	}
	s := &session{a: a}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	base := o.base
	if base == "" {
		base = namedBase(path, form)
	}
	if base != "" {
		if s.ck, err = a.open(base); err == nil {
			s.adapter, err = s.readFor(path)
			return s, err
		}
		if o.base != "" || !errors.Is(err, formats.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		a.note("note: without the base model %s: %v", base, err)
	}
	s.adapter, err = convert.Read(path, nil)
	return s, err
}

// readFor reads an adapter for the open base: a model with a program, or else
// its linear layers.
func (s *session) readFor(path string) (*adapter.Adapter, error) {
	var err error
	if s.model, err = model.Open(s.ck); err == nil {
		return convert.Read(path, s.model)
	}
	s.model = nil
	sites, _, err := model.SitesOf(s.ck)
	if err != nil {
		return nil, err
	}
	return convert.ReadFor(path, sites)
}

// namedBase is the base model that an adapter names, or "".
func namedBase(path string, form convert.Form) string {
	if form == convert.FormPEFT && exists(filepath.Join(path, "config.json")) {
		return path // base and adapter in one checkpoint
	}
	if form != convert.FormPEFT && form != convert.FormMLX {
		return ""
	}
	ad, err := convert.Read(path, nil)
	if err != nil {
		return "" // Read says why when it is asked again
	}
	return ad.BaseModel
}

// requireBase fails where the form needs the base model.
func (s *session) requireBase(path string) error {
	if s.model != nil {
		return nil
	}
	return withHint(&usageError{msg: "this form follows from the base model, and " + path + " names none that is here"}, "give it with --model")
}

// dtypeOf is --dtype for the tensors of adapters, which are held in float32.
func (o *convertOptions) dtypeOf() (tensor.DType, error) {
	switch o.dtype {
	case "keep", "f32":
		return tensor.F32, nil
	case "f16":
		return tensor.F16, nil
	case "bf16":
		return tensor.BF16, nil
	}
	return 0, usagef("--dtype %s is for --to gguf", o.dtype)
}

// finishAtomic is a.finish for a directory in the making.
func (a *app) finishAtomic(path, tokenizerOf string) (func(*atomicfile.Dir) error, error) {
	of, err := sumSource(a.cmd.Context(), "adapter", path)
	if err != nil {
		return nil, err
	}
	f := a.finish(tokenizerOf, of)
	return func(d *atomicfile.Dir) error { return f(d.Path()) }, nil
}

// tokenizerDir is where the base's tokenizer lies, or "".
func (s *session) tokenizerDir() string {
	if s.ck == nil {
		return ""
	}
	return s.ck.Dir()
}

func runConvertKohya(a *app, path string, o *convertOptions) error {
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := o.dtypeOf()
	if err == nil {
		err = s.checkOutputs(path, o.out)
	}
	if err != nil {
		return err
	}
	rep, err := convert.WriteKohya(s.adapter, o.out, convert.KohyaOptions{Prefix: o.prefix, DType: d})
	if err != nil {
		return err
	}
	return printConverted(a, o, "adapter", rep)
}

func runConvertMLX(a *app, path string, o *convertOptions) error {
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	m := convert.MLXOptions{Replace: a.force}
	if m.DType, err = o.dtypeOf(); err == nil {
		err = s.checkOutputs(path, o.out)
	}
	if err != nil {
		return err
	}
	if s.model != nil {
		m.Layers = s.model.Config().Layers
	}
	if m.Finish, err = a.finishAtomic(path, s.tokenizerDir()); err != nil {
		return err
	}
	rep, err := convert.WriteMLX(s.adapter, o.out, m)
	if err != nil {
		return err
	}
	return printConverted(a, o, "adapter", rep)
}

// runConvertPEFT writes PEFT's forms.
func runConvertPEFT(a *app, path string, o *convertOptions) error {
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.checkOutputs(path, o.out); err != nil {
		return err
	}
	e := adapter.ExportOptions{Form: adapter.FormLoRA, Replace: a.force, Prefix: o.prefix}
	switch o.to {
	case "peft-lokr":
		e.Form = adapter.FormLoKr
	case "peft-gralora":
		e.Form = adapter.FormGraLoRA
	}
	if e.Prefix == "" && s.model != nil && (len(s.adapter.Head) > 0 || s.adapter.TaskType == "CAUSAL_LM") {
		e.Prefix = s.model.MissingPrefix()
	}
	of, err := sumSource(a.cmd.Context(), "adapter", path)
	if err != nil {
		return err
	}
	e.Finish = a.finish(s.tokenizerDir(), of)
	if err := adapter.ExportPEFT(s.adapter, o.out, e); err != nil {
		return err
	}
	a.warnPool(o.out, s.adapter)
	rep, err := reread(s, o.out)
	if err != nil {
		return err
	}
	return printConverted(a, o, "adapter", rep)
}

// reread compares an adapter that was written with what it was made of.
func reread(s *session, out string) (*convert.Report, error) {
	back, err := convert.Read(out, s.model)
	if err != nil {
		return nil, err
	}
	return convert.Compare(s.adapter, back)
}

// lsrFlags are the flags of --to lsr.
type lsrFlags struct {
	rank, split string
	terms       int
	maxError    float64
	seed        uint64
}

func addLSRFlags(c *cobra.Command, o *convertOptions) {
	f := c.Flags()
	f.StringVar(&o.rank, "rank", "", "lsr: rank r1xr2 (2x2); the largest, with --max-error")
	f.IntVar(&o.terms, "terms", 0, "lsr: Kronecker terms of each factor (16)")
	f.Float64Var(&o.maxError, "max-error", 0, "lsr: smallest update of each module within this error, relative to the update")
	f.StringVar(&o.split, "split", "", "lsr: split of the dimensions that it fits: 32x24 (default: the most even)")
	f.Uint64Var(&o.seed, "seed", 0, "lsr: seed of the random starts")
}

// options makes the library's options of the flags, for any method.
func (f *lsrFlags) refit(set map[string]bool) (decompose.ExtractOptions, error) {
	af := adapterFlags{method: adapter.MethodLSR, init: "zero", rank: f.rank, terms: f.terms, split: f.split, seed: f.seed, target: "all-linear", set: set}
	x := decompose.ExtractOptions{MaxError: f.maxError, Threads: threads(0)}
	if set["max-error"] && !(f.maxError > 0 && f.maxError < 1) {
		return x, usagef("--max-error %v: want a number between 0 and 1", f.maxError)
	}
	var err error
	x.Config, err = af.config(nil)
	if f.maxError > 0 && f.rank != "" {
		x.FixedRank, x.MaxRank = true, x.Config.Rank.R()
	}
	return x, err
}

// runConvertLSR fits an LSR adapter to one of another kind.
func runConvertLSR(a *app, path string, o *convertOptions) error {
	x, err := o.refit(o.set)
	if err != nil {
		return err
	}
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.checkOutputs(path, o.out); err != nil {
		return err
	}
	bar := a.progress("convert")
	x.Progress = func(done, total int64) { bar.update(done, total, commas(total)+" elements") }
	ad, fit, err := decompose.Refit(a.cmd.Context(), s.adapter, x)
	bar.done()
	if err != nil {
		return err
	}
	of, err := sumSource(a.cmd.Context(), "adapter", path)
	if err != nil {
		return err
	}
	if err := ad.SaveWith(o.out, adapter.SaveOptions{Replace: a.force, Finish: a.finish(s.tokenizerDir(), of)}); err != nil {
		return err
	}
	rep := &convert.Report{}
	short := 0
	for _, m := range fit.Modules {
		rep.Tensors = append(rep.Tensors, convert.TensorReport{Tensor: m.Module, DType: "F32", Grade: convert.Approximated, MaxError: 0, Relative: m.Error})
		if o.maxError > 0 && !m.Reached {
			short++
		}
	}
	if short > 0 {
		a.warn("%d of %d modules do not reach an error of %v; see --rank for the largest rank", short, len(fit.Modules), o.maxError)
	}
	a.note("%s parameters, of %s", commas(adapter.ParamCount(ad.Modules)), commas(adapter.ParamCount(s.adapter.Modules)))
	return printConverted(a, o, "adapter", rep)
}
