package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

type convertOptions struct {
	graphFlags
	ggufFlags
	lsrFlags
	methodFlags
	safetensorsFlags
	out, to, base, prefix string
	set                   map[string]bool // flags that the user gave
}

// convertTarget is one value of --to: the form that convert writes.
type convertTarget struct {
	name string
	help string // what is written, for the list in the help text
	uses string // the flags that mean something for this form, with spaces between
	// flags adds the flags that only this form has; nil for none.
	flags func(c *cobra.Command, o *convertOptions)
	run   func(a *app, path string, o *convertOptions) error
}

// convertTargets lists the forms in the order of the help text.
func convertTargets() []convertTarget {
	return []convertTarget{
		{name: "peft-lora", help: "PEFT's LoRA, or DoRA for the kinds that rescale", uses: "prefix", run: runConvertPEFT},
		{name: "peft-lokr", help: "PEFT's LoKr: one Kronecker product", uses: "prefix", run: runConvertPEFT},
		{name: "peft-gralora", help: "PEFT's GraLoRA", uses: "prefix", run: runConvertPEFT},
		{name: "lsr", help: "an LSR adapter fitted to one of another kind", uses: "rank terms max-error split seed", flags: addLSRFlags, run: runConvertLSR},
		{name: "selected-lora", help: "LoRA of the modules that a diffora search chose", uses: "keep", flags: addSelectFlags, run: runSelectLoRA},
		{name: "merged-lor2c", help: "lor2c with neighbouring connections made one", uses: "merges rule", flags: addConnectionFlags, run: runMergeConnections},
		{name: "kohya", help: "a file of kohya and LyCORIS: LoRA, or LoKr for krona", uses: "prefix dtype", run: runConvertKohya},
		{name: "mlx", help: "the directory of an MLX adapter", uses: "dtype", run: runConvertMLX},
		{name: "gguf", help: "llama.cpp's file of a model, or of an adapter", uses: "dtype pre-tokenizer no-tokenizer", flags: addGGUFFlags, run: runConvertGGUF},
		{name: "safetensors", help: "a model with other shards or another dtype", uses: "dtype max-shard-size", flags: addSafetensorsFlags, run: runConvertSafetensors},
		{name: "onnx", help: "an ONNX graph with the adapter in it", uses: "as form head names-from any-base", flags: addConvertONNX, run: runConvertONNX},
		{name: "onnx-adapter", help: "values for the graph's optional inputs, as ONNX Runtime loads them", uses: "as form names-from any-base", run: runConvertONNXAdapter},
	}
}

// only refuses flags that the user gave and that only other forms use.
func (t *convertTarget) only(all []convertTarget, set map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if slices.Contains(strings.Fields(t.uses), name) {
			continue
		}
		var of []string
		for _, other := range all {
			if slices.Contains(strings.Fields(other.uses), name) {
				of = append(of, other.name)
			}
		}
		if len(of) > 0 {
			return &usageError{msg: "--" + name + " has no meaning with --to " + t.name, hint: "it goes with --to " + strings.Join(of, ", ")}
		}
	}
	return nil
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
	target := func() *convertTarget {
		return &targets[slices.Index(names, o.to)] // enumFlag takes no other
	}
	c := &cobra.Command{
		Use:   "convert ADAPTER|MODEL -o OUT --to FORMAT",
		Short: "Write an adapter or a model in another tool's form",
		Long: `Writes an adapter or a model in the form of another tool:

` + list.String() + `
Adapters are read in this program's form, PEFT's (LoRA, DoRA, LoKr, GraLoRA),
MLX's, llama.cpp's, and in that of kohya and LyCORIS (LoRA, LoKr). An LSR adapter
is the LoRA of rank r1*r2 that it equals, up to one rounding to float32; with one
term it is also a LoKr, which is much smaller. A scale that the other form has no
place for goes into the tensors, so that the adapter means the same there. What
became of each tensor is printed with --verbose and --json.`,
		Example: `  lsrsurgeon convert run -o peft-adapter --to peft-lora
  lsrsurgeon convert run -o peft-adapter --to peft-lokr
  lsrsurgeon convert lora.safetensors --model MODEL -o lsr-adapter --to lsr --rank 4x4 --terms 8
  lsrsurgeon convert run -o lora.gguf --to gguf --dtype f16
  lsrsurgeon convert merged -o model.gguf --to gguf --dtype q8_0
  lsrsurgeon convert MODEL -o small-files --to safetensors --max-shard-size 500MB`,
		Args: exactArgs("ADAPTER|MODEL"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			return target().only(targets, o.set)
		},
		RunE: func(_ *cobra.Command, args []string) error { return target().run(a, args[0], o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory or file to write")
	enumFlag(c, &o.to, "to", "form", names...)
	f.StringVar(&o.base, "model", "", "base model (default: the one that the adapter names)")
	f.StringVar(&o.prefix, "prefix", "", "put this before module paths, for kohya before flattened ones (default: what transformers' class with a head has and the checkpoint lacks, as bert.; for kohya lycoris_)")
	for _, t := range targets {
		if t.flags != nil {
			t.flags(c, o)
		}
	}
	must(c.MarkFlagRequired("output"))
	must(c.MarkFlagRequired("to"))
	return c
}
