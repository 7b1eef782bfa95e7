package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

func newBenchAdapters(a *app) *cobra.Command {
	o := &stepOptions{}
	rounds := 5
	c := &cobra.Command{
		Use:   "adapters [METHOD[:RANK[:TERMS]]...]",
		Short: "Compare training steps with adapters to the step without, alternating",
		Long: `Times one training step for each adapter named, and the same step without adapters:
the frozen layers forward, the gradient back through all of them, and the head. All
of them run in each round, so that a change of the machine's speed hits them alike.
The overhead is the median of the rounds' ratios, for wall-clock and for processor
time.`,
		Example: "  lsrsurgeon bench adapters lora:8 lsr:2x2:16\n  lsrsurgeon bench adapters --rounds 3 lora:1024 lsr:32x32:4 --json",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"lora:8", "lsr:2x2:16"}
			}
			if rounds < 1 {
				return usagef("--rounds %d: at least 1", rounds)
			}
			return runBenchAdapters(cmd.Context(), a, o, args, rounds)
		},
	}
	o.addModel(c)
	c.Flags().IntVar(&rounds, "rounds", 5, "rounds")
	return c
}

// contender is one kind of step and what its rounds took.
type contender struct {
	Name      string    `json:"name"`
	Params    int       `json:"trainable"`
	Seconds   []float64 `json:"seconds"`     // by round
	CPU       []float64 `json:"cpu_seconds"` // by round, of all threads
	Overhead  float64   `json:"overhead"`
	OverCPU   float64   `json:"cpu_overhead"`
	PeakBytes int64     `json:"peak_bytes"`

	bench *stepBench
}

func runBenchAdapters(ctx context.Context, a *app, o *stepOptions, args []string, rounds int) error {
	m, err := openStepModel(o)
	if err != nil {
		return err
	}
	defer m.close()
	var all []*contender
	defer func() {
		for _, c := range all {
			c.bench.exe.Close()
		}
	}()
	for _, spec := range append([]string{"none"}, args...) {
		c := &contender{Name: spec}
		one := *o
		if err := one.parseAdapter(spec); err != nil {
			return err
		}
		if c.bench, err = m.step(&one); err != nil {
			return err
		}
		c.Params, c.PeakBytes = c.bench.params, c.bench.exe.PeakBytes()
		all = append(all, c)
		if _, err := c.bench.round(ctx); err != nil { // the first touches all memory
			return err
		}
	}
	for r := range rounds {
		for i := range all {
			if err := all[(i+r)%len(all)].round(ctx); err != nil {
				return err
			}
		}
	}
	for _, c := range all {
		c.Overhead, c.OverCPU = medianRatio(c.Seconds, all[0].Seconds)-1, medianRatio(c.CPU, all[0].CPU)-1
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "arch": o.arch, "precision": o.precision, "threads": threads(o.threads), "tokens": all[0].bench.tokens, "steps": all})
	}
	t := newTable("adapter", ">trainable", ">seconds", ">overhead", ">CPU seconds", ">overhead")
	for _, c := range all {
		t.add(c.Name, commas(int64(c.Params)), fmt.Sprintf("%.3f", median(c.Seconds)), fmt.Sprintf("%.1f %%", 100*c.Overhead), fmt.Sprintf("%.3f", median(c.CPU)), fmt.Sprintf("%.1f %%", 100*c.OverCPU))
	}
	t.write(a.out, a.outTTY)
	return nil
}

// parseAdapter reads METHOD[:RANK[:TERMS]].
func (o *stepOptions) parseAdapter(spec string) error {
	p := strings.Split(spec, ":")
	if o.method = p[0]; !slices.Contains([]string{"none", adapter.MethodLoRA, adapter.MethodLSR}, o.method) || len(p) > 3 {
		return usagef("%s: write lora[:RANK] or lsr[:RANK[:TERMS]], as lsr:2x2:16", spec)
	}
	if len(p) > 1 {
		o.rank = p[1]
	}
	if len(p) > 2 {
		n, err := strconv.Atoi(p[2])
		if err != nil || n < 1 {
			return usagef("%s: %q is not a number of terms", spec, p[2])
		}
		o.terms = n
	}
	return nil
}

func (c *contender) round(ctx context.Context) error {
	start, cpu := time.Now(), cpuSeconds()
	_, err := c.bench.round(ctx)
	c.Seconds = append(c.Seconds, time.Since(start).Seconds())
	c.CPU = append(c.CPU, cpuSeconds()-cpu)
	return err
}

// medianRatio is the median of the ratios x[i]/y[i].
func medianRatio(x, y []float64) float64 {
	r := make([]float64, len(x))
	for i := range x {
		r[i] = x[i] / cmp.Or(y[i], 1)
	}
	return median(r)
}

// median sorts a copy of v; of an even number it is the mean of the middle two.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}
