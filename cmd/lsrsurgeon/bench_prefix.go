package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/synthetic"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

func newBenchPrefix(a *app) *cobra.Command {
	o := &stepOptions{method: adapter.MethodLSR}
	rounds := 5
	c := &cobra.Command{
		Use:   "prefix",
		Short: "Compare training steps whose frozen prefix is cached to whole ones, alternating",
		Long: `Times training steps of upper layers, whole and as "train --cache-prefix" runs them
from the second epoch on: what lies below the first adapted layer, and that layer's
frozen query, key and value products, come from memory. Without dropout, so that the
losses are the same; it fails where they are not.`,
		Example: "  lsrsurgeon bench prefix --arch roberta --layers 8-11",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rounds < 1 {
				return usagef("--rounds %d: at least 1", rounds)
			}
			if o.layers == "" {
				return usagef("--layers: name the adapted layers, as 8-11")
			}
			return runBenchPrefix(cmd.Context(), a, o, rounds)
		},
	}
	o.addModel(c)
	c.Flags().IntVar(&rounds, "rounds", 5, "rounds")
	return c
}

func runBenchPrefix(ctx context.Context, a *app, o *stepOptions, rounds int) error {
	o.dropout = 0
	l, err := adapter.ParseLayers(o.layers)
	if err != nil {
		return usagef("--layers: %v", err)
	}
	m, err := openStepModel(o)
	if err != nil {
		return err
	}
	defer m.close()
	whole, err := m.step(o)
	if err != nil {
		return err
	}
	defer whole.exe.Close()
	upper := *o
	upper.from = l[0].Lo
	cached, err := m.step(&upper)
	if err != nil {
		return err
	}
	defer cached.exe.Close()
	if err := m.fillInputs(ctx, cached, upper.from); err != nil {
		return err
	}
	both := []*contender{{Name: "whole", bench: whole}, {Name: "cached", bench: cached}}
	var gflop [2]float64
	for i, c := range both { // the first round touches all memory
		c.Params, c.PeakBytes = c.bench.params, c.bench.exe.PeakBytes()
		c.bench.exe.(graph.Profiler).StartProfile()
		if _, err := c.bench.round(ctx); err != nil {
			return err
		}
		for _, t := range c.bench.exe.(graph.Profiler).Profile() {
			gflop[i] += t.FLOP / 1e9
		}
	}
	for r := range rounds {
		for i := range both {
			if err := both[(i+r)%2].round(ctx); err != nil {
				return err
			}
		}
		var losses [2][1]float32
		for i, c := range both {
			if err := c.bench.exe.Read(c.bench.loss, losses[i][:]); err != nil {
				return err
			}
		}
		if losses[0] != losses[1] {
			return fmt.Errorf("after %d rounds the loss is %v with the cache and %v without", r+1, losses[1][0], losses[0][0])
		}
	}
	wall, cpu := medianRatio(both[0].Seconds, both[1].Seconds), medianRatio(both[0].CPU, both[1].CPU)
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "arch": o.arch, "layers": o.layers, "threads": threads(o.threads), "tokens": whole.tokens, "steps": both, "ratio": wall, "cpu_ratio": cpu, "gflop_whole": gflop[0], "gflop_cached": gflop[1]})
	}
	t := newTable("step", ">GFLOP", ">seconds", ">CPU seconds")
	for i, c := range both {
		t.add(c.Name, fmt.Sprintf("%.0f", gflop[i]), fmt.Sprintf("%.3f", median(c.Seconds)), fmt.Sprintf("%.3f", median(c.CPU)))
	}
	t.add("ratio", fmt.Sprintf("%.2f", gflop[0]/gflop[1]), fmt.Sprintf("%.2f", wall), fmt.Sprintf("%.2f", cpu))
	t.write(a.out, a.outTTY)
	return nil
}

// fillInputs gives the batches of s what the layers below from make of them.
func (m *stepModel) fillInputs(ctx context.Context, s *stepBench, from int) error {
	below, err := m.Build(model.BuildOptions{Task: model.TaskFeatures, Until: from, Projections: true})
	if err != nil {
		return err
	}
	exe, err := m.engine.Compile(below.Program, synthetic.Weights{}, s.dims())
	if err != nil {
		return err
	}
	defer exe.Close()
	parts, width := append([]graph.Value{below.Hidden}, below.Projections...), 0
	for _, v := range parts {
		width += below.Program.Info(v).Cols
	}
	for _, b := range s.batches {
		if err := exe.Run(ctx, b); err != nil {
			return err
		}
		b.Inputs = make([]float32, len(b.IDs)*width)
		col := 0
		for _, v := range parts {
			n := below.Program.Info(v).Cols
			part := make([]float32, len(b.IDs)*n)
			if err := exe.Read(v, part); err != nil {
				return err
			}
			for i := range b.IDs {
				copy(b.Inputs[i*width+col:][:n], part[i*n:])
			}
			col += n
		}
	}
	return nil
}
