package decompose

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

func TestGoal(t *testing.T) {
	g := &goal{slope: 1, points: []point{{0, 100}, {10, 40}, {20, 39}, {30, 10}, {80, 0}}}
	g.settle()
	// The hull goes 0, 10, 30; the step to 80 brings 0.2 a parameter.
	for params, want := range map[int]float64{5: 70, 10: 40, 20: 25, 30: 10, 35: 5, 50: -10} {
		if got := g.below(params); math.Abs(got-want) > 1e-12 {
			t.Errorf("below(%d) = %v, want %v", params, got, want)
		}
	}
	g.add(20, 15)
	if !g.onHull(20, 15) || g.onHull(20, 39) || g.below(15) != 27.5 {
		t.Errorf("hull %v", g.hull)
	}
	g = &goal{byError: true, target: 5, limit: math.MaxInt, points: []point{{0, 100}, {10, 6}, {20, 4}, {30, 3}}}
	g.settle()
	if g.below(19) < 5 || g.below(19) > 5.001 || g.below(20) != 0 || !g.onHull(20, 4) || g.onHull(30, 3) {
		t.Errorf("limit %d", g.limit)
	}
	if r := marginal([]*ladder{{norm2: 100, rungs: []rung{{params: 10, error2: 40}, {params: 30, error2: 10}}}}, 20); r != 1.5 {
		t.Errorf("marginal rate %v, want that of the step from 10 to 30", r)
	}
}

// kroneckerUpdate is Σ_k (A1_k ⊗ A2_k) Σ_k (B1_k ⊗ B2_k) of normal numbers, with
// unit norm.
func kroneckerUpdate(rng *rand.Rand, a, b kron.Shape) []float64 {
	w := make([]float64, a.N*b.M)
	var k [2][]float64
	for i, s := range []kron.Shape{a, b} {
		k[i] = make([]float64, s.N*s.M)
		kron.Materialize(nil, nil, k[i], kron.NewFactor(s, drawn(rng, s.S*s.A1*s.R1), drawn(rng, s.S*s.A2*s.R2)))
	}
	kernel.GemmF64(nil, false, false, a.N, b.M, a.M, 1, k[0], a.M, k[1], b.M, 0, w, b.M)
	scale(w, 1/norm(w))
	return w
}

func drawn(rng *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	return x
}

const testIn, testOut = 48, 60

// differences are updates of several structures plus noise of a tenth of their
// norm: (in, out).
func differences() map[string][]float32 {
	rng := rand.New(rand.NewPCG(6, 6))
	one := func(a, b kron.Shape) []float64 { return kroneckerUpdate(rng, a, b) }
	plain := func(n, r int) (a, b kron.Shape) {
		return kron.Full(1, n, r, 1, 1), kron.Full(1, r, n, 1, 1)
	}
	pa, _ := plain(testIn, 2)
	_, pb := plain(testOut, 2)
	ds := map[string][]float64{
		"plain":         one(pa, pb),
		"usual":         one(kron.Full(2, 8, 2, 6, 2), kron.Full(2, 2, 10, 2, 6)),
		"in, major":     one(kron.Full(1, 6, 2, 8, 1), pb),
		"in, minor":     one(kron.Full(1, 4, 1, 12, 2), kron.Full(1, 1, 1, 2, testOut)),
		"out, major":    one(pa, kron.Full(1, 2, 12, 1, 5)),
		"out, minor":    one(kron.Full(1, 1, 1, testIn, 2), kron.Full(1, 1, 6, 2, 10)),
		"nothing":       make([]float64, testIn*testOut),
		"plain and sum": one(pa, pb),
	}
	sum := one(kron.Full(4, 8, 2, 6, 2), kron.Full(4, 2, 10, 2, 6))
	for i, v := range sum {
		ds["plain and sum"][i] += v
	}
	narrow := map[string][]float32{}
	for _, n := range []string{"plain", "usual", "in, major", "in, minor", "out, major", "out, minor", "nothing", "plain and sum"} {
		x := make([]float32, len(ds[n]))
		for i, v := range ds[n] {
			x[i] = float32(v + 0.1*rng.NormFloat64()/math.Sqrt(float64(len(x))))
		}
		narrow[n] = x
	}
	return narrow
}

// fittingOf is the work on one (in, out) difference.
func fittingOf(t *testing.T, d []float32, o ExtractOptions) *fitting {
	t.Helper()
	site := adapter.Site{Module: "m", In: testIn, Out: testOut, Weight: "m.weight", Kind: "m"}
	o.Config = adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLSR, Rank: adapter.Rank{R1: 2, R2: 2}, Terms: 16}, Targets: adapter.Targets{AllLinear: true}}
	e, err := planExtraction([]adapter.Site{site}, o)
	if err != nil {
		t.Fatal(err)
	}
	return &fitting{extraction: e, site: site, set: e.matched[0].Settings, d: &difference{rows: testIn, cols: testOut, d: d}}
}

func (f *fitting) allPasses(t *testing.T) *ladder {
	t.Helper()
	for pass := range f.passes() {
		f.between(pass)
		if err := f.climb(0); err != nil {
			t.Fatal(err)
		}
	}
	return f.ladders[0]
}

