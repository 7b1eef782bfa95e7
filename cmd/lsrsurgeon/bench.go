package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

func newBench(a *app) *cobra.Command {
	threadsFlag := 0
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine: matrix products, a training step, start-up",
		Long: `Measures on this machine what decides how fast adapters train: the peak of its
multiply-add units, matrix products with prepacked weights, one training step of a
MiniLM-sized model, and the start of the program. For comparisons with PyTorch
see bench/peers/compare.`,
		Example: "  lsrsurgeon bench --json\n  lsrsurgeon bench step --arch roberta --method lsr --profile",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return parent(cmd, args)
			}
			return runBench(cmd.Context(), a, threadsFlag)
		},
	}
	c.Flags().IntVar(&threadsFlag, "threads", 0, "threads (default: all)")
	c.AddCommand(newBenchGemm(a), newBenchStep(a), newBenchAdapters(a), newBenchPrefix(a))
	return c
}

// gemmShapes are the products of a RoBERTa-base layer: rows, in, out.
var gemmShapes = [][3]int{{2048, 768, 768}, {2048, 768, 3072}, {2048, 3072, 768}}

type gemmBench struct {
	pool *kernel.Pool
	jobs []func()
	flop float64
}

// newGemmBench prepares the products of gemmShapes.
func newGemmBench(n int, precision string) (*gemmBench, error) {
	g := &gemmBench{pool: kernel.NewPool(n)}
	r := rand.New(rand.NewPCG(1, 2))
	fill := func(n int) []float32 {
		x := kernel.Alloc(n)
		for i := range x {
			x[i] = r.Float32() - 0.5
		}
		return x
	}
	for _, s := range gemmShapes {
		m, k, n := s[0], s[1], s[2]
		a, w, c := fill(m*k), fill(k*n), kernel.Alloc(m*n)
		b := kernel.PackB(g.pool, k, n, w, k, true)
		if precision == "bf16" {
			b = kernel.PackBBF16(g.pool, k, n, true, func(dst []float32, row int) { copy(dst, w[row*k:][:k]) })
		}
		g.jobs = append(g.jobs, func() { b.Mul(g.pool, m, a, k, c, n, nil) })
		g.flop += 2 * float64(m) * float64(k) * float64(n)
	}
	for _, f := range g.jobs {
		f()
	}
	return g, nil
}

// round runs every product five times and returns GFLOP/s.
func (g *gemmBench) round() (float64, error) {
	const repeats = 5
	start := time.Now()
	for _, f := range g.jobs {
		for range repeats {
			f()
		}
	}
	return repeats * g.flop / time.Since(start).Seconds() / 1e9, nil
}

func newBenchGemm(a *app) *cobra.Command {
	var n int
	var precision string
	worker := false
	c := &cobra.Command{
		Use:   "gemm",
		Short: "Time matrix products with prepacked weights at RoBERTa-base's shapes",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			g, err := newGemmBench(threads(n), precision)
			if err != nil {
				return err
			}
			defer g.pool.Close()
			if worker {
				return serve(a, map[string]any{"ready": true, "kernels": kernel.Selected()}, g.round)
			}
			v, err := best(5, g.round)
			if err != nil {
				return err
			}
			peak := kernelPeak(g.pool)
			if a.json {
				return a.printJSON(map[string]any{"schema": schemaVersion, "kernels": kernel.Selected(), "precision": precision, "threads": threads(n), "gflop_per_second": v, "peak_gflop_per_second": peak, "share": v / peak})
			}
			fmt.Fprintf(a.out, "%s %s, %d threads: %.0f GFLOP/s, %.0f %% of the measured f32 peak of %.0f\n", kernel.Selected(), precision, threads(n), v, 100*v/peak, peak)
			return nil
		},
	}
	c.Flags().IntVar(&n, "threads", 0, "threads (default: all)")
	c.Flags().BoolVar(&worker, "worker", false, "run one round for every line on stdin, as bench/peers/compare asks")
	enumFlag(c, &precision, "precision", "operands", "f32", "bf16")
	return c
}

// kernelPeak is the multiply-add peak of all threads in GFLOP/s.
func kernelPeak(p *kernel.Pool) float64 {
	v, err := best(5, func() (float64, error) { return kernel.Peak(p), nil })
	if err != nil {
		return 0
	}
	return v
}

// best is the largest of n results.
func best(n int, f func() (float64, error)) (float64, error) {
	out := 0.0
	for range n {
		v, err := f()
		if err != nil {
			return 0, err
		}
		out = max(out, v)
	}
	return out, nil
}

// benchReport is `bench --json`.
type benchReport struct {
	Schema    int      `json:"schema"`
	Kernels   string   `json:"kernels"`
	Paths     []string `json:"kernel_paths"`
	Threads   int      `json:"threads"`
	Peak      float64  `json:"peak_gflop_per_second"`
	Gemm      float64  `json:"gemm_gflop_per_second"`
	GemmShare float64  `json:"gemm_share_of_peak"`
	Step      float64  `json:"minilm_lsr_tokens_per_second"`
	StartMS   float64  `json:"start_milliseconds"`
}

func runBench(ctx context.Context, a *app, n int) error {
	r := benchReport{Schema: schemaVersion, Kernels: kernel.Selected(), Paths: kernel.Paths(), Threads: threads(n)}
	g, err := newGemmBench(r.Threads, "f32")
	if err != nil {
		return err
	}
	defer g.pool.Close()
	r.Peak = kernelPeak(g.pool)
	if r.Gemm, err = best(5, g.round); err != nil {
		return err
	}
	r.GemmShare = r.Gemm / r.Peak
	s, err := newStepBench(&stepOptions{arch: "minilm", method: "lsr", precision: "f32", baseDType: "auto", batch: 32, batches: 2, dropout: 0.1, threads: r.Threads})
	if err != nil {
		return err
	}
	defer s.exe.Close()
	if r.Step, err = best(3, func() (float64, error) { return s.round(ctx) }); err != nil {
		return err
	}
	if r.StartMS, err = startTime(); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	t := newTable("measured", ">figure")
	t.add("kernels", r.Kernels)
	t.add("threads", fmt.Sprint(r.Threads))
	t.add("multiply-add peak, GFLOP/s", fmt.Sprintf("%.0f", r.Peak))
	t.add("products with packed weights, GFLOP/s", fmt.Sprintf("%.0f (%.0f %%)", r.Gemm, 100*r.GemmShare))
	t.add("MiniLM-size LSR training, tokens/s", fmt.Sprintf("%.0f", r.Step))
	t.add("start of the program, ms", fmt.Sprintf("%.1f", r.StartMS))
	t.write(a.out, a.outTTY)
	return nil
}

// startTime is the median time of `lsrsurgeon version` as a process.
func startTime() (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var ms []float64
	for range 9 {
		start := time.Now()
		if err := exec.Command(self, "version").Run(); err != nil {
			return 0, err
		}
		ms = append(ms, float64(time.Since(start).Microseconds())/1000)
	}
	slices.Sort(ms)
	return ms[len(ms)/2], nil
}
