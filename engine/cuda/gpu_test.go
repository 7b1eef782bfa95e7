package cuda

import (
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

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
		})
	}
}

// TestGPUCurves compares losses with the CPU engine's in every precision, and
// checks that they are the same bits the second time.
func TestGPUCurves(t *testing.T) {
	for _, o := range []Options{{}, {Precision: "tf32"}, {Precision: "bf16"}, {BaseDType: "int8"}, {Precision: "bf16", BaseDType: "int8"}} {
		for _, own := range []bool{false, true} {
			for _, s := range []shape{tinyBERT, tinyLlama} {
				o.NoCuBLASLt = own
				t.Run(fmt.Sprintf("%s/%s/own=%v/%s", o.Precision, o.BaseDType, own, s.name), func(t *testing.T) { compareCurves(t, s, realGPU(t, o)) })
			}
		}
	}
}

// TestGPUAttention compares attention with float64 references.
func TestGPUAttention(t *testing.T) {
	for _, precision := range []string{"f32", "tf32", "bf16"} {
		e := realGPU(t, Options{Precision: precision})
		for _, c := range attentionCases {
			t.Run(fmt.Sprintf("%s/%s", precision, c.name), func(t *testing.T) { c.compare(t, e, attentionTolerance[precision]) })
		}
	}
}

// TestGPUBase compares products with reduced frozen matrices with float64.
func TestGPUBase(t *testing.T) {
	for _, c := range baseChoices {
		for _, own := range []bool{false, true} {
			e := realGPU(t, Options{Precision: c.precision, BaseDType: c.base, NoCuBLASLt: own})
			for _, transposed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/own=%v/transposed=%v", c.precision, c.base, own, transposed), func(t *testing.T) {
					compareBase(t, e, 17, 9, 33, transposed, c.eps)
					compareBase(t, e, 3, 136, 64, transposed, c.eps)
				})
			}
		}
	}
}

// curveTolerance is how far losses of the small models may be from the CPU's.
func curveTolerance(o Options) float64 {
	switch {
	case o.Precision == "bf16" || o.BaseDType == "int8":
		return 0.1
	case o.Precision == "tf32":
		return 2e-2
	}
	return 1e-3
}

func compareCurves(t *testing.T, s shape, e *Engine) {
	steps := 10
	if testing.Short() {
		steps = 3 // as bench/cuda/run.sh --dry asks
	}
	c, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := s.curve(t, c, steps)
	got, params := s.curve(t, e, steps)
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= curveTolerance(e.opt)) {
			t.Errorf("step %d: loss %v, the CPU's is %v", i+1, got[i], want[i])
		}
	}
	again, params2 := s.curve(t, e, steps)
	if !slices.Equal(got, again) || !slices.Equal(params, params2) {
		t.Error("the same seed gave other bits the second time")
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
