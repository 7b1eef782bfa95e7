package decompose_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
)

// trained makes an adapter of random numbers for modules of (20, 14).
func trained(t *testing.T, seed uint64, method string, set adapter.Settings, modules ...string) *adapter.Adapter {
	t.Helper()
	var sites []adapter.Site
	for _, m := range modules {
		sites = append(sites, adapter.Site{Module: m, In: 20, Out: 14, Weight: m + ".weight", Transposed: true, Layer: -1, Kind: m})
	}
	set.Method, set.Scaling, set.Init = method, adapter.ScaleLoRA, adapter.InitPaper
	a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{AllLinear: true}, Seed: seed, BaseHash: "b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func dense(t *testing.T, a *adapter.Adapter) map[string][]float64 {
	t.Helper()
	ds, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]float64{}
	for _, d := range ds {
		m[d.Module] = d.Dense()
	}
	return m
}

func TestCombineExact(t *testing.T) {
	lora := adapter.Settings{Rank: adapter.Rank{R1: 3, R2: 1}, Terms: 1, Alpha: 7}
	lsr := adapter.Settings{Rank: adapter.Rank{R1: 2, R2: 2}, Terms: 3, Alpha: 9e3}
	krona := adapter.Settings{Rank: adapter.Rank{R1: 1, R2: 1}, Terms: 2, Alpha: 3}
	x, y := trained(t, 1, adapter.MethodLoRA, lora, "q", "v"), trained(t, 2, adapter.MethodLSR, lsr, "v", "k")
	k1, k2 := trained(t, 3, adapter.MethodKronA, krona, "q"), trained(t, 4, adapter.MethodKronA, krona, "q")
	for _, c := range []struct {
		method   decompose.CombineMethod
		adapters []*adapter.Adapter
		ranks    []int // of q, v, k
	}{
		{decompose.CombineCat, []*adapter.Adapter{x, y}, []int{3, 7, 4}},
		{decompose.CombineLinear, []*adapter.Adapter{x, y}, []int{3, 7, 4}},
		{decompose.CombineLinear, []*adapter.Adapter{x, x}, []int{3, 3}},
		{decompose.CombineSVD, []*adapter.Adapter{x, x}, []int{3, 3}},
		{decompose.CombineCat, []*adapter.Adapter{k1, k2}, []int{1}},
	} {
		w := []float64{0.5, -2}
		out, report, err := decompose.Combine(t.Context(), c.adapters, decompose.CombineOptions{Method: c.method, Weights: w})
		if err != nil {
			t.Fatal(err)
		}
		var ranks []int
		for _, m := range report {
			ranks = append(ranks, m.Rank)
			if m.Error > 1e-6 {
				t.Errorf("%s %s: loses %g", c.method, m.Module, m.Error)
			}
		}
		if !slices.Equal(ranks, c.ranks) {
			t.Errorf("%s: ranks %v, want %v", c.method, ranks, c.ranks)
		}
		got := dense(t, out)
		for module, g := range got {
			want := make([]float64, len(g))
			for i, a := range c.adapters {
				for j, v := range dense(t, a)[module] {
					want[j] += w[i] * v
				}
			}
			for j := range g {
				if math.Abs(g[j]-want[j]) > 1e-6*frobenius(want) {
					t.Fatalf("%s %s: element %d is %v, want %v", c.method, module, j, g[j], want[j])
				}
			}
		}
	}
	if _, _, err := decompose.Combine(t.Context(), []*adapter.Adapter{x, k1}, decompose.CombineOptions{Method: decompose.CombineCat}); !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("lora and krona: %v", err)
	}
	y.BaseHash = "other"
	if _, _, err := decompose.Combine(t.Context(), []*adapter.Adapter{x, y}, decompose.CombineOptions{Method: decompose.CombineCat}); !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("other base: %v", err)
	}
}

// TIES against its definition, by sorting and by element, at full rank.
func TestCombineTIES(t *testing.T) {
	lora := adapter.Settings{Rank: adapter.Rank{R1: 3, R2: 1}, Terms: 1, Alpha: 7}
	as := []*adapter.Adapter{trained(t, 1, adapter.MethodLoRA, lora, "q"), trained(t, 2, adapter.MethodLoRA, lora, "q"), trained(t, 3, adapter.MethodLoRA, lora, "q")}
	out, _, err := decompose.Combine(t.Context(), as, decompose.CombineOptions{Method: decompose.CombineTIES, Rank: 14, Density: 0.3})
	if err != nil {
		t.Fatal(err)
	}
	var tasks [][]float64
	for _, a := range as {
		x := dense(t, a)["q"]
		order := make([]int, len(x))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(i, j int) int {
			if math.Abs(x[i]) > math.Abs(x[j]) {
				return -1
			}
			return 1
		})
		for _, i := range order[84:] { // 30 % of 280
			x[i] = 0
		}
		tasks = append(tasks, x)
	}
	for j, g := range dense(t, out)["q"] {
		total, sum, n := tasks[0][j]+tasks[1][j]+tasks[2][j], 0.0, 0.0
		for _, x := range tasks {
			if x[j]*total > 0 {
				sum += x[j]
				n++
			}
		}
		if want := sum / max(n, 1); math.Abs(g-want) > 1e-9 {
			t.Fatalf("element %d is %v, want %v", j, g, want)
		}
	}
}

