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
// Tensors: A1 (s, a1, r1), A2 (s, a2, r2), B1 (s, r1, b1), B2 (s, r2, b2). A factor
// that is plain, one term of which A1 or A2 is 1 x 1, is one tensor: A (in, r) or B
// (r, out).
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
	return append(factorSpecs(site, "lsr_A", a), factorSpecs(site, "lsr_B", b)...), nil
}

// factorSpecs are the tensors of A or B.
func factorSpecs(site Site, name string, k kron.Shape) []ParamSpec {
	if k.Plain() {
		return []ParamSpec{{Name: site.tensorName(name), Shape: []int{k.N, k.M}}}
	}
	return []ParamSpec{
		{Name: site.tensorName(name + "1"), Shape: []int{k.S, k.A1, k.R1}},
		{Name: site.tensorName(name + "2"), Shape: []int{k.S, k.A2, k.R2}},
	}
}

// tensorsOf is how many tensors a factor has.
func tensorsOf(k kron.Shape) int {
	if k.Plain() {
		return 1
	}
	return 2
}

// LSRShapes returns the shapes of A and B of an lsr update of a site.
func LSRShapes(site Site, s Settings) (a, b kron.Shape, err error) { return lsr{}.shapes(site, s) }

// Init: zero draws A1, A2, B1 from N(0, σ²) with σ = (3·in·s)^(-1/4), which
// gives the entries of A the variance 1/(3·in) that LoRA's have, and B2 = 0; a
// plain A has that variance itself, a plain B is 0. paper draws all from N(0, 0.01²),
// and a plain factor with the deviation of a product of two of those. svd makes A the
// nearest sum of s terms to the leading left singular vectors of W, weighted by the
// roots of their singular values and scaled to the norm that zero gives A.
func (k lsr) Init(site Site, s Settings, src Source, w WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	if s.Init == InitPaper {
		for i, p := range specs {
			sigma := 0.01
			if len(p.Shape) == 2 { // plain: the product of two
				sigma *= sigma
			}
			src.Normal(p.Name, t[i], sigma)
		}
		return t, nil
	}
	a, b, err := k.shapes(site, s)
	if err != nil {
		return nil, err
	}
	variance := 1 / (3 * float64(site.In))
	sigma := math.Pow(variance/float64(s.Terms), 0.25)
	n := tensorsOf(a)
	if !b.Plain() {
		src.Normal(specs[n].Name, t[n], sigma)
	}
	switch {
	case s.Init == InitSVD:
		first, err := principalTerms(site, a, w)
		if err != nil {
			return nil, err
		}
		copy(t, first)
	case a.Plain():
		src.Normal(specs[0].Name, t[0], math.Sqrt(variance))
	default:
		src.Normal(specs[0].Name, t[0], sigma)
		src.Normal(specs[1].Name, t[1], sigma)
	}
	return t, nil
}

// principalTerms is the svd start of A.
func principalTerms(site Site, shape kron.Shape, w WeightReader) ([][]float32, error) {
	a, err := principalInputs(site, shape.M, w)
	if err != nil {
		return nil, err
	}
	if shape.Plain() {
		return [][]float32{narrow(a)}, nil
	}
	// The rows that padding adds start at 0.
	padded := make([]float64, shape.A1*shape.A2*shape.M)
	copy(padded, a)
	p64, q64, err := w.NearestKronecker(padded, shape.S, shape.A1, shape.R1, shape.A2, shape.R2)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", site.Module, err)
	}
	if len(p64) != shape.S*shape.A1*shape.R1 || len(q64) != shape.S*shape.A2*shape.R2 {
		return nil, fmt.Errorf("%s: nearest kronecker sum has %d and %d elements", site.Module, len(p64), len(q64))
	}
	return [][]float32{narrow(p64), narrow(q64)}, nil
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
	n := tensorsOf(ashape)
	h := lowerFactor(b, site.Module+".lsr_A", x, graph.None, ashape, params[:n], 1)
	return lowerFactor(b, site.Module+".lsr_B", h, y, bshape, params[n:], float32(s.Scale()))
}

// lowerFactor adds alpha·x K + c, in the cheaper form. f are the factors of K, or K alone.
func lowerFactor(b *graph.Builder, name string, x, c graph.Value, s kron.Shape, f []graph.Value, alpha float32) graph.Value {
	if len(f) == 2 && kron.Choose(s, typicalTokens) == kron.Sandwich {
		return b.KronApply(name+".x", x, graph.KronApply{
			F1: f[0], F2: f[1], Terms: s.S, A1: s.A1, R1: s.R1, A2: s.A2, R2: s.R2, N: s.N, M: s.M, Alpha: alpha, C: c,
		})
	}
	return b.MatMul(name+".x", x, factorValue(b, name, s, f), false, false, alpha, c)
}

// factorValue is K (N, M).
func factorValue(b *graph.Builder, name string, s kron.Shape, f []graph.Value) graph.Value {
	if len(f) == 1 {
		return f[0]
	}
	return b.KronSum(name, f[0], f[1], s.S, s.A1, s.R1, s.A2, s.R2, s.N, s.M)
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
	n := tensorsOf(sa)
	return factorOf(sa, t[:n]), factorOf(sb, t[n:]), nil
}

func factorOf(s kron.Shape, t [][]float32) kron.Factor[float64] {
	if s.Plain() {
		return kron.PlainFactor(s, t[0]).Float64()
	}
	return kron.NewFactor(s, t[0], t[1]).Float64()
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
