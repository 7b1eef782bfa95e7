package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

type combineOptions struct {
	out, method, weights string
	rank, head, threads  int
	density              float64
	seed                 uint64
	set                  map[string]bool // flags that the user gave
}

func newCombine(a *app) *cobra.Command {
	o := &combineOptions{}
	c := &cobra.Command{
		Use:   "combine ADAPTER... -o ADAPTER",
		Short: "Make one adapter of several",
		Long: `Adds, scales, interpolates and merges adapters; the result is an adapter, which
merge folds into the model. With w the --weights and dW the updates:
  linear  the sum of w·dW, at the rank that it has (exact)
  cat     the same sum with all factors side by side (exact, rank r1 + r2 + ...)
  svd     the same sum reduced to --rank
  ties    TIES: trims each to --density, elects signs, averages what agrees
  dare    DARE: drops all but --density at random and rescales, then sums
ties, dare and svd report what the reduction to --rank loses.`,
		Example: `  lsrsurgeon combine style task -o both --weights 0.5,1
  lsrsurgeon combine a b c -o merged --method ties --density 0.2 --rank 16
  lsrsurgeon combine big -o small --method svd --rank 4`,
		Args: minArgs(1, "ADAPTER"),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			o.set = changed(cmd)
			if _, err := parseWeights(o.weights, len(args)); err != nil {
				return err
			}
			return o.check(len(args))
		},
		RunE: func(_ *cobra.Command, args []string) error { return runCombine(a, args, o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "output", "o", "", "directory to write the adapter to")
	enumFlag(c, &o.method, "method", "rule", "linear", "cat", "ties", "dare", "svd")
	f.StringVar(&o.weights, "weights", "", "weight of each adapter: 1,0.5 (default: all 1)")
	f.IntVar(&o.rank, "rank", 0, "rank of the result of svd, ties and dare (default: the largest of the inputs)")
	f.Float64Var(&o.density, "density", 0.5, "share of elements that ties and dare keep")
	f.IntVar(&o.head, "head", 0, "take the trained head of this adapter, counted from 1 (default: the only one)")
	f.Uint64Var(&o.seed, "seed", 0, "seed of dare")
	f.IntVar(&o.threads, "threads", 0, "threads (default: one per processor); the result does not depend on it")
	must(c.MarkFlagRequired("output"))
	return c
}

func (o *combineOptions) check(n int) error {
	switch {
	case !(o.density > 0 && o.density <= 1):
		return usagef("--density %v: want a number above 0 and up to 1", o.density)
	case o.rank < 0:
		return usagef("--rank %d: want a number from 1 up", o.rank)
	case o.head < 0 || o.head > n:
		return usagef("--head %d: there are %d adapters", o.head, n)
	case o.rank > 0 && (o.method == "linear" || o.method == "cat"):
		return usagef("--rank reduces, which %s does not: use --method svd", o.method)
	case o.set["density"] && o.method != "ties" && o.method != "dare":
		return usagef("--density is of ties and dare, and --method is %s", o.method)
	case o.set["seed"] && o.method != "dare":
		return usagef("--seed is of dare, and --method is %s", o.method)
	}
	return nil
}

func runCombine(a *app, paths []string, o *combineOptions) error {
	weights, err := parseWeights(o.weights, len(paths))
	if err != nil {
		return err
	}
	var loaded []*adapter.Adapter
	for _, p := range paths {
		if err := a.checkOutputs(p, o.out); err != nil {
			return err
		}
		ad, err := adapter.Load(p, nil)
		if err != nil {
			return err
		}
		loaded = append(loaded, ad)
	}
	head, err := headOf(loaded, paths, o.head)
	if err != nil {
		return err
	}
	pool := kernel.NewPool(threads(o.threads))
	defer pool.Close()
	out, report, err := decompose.Combine(a.cmd.Context(), loaded, decompose.CombineOptions{Method: decompose.CombineMethod(o.method), Weights: weights, Rank: o.rank, Density: o.density, Seed: o.seed, Pool: pool})
	if err != nil {
		return err
	}
	if head != nil {
		out.Head, out.ModulesToSave, out.TaskType = head.Head, head.ModulesToSave, head.TaskType
	}
	var sources []manifest.Source
	for _, p := range paths {
		s, err := sumSource(a.cmd.Context(), "adapter", p)
		if err != nil {
			return err
		}
		sources = append(sources, s)
	}
	if err := out.SaveWith(o.out, adapter.SaveOptions{Replace: a.force, Finish: a.finish(paths[0], sources...)}); err != nil {
		return err
	}
	return printCombine(a, o, out, report)
}

// headOf returns the adapter whose head the result gets: the one asked for, or
// the only one, or any where all are the same. nil is none.
func headOf(loaded []*adapter.Adapter, paths []string, asked int) (*adapter.Adapter, error) {
	if asked > 0 {
		if len(loaded[asked-1].Head) == 0 {
			return nil, usagef("--head %d: %s has no trained head", asked, paths[asked-1])
		}
		return loaded[asked-1], nil
	}
	var found *adapter.Adapter
	var bits []byte
	for _, ad := range loaded {
		if len(ad.Head) == 0 {
			continue
		}
		b, err := json.Marshal(ad.Head)
		if err != nil {
			return nil, err
		}
		if found != nil && !bytes.Equal(b, bits) {
			return nil, &usageError{msg: "several adapters have a trained head, and heads of different training cannot be added", hint: "choose one with --head 1"}
		}
		found, bits = ad, b
	}
	return found, nil
}

type combineRow struct {
	Module string  `json:"module"`
	Rank   int     `json:"rank"`
	Terms  int     `json:"terms"`
	Norm   float64 `json:"norm"`
	Error  float64 `json:"relative_error"`
}

func printCombine(a *app, o *combineOptions, out *adapter.Adapter, report []decompose.CombinedModule) error {
	rows := []combineRow{}
	for _, m := range report {
		rows = append(rows, combineRow(m))
	}
	n := adapter.ParamCount(out.Modules)
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "adapter": o.out, "combination": o.method, "method": out.Method, "modules": rows, "trainable": n, "head": len(out.Head) > 0})
	}
	t := newTable("module", ">rank", ">terms", ">|dW|", ">error/|dW|")
	for _, r := range rows {
		t.add(r.Module, strconv.Itoa(r.Rank), strconv.Itoa(r.Terms), float(r.Norm), float(r.Error))
	}
	t.write(a.out, a.outTTY)
	fmt.Fprintf(a.out, "%s: %s of %d modules, %s parameters\n", o.out, out.Method, len(rows), commas(n))
	return nil
}
