package adapter_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// Published and derived counts for RoBERTa-base, query and value.
func TestParamCounts(t *testing.T) {
	for _, c := range []struct {
		method string
		want   int64
		source string
	}{
		{adapter.MethodLSR, 24 * 3584, "LSR-Adapt: 3,584 per 768x768 matrix at 2x2, s = 16"},
		{adapter.MethodLoRA, 294912, "LoRA r = 8: 12,288 per matrix"},
		{adapter.MethodKronA, 24 * 1536, "32·24 + 24·32 per matrix"},
		{adapter.MethodKAdaptation, 40960, "4,096 shared + 36,864, t = 32, no bias"},
		{adapter.MethodGraLoRA, 294912, "as LoRA r = 8, whatever k is"},
		{adapter.MethodDoRA, 294912 + 24*768, "LoRA r = 8 and a magnitude per output"},
		{adapter.MethodLSRDoRA, 24 * (3584 + 768), "LSR and a magnitude per output"},
		{adapter.MethodLoR2C, 2 * 12 * 768 * 8, "2 L d r = 147,456, half of LoRA r = 8 on query and value"},
		{adapter.MethodShareLoR2C, 8 * 768 * 13, "r d (1 + L) = 79,872"},
		{adapter.MethodDiffoRA, 294912 + 24, "LoRA r = 8 and a gate per module, during the search"},
	} {
		mods, err := adapter.Plan(robertaSites(12, 768, 3072), config(c.method))
		if err != nil {
			t.Fatal(err)
		}
		if got := adapter.ParamCount(mods); got != c.want {
			t.Errorf("%s: %d parameters, want %d (%s)", c.method, got, c.want, c.source)
		}
	}
}

func TestNewIsANoOp(t *testing.T) {
	for _, method := range adapter.Methods() {
		c := config(method)
		c.Targets = adapter.Targets{AllLinear: true}
		if method == adapter.MethodKAdaptation {
			c.Targets = adapter.Targets{Modules: []string{"query"}}
			c.Terms = 4
		}
		a, err := adapter.New(robertaSites(2, 18, 32), c, drawn{})
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		norm, noOp, err := a.Start()
		if err != nil || !noOp || norm != 0 {
			t.Errorf("%s: start %v, %v, %v", method, norm, noOp, err)
		}
		if want := method == adapter.MethodDoRA || method == adapter.MethodLSRDoRA; a.StartRounds() != want {
			t.Errorf("%s: start rounds: %v", method, !want)
		}
		// All but one tensor of each module are alive, or nothing would train.
		for _, m := range a.Modules {
			zero := 0
			for _, x := range m.Tensors {
				if x[0] == 0 {
					zero++
				}
			}
			if zero != 1 {
				t.Errorf("%s: %d tensors start at 0", m.Module, zero)
			}
		}
	}
}

