package enginetest

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// stepOptions are AdamW's settings for step t. Eps is large, because the first
// steps otherwise divide gradients by their own magnitude and the sign of a
// rounding error would count as much as a gradient.
func stepOptions(t int) graph.AdamW {
	o := graph.AdamW{LR: 0.02, Beta1: 0.9, Beta2: 0.98, Eps: 0.01, WeightDecay: 0.1, T: t}
	if t%2 == 0 {
		o.ClipNorm = 0.05
	}
	return o
}

// compareTraining runs several micro-batches per step on both engines, and
// compares losses, summed gradients, norms, moments and parameters.
func compareTraining(t *testing.T, e graph.Engine, pr program, tol float64) {
	s := pr.setup(t, graph.DiffOptions{})
	p := compile(t, e, s, s.batches[0].Dims())
	for step := 1; step <= 3; step++ {
		for _, b := range s.batches {
			p.run(t, b)
			p.compareOutputs(t, tol)
		}
		p.compareGrads(t, tol)
		want, err := p.want.Step(stepOptions(step))
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.got.Step(stepOptions(step))
		if err != nil {
			t.Fatalf("step: %v", err)
		}
		if !(math.Abs(got-want) <= tol*want) {
			t.Fatalf("step %d: gradient norm %v, want %v", step, got, want)
		}
		p.compareState(t, tol)
		p.compareParams(t, "gradient after the step", p.got.Grads, make([]float64, s.program.ParamSize), 0)
	}
	eval := *s.batches[0]
	eval.Train = false
	p.run(t, &eval)
	p.compareOutputs(t, tol)
}

// compareState compares parameters and moments.
func (p pair) compareState(t *testing.T, tol float64) {
	t.Helper()
	n := p.program.ParamSize
	params, m, v := make([]float32, n), make([]float32, n), make([]float32, n)
	if err := p.want.Params(params); err != nil {
		t.Fatal(err)
	}
	p.compareParams(t, "value", p.got.Params, float64s(params), tol)
	if err := p.want.Moments(m, v); err != nil {
		t.Fatal(err)
	}
	got := make([]float32, n)
	p.compareParams(t, "first moment", func(dst []float32) error { return p.got.Moments(dst, got) }, float64s(m), tol)
	p.compareParams(t, "second moment", func(dst []float32) error { return p.got.Moments(got, dst) }, float64s(v), 2*tol)
}

func float64s(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// contract checks what Executable promises beside numbers.
func contract(t *testing.T, e graph.Engine) {
	pr := programs()[0]
	s := pr.setup(t, graph.DiffOptions{})
	x, err := e.Compile(s.program, s.weights, s.batches[0].Dims())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Run("buffers round trip", func(t *testing.T) { roundTrips(t, x, s) })
	t.Run("refusals", func(t *testing.T) { refusals(t, x, s) })
	t.Run("runs repeat", func(t *testing.T) { repeats(t, x, s) })
	t.Run("missing weight", func(t *testing.T) {
		if y, err := e.Compile(s.program, weights{}, s.batches[0].Dims()); err == nil {
			y.Close()
			t.Error("compiled without its weights")
		}
	})
	if e.Name() == "" || x.PeakBytes() < 4*int64(s.program.ParamSize) {
		t.Errorf("name %q, peak %d bytes", e.Name(), x.PeakBytes())
	}
}

func roundTrips(t *testing.T, x graph.Executable, s setup) {
	n := s.program.ParamSize
	a, b := make([]float32, n), make([]float32, n)
	for i := range a {
		a[i], b[i] = float32(i)*0.25, 3+float32(i)
	}
	got, got2 := make([]float32, n), make([]float32, n)
	for _, step := range []error{
		x.SetParams(s.params), x.Params(got),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if !slices.Equal(got, s.params) {
		t.Error("parameters changed on the way")
	}
	for _, step := range []error{x.SetGrads(a), x.Grads(got)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if !slices.Equal(got, a) {
		t.Error("gradients changed on the way")
	}
	for _, step := range []error{x.SetMoments(a, b), x.Moments(got, got2)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if !slices.Equal(got, a) || !slices.Equal(got2, b) {
		t.Error("moments changed on the way")
	}
	clear(a)
	for _, step := range []error{x.SetMoments(a, a), x.ZeroGrads(), x.Grads(got)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if !slices.Equal(got, a) {
		t.Error("gradients remain after ZeroGrads")
	}
}

// refusals checks that mistakes of a caller are errors and leave x usable.
func refusals(t *testing.T, x graph.Executable, s setup) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.Run(ctx, s.batches[0]); err == nil {
		t.Error("ran although cancelled")
	}
	change := func(f func(b *graph.Batch)) *graph.Batch {
		b := *s.batches[0]
		f(&b)
		return &b
	}
	for name, b := range map[string]*graph.Batch{
		"id beyond the table": change(func(b *graph.Batch) { b.IDs = slices.Clone(b.IDs); b.IDs[2] = vocab }),
		"label beyond":        change(func(b *graph.Batch) { b.Labels = slices.Clone(b.Labels); b.Labels[0] = 3 }),
		"labels missing":      change(func(b *graph.Batch) { b.Labels = nil }),
		"position beyond":     change(func(b *graph.Batch) { b.Positions = slices.Clone(b.Positions); b.Positions[0] = 62 }),
		"lengths do not add":  change(func(b *graph.Batch) { b.CuSeqlens = b.CuSeqlens[:2] }),
	} {
		if err := x.Run(context.Background(), b); err == nil {
			t.Errorf("%s: ran", name)
		}
	}
	if err := x.ZeroGrads(); err != nil {
		t.Fatal(err)
	}
	if err := x.Run(context.Background(), s.batches[0]); err != nil {
		t.Fatalf("after refusals: %v", err)
	}
	n := s.program.ParamSize
	if x.SetParams(make([]float32, n+1)) == nil || x.Params(make([]float32, n-1)) == nil || x.SetGrads(nil) == nil || x.Grads(nil) == nil {
		t.Error("buffers of the wrong length were accepted")
	}
	inner := s.program.Ops[0].Outputs(nil)[0]
	if x.Read(inner, make([]float32, 1)) == nil || x.Read(s.program.Loss, make([]float32, 2)) == nil {
		t.Error("read a value that is no output, or with the wrong length")
	}
	if _, err := x.Step(graph.AdamW{LR: 1}); err == nil {
		t.Error("took step number 0")
	}
}

// repeats checks that the same batch gives the same bits again after others.
func repeats(t *testing.T, x graph.Executable, s setup) {
	grads := func() []float32 {
		t.Helper()
		g := make([]float32, s.program.ParamSize)
		for _, err := range []error{x.ZeroGrads(), x.Run(context.Background(), s.batches[0]), x.Grads(g)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	if err := x.SetParams(s.params); err != nil {
		t.Fatal(err)
	}
	first := grads()
	if err := x.Run(context.Background(), s.batches[1]); err != nil {
		t.Fatal(err)
	}
	if second := grads(); !slices.Equal(first, second) {
		t.Error("the same batch gave other gradients after a larger one")
	}
}
