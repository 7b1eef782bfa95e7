package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
)

// safetensorsFlags are the flags of --to safetensors.
type safetensorsFlags struct{ shard string }

func addSafetensorsFlags(c *cobra.Command, o *convertOptions) {
	c.Flags().StringVar(&o.shard, "max-shard-size", "", "safetensors: bytes of tensors per file, as 5GB (default: the model's own files)")
}

// runConvertSafetensors writes a model again, with other shards or another dtype: a
// merge of nothing into it.
func runConvertSafetensors(a *app, path string, o *convertOptions) error {
	switch {
	case isAdapterDir(path):
		return &usageError{msg: path + " is an adapter; --to safetensors takes a model", hint: "use merge for base and adapter in one, or --to peft-lora"}
	case o.base != "":
		return usagef("%s is not an adapter, so --model has no meaning", path)
	case o.dtype == "q8_0":
		return usagef("--dtype q8_0 is of --to gguf alone")
	}
	shard, err := parseBytes(o.shard)
	if err != nil {
		return err
	}
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	if ck.Format() != "safetensors" {
		return &formats.Error{Path: ck.Path(), Reason: "this is " + ck.Format() + ", and --to safetensors takes safetensors", Hint: "give the model that it was made from", Err: formats.ErrUnsupported}
	}
	if err := a.checkAllOutputs([]string{path, ck.Path()}, o.out); err != nil {
		return err
	}
	base, err := baseSource(ck)
	if err != nil {
		return err
	}
	plan, err := merge.NewPlan(ck, nil, merge.Options{DType: dtypeNames[o.dtype], MaxShardSize: shard, Workers: threads(0), Replace: a.force, Manifest: a.provenance(base)})
	if err != nil {
		return err
	}
	for _, n := range plan.LeftOut() {
		a.note("not carried along: %s", n)
	}
	bar := a.progress("convert")
	rep, err := plan.Run(a.cmd.Context(), o.out, func(done, total int64) { bar.update(done, total, bytesText(total)) })
	bar.done()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "output": o.out, "form": o.to, "dtype": o.dtype, "files": rep.Files, "bytes": rep.Bytes, "tensors": rep.Copied + len(rep.Tensors)})
	}
	fmt.Fprintf(a.out, "%s: %d tensors in %d files, %s\n", o.out, rep.Copied+len(rep.Tensors), len(rep.Files), bytesText(rep.Bytes))
	return nil
}
