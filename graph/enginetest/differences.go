package enginetest

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// FiniteDifferences checks every forward case and program: the gradients that
// Differentiate and the reference compute against central differences of the
// reference's loss. Recomputing more or less must not change them.
func FiniteDifferences(t *testing.T) {
	for _, c := range append(forwardCases(), inputCases()...) {
		if c.lens[0] > 60 {
			continue // the short batches of the same operation say the same, in less time
		}
		for _, v := range variants {
			t.Run(c.name+v.suffix, func(t *testing.T) {
				grads := differences(t, c.training(t, v, graph.DiffOptions{}), 40)
				for _, r := range []graph.Recompute{graph.RecomputeActs, graph.RecomputeNone} {
					sameGradients(t, c.training(t, v, graph.DiffOptions{Recompute: r}), grads)
				}
			})
		}
	}
	for _, pr := range programs() {
		t.Run(pr.name, func(t *testing.T) {
			grads := differences(t, pr.setup(t, graph.DiffOptions{}), 2)
			for _, r := range []graph.Recompute{graph.RecomputeActs, graph.RecomputeNone} {
				sameGradients(t, pr.setup(t, graph.DiffOptions{Recompute: r}), grads)
			}
		})
	}
}

// gradients runs the first batch of s on the reference.
func gradients(t *testing.T, s setup) []float64 {
	t.Helper()
	x, err := reference.New().Load(s.program, s.weights)
	if err != nil {
		t.Fatalf("%v\n%v", err, s.program)
	}
	if err := x.SetParams(s.params); err != nil {
		t.Fatal(err)
	}
	if err := x.Run(context.Background(), s.batches[0]); err != nil {
		t.Fatal(err)
	}
	return x.GradsFloat64()
}

// sameGradients compares with gradients of the same program that keeps other
// values. Sums may be taken in another order.
func sameGradients(t *testing.T, s setup, want []float64) {
	t.Helper()
	for i, g := range gradients(t, s) {
		if !(math.Abs(g-want[i]) <= 1e-12*(1+math.Abs(want[i]))) {
			t.Fatalf("gradient %d is %v, with other recomputation %v\n%v", i, g, want[i], s.program)
		}
	}
}

// differences compares up to n gradients of every parameter, spread over it,
// and its gradient along one direction that changes all of it, with difference
// quotients. It returns all gradients.
func differences(t *testing.T, s setup, n int) []float64 {
	grads := gradients(t, s)
	forward := *s.program
	forward.Ops = forward.Ops[:forward.Forward]
	x, err := reference.New().Load(&forward, s.weights)
	if err != nil {
		t.Fatalf("%v\n%v", err, s.program)
	}
	largest := 0.0
	for _, g := range grads {
		largest = max(largest, math.Abs(g))
	}
	params := float64s(s.params)
	// along compares the slope of the loss as i in [lo, hi) moves by ±1.
	along := func(name string, lo, hi int) {
		const h = 1e-5
		sign := func(i int) float64 { return float64(1 - i*i%3%2*2) } // +, -, -, +, -, -, ...
		var loss [2]float64
		for k, step := range [2]float64{h, -h} {
			for i := lo; i < hi; i++ {
				params[i] = float64(s.params[i]) + step*sign(i)
			}
			x.SetParamsFloat64(params)
			if err := x.Run(context.Background(), s.batches[0]); err != nil {
				t.Fatal(err)
			}
			loss[k] = x.Float64(s.program.Loss)[0]
		}
		want := (loss[0] - loss[1]) / (2 * h)
		got := 0.0
		for i := lo; i < hi; i++ {
			params[i] = float64(s.params[i])
			got += grads[i] * sign(i)
		}
		// The quotient is off by h² of the third derivative, and by the
		// rounding of the loss divided by h.
		if !(math.Abs(got-want) <= 1e-6*largest*math.Sqrt(float64(hi-lo))+1e-8*math.Abs(loss[0])) {
			t.Fatalf("gradient of %s over [%d, %d) is %v, the difference quotient %v\n%v", name, lo, hi, got, want, s.program)
		}
	}
	constant := s.program.Untrained()
	for _, par := range s.program.Params {
		if slices.Contains(constant, par.Name) {
			continue
		}
		for i := par.Offset; i < par.Offset+par.Size; i += max(1, par.Size/n) {
			along(par.Name, i, i+1)
		}
		along(par.Name, par.Offset, par.Offset+par.Size)
	}
	return grads
}
