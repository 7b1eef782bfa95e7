package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// lsr is the low-separation-rank update of arXiv 2502.13568:
//
//	ΔW = scale·A B,  A = Σ_k A1_k ⊗ A2_k (in, r),  B = Σ_k B1_k ⊗ B2_k (r, out)
//
// Tensors: A1 (s, a1, r1), A2 (s, a2, r2), B1 (s, r1, b1), B2 (s, r2, b2).
type lsr struct{}

func (lsr) Method() string   { return MethodLSR }
func (lsr) PEFTType() string { return "LSR" }

func (lsr) Defaults() Settings { return Settings{Rank: Rank{2, 2}, Terms: 16, Alpha: 128} }

// shapes returns the shapes of A and B.
func (lsr) shapes(site Site, s Settings) (a, b kron.Shape, err error) {
	if err := s.checkSplits(site); err != nil {
		return a, b, err
	}
	a1, a2 := splitOf(site.In, s.Split)
	b1, b2 := splitOf(site.Out, s.outSplit())
	r1, r2 := s.Rank.R1, s.Rank.R2
	a = kron.Shape{S: s.Terms, A1: a1, R1: r1, A2: a2, R2: r2, N: site.In, M: r1 * r2}
	b = kron.Shape{S: s.Terms, A1: r1, R1: b1, A2: r2, R2: b2, N: r1 * r2, M: site.Out}
	return a, b, nil
}

// splitOf returns the split of one dimension: the one asked for where it is
// exact, else the default.
func splitOf(n int, split [2]int) (int, int) {
	if split[0]*split[1] == n {
		return split[0], split[1]
	}
	return kron.Split(n)
}

// checkSplits fails when a split is of neither dimension of the site, or
// SplitOut not of out.
func (s Settings) checkSplits(site Site) error {
	if site.In < 1 || site.Out < 1 {
		return fmt.Errorf("%s: dimensions (%d, %d)", site.Module, site.In, site.Out)
	}
	none := [2]int{}
	if p := s.Split; p != none && (p[0] < 1 || p[1] < 1 || p[0]*p[1] != site.In && p[0]*p[1] != site.Out) {
		return fmt.Errorf("%s: split %dx%d makes %d, which is neither dimension of (%d, %d)", site.Module, p[0], p[1], p[0]*p[1], site.In, site.Out)
	}
	if p := s.SplitOut; p != none && (p[0] < 1 || p[1] < 1 || p[0]*p[1] != site.Out) {
		return fmt.Errorf("%s: split %dx%d makes %d, want %d", site.Module, p[0], p[1], p[0]*p[1], site.Out)
	}
	return nil
}

// outSplit is the split asked for of out.
func (s Settings) outSplit() [2]int {
	if s.SplitOut != [2]int{} {
		return s.SplitOut
	}
	return s.Split
}

func (k lsr) Params(site Site, s Settings) ([]ParamSpec, error) {
	a, b, err := k.shapes(site, s)
	if err != nil {
		return nil, err
	}
	return []ParamSpec{
		{Name: site.tensorName("lsr_A1"), Shape: []int{a.S, a.A1, a.R1}},
		{Name: site.tensorName("lsr_A2"), Shape: []int{a.S, a.A2, a.R2}},
		{Name: site.tensorName("lsr_B1"), Shape: []int{b.S, b.A1, b.R1}},
		{Name: site.tensorName("lsr_B2"), Shape: []int{b.S, b.A2, b.R2}},
	}, nil
}

// Init: zero draws A1, A2, B1 from N(0, σ²) with σ = (3·in·s)^(-1/4), which
// gives the entries of A the variance 1/(3·in) that LoRA's have, and B2 = 0.
// paper draws all four from N(0, 0.01²). svd makes A the nearest sum of s
// terms to the leading left singular vectors of W, weighted by the roots of
// their singular values and scaled to the norm that zero gives A.
func (k lsr) Init(site Site, s Settings, src Source, w WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	if s.Init == InitPaper {
		for i := range t {
			src.Normal(specs[i].Name, t[i], 0.01)
		}
		return t, nil
	}
	sigma := math.Pow(3*float64(site.In)*float64(s.Terms), -0.25)
	src.Normal(specs[2].Name, t[2], sigma)
	if s.Init == InitSVD {
		a, _, err := k.shapes(site, s)
		if err != nil {
			return nil, err
		}
		t[0], t[1], err = principalTerms(site, a, w)
		return t, err
	}
	src.Normal(specs[0].Name, t[0], sigma)
	src.Normal(specs[1].Name, t[1], sigma)
	return t, nil
}