// DARE keeps the expectation: every element is 0 or the original over the
// density, about as many as the density says, and a seed decides which.
func TestCombineDARE(t *testing.T) {
	a := trained(t, 1, adapter.MethodLoRA, adapter.Settings{Rank: adapter.Rank{R1: 3, R2: 1}, Terms: 1, Alpha: 7e3}, "q")
	dare := func(seed uint64) []float64 {
		out, _, err := decompose.Combine(t.Context(), []*adapter.Adapter{a}, decompose.CombineOptions{Method: decompose.CombineDARE, Rank: 14, Density: 0.4, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		return dense(t, out)["q"]
	}
	x, kept := dense(t, a)["q"], 0
	got := dare(11)
	for j, g := range got {
		if math.Abs(x[j]) < 1e-4 {
			continue
		}
		switch q := g / x[j]; {
		case math.Abs(q-2.5) < 1e-2:
			kept++
		case math.Abs(q) > 1e-2:
			t.Fatalf("element %d is %v times the original", j, q)
		}
	}
	if kept < 60 || kept > 170 { // 112 ± 8.2
		t.Errorf("%d of 280 kept", kept)
	}
	if !slices.Equal(dare(5), dare(5)) || slices.Equal(dare(5), dare(6)) {
		t.Error("the seed does not decide")
	}
}

// An LSR adapter written as a LoRA comes back as LSR; a smaller one loses what
// the report says.
func TestRefit(t *testing.T) {
	lsr := adapter.Settings{Rank: adapter.Rank{R1: 2, R2: 2}, Terms: 2, Alpha: 9e3}
	x := trained(t, 2, adapter.MethodLSR, lsr, "v", "k")
	lora, _, err := decompose.Combine(t.Context(), []*adapter.Adapter{x}, decompose.CombineOptions{Method: decompose.CombineLinear})
	if err != nil {
		t.Fatal(err)
	}
	for _, terms := range []int{2, 1} {
		lsr.Terms = terms
		lsr.Method = adapter.MethodLSR
		out, report, err := decompose.Refit(t.Context(), lora, decompose.ExtractOptions{Config: adapter.Config{Settings: lsr, Seed: 1}, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		got, want := dense(t, out), dense(t, x)
		for _, m := range report.Modules {
			var off float64
			for j, v := range got[m.Module] {
				off += (v - want[m.Module][j]) * (v - want[m.Module][j])
			}
			found := math.Sqrt(off) / frobenius(want[m.Module])
			if math.Abs(found-m.Error) > 1e-4 || terms == 2 && found > 1e-4 || terms == 1 && (found < 1e-3 || found > 1) {
				t.Errorf("%d terms, %s: error %g, reported %g", terms, m.Module, found, m.Error)
			}
		}
	}
}

// TestRefitWithin: the smallest size within an error reaches it and is smaller
// than the LoRA, and an update of 0 is an error.
func TestRefitWithin(t *testing.T) {
	x := trained(t, 2, adapter.MethodLSR, adapter.Settings{Rank: adapter.Rank{R1: 2, R2: 2}, Terms: 2, Alpha: 9e3}, "v", "k")
	lora, _, err := decompose.Combine(t.Context(), []*adapter.Adapter{x}, decompose.CombineOptions{Method: decompose.CombineLinear})
	if err != nil {
		t.Fatal(err)
	}
	set, err := adapter.Defaults(adapter.MethodLSR, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	out, report, err := decompose.Refit(t.Context(), lora, decompose.ExtractOptions{Config: adapter.Config{Settings: set}, MaxError: 0.25, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	got, want := dense(t, out), dense(t, x)
	for _, m := range report.Modules {
		var off float64
		for j, v := range got[m.Module] {
			off += (v - want[m.Module][j]) * (v - want[m.Module][j])
		}
		if e := math.Sqrt(off) / frobenius(want[m.Module]); !m.Reached || e > 0.2501 {
			t.Errorf("%s: error %g, reached %v", m.Module, e, m.Reached)
		}
	}
	if a, b := adapter.ParamCount(out.Modules), adapter.ParamCount(lora.Modules); a >= b {
		t.Errorf("%d parameters for a LoRA of %d", a, b)
	}
	for i := range lora.Modules {
		clear(lora.Modules[i].Tensors[0])
	}
	if _, _, err := decompose.Refit(t.Context(), lora, decompose.ExtractOptions{Config: adapter.Config{Settings: set}}); !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("an update of 0: %v", err)
	}
}

// A combination that is cancelled ends before the next module.
func TestCombineIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := trained(t, 1, adapter.MethodLoRA, adapter.Settings{Rank: adapter.Rank{R1: 3, R2: 1}, Terms: 1, Alpha: 7}, "q", "v")
	if _, _, err := decompose.Combine(ctx, []*adapter.Adapter{x}, decompose.CombineOptions{Method: decompose.CombineLinear}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
