package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

type convertOptions struct {
	graphFlags
	ggufFlags
	out, to, base, prefix string
	set                   map[string]bool // flags that the user gave
}

// convertTarget is one value of --to: the form that convert writes.
type convertTarget struct {
	name string
	help string // what is written, for the list in the help text
	// flags adds the flags that only this form has; nil for none.
	flags func(c *cobra.Command, o *convertOptions)
	run   func(a *app, path string, o *convertOptions) error
}

// convertTargets lists the forms in the order of the help text.
func convertTargets() []convertTarget {
	return []convertTarget{
		{name: "peft-lora", help: "PEFT's LoRA", run: runConvertPEFT},
		{name: "peft-lokr", help: "PEFT's LoKr", run: runConvertPEFT},
		{name: "gguf", help: "llama.cpp's file of a model or a LoRA", flags: addGGUFFlags, run: runConvertGGUF},
		{name: "onnx", help: "an ONNX graph with the adapter in it", flags: addConvertONNX, run: runConvertONNX},
		{name: "onnx-adapter", help: "values for the graph's optional inputs, as ONNX Runtime loads them", run: runConvertONNXAdapter},
	}
}

func newConvert(a *app) *cobra.Command {
	o := &convertOptions{}
	targets := convertTargets()
	var names []string
	var list strings.Builder
	for _, t := range targets {
		names = append(names, t.name)
		fmt.Fprintf(&list, "  %-13s %s\n", t.name, t.help)
	}
	c := &cobra.Command{
		Use:   "convert ADAPTER|MODEL -o OUT --to FORMAT",
		Short: "Write an adapter or a model in another tool's form",
		Long: `Writes an adapter or a model in the form of another tool:

` + list.String() + `
An LSR adapter is the LoRA of rank r1*r2 that it equals, without any
approximation; with one term it is also a LoKr, which is much smaller. The scale
means the same in all.`,
		Example: `  lsrsurgeon convert run -o peft-adapter --to peft-lora
  lsrsurgeon convert run -o peft-adapter --to peft-lokr
  lsrsurgeon convert merged -o model.gguf --to gguf --dtype q8_0`,
		Args: exactArgs("ADAPTER|MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.set = changed(cmd)
			for _, t := range targets {
				if t.name == o.to {
					return t.run(a, args[0], o)
				}
			}
			return usagef("--to %s: unknown form", o.to) // not reached: enumFlag checks
		},
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory or file to write")
	enumFlag(c, &o.to, "to", "form", names...)
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapter names)")
	f.StringVar(&o.prefix, "prefix", "", "put this before module paths (default: what transformers' class with a head has and the checkpoint lacks, as bert.)")
	for _, t := range targets {
		if t.flags != nil {
			t.flags(c, o)
		}
	}
	must(c.MarkFlagRequired("output"))
	must(c.MarkFlagRequired("to"))
	return c
}

// openForConvert opens an adapter with its base.
func openForConvert(a *app, path string, o *convertOptions) (*session, error) {
	s, err := openSession(a, path, o.base)
	if err != nil {
		return nil, err
	}
	if s.adapter == nil {
		s.close()
		return nil, usagef("%s is a model; --to %s takes an adapter", path, o.to)
	}
	return s, nil
}

func runConvertPEFT(a *app, path string, o *convertOptions) error {
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := a.checkOutputs(path, o.out); err != nil {
		return err
	}
	e := adapter.ExportOptions{Form: adapter.FormLoRA, Replace: a.force, Prefix: o.prefix}
	if o.to == "peft-lokr" {
		e.Form = adapter.FormLoKr
	}
	if e.Prefix == "" && (len(s.adapter.Head) > 0 || s.adapter.TaskType == "CAUSAL_LM") {
		e.Prefix = s.model.MissingPrefix()
	}
	of, err := sumSource(a.cmd.Context(), "adapter", path)
	if err != nil {
		return err
	}
	e.Finish = a.finish(s.ck.Dir(), of)
	if err := adapter.ExportPEFT(s.adapter, o.out, e); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": o.to, "exact": true, "modules": len(s.adapter.Modules), "prefix": e.Prefix})
	}
	fmt.Fprintf(a.out, "%s: %s of %d modules, exact\n", o.out, o.to, len(s.adapter.Modules))
	return nil
}
