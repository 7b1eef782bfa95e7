package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// methodFlags are the flags of --to selected-lora and --to merged-lor2c.
type methodFlags struct {
	keep   float64
	merges int
	rule   string
}

func addSelectFlags(c *cobra.Command, o *convertOptions) {
	c.Flags().Float64Var(&o.keep, "keep", 0.5, "share of the modules that --to selected-lora keeps")
}

func addConnectionFlags(c *cobra.Command, o *convertOptions) {
	c.Flags().IntVar(&o.merges, "merges", 1, "pairs of connections that --to merged-lor2c makes one")
	enumFlag(c, &o.rule, "rule", "pair that --to merged-lor2c takes: by how much of a connection its leading directions carry (concentrated as in the paper, spread as in its code), or by norm",
		string(adapter.MergeConcentrated), string(adapter.MergeSpread), string(adapter.MergeSmallest))
}

// runSelectLoRA ends a search for modules.
func runSelectLoRA(a *app, path string, o *convertOptions) error {
	return rewriteAdapter(a, path, o, func(ad *adapter.Adapter) (*adapter.Adapter, *table, any, error) {
		if ad.Method != adapter.MethodDiffoRA {
			return nil, nil, nil, usagef("--to selected-lora takes an adapter of method %s, %s is %s", adapter.MethodDiffoRA, path, ad.Method)
		}
		if !(o.keep > 0 && o.keep <= 1) {
			return nil, nil, nil, usagef("--keep %v: want more than 0 and at most 1", o.keep)
		}
		out, choices, err := adapter.SelectModules(ad, o.keep)
		t := newTable("module", ">gate", "kept")
		type row struct {
			Module string  `json:"module"`
			Gate   float64 `json:"gate"`
			Kept   bool    `json:"kept"`
		}
		rows := []row{}
		for _, c := range choices {
			rows = append(rows, row{c.Module, c.Score, c.Kept})
			t.add(c.Module, float(c.Score), fmt.Sprint(c.Kept))
		}
		return out, t, rows, err
	})
}

// runMergeConnections makes pairs of connections one.
func runMergeConnections(a *app, path string, o *convertOptions) error {
	rule, err := adapter.ParseMergeRule(o.rule)
	if err != nil {
		return usagef("--rule: %v", err)
	}
	return rewriteAdapter(a, path, o, func(ad *adapter.Adapter) (*adapter.Adapter, *table, any, error) {
		if !adapter.OnBlocks(ad.Method) {
			return nil, nil, nil, usagef("--to merged-lor2c takes an adapter of connections around blocks, %s is %s", path, ad.Method)
		}
		if o.merges < 1 {
			return nil, nil, nil, usagef("--merges %d: want at least 1", o.merges)
		}
		out, merged, err := adapter.MergeConnections(ad, o.merges, rule)
		t := newTable("first", "second", "kept", ">blocks", ">score")
		type row struct {
			First  string  `json:"first"`
			Second string  `json:"second"`
			Kept   string  `json:"kept"`
			Blocks int     `json:"blocks"`
			Score  float64 `json:"score"`
		}
		rows := []row{}
		for _, m := range merged {
			rows = append(rows, row(m))
			t.add(m.First, m.Second, m.Kept, fmt.Sprint(m.Blocks), float(m.Score))
		}
		return out, t, rows, err
	})
}

// rewriteAdapter writes what change makes of an adapter, with its table of what
// was done.
func rewriteAdapter(a *app, path string, o *convertOptions, change func(*adapter.Adapter) (*adapter.Adapter, *table, any, error)) error {
	s, err := openForConvert(a, path, o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.checkOutputs(path, o.out); err != nil {
		return err
	}
	before := adapter.ParamCount(s.adapter.Modules)
	out, t, rows, err := change(s.adapter)
	if err != nil {
		return err
	}
	of, err := sumSource(a.cmd.Context(), "adapter", path)
	if err != nil {
		return err
	}
	if err := out.SaveWith(o.out, adapter.SaveOptions{Replace: a.force, Finish: a.finish(s.tokenizerDir(), of)}); err != nil {
		return err
	}
	after := adapter.ParamCount(out.Modules)
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "adapter": o.out, "to": o.to, "method": out.Method, "modules": len(out.Modules), "trainable_before": before, "trainable": after, "changes": rows})
	}
	t.write(a.out, a.outTTY)
	fmt.Fprintf(a.out, "%s: %s of %d modules, %s parameters, was %s\n", o.out, out.Method, len(out.Modules), commas(after), commas(before))
	return nil
}
