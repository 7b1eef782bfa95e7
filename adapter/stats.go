package adapter

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// Stats describe what a module's update has become: ΔW, that of a [Rescaler]
// before rescaling, or the map of a connection around a block.
type Stats struct {
	Module string
	Method string
	Params int     // trainable elements; a shared tensor counts in full
	Norm   float64 // ‖ΔW‖, Frobenius
	// Singular values of ΔW, descending, at most 64 of them, and how many
	// exceed 1e-6 of the largest.
	Singular []float64
	Rank     int
	// EffectiveRank is exp(-Σ p ln p) with p = σ/Σσ (Roy and Vetterli, 2007).
	EffectiveRank float64
	// SeparationRank is the number of Kronecker terms that ΔW needs: the
	// singular values of the rearranged ΔW above 1e-6 of the largest. 0 for
	// kinds without Kronecker structure.
	SeparationRank int
}

// relativeRank is the share of the largest singular value below which one
// counts as 0: values come from squares in float64, so 1e-8 is noise.
const relativeRank = 1e-6

// Stats computes the statistics of a module.
func (m *Module) Stats() (Stats, error) {
	k, err := Lookup(m.Method)
	if err != nil {
		return Stats{}, err
	}
	d, err := m.linearMap(k)
	if err != nil {
		return Stats{}, err
	}
	s := Stats{Module: m.Module, Method: m.Method, Norm: d.Norm()}
	for _, p := range m.Specs {
		if !p.Frozen {
			s.Params += p.Size()
		}
	}
	sv := d.SingularValues()
	s.Rank, s.EffectiveRank = numericalRank(sv), effectiveRank(sv)
	s.Singular = sv[:min(len(sv), 64)]
	if terms := kroneckerForm(k, m); terms != nil {
		s.SeparationRank = numericalRank(productSingularValues(terms.S, terms.F1, terms.F2))
	}
	return s, nil
}

// WeightNorm returns ‖W‖, Frobenius, of a site's weight, read by parts.
func WeightNorm(c *formats.Checkpoint, site Site) (float64, error) {
	t, ok := c.Lookup(site.Weight)
	if !ok {
		return 0, &formats.Error{Path: c.Path(), Tensor: site.Weight, Reason: "the weight of module " + site.Module + " is not there", Hint: "give the adapter's base model", Err: ErrMismatch}
	}
	buf := make([]float32, min(t.Elements(), 1<<16))
	var sum float64
	for at := int64(0); at < t.Elements(); at += int64(len(buf)) {
		x := buf[:min(int64(len(buf)), t.Elements()-at)]
		if err := c.ReadF32(t, at, at+int64(len(x)), x); err != nil {
			return 0, err
		}
		for _, v := range x {
			sum += float64(v) * float64(v)
		}
	}
	return math.Sqrt(sum), nil
}

// kroneckerForm returns ΔW without scale as a sum of Kronecker products, or nil.
func kroneckerForm(k Kind, m *Module) *kron.Factor[float64] {
	if k, ok := k.(lsr); ok {
		a, b, err := k.factors(m.Site, m.Settings, m.Tensors)
		if err != nil {
			return nil
		}
		f := kron.Compose(a, b)
		return &f
	}
	d, err := k.Delta(m.Site, m.Settings, m.Tensors)
	if err != nil {
		return nil
	}
	return d.Kron
}

// SingularValues returns the singular values of ΔW that can differ from 0,
// descending. They come from the eigenvalues of a Gram matrix of the smaller
// side in float64: accurate to about 1e-8 of the largest.
func (d *Delta) SingularValues() []float64 {
	var sv []float64
	if d.Kron == nil && d.R < min(d.In, d.Out) {
		sv = productSingularValues(d.R, transpose(d.A, d.In, d.R), d.B)
	} else {
		w, n, m := d.Dense(), d.In, d.Out
		g := make([]float64, min(n, m)*min(n, m))
		if n <= m {
			kernel.GemmF64(nil, false, true, n, n, m, 1, w, m, w, m, 0, g, n)
		} else {
			kernel.GemmF64(nil, true, false, m, m, n, 1, w, m, w, m, 0, g, m)
		}
		return roots(g, min(n, m))
	}
	for i := range sv {
		sv[i] *= math.Abs(d.Scale)
	}
	return sv
}

// productSingularValues returns the singular values of xᵀ y for x (s, m), y
// (s, n), by the s x s matrices G = x xᵀ and H = y yᵀ: the eigenvalues of
// G^½ H G^½ are the squares.
func productSingularValues(s int, x, y []float64) []float64 {
	g, h := gram(s, x), gram(s, y)
	var eig mat.EigenSym
	if !eig.Factorize(mat.NewSymDense(s, g), true) {
		return make([]float64, s)
	}
	var v mat.Dense
	eig.VectorsTo(&v)
	for j, l := range eig.Values(nil) {
		root := math.Sqrt(max(l, 0))
		for i := range s {
			v.Set(i, j, v.At(i, j)*root)
		}
	}
	// Columns of v are eigenvectors times √λ: v vᵀ = G, and vᵀ H v has the
	// wanted eigenvalues.
	var hv, q mat.Dense
	hv.Mul(mat.NewDense(s, s, h), &v)
	q.Mul(v.T(), &hv)
	return roots(q.RawMatrix().Data, s)
}

func gram(s int, x []float64) []float64 {
	n := len(x) / s
	g := make([]float64, s*s)
	kernel.GemmF64(nil, false, true, s, s, n, 1, x, n, x, n, 0, g, s)
	return g
}

// roots returns the square roots of the eigenvalues of symmetric g, descending.
func roots(g []float64, n int) []float64 {
	sym := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			sym.SetSym(i, j, (g[i*n+j]+g[j*n+i])/2)
		}
	}
	var eig mat.EigenSym
	sv := make([]float64, n)
	if !eig.Factorize(sym, false) {
		return sv
	}
	for i, l := range eig.Values(nil) {
		sv[i] = math.Sqrt(max(l, 0))
	}
	slices.SortFunc(sv, func(a, b float64) int { return cmp.Compare(b, a) })
	return sv
}

func numericalRank(sv []float64) int {
	n := 0
	for _, v := range sv {
		if v > relativeRank*sv[0] {
			n++
		}
	}
	return n
}

func effectiveRank(sv []float64) float64 {
	var sum, entropy float64
	for _, v := range sv {
		sum += v
	}
	if sum == 0 {
		return 0
	}
	for _, v := range sv {
		if p := v / sum; p > 0 {
			entropy -= p * math.Log(p)
		}
	}
	return math.Exp(entropy)
}
