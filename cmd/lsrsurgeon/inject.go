package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

type injectOptions struct {
	adapterFlags
	graphFlags
	out, into, taskType, saveModules string
	from                             initFrom
}

func newInject(a *app) *cobra.Command {
	o := &injectOptions{}
	c := &cobra.Command{
		Use:   "inject MODEL -o ADAPTER",
		Short: "Make an adapter for a model's linear layers",
		Long: `Makes an adapter with its starting values for the linear layers of MODEL and
writes it as a directory. Every target, exclusion, layer and override must
match something, else nothing is written. Unless --init paper is asked for, the
update is checked to be exactly zero, so that the adapted model starts as the
base model. With --init from-lora the adapter starts near another one, in any form
that convert reads, and with --init from-delta near what a fine-tuned model has
changed; its method (lsr, lora or krona) and size are the ones asked for.`,
		Example: `  lsrsurgeon inject MODEL -o adapter --method lsr --rank 2x2 --terms 16 --target query,value
  lsrsurgeon inject MODEL -o adapter --method lora --rank 8 --target all-linear --layers 8-11
  lsrsurgeon inject MODEL -o adapter --into combined
  lsrsurgeon inject MODEL -o adapter --method lsr --rank 4x4 --terms 8 --init from-lora lora-adapter
  lsrsurgeon inject MODEL.onnx -o adapter --into adaptable.onnx --as inputs`,
		Args: exactArgs("MODEL"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			o.set = changed(cmd)
			_, err := o.config(nil)
			return err
		},
		RunE: func(_ *cobra.Command, args []string) error { return runInject(a, args[0], o) },
	}
	o.adapterFlags.add(c)
	addInitFrom(c, &o.from)
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory to write the adapter to")
	f.StringVar(&o.into, "into", "", "also write base and adapter as one: a checkpoint with the tensors of both, or for an ONNX model a graph with the adapter in it")
	o.graphFlags.add(c)
	f.StringVar(&o.names, "names-from", "", namesFromHelp)
	enumFlag(c, &o.taskType, "task-type", "PEFT's task type", "auto", "none", "SEQ_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION")
	f.StringVar(&o.saveModules, "modules-to-save", "", "modules trained whole and saved with the adapter (default: the classification head, if one is trained)")
	must(c.MarkFlagRequired("output"))
	return c
}

func runInject(a *app, path string, o *injectOptions) error {
	ck, err := a.open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	if err := a.checkAllOutputs([]string{path, o.from.path, o.names}, o.out, o.into); err != nil {
		return err
	}
	isGraph := ck.Format() == formats.FormatONNX
	if (o.set["as"] || o.set["form"]) && (!isGraph || o.into == "") {
		return usagef("--as and --form say how the adapter goes into an ONNX graph: they need an ONNX model and --into")
	}
	sites, known, err := model.SitesOf(ck)
	if err != nil {
		return err
	}
	if sites, err = namesFrom(a, ck, sites, o.names); err != nil {
		return err
	}
	cfg, err := o.config(sites)
	if err != nil {
		return err
	}
	cfg.BaseModel = baseName(path)
	if cfg.BaseHash, err = ck.Fingerprint(); err != nil {
		return err
	}
	cfg.TaskType = o.taskTypeOf(ck, known)
	cfg.ModulesToSave = splitList(o.saveModules)
	var ad *adapter.Adapter
	if o.from.kind != "" {
		ad, err = o.fitted(a, ck, sites, cfg)
	} else {
		ad, err = adapter.New(sites, cfg, &decompose.Reader{Checkpoint: ck, Seed: o.seed})
	}
	if err != nil {
		return err
	}
	norm, noOp, err := ad.Start()
	if err != nil {
		return err
	}
	graph, err := planGraph(ck, ad, o)
	if err != nil {
		return err
	}
	defer graph.close()
	if err := graph.save(a, ck, ad, o, manifest.Source{Role: "base", Name: filepath.Base(path), Hash: cfg.BaseHash}); err != nil {
		return err
	}
	n := adapter.ParamCount(ad.Modules)
	if a.json {
		names := []string{}
		for _, m := range ad.Modules {
			names = append(names, m.Module)
		}
		return a.printJSON(map[string]any{"schema": schemaVersion, "adapter": o.out, "method": cfg.Method, "settings": settingsText(cfg.Settings), "modules": names, "trainable": n, "no_op": noOp, "largest_update_norm": norm, "into": o.into})
	}
	fmt.Fprintf(a.out, "%s: %s %s on %d modules, %s trainable parameters\n", o.out, cfg.Method, settingsText(cfg.Settings), len(ad.Modules), commas(n))
	switch {
	case noOp && ad.StartRounds():
		fmt.Fprintln(a.out, "the update is zero: the adapted model starts as the base model, but for the rounding of its arithmetic")
	case noOp:
		fmt.Fprintln(a.out, "the update is exactly zero: the adapted model starts as the base model")
	default:
		fmt.Fprintf(a.out, "the update is not zero at the start: largest norm of a module %.4g\n", norm)
	}
	return nil
}

// taskTypeOf is PEFT's task type for the model, unless given.
func (o *injectOptions) taskTypeOf(ck *formats.Checkpoint, known bool) string {
	switch o.taskType {
	case "none":
		return ""
	case "auto":
	default:
		return o.taskType
	}
	if !known {
		return ""
	}
	m, err := openBase(ck)
	if err != nil {
		return ""
	}
	if g, ok := m.(*onnxmodel.Model); ok && g.CausalLM() {
		return "CAUSAL_LM"
	}
	for _, arch := range m.Config().Architectures {
		switch {
		case strings.HasSuffix(arch, "ForCausalLM"), strings.HasSuffix(arch, "LMHeadModel"):
			return "CAUSAL_LM"
		}
	}
	return ""
}

// baseName is how an adapter names its base model: an absolute path, or the
// name in the Hugging Face cache.
func baseName(path string) string {
	if !exists(path) {
		return path
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}
