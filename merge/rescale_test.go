package merge

import (
	"context"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// rescaledUpdate is an update of DoRA with magnitudes around std·√in.
func rescaledUpdate(name string, transposed bool, d *adapter.Delta, std float64, seed uint64) Update {
	u := update(name, transposed, d)
	g := rand.New(rand.NewPCG(seed, 8))
	m := make([]float64, d.Out)
	for i := range m {
		m[i] = float64(float32(std * math.Sqrt(float64(d.In)) * (1 + g.NormFloat64()/8)))
	}
	u.Delta = nil
	u.Rescaled = func() (*adapter.Delta, []float64, error) { return d, m, nil }
	return u
}

func rescaledSources() []Source {
	return []Source{{Name: "dora", Weight: 1, Updates: []Update{
		rescaledUpdate("model.layers.0.q_proj.weight", true, randomDelta(24, 36, 3, 1e-2, 1), 0.02, 1),
		rescaledUpdate("model.layers.0.c_attn.weight", false, randomDelta(24, 60, 4, 1e-2, 2), 0.02, 2),
		rescaledUpdate("model.layers.1.q_proj.weight", true, kronDelta(24, 36), 0.02, 3),
		rescaledUpdate("model.layers.1.fp8.weight", true, randomDelta(24, 36, 2, 0.5, 4), 1, 4),
		rescaledUpdate("model.layers.1.wide.weight", true, randomDelta(24, 24, 2, 1e-2, 5), 0.02, 5),
	}}}
}

// checkRescaled computes m (W + ΔW)/‖W + ΔW‖ with 200 bits. The norm that a merge
// takes is a sum in float64, so where its factor lies within 2^-44 of the exact
// one on either side of a border between two roundings, both are right.
func checkRescaled(t *testing.T, base, merged *formats.Checkpoint, s []Source) {
	t.Helper()
	for _, u := range s[0].Updates {
		d, m, err := u.Rescaled()
		if err != nil {
			t.Fatal(err)
		}
		name := u.Site.Weight
		x, _ := merged.Lookup(name)
		w, got, delta := values(t, base, name), tensorBytes(t, merged, name), d.Dense()
		at := func(i, o int) int {
			if u.Site.Transposed {
				return o*d.In + i
			}
			return i*d.Out + o
		}
		n := x.DType.Bits() / 8
		for o := range d.Out {
			sums, norm := make([]*big.Float, d.In), new(big.Float).SetPrec(200)
			for i := range d.In {
				v := new(big.Float).SetPrec(200).SetFloat64(w[at(i, o)])
				sums[i] = v.Add(v, new(big.Float).SetPrec(200).SetFloat64(delta[i*d.Out+o]))
				norm.Add(norm, new(big.Float).SetPrec(200).Mul(v, v))
			}
			f := new(big.Float).SetPrec(200).Quo(new(big.Float).SetFloat64(m[o]), norm.Sqrt(norm))
			for i, v := range sums {
				exact := v.Mul(v, f)
				var ok bool
				for _, e := range []float64{-0x1p-44, 0x1p-44} {
					near, _ := new(big.Float).SetPrec(200).Mul(exact, big.NewFloat(1+e)).Rat(nil)
					ok = ok || string(roundRat(near, x.DType)) == string(got[at(i, o)*n:][:n])
				}
				if v64, _ := exact.Float64(); !ok && x.DType == tensor.F64 {
					y := values(t, merged, name)[at(i, o)]
					ok = math.Abs(y-v64) <= 0x1p-44*math.Abs(v64)
				}
				if !ok {
					t.Fatalf("%s output %d, input %d: %x, want %v", name, o, i, got[at(i, o)*n:][:n], exact)
				}
			}
		}
	}
}

func TestRescaled(t *testing.T) {
	base := open(t, makeBase(t))
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, d := range []tensor.DType{tensor.Invalid, tensor.F32, tensor.BF16, tensor.F16} {
			out := filepath.Join(t.TempDir(), "out")
			mustMerge(t, base, rescaledSources(), Options{DType: d}, out)
			checkRescaled(t, base, open(t, out), rescaledSources())
		}
	})
}

// One worker and several write the same bytes, and the undo file gives the base
// back.
func TestRescaledReversible(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	one, many, back := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "many"), filepath.Join(t.TempDir(), "back")
	mustMerge(t, base, rescaledSources(), Options{Workers: 1, Reversible: true}, one)
	mustMerge(t, base, rescaledSources(), Options{Workers: 3, Reversible: true}, many)
	sameTree(t, "workers", tree(t, many), tree(t, one))
	if err := Unmerge(context.Background(), open(t, many), filepath.Join(many, UndoFile), back, UnmergeOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	got, want := tree(t, back), tree(t, dir)
	for _, name := range []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"} {
		if got[name] != want[name] || want[name] == "" {
			t.Errorf("%s is not what it was", name)
		}
	}
}

func TestRescaledStandsAlone(t *testing.T) {
	base := open(t, makeBase(t))
	q := "model.layers.0.q_proj.weight"
	twice := append(rescaledSources(), Source{Name: "two", Weight: 1, Updates: []Update{update(q, true, randomDelta(24, 36, 5, 1e-3, 7))}})
	half := rescaledSources()
	half[0].Weight = 0.5
	first := []Source{twice[1], twice[0]}
	for name, s := range map[string][]Source{"twice": twice, "first": first, "half": half} {
		if _, err := NewPlan(base, s, Options{}); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "rescaled (DoRA)") {
			t.Errorf("%s: %v", name, err)
		}
	}
	zero := rescaledSources()[:1]
	zero[0].Updates = zero[0].Updates[:1]
	zero[0].Updates[0].Rescaled = func() (*adapter.Delta, []float64, error) {
		d := randomDelta(24, 36, 1, 1e-2, 1)
		m := make([]float64, 36)
		m[3] = math.Inf(1)
		return d, m, nil
	}
	p, err := NewPlan(base, zero, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(context.Background(), filepath.Join(t.TempDir(), "out"), nil); !errors.Is(err, ErrNonFinite) {
		t.Errorf("infinite magnitude: %v", err)
	}
}

// A connection around a block has no weight to be merged into.
func TestConnectionsAreRefused(t *testing.T) {
	set, err := adapter.Defaults(adapter.MethodLoR2C, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	sites := []adapter.Site{{Module: "model.layers.0.q_proj", In: 24, Out: 36, Weight: "model.layers.0.q_proj.weight", Transposed: true}}
	a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{AllLinear: true}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromAdapter(a, 1); !errors.Is(err, ErrMismatch) || !errors.Is(err, adapter.ErrNoDelta) {
		t.Error(err)
	}
}