func TestPaperInit(t *testing.T) {
	c := config(adapter.MethodLSR)
	var err error
	if c.Settings, err = adapter.Defaults(adapter.MethodLSR, adapter.InitPaper); err != nil {
		t.Fatal(err)
	}
	if c.Settings.Scale() != 4096 {
		t.Errorf("scale %v, want 8192/2", c.Settings.Scale())
	}
	a, err := adapter.New(robertaSites(1, 768, 3072), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	norm, noOp, err := a.Start()
	if err != nil || noOp {
		t.Fatalf("start %v, %v", noOp, err)
	}
	// ΔW's entries have standard deviation 4096·sqrt(16²·4)·1e-8 = 1.3e-3.
	if std := norm / 768; std < 1e-3 || std > 1.7e-3 {
		t.Errorf("standard deviation %v, want about 1.3e-3", std)
	}
}

// randomised returns an adapter whose tensors are all random.
func randomised(t testing.TB, sites []adapter.Site, c adapter.Config) *adapter.Adapter {
	t.Helper()
	a, err := adapter.New(sites, c, drawn{})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	done := map[string]bool{}
	for _, m := range a.Modules {
		for i, x := range m.Tensors {
			if done[m.Specs[i].Name] {
				continue
			}
			done[m.Specs[i].Name] = true
			for j := range x {
				x[j] = float32(rng.NormFloat64() / 4)
			}
		}
	}
	return a
}

// definition is ΔW straight from the formula of the method.
func definition(m *adapter.Module) []float64 {
	w := make([]float64, m.In*m.Out)
	scale := m.Scale()
	at := func(i int, idx ...int) float64 {
		p := 0
		for d, x := range idx {
			p = p*m.Specs[i].Shape[d] + x
		}
		return float64(m.Tensors[i][p])
	}
	dim := func(i, d int) int { return m.Specs[i].Shape[d] }
	for i := range m.In {
		for o := range m.Out {
			var sum float64
			switch m.Method {
			case adapter.MethodLoRA:
				for r := range dim(0, 0) {
					sum += at(0, r, i) * at(1, o, r)
					if len(m.Tensors) == 4 { // the part that the base has already
						sum += at(2, r, i) * at(3, o, r)
					}
				}
			case adapter.MethodDiffoRA:
				for r := range dim(0, 0) {
					sum += math.Tanh(at(2, 0)) * at(0, r, i) * at(1, 0, o, r)
				}
			case adapter.MethodGraLoRA:
				k := m.Terms
				q, n, j := m.Rank.R1/k, i/(m.In/k), o/(m.Out/k)
				for p := range q {
					sum += at(0, n, i%(m.In/k), j*q+p) * at(1, j, n*q+p, o%(m.Out/k))
				}
				for p := range m.HybridRank {
					sum += at(2, p, i) * at(3, o, p)
				}
			case adapter.MethodLSR:
				for r := range m.Rank.R() {
					var a, b float64
					for k := range m.Terms {
						a += at(0, k, i/dim(1, 1), r/m.Rank.R2) * at(1, k, i%dim(1, 1), r%m.Rank.R2)
						b += at(2, k, r/m.Rank.R2, o/dim(3, 2)) * at(3, k, r%m.Rank.R2, o%dim(3, 2))
					}
					sum += a * b
				}
			case adapter.MethodKronA:
				for k := range m.Terms {
					sum += at(0, k, i/dim(1, 1), o/dim(1, 2)) * at(1, k, i%dim(1, 1), o%dim(1, 2))
				}
			case adapter.MethodKAdaptation:
				u, v := dim(2, 1), dim(3, 1)
				for k := range m.Terms {
					sum += at(0, k, i/u) * at(1, k, o/v) * at(2, k, i%u) * at(3, k, o%v)
				}
			}
			w[i*m.Out+o] = scale * sum
		}
	}
	return w
}

func variants() []adapter.Config {
	var cs []adapter.Config
	for _, method := range []string{adapter.MethodLSR, adapter.MethodLoRA, adapter.MethodKronA, adapter.MethodKAdaptation, adapter.MethodDiffoRA} {
		c := config(method)
		c.Targets = adapter.Targets{Modules: []string{"query", "intermediate.dense"}}
		switch method {
		case adapter.MethodLSR:
			c.Rank, c.Terms = adapter.Rank{R1: 2, R2: 3}, 4
			rs := c
			rs.Scaling = adapter.ScaleRSLoRA
			paper := c
			paper.Scaling = adapter.ScalePaper
			cs = append(cs, rs, paper)
		case adapter.MethodKronA:
			c.Terms = 2
		case adapter.MethodKAdaptation:
			c.Terms = 3
		}
		cs = append(cs, c)
	}
	return cs
}

func TestDeltaIsTheFormula(t *testing.T) {
	for _, c := range variants() {
		a := randomised(t, robertaSites(1, 18, 31), c)
		deltas, err := a.Deltas()
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range deltas {
			m := &a.Modules[i]
			want := definition(m)
			got := d.Dense()
			back := d.Transpose().Dense()
			var sum float64
			for j := range want {
				if !testkit.Near(got[j], want[j], 1e-10, 1e-10) {
					t.Fatalf("%s %s: element %d is %v, want %v", c.Method, m.Module, j, got[j], want[j])
				}
				if tr := back[j%m.Out*m.In+j/m.Out]; tr != got[j] && !testkit.Near(tr, got[j], 1e-10, 1e-10) {
					t.Fatalf("%s %s: transposed element %d is %v, want %v", c.Method, m.Module, j, tr, got[j])
				}
				sum += want[j] * want[j]
			}
			if n := d.Norm(); !testkit.Near(n, math.Sqrt(sum), 0, 1e-10) {
				t.Errorf("%s: norm %v, want %v", c.Method, n, math.Sqrt(sum))
			}
			if d.IsZero() {
				t.Errorf("%s: reported as 0", c.Method)
			}
		}
	}
}

func TestDimensionsWithoutASplit(t *testing.T) {
	sites := robertaSites(1, 127, 381) // a prime, and 3 times it
	for _, method := range []string{adapter.MethodLSR, adapter.MethodLoRA, adapter.MethodKronA, adapter.MethodKAdaptation, adapter.MethodLSRDoRA} {
		c := config(method)
		c.Targets = adapter.Targets{Modules: []string{"query", "intermediate.dense"}}
		a := randomised(t, sites, c)
		for i := range a.Modules {
			m := &a.Modules[i]
			st, err := m.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if st.Params > 127*60 || !(st.Norm > 0) {
				t.Errorf("%s %s: %d parameters, norm %v", method, m.Module, st.Params, st.Norm)
			}
		}
	}
}

func TestStats(t *testing.T) {
	for _, c := range variants() {
		a := randomised(t, robertaSites(1, 24, 48), c)
		m := &a.Modules[0]
		s, err := m.Stats()
		if err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, v := range s.Singular {
			sum += v * v
		}
		if !testkit.Near(math.Sqrt(sum), s.Norm, 0, 1e-6) {
			t.Errorf("%s: singular values give norm %v, elements %v", c.Method, math.Sqrt(sum), s.Norm)
		}
		rank, sep := map[string]int{adapter.MethodLSR: 6, adapter.MethodLoRA: 8, adapter.MethodDiffoRA: 8}[c.Method], 0
		switch c.Method {
		case adapter.MethodLSR:
			// R(A B): at most s² = 16 terms, and at most r1²·min(...) by size.
			sep = 16
		case adapter.MethodKronA:
			rank, sep = 24, 2
		case adapter.MethodKAdaptation:
			rank, sep = 3, 3
		}
		if s.Rank != rank || s.SeparationRank != sep {
			t.Errorf("%s: rank %d, separation rank %d; want %d, %d", c.Method, s.Rank, s.SeparationRank, rank, sep)
		}
		if s.EffectiveRank < 1 || s.EffectiveRank > float64(rank)+1e-9 {
			t.Errorf("%s: effective rank %v of %d", c.Method, s.EffectiveRank, rank)
		}
	}
}

func TestStatsOfZero(t *testing.T) {
	a, err := adapter.New(robertaSites(1, 24, 48), config(adapter.MethodLSR), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Modules[0].Stats()
	if err != nil || s.Norm != 0 || s.Rank != 0 || s.EffectiveRank != 0 || s.SeparationRank != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDrawsDependOnSeedAndNameOnly(t *testing.T) {
	c := config(adapter.MethodLSR)
	few, err := adapter.New(robertaSites(1, 24, 48), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Targets.Modules = []string{"key", "value", "query"}
	many, err := adapter.New(robertaSites(3, 24, 48), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string][]float32{}
	for _, m := range many.Modules {
		for i, s := range m.Specs {
			byName[s.Name] = m.Tensors[i]
		}
	}
	for _, m := range few.Modules {
		for i, s := range m.Specs {
			testkit.EqualBits(t, s.Name, byName[s.Name], m.Tensors[i])
		}
	}
	c.Seed = 2
	other, err := adapter.New(robertaSites(3, 24, 48), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if other.Modules[0].Tensors[0][0] == many.Modules[0].Tensors[0][0] {
		t.Error("another seed draws the same numbers")
	}
}

func TestSourceMoments(t *testing.T) {
	const n = 200_001
	x := make([]float32, n)
	moments := func() (mean, std, most float64) {
		for _, v := range x {
			mean += float64(v) / n
			std += float64(v) * float64(v) / n
			most = max(most, math.Abs(float64(v)))
		}
		return mean, math.Sqrt(std), most
	}
	adapter.Source{Seed: 5}.Normal("a", x, 2)
	// Five standard errors: 2/sqrt(n) of the mean, 2/sqrt(2n) of the deviation.
	if m, s, most := moments(); math.Abs(m) > 5*2/math.Sqrt(n) || math.Abs(s-2) > 5*2/math.Sqrt(2*n) || most < 7 {
		t.Errorf("normal: mean %v, deviation %v, largest %v", m, s, most)
	}
	adapter.Source{Seed: 5}.Uniform("a", x, 3)
	if m, s, most := moments(); math.Abs(m) > 5*2/math.Sqrt(n) || math.Abs(s-math.Sqrt(3)) > 0.01 || most > 3 || most < 2.999 {
		t.Errorf("uniform: mean %v, deviation %v, largest %v", m, s, most)
	}
}

func TestSettingsRefused(t *testing.T) {
	for _, c := range []struct {
		name, method string
		change       func(*adapter.Config)
		want         string
	}{
		{"lora rank pair", adapter.MethodLoRA, func(c *adapter.Config) { c.Rank.R2 = 2 }, "lora takes one number"},
		{"lora terms", adapter.MethodLoRA, func(c *adapter.Config) { c.Terms = 2 }, "no terms"},
		{"lora split", adapter.MethodLoRA, func(c *adapter.Config) { c.Split = [2]int{4, 6} }, "no split"},
		{"krona rank", adapter.MethodKronA, func(c *adapter.Config) { c.Rank.R1 = 4 }, "full rank"},
		{"split of neither dimension", adapter.MethodLSR, func(c *adapter.Config) { c.Split = [2]int{5, 5} }, "neither dimension"},
		{"no terms", adapter.MethodLSR, func(c *adapter.Config) { c.Terms = 0 }, "0 terms"},
		{"NaN alpha", adapter.MethodLSR, func(c *adapter.Config) { c.Alpha = math.NaN() }, "alpha"},
		{"dropout", adapter.MethodLSR, func(c *adapter.Config) { c.Dropout = 1 }, "dropout"},
		{"svd without weights", adapter.MethodLSR, func(c *adapter.Config) { c.Init = adapter.InitSVD }, "base model"},
		{"scaling", adapter.MethodLSR, func(c *adapter.Config) { c.Scaling = "x" }, "scaling"},
	} {
		cfg := config(c.method)
		c.change(&cfg)
		if _, err := adapter.New(robertaSites(1, 24, 48), cfg, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
