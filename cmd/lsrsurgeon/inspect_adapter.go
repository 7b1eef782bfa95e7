package main

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

func newInspectAdapter(a *app) *cobra.Command {
	base := ""
	c := &cobra.Command{
		Use:   "adapter ADAPTER",
		Short: "Show an adapter's modules: kind, ranks, size of the update",
		Long: `Shows per module what the update has become: its Frobenius norm, absolute and
relative to the weight's, rank, effective rank (exponential of the entropy of
the singular values) and separation rank.`,
		Example: "  lsrsurgeon inspect adapter run",
		Args:    exactArgs("ADAPTER"),
		RunE:    func(_ *cobra.Command, args []string) error { return runInspectAdapter(a, args[0], base) },
	}
	c.Flags().StringVar(&base, "model", "", "base model, for the relative norms (default: the one that the adapter names, if it is there)")
	return c
}

type adapterRow struct {
	Module         string    `json:"module"`
	Method         string    `json:"method"`
	In             int       `json:"in"`
	Out            int       `json:"out"`
	Settings       string    `json:"settings"`
	Scale          float64   `json:"scale"`
	Parameters     int       `json:"parameters"`
	Norm           float64   `json:"norm"`
	RelativeNorm   *float64  `json:"relative_norm"` // of W's; null without the base model
	Rank           int       `json:"rank"`
	EffectiveRank  float64   `json:"effective_rank"`
	SeparationRank int       `json:"separation_rank"`
	Singular       []float64 `json:"singular_values"`
}

func runInspectAdapter(a *app, path, base string) error {
	ad, err := adapter.Load(path, nil)
	if err != nil {
		return err
	}
	ck, err := baseFor(a, ad, path, base)
	if err != nil {
		return err
	}
	if ck != nil {
		defer ck.Close()
	}
	rows := []adapterRow{}
	for i := range ad.Modules {
		m := &ad.Modules[i]
		st, err := m.Stats()
		if err != nil {
			return err
		}
		r := adapterRow{Module: m.Module, Method: m.Method, In: m.In, Out: m.Out, Settings: settingsText(m.Settings), Scale: m.Scale(), Parameters: st.Params,
			Norm: st.Norm, Rank: st.Rank, EffectiveRank: st.EffectiveRank, SeparationRank: st.SeparationRank, Singular: st.Singular}
		if ck != nil {
			if t, ok := weightOf(ck, m.Module); ok {
				n, err := adapter.WeightNorm(ck, adapter.Site{Module: m.Module, Weight: t.Name})
				if err != nil {
					return err
				}
				if n > 0 { // there is no size relative to nothing
					rel := st.Norm / n
					r.RelativeNorm = &rel
				}
			}
		}
		rows = append(rows, r)
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "adapter": path, "method": ad.Method, "base_model": ad.BaseModel, "task_type": ad.TaskType, "trainable": adapter.ParamCount(ad.Modules), "modules": rows, "head": headRows(ad)})
	}
	t := newTable("module", "kind", "settings", ">scale", ">parameters", ">|dW|", ">|dW|/|W|", ">rank", ">effective rank", ">separation rank")
	for _, r := range rows {
		rel := "-"
		if r.RelativeNorm != nil {
			rel = float(*r.RelativeNorm)
		}
		sep := "-"
		if r.SeparationRank > 0 {
			sep = strconv.Itoa(r.SeparationRank)
		}
		t.add(r.Module, r.Method, r.Settings, float(r.Scale), commas(int64(r.Parameters)), float(r.Norm), rel, strconv.Itoa(r.Rank), fmt.Sprintf("%.2f", r.EffectiveRank), sep)
	}
	t.write(a.out, a.outTTY)
	for _, h := range ad.Head {
		fmt.Fprintf(a.out, "head: %s %s\n", h.Name, shapeText(h.Shape))
	}
	return nil
}

func headRows(ad *adapter.Adapter) []map[string]any {
	rows := []map[string]any{}
	for _, h := range ad.Head {
		rows = append(rows, map[string]any{"name": h.Name, "shape": h.Shape})
	}
	return rows
}

// baseFor opens the base model that was given, or else the adapter's where it can be
// found: relative norms are a bonus, so its absence is no error.
func baseFor(a *app, ad *adapter.Adapter, path, given string) (*formats.Checkpoint, error) {
	if given != "" {
		return a.open(given)
	}
	base := ad.BaseModel
	if exists(filepath.Join(path, "config.json")) {
		base = path
	}
	if base == "" {
		return nil, nil
	}
	ck, err := a.open(base)
	if err != nil {
		a.detail("base model: %v", err)
		return nil, nil
	}
	return ck, nil
}

// weightOf finds the weight of a module as an adapter names it: some files
// leave the base model's prefix out or add one.
func weightOf(ck *formats.Checkpoint, module string) (formats.Tensor, bool) {
	for rest := module; ; {
		if t, ok := ck.Lookup(rest + ".weight"); ok {
			return t, true
		}
		i := 0
		for i < len(rest) && rest[i] != '.' {
			i++
		}
		if i == len(rest) {
			return formats.Tensor{}, false
		}
		rest = rest[i+1:]
	}
}
