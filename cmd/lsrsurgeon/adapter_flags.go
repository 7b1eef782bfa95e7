package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// adapterFlags are the flags that describe an adapter.
type adapterFlags struct {
	method, rank, target, targetRegex, exclude, layers, split string
	scaling, init                                             string
	terms, hybrid                                             int
	alpha, dropout                                            float64
	seed                                                      uint64
	override                                                  []string
	// set are the names of the flags that the user gave.
	set map[string]bool
}

func (f *adapterFlags) add(c *cobra.Command) {
	enumFlag(c, &f.method, "method", "adapter method", adapter.Methods()...)
	fl := c.Flags()
	fl.StringVar(&f.rank, "rank", "", "rank: r1xr2 for lsr (2x2), r for the others (8)")
	fl.IntVar(&f.terms, "terms", 0, "separation rank: Kronecker terms per factor (lsr 16); for gralora blocks per side (2), for lor2c blocks that a connection spans (1)")
	fl.IntVar(&f.hybrid, "hybrid-rank", 0, "rank of gralora's plain update beside its grid")
	fl.Float64Var(&f.alpha, "alpha", 0, "alpha of the scaling rule (lsr 128, lora 16)")
	enumFlag(c, &f.scaling, "scaling", "scale from alpha and rank", "lora", "rslora", "paper")
	fl.StringVar(&f.target, "target", "", "modules to adapt, by name: query,value; or all-linear")
	fl.StringVar(&f.targetRegex, "target-regex", "", "modules to adapt, by a regular expression over the whole path")
	fl.StringVar(&f.exclude, "exclude", "", "modules not to adapt, by name")
	fl.StringVar(&f.layers, "layers", "", "only these layers: 8-11 or 0,2,5-7")
	enumFlag(c, &f.init, "init", "initialisation", "zero", "paper", "svd", "pissa", "olora")
	fl.StringVar(&f.split, "split", "", "split of the dimensions that it fits: 32x24 (default: the most even)")
	fl.Float64Var(&f.dropout, "dropout", 0, "dropout on the adapter's input in training")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of the initialisation")
	fl.StringArrayVar(&f.override, "override", nil, "other settings for modules whose path ends with a pattern: 'layer.11.*value:rank=4x4,terms=8,alpha=64' (repeatable)")
	c.MarkFlagsMutuallyExclusive("target", "target-regex")
}

// changed lists the flags that were given.
func changed(cmd *cobra.Command) map[string]bool {
	m := map[string]bool{}
	cmd.Flags().Visit(func(f *pflag.Flag) { m[f.Name] = true })
	return m
}

// wanted says whether any flag asks about an adapter.
func (f *adapterFlags) wanted() bool {
	for _, n := range []string{"method", "rank", "terms", "target", "target-regex", "exclude", "layers", "split", "override"} {
		if f.set[n] {
			return true
		}
	}
	return false
}

// config turns the flags into an adapter configuration for a model's sites.
func (f *adapterFlags) config(sites []adapter.Site) (adapter.Config, error) {
	var c adapter.Config
	init, err := adapter.ParseInit(f.init)
	if err != nil {
		return c, usagef("--init: %v", err)
	}
	if c.Settings, err = adapter.Defaults(f.method, init); err != nil {
		return c, usagef("--method: %v", err)
	}
	if f.rank != "" {
		if c.Rank, err = adapter.ParseRank(f.rank); err != nil {
			return c, usagef("--rank: %v", err)
		}
	}
	if f.set["terms"] {
		c.Terms = f.terms
	}
	c.HybridRank = f.hybrid
	if f.set["alpha"] {
		c.Alpha = f.alpha
	}
	if f.set["scaling"] {
		if c.Scaling, err = adapter.ParseScaling(f.scaling); err != nil {
			return c, usagef("--scaling: %v", err)
		}
	}
	if f.split != "" {
		r, err := adapter.ParseRank(f.split)
		if err != nil || !strings.Contains(f.split, "x") {
			return c, usagef("--split %q: write two numbers, as 32x24", f.split)
		}
		c.Split = [2]int{r.R1, r.R2}
	}
	c.Dropout, c.Seed = f.dropout, f.seed
	if err := c.Settings.Check(); err != nil {
		return c, usagef("%v", err)
	}
	if c.Targets, err = f.targets(sites); err != nil {
		return c, err
	}
	for _, o := range f.override {
		v, err := parseOverride(o)
		if err != nil {
			return c, err
		}
		c.Overrides = append(c.Overrides, v)
	}
	return c, nil
}

func (f *adapterFlags) targets(sites []adapter.Site) (adapter.Targets, error) {
	var t adapter.Targets
	var err error
	switch {
	case f.targetRegex != "":
		t.Regex = f.targetRegex
	case strings.EqualFold(f.target, "all-linear"):
		t.AllLinear = true
	case f.target != "":
		t.Modules = splitList(f.target)
	default:
		t = methodTargets(f.method, sites)
	}
	if f.exclude != "" {
		t.Exclude = splitList(f.exclude)
	}
	if f.layers != "" {
		if t.Layers, err = adapter.ParseLayers(f.layers); err != nil {
			return t, usagef("--layers: %v", err)
		}
	}
	return t, nil
}

// methodTargets are what a method adapts unless told otherwise: every block for
// connections around blocks, else the default layers.
func methodTargets(method string, sites []adapter.Site) adapter.Targets {
	if adapter.OnBlocks(method) {
		return adapter.Targets{AllLinear: true}
	}
	return defaultTargets(sites)
}

// defaultTargets are the query and value projections under the names that the
// families give them, as PEFT's defaults are, else all linear layers.
func defaultTargets(sites []adapter.Site) adapter.Targets {
	for _, names := range [][]string{{"query", "value"}, {"q_proj", "v_proj"}, {"c_attn"}} {
		if !slices.ContainsFunc(names, func(n string) bool {
			return !slices.ContainsFunc(sites, func(s adapter.Site) bool { return s.Kind == n })
		}) {
			return adapter.Targets{Modules: names}
		}
	}
	return adapter.Targets{AllLinear: true}
}

func splitList(s string) []string {
	var out []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// parseOverride reads PATTERN:rank=4x4,terms=8,alpha=64.
func parseOverride(s string) (adapter.Override, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return adapter.Override{}, usagef("--override %q: write PATTERN:rank=4x4,terms=8,alpha=64", s)
	}
	o := adapter.Override{Pattern: s[:i]}
	for _, kv := range splitList(s[i+1:]) {
		k, v, _ := strings.Cut(kv, "=")
		var err error
		switch k {
		case "rank":
			o.Rank, err = adapter.ParseRank(v)
		case "terms":
			o.Terms, err = strconv.Atoi(v)
		case "alpha":
			o.Alpha, err = strconv.ParseFloat(v, 64)
		default:
			return o, usagef("--override %q: unknown setting %q; there are rank, terms and alpha", s, k)
		}
		if err != nil {
			return o, usagef("--override %q: %v", s, err)
		}
	}
	return o, nil
}
