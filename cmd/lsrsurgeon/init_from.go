package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/convert"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// Initialisations that are fitted to what lies at a path.
const (
	fromLoRA  = "from-lora"
	fromDelta = "from-delta"
)

// initFrom is such an initialisation; kind is "" for none.
type initFrom struct{ kind, path string }

// initValue is --init of inject: the values of the enum, or one of the above with
// its path, as from-lora=PATH.
type initValue struct {
	*enumValue
	from *initFrom
}

func (v *initValue) Set(s string) error {
	kind, path := s, ""
	if i := strings.IndexAny(s, "= "); i >= 0 { // a recipe's value has the space
		kind, path = s[:i], s[i+1:]
	}
	if kind != fromLoRA && kind != fromDelta {
		*v.from = initFrom{}
		return v.enumValue.Set(s)
	}
	if path == "" {
		return usagef("%s needs a path: --init %s PATH", kind, kind)
	}
	*v.from = initFrom{kind, path}
	return nil
}

// addInitFrom lets --init of c take a path.
func addInitFrom(c *cobra.Command, from *initFrom) {
	f := c.Flags().Lookup("init")
	f.Value = &initValue{f.Value.(*enumValue), from}
	f.Usage = strings.TrimSuffix(f.Usage, ")") + "|from-lora PATH|from-delta PATH): from-lora fits the adapter to another one, from-delta to what a fine-tuned model has changed"
}

// joinInit writes "--init from-lora PATH", which has a space that pflag does not
// know, as "--init from-lora=PATH".
func joinInit(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		out = append(out, args[i])
		kind := args[i]
		if kind != "--init="+fromLoRA && kind != "--init="+fromDelta {
			if i == 0 || args[i-1] != "--init" || kind != fromLoRA && kind != fromDelta {
				continue
			}
		}
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			out[len(out)-1] += "=" + args[i]
		}
	}
	return out
}

// fitted makes the starting adapter of --init from-lora or from-delta, with the
// method and the size of cfg.
func (o *injectOptions) fitted(a *app, ck *formats.Checkpoint, sites []adapter.Site, cfg adapter.Config) (*adapter.Adapter, error) {
	for _, n := range []string{"alpha", "scaling", "override"} {
		if o.set[n] {
			return nil, usagef("--%s has no meaning with --init %s: the update is fitted with scale 1 and one size", n, o.from.kind)
		}
	}
	x := decompose.ExtractOptions{Config: cfg, Threads: threads(0), Save: splitList(o.saveModules)}
	x.Config.Init = adapter.InitZero
	bar := a.progress("fit")
	defer bar.done()
	x.Progress = func(done, total int64) { bar.update(done, total, commas(total)+" elements") }
	if o.from.kind == fromDelta {
		tuned, err := a.open(o.from.path)
		if err != nil {
			return nil, err
		}
		defer tuned.Close()
		ad, rep, err := decompose.Extract(a.cmd.Context(), ck, tuned, sites, x)
		if err != nil {
			return nil, err
		}
		a.note("fitted with an error of %s of the difference", float(rep.Error))
		return ad, nil
	}
	src, err := o.source(ck, sites)
	if err != nil {
		return nil, err
	}
	ad, rep, err := decompose.Refit(a.cmd.Context(), src, x)
	if err != nil {
		return nil, err
	}
	ad.BaseModel, ad.BaseHash, ad.Seed, ad.Dropout = cfg.BaseModel, cfg.BaseHash, cfg.Seed, cfg.Dropout
	if o.taskType != "auto" || ad.TaskType == "" {
		ad.TaskType = cfg.TaskType
	}
	ad.ModulesToSave = append(ad.ModulesToSave, cfg.ModulesToSave...)
	a.note("fitted with an error of %s of %s", float(rep.Error), o.from.path)
	return ad, nil
}

// source reads the adapter of --init from-lora, cut to the modules that are
// targeted, if any are named.
func (o *injectOptions) source(ck *formats.Checkpoint, sites []adapter.Site) (*adapter.Adapter, error) {
	var src *adapter.Adapter
	m, err := model.Open(ck)
	if err == nil {
		src, err = convert.Read(o.from.path, m)
	} else { // a model without a program: its layers are known all the same
		src, err = convert.ReadFor(o.from.path, sites)
	}
	if err != nil {
		return nil, err
	}
	if !o.set["target"] && !o.set["target-regex"] && !o.set["exclude"] && !o.set["layers"] {
		return src, nil
	}
	t, err := o.targets(sites)
	if err != nil {
		return nil, err
	}
	own := make([]adapter.Site, len(src.Modules))
	for i, m := range src.Modules {
		own[i] = m.Site
	}
	matched, _, err := adapter.Match(own, adapter.Config{Settings: src.Settings, Targets: t})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", adapter.ErrMismatch, o.from.path, err)
	}
	cut := *src
	cut.Modules = nil
	for _, m := range matched {
		for _, s := range src.Modules {
			if s.Module == m.Module {
				cut.Modules = append(cut.Modules, s)
			}
		}
	}
	return &cut, nil
}
