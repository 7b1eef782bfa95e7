package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/convert"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// ggufFlags are flags of --to gguf; dtype is one of other forms too.
type ggufFlags struct {
	dtype, preTokenizer string
	noTokenizer         bool
}

func addGGUFFlags(c *cobra.Command, o *convertOptions) {
	enumFlag(c, &o.dtype, "dtype", "dtype of matrices: keep is the one that most of a model have, and f32 for adapters; q8_0 is of gguf", "keep", "f32", "f16", "bf16", "q8_0")
	c.Flags().StringVar(&o.preTokenizer, "pre-tokenizer", "", "gguf: llama.cpp's name of the rule that cuts text, where the tokenizer's is none that is known")
	c.Flags().BoolVar(&o.noTokenizer, "no-tokenizer", false, "gguf: leave the tokenizer out")
}

// runConvertGGUF writes a model as a GGUF model, an adapter as a GGUF adapter.
func runConvertGGUF(a *app, path string, o *convertOptions) error {
	if convert.Detect(path) != "" {
		return runConvertGGUFAdapter(a, path, o)
	}
	s, err := openSession(a, path, o.base)
	if err != nil {
		return err
	}
	defer s.close()
	if s.model == nil {
		return fmt.Errorf("%s is a graph, and GGUF holds checkpoints of known families: %w", path, formats.ErrUnsupported)
	}
	if err := s.checkOutputs(path, o.out); err != nil {
		return err
	}
	t, err := ggufType(s.model, o.dtype)
	if err != nil {
		return err
	}
	bar := a.progress("convert")
	rep, err := convert.WriteGGUF(a.cmd.Context(), s.model, o.out, convert.GGUFOptions{
		Type: t, PreTokenizer: o.preTokenizer, NoTokenizer: o.noTokenizer,
		Progress: func(done, total int64) { bar.update(done, total, bytesText(total)) },
	})
	bar.done()
	if err != nil {
		return err
	}
	return printConverted(a, o, "model", rep)
}

func runConvertGGUFAdapter(a *app, path string, o *convertOptions) error {
	if o.set["pre-tokenizer"] || o.set["no-tokenizer"] {
		return usagef("--pre-tokenizer and --no-tokenizer are about a model, and %s is an adapter", path)
	}
	s, err := openForConvert(a, path, o)
	if err == nil {
		defer s.close()
		err = s.requireBase(path)
	}
	if err == nil {
		err = s.checkOutputs(path, o.out)
	}
	if err != nil {
		return err
	}
	t, ok := ggufTypes[o.dtype]
	if !ok { // adapters are held in float32
		t = gguf.F32
	}
	rep, err := convert.WriteGGUFAdapter(s.adapter, s.model, o.out, t)
	if err != nil {
		return err
	}
	return printConverted(a, o, "adapter", rep)
}

// ggufTypes are the types of --dtype but for keep.
var ggufTypes = map[string]gguf.Type{"f32": gguf.F32, "f16": gguf.F16, "bf16": gguf.BF16, "q8_0": gguf.Q8_0}

// ggufType is the type of --dtype; keep is the dtype with the most bytes.
func ggufType(m *model.Model, dtype string) (gguf.Type, error) {
	if t, ok := ggufTypes[dtype]; ok {
		return t, nil
	}
	n := map[tensor.DType]int64{}
	best := tensor.F32
	for _, t := range m.Checkpoint().Tensors() {
		if n[t.DType] += t.Bytes; n[t.DType] > n[best] {
			best = t.DType
		}
	}
	switch best {
	case tensor.F16:
		return gguf.F16, nil
	case tensor.BF16:
		return gguf.BF16, nil
	case tensor.F32:
		return gguf.F32, nil
	}
	return 0, &formats.Error{Path: m.Checkpoint().Path(), Reason: fmt.Sprintf("most of it is %v, which GGUF lacks", best), Hint: "choose --dtype", Err: formats.ErrUnsupported}
}

// printConverted prints what a conversion did.
func printConverted(a *app, o *convertOptions, what string, rep *convert.Report) error {
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": o.to, "exact": rep.Count(convert.Exact) == len(rep.Tensors),
			"tensors": rep.Tensors, "notes": nonNil(rep.Notes)})
	}
	for _, n := range rep.Notes {
		a.note("note: %s", n)
	}
	if a.verbose {
		t := newTable("tensor", "dtype", "", ">largest error", ">relative error")
		for _, r := range rep.Tensors {
			t.add(r.Tensor, r.DType, string(r.Grade), float(r.MaxError), float(r.Relative))
		}
		t.write(a.out, a.outTTY)
	}
	var parts []string
	for _, g := range []convert.Exactness{convert.Exact, convert.Rounded, convert.Approximated} {
		if n := rep.Count(g); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, g))
		}
	}
	worst := ""
	if w, ok := rep.Worst(); ok {
		worst = fmt.Sprintf("; worst %s, relative error %s", w.Tensor, float(w.Relative))
	}
	fmt.Fprintf(a.out, "%s: %s %s, %d tensors: %s%s\n", o.out, o.to, what, len(rep.Tensors), strings.Join(parts, ", "), worst)
	return nil
}
