package cuda

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// realGPU opens the first GPU of this machine; LSRSURGEON_LIBCUDA and
// LSRSURGEON_CUBLASLT name libraries in unusual places.
func realGPU(t testing.TB, o Options) *Engine {
	t.Helper()
	o.LibCUDA, o.CuBLASLt = os.Getenv("LSRSURGEON_LIBCUDA"), os.Getenv("LSRSURGEON_CUBLASLT")
	if o.NoCuBLASLt {
		o.CuBLASLt = ""
	}
	if r := Probe(o); r.Problem != "" {
		t.Skipf("there is no GPU to test on: %s", r.Problem)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// TestGPU runs the conformance suite, checks that results repeat bit for bit
// and compares losses with the CPU engine's, on a GPU.
func TestGPU(t *testing.T) {
	for _, library := range []bool{false, true} {
		t.Run(fmt.Sprintf("library=%v", library), func(t *testing.T) {
			opt := Options{NoCuBLASLt: !library}
			e := realGPU(t, opt)
			if library && e.Products() != "cuBLASLt" {
				t.Skip("cuBLASLt was not found")
			}
			open := func(testing.TB) graph.Engine { return e }
			enginetest.Run(t, open, enginetest.Tolerance{})
			t.Run("input", func(t *testing.T) { enginetest.RunInput(t, open, enginetest.Tolerance{}) })
			t.Run("identical", func(t *testing.T) { enginetest.Identical(t, open, open) })
			for _, s := range []shape{tinyBERT, tinyLlama} {
				t.Run(s.name, func(t *testing.T) { compareCurves(t, s, e) })
			}
		})
	}
}

func compareCurves(t *testing.T, s shape, e *Engine) {
	c, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := s.curve(t, c, 30)
	got, _ := s.curve(t, e, 30)
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= 1e-3) {
			t.Errorf("step %d: loss %v, the CPU's is %v", i+1, got[i], want[i])
		}
	}
}

// TestGPUProducts compares products of all kernels on a GPU with float64.
func TestGPUProducts(t *testing.T) {
	for _, o := range []Options{{Precision: "f32"}, {Precision: "tf32"}, {Precision: "bf16"}, {Precision: "f32", NoCuBLASLt: true}, {Precision: "tf32", NoCuBLASLt: true}, {Precision: "bf16", NoCuBLASLt: true}} {
		t.Run(fmt.Sprintf("%s/own=%v", o.Precision, o.NoCuBLASLt), func(t *testing.T) {
			e := realGPU(t, o)
			value, weight := 0x1p-10, 0x1p-10
			switch o.Precision {
			case "f32":
				value, weight = 0x1p-23, 0x1p-23
			case "bf16":
				weight = 0x1p-7
			}
			for _, s := range productSizes {
				compareProducts(t, e, s.m, s.n, s.k, false, true, value, weight)
				compareProducts(t, e, s.m, s.n, s.k, true, false, value, weight)
			}
		})
	}
}

// flops counts the multiplications and additions of a run's matrix products.
func flops(p *graph.Program, d graph.Dims) float64 {
	n := 0.0
	rows := func(v graph.Value) float64 { return float64(p.Info(v).Rows.Count(d)) }
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Linear:
			w := p.Weight(o.W)
			n += 2 * rows(o.X) * float64(w.In) * float64(w.Out)
		case *graph.LinearGrad:
			w := p.Weight(o.W)
			n += 2 * rows(o.DY) * float64(w.In) * float64(w.Out)
		case *graph.LMLoss:
			w := p.Weight(o.W)
			n += 4 * rows(o.X) * float64(w.In) * float64(w.Out)
		case *graph.MatMul:
			inner := float64(p.Info(o.A).Cols)
			if o.TransA {
				inner = rows(o.A)
			}
			n += 2 * rows(o.Y) * float64(p.Info(o.Y).Cols) * inner
		}
	}
	return n
}

// lengths are n lengths of about MRPC's sentence pairs, or all equal.
func lengths(n, equal int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = 32 + (i*29)%43 // 32 to 74, 53 on average
		if equal > 0 {
			out[i] = equal
		}
	}
	return out
}

// BenchmarkStep times optimizer steps on a GPU: forward, backward and AdamW.
// -v adds the time of every kind of operation.
func BenchmarkStep(b *testing.B) {
	for _, c := range []struct {
		shape  shape
		lens   []int
		method string
	}{
		{robertaBase, lengths(256, 0), "lsr"}, {robertaBase, lengths(256, 0), "lora"}, {robertaBase, lengths(32, 0), "lsr"},
		{gpt2Size, lengths(8, 1024), "lsr"}, {gpt2Size, lengths(8, 1024), "lora"}, {llama1B, lengths(2, 1024), "lsr"}, {llama1B, lengths(2, 1024), "lora"},
	} {
		for _, precision := range []string{"bf16", "tf32"} {
			for _, own := range []bool{false, true} {
				s := c.shape
				s.lora = c.method == "lora"
				b.Run(fmt.Sprintf("%s/%d/%s/%s/own=%v", s.name, len(c.lens), c.method, precision, own), func(b *testing.B) {
					benchmarkStep(b, s, c.lens, Options{Precision: precision, NoCuBLASLt: own})
				})
			}
		}
	}
}

func benchmarkStep(b *testing.B, s shape, lens []int, o Options) {
	e := realGPU(b, o)
	p := s.program(b)
	batch := s.batch(0, lens...)
	x, err := e.Compile(p, noise{0.035}, batch.Dims())
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(start(p, 0.035)); err != nil {
		b.Fatal(err)
	}
	t := 0
	step := func() {
		t++
		batch.Step = uint64(t)
		if err := x.Run(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		if _, err := x.Step(graph.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, ClipNorm: 1, T: t}); err != nil {
			b.Fatal(err)
		}
	}
	for range 3 { // code, the capture, the graph
		step()
	}
	began := time.Now()
	steps := 0
	for b.Loop() {
		step()
		steps++
	}
	each := time.Since(began).Seconds() / float64(steps)
	b.ReportMetric(float64(len(batch.IDs))/each, "tokens/s")
	b.ReportMetric(flops(p, batch.Dims())/each/1e12, "TFLOP/s")
	b.ReportMetric(float64(x.PeakBytes())/(1<<20), "MiB")
	if testing.Verbose() {
		pr := x.(graph.Profiler)
		pr.StartProfile()
		step()
		for _, o := range pr.Profile() {
			b.Logf("%-18s %5d %10.3f ms", o.Op, o.Calls, 1e3*o.Seconds)
		}
	}
}