// principalTerms is the svd start of A.
func principalTerms(site Site, shape kron.Shape, w WeightReader) (p, q []float32, err error) {
	a, err := principalInputs(site, shape.M, w)
	if err != nil {
		return nil, nil, err
	}
	// The rows that padding adds start at 0.
	padded := make([]float64, shape.A1*shape.A2*shape.M)
	copy(padded, a)
	p64, q64, err := w.NearestKronecker(padded, shape.S, shape.A1, shape.R1, shape.A2, shape.R2)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", site.Module, err)
	}
	if len(p64) != shape.S*shape.A1*shape.R1 || len(q64) != shape.S*shape.A2*shape.R2 {
		return nil, nil, fmt.Errorf("%s: nearest kronecker sum has %d and %d elements", site.Module, len(p64), len(q64))
	}
	return narrow(p64), narrow(q64), nil
}

// principalInputs returns A (in, r), the r leading left singular vectors of W
// times the roots of their singular values, scaled to the squared norm r/3 of
// LoRA's start. Directions beyond the rank of W are 0.
func principalInputs(site Site, r int, w WeightReader) ([]float64, error) {
	if w == nil {
		return nil, fmt.Errorf("%s: init %q needs the base model's weights", site.Module, InitSVD)
	}
	n := min(r, site.In, site.Out)
	u, sv, _, err := w.Principal(site, n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", site.Module, err)
	}
	if len(u) != site.In*n || len(sv) != n {
		return nil, fmt.Errorf("%s: %d singular vectors have %d elements", site.Module, len(sv), len(u))
	}
	var sum float64
	for _, v := range sv {
		sum += v
	}
	if !(sum > 0) {
		return nil, fmt.Errorf("%s: init %q needs a weight other than 0", site.Module, InitSVD)
	}
	scale := math.Sqrt(float64(r) / 3 / sum)
	a := make([]float64, site.In*r)
	for i := range site.In {
		for j := range n {
			a[i*r+j] = u[i*n+j] * math.Sqrt(sv[j]) * scale
		}
	}
	return a, nil
}

func (k lsr) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	ashape, bshape, err := k.shapes(site, s)
	if err != nil {
		panic("adapter: " + err.Error())
	}
	h := lowerFactor(b, site.Module+".lsr_A", x, graph.None, ashape, params[0], params[1], 1)
	return lowerFactor(b, site.Module+".lsr_B", h, y, bshape, params[2], params[3], float32(s.Scale()))
}

// lowerFactor adds alpha·x K + c, in the cheaper form.
func lowerFactor(b *graph.Builder, name string, x, c graph.Value, s kron.Shape, f1, f2 graph.Value, alpha float32) graph.Value {
	if kron.Choose(s, typicalTokens) == kron.Sandwich {
		return b.KronApply(name+".x", x, graph.KronApply{
			F1: f1, F2: f2, Terms: s.S, A1: s.A1, R1: s.R1, A2: s.A2, R2: s.R2, N: s.N, M: s.M, Alpha: alpha, C: c,
		})
	}
	k := b.KronSum(name, f1, f2, s.S, s.A1, s.R1, s.A2, s.R2, s.N, s.M)
	return b.MatMul(name+".x", x, k, false, false, alpha, c)
}

func (k lsr) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	a, b, err := k.factors(site, s, t)
	if err != nil {
		return nil, err
	}
	d := &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), R: a.M, A: make([]float64, a.N*a.M), B: make([]float64, b.N*b.M)}
	kron.Materialize(nil, nil, d.A, a)
	kron.Materialize(nil, nil, d.B, b)
	return d, nil
}

// factors returns A and B in float64.
func (k lsr) factors(site Site, s Settings, t [][]float32) (a, b kron.Factor[float64], err error) {
	sa, sb, err := k.shapes(site, s)
	if err != nil {
		return a, b, err
	}
	if err := lengths(site, k, s, t); err != nil {
		return a, b, err
	}
	a = kron.NewFactor(sa, t[0], t[1]).Float64()
	b = kron.NewFactor(sb, t[2], t[3]).Float64()
	return a, b, nil
}

// lengths checks tensors against a kind's Params.
func lengths(site Site, k Kind, s Settings, t [][]float32) error {
	specs, err := k.Params(site, s)
	if err != nil {
		return err
	}
	if len(t) != len(specs) {
		return fmt.Errorf("%s: %d tensors, want %d", site.Module, len(t), len(specs))
	}
	for i, p := range specs {
		if len(t[i]) != p.Size() {
			return fmt.Errorf("tensor %s has %d elements, want %v", p.Name, len(t[i]), p.Shape)
		}
	}
	return nil
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}
