package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

type convertOptions struct {
	out, to, base, prefix string
}

func newConvert(a *app) *cobra.Command {
	o := &convertOptions{}
	c := &cobra.Command{
		Use:   "convert ADAPTER -o OUT --to FORMAT",
		Short: "Write an adapter in another tool's form",
		Long: `Writes an adapter as PEFT reads it. An LSR adapter is the LoRA of rank r1*r2 that
it equals, without any approximation (peft-lora); with one term it is also a
LoKr (peft-lokr), which is much smaller. The scale means the same in both.`,
		Example: `  lsrsurgeon convert run -o peft-adapter --to peft-lora
  lsrsurgeon convert run -o peft-adapter --to peft-lokr`,
		Args: exactArgs("ADAPTER"),
		RunE: func(_ *cobra.Command, args []string) error { return runConvert(a, args[0], o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory to write")
	enumFlag(c, &o.to, "to", "form", "peft-lora", "peft-lokr")
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapter names)")
	f.StringVar(&o.prefix, "prefix", "", "put this before module paths (default: what transformers' class with a head has and the checkpoint lacks, as bert.)")
	must(c.MarkFlagRequired("output"))
	must(c.MarkFlagRequired("to"))
	return c
}

func runConvert(a *app, path string, o *convertOptions) error {
	s, err := openSession(a, path, o.base)
	if err != nil {
		return err
	}
	defer s.close()
	if s.adapter == nil {
		return usagef("%s is a model; convert takes an adapter", path)
	}
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
	if err := adapter.ExportPEFT(s.adapter, o.out, e); err != nil {
		return err
	}
	if err := copyTokenizer(s, o.out); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": o.to, "exact": true, "modules": len(s.adapter.Modules), "prefix": e.Prefix})
	}
	fmt.Fprintf(a.out, "%s: %s of %d modules, exact\n", o.out, o.to, len(s.adapter.Modules))
	return nil
}
