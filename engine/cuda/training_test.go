package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// TestGraphsGiveTheSameBits compares captured graphs with single launches.
func TestGraphsGiveTheSameBits(t *testing.T) {
	f := openFake(t)
	enginetest.Identical(t, f.opener(Options{}), f.opener(Options{NoGraphs: true}))
}

// TestCurves trains on the CPU engine and on this one from the same seed: the
// losses agree, within what a precision keeps, and go down.
func TestCurves(t *testing.T) {
	const steps = 4
	for _, s := range []shape{tinyBERT, tinyLlama} {
		c, err := cpu.New(cpu.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := s.curve(t, c, steps)
		if want[steps-1] >= want[1] {
			t.Fatalf("%s does not learn on the CPU: %v", s.name, want)
		}
		for _, o := range []struct {
			precision string
			blas      bool
			tolerance float64
		}{{"f32", false, 1e-4}, {"f32", true, 1e-4}, {"tf32", false, 1e-2}, {"bf16", false, 5e-2}, {"bf16", true, 5e-2}} {
			t.Run(fmt.Sprintf("%s/%s/library=%v", s.name, o.precision, o.blas), func(t *testing.T) {
				f := openFake(t)
				opt := Options{Precision: o.precision}
				if o.blas {
					opt.CuBLASLt = f.blas
				}
				e := f.open(t, opt)
				got, params := s.curve(t, e, steps)
				for i := range want {
					if d := math.Abs(float64(got[i] - want[i])); !(d <= o.tolerance) {
						t.Errorf("step %d: loss %v, the CPU's is %v", i+1, got[i], want[i])
					}
				}
				if f.get(getGraphs) == 0 {
					t.Error("no run was a captured graph")
				}
				if o.precision != "f32" {
					return
				}
				again, params2 := s.curve(t, e, steps)
				if !slices.Equal(got, again) || !slices.Equal(params, params2) {
					t.Error("the same seed gave other bits the second time")
				}
			})
		}
	}
}