// TestBudgetsAreSpentAsWell fits every size without giving up any and wants what
// a budget gets to be no more than a hundredth above the best of them.
func TestBudgetsAreSpentAsWell(t *testing.T) {
	for name, d := range differences() {
		all := fittingOf(t, d, ExtractOptions{Budget: 450})
		sums, err := all.lsrSizes()
		if err != nil {
			t.Fatal(err)
		}
		triplets, norm2, err := all.triplets(24)
		if err != nil {
			t.Fatal(err)
		}
		m := all.matrix(norm2)
		m.trials = 1
		left := make([]float64, len(sums))
		for i, s := range sums {
			fit, err := m.fit(leadingOf(triplets, testIn, testOut, s.Rank.R()+spareTriplets), &s, 0, math.Inf(1))
			if err != nil {
				t.Fatal(err)
			}
			left[i] = fit.error2
		}
		for _, budget := range []int64{60, 120, 200, 300, 450} {
			f := fittingOf(t, d, ExtractOptions{Budget: budget})
			l := f.allPasses(t)
			at, _ := f.choose()
			_, got := l.state(at[0])
			for i, s := range sums {
				if int64(s.params) <= budget && got > 1.01*left[i] {
					t.Errorf("%s, budget %d: rank %v and %d terms leave %g with %d parameters, the budget %g", name, budget, s.Rank, s.Terms, left[i]/norm2, s.params, got/norm2)
				}
			}
		}
	}
}

// TestOneSidedFormsAreFound wants the planted forms by the sizes that they have,
// within the noise: a hundredth of the squared norm.
func TestOneSidedFormsAreFound(t *testing.T) {
	ds := differences()
	for name, want := range map[string]struct {
		params       int
		in, splitOut [2]int
	}{
		"in, major":  {2*6 + 8 + 2*testOut, [2]int{6, 8}, [2]int{testOut, 1}},
		"in, minor":  {4 + 2*12 + 2*testOut, [2]int{4, 12}, [2]int{1, testOut}},
		"out, major": {2*12 + 5 + 2*testIn, [2]int{testIn, 1}, [2]int{12, 5}},
		"out, minor": {6 + 2*10 + 2*testIn, [2]int{1, testIn}, [2]int{6, 10}},
	} {
		for _, o := range []ExtractOptions{{Budget: int64(want.params)}, {MaxError: 0.11}} {
			f := fittingOf(t, ds[name], o)
			f.allPasses(t)
			a, rep, err := f.finish()
			if err != nil {
				t.Fatal(name, err)
			}
			m := rep.Modules[0]
			if m.Params != want.params || m.SplitIn != want.in || m.SplitOut != want.splitOut || m.Error > 0.11 {
				t.Errorf("%s: %d parameters (want %d), splits %v and %v, error %v", name, m.Params, want.params, m.SplitIn, m.SplitOut, m.Error)
			}
			deltas, err := a.Deltas()
			if err != nil {
				t.Fatal(err)
			}
			off := 0.0
			for i, v := range deltas[0].Dense() {
				e := float64(ds[name][i]) - v
				off += e * e
			}
			if e := math.Sqrt(off / f.ladders[0].norm2); math.Abs(e-m.Error) > 1e-5 {
				t.Errorf("%s: the report says %g, the adapter is off by %g", name, m.Error, e)
			}
		}
	}
}

// TestLSRIsNotAboveLoRA gives both methods the same parameters but for the two
// that plain factors need beyond LoRA's.
func TestLSRIsNotAboveLoRA(t *testing.T) {
	for name, d := range differences() {
		for _, r := range []int{1, 3} {
			f := fittingOf(t, d, ExtractOptions{Budget: int64(plainParams(adapter.Site{In: testIn, Out: testOut}, r))})
			l := f.allPasses(t)
			at, _ := f.choose()
			_, error2 := l.state(at[0])
			svd, norm2, err := f.triplets(r)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range svd.S {
				norm2 -= s * s
			}
			if error2 > norm2*(1+1e-3) {
				t.Errorf("%s: LSR leaves %g, LoRA of rank %d %g", name, error2, r, norm2)
			}
		}
	}
}

// A fit that cannot get below the error that it is asked for is given up; one
// that can is not.
func TestHopelessFitsAreGivenUp(t *testing.T) {
	f := fittingOf(t, differences()["nothing"], ExtractOptions{Budget: 400})
	d, norm2, err := f.triplets(12)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.trial(adapter.Settings{Method: adapter.MethodLSR, Rank: adapter.Rank{R1: 2, R2: 2}, Terms: 1})
	if err != nil {
		t.Fatal(err)
	}
	m := f.matrix(norm2)
	m.trials = 1
	fit, err := m.fit(d, &s, 0, math.Inf(1))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.fit(d, &s, 0, fit.error2*1.001); err != nil || again == nil {
		t.Errorf("a fit that leaves %g is given up: %v", fit.error2, err)
	}
	if again, err := m.fit(d, &s, 0, 0.1*norm2); err != nil || again != nil {
		t.Errorf("a fit that leaves %g of %g is not given up: %v", fit.error2, norm2, err)
	}
}
