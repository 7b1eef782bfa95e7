package decompose

import (
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// fitting is the work on one module.
type fitting struct {
	*extraction
	pool *kernel.Pool
	site adapter.Site
	set  adapter.Settings
	d    *difference
}

// firstTriplets are asked for first where an error is to be reached.
const firstTriplets = 16

// sized says whether the size of the update is to be found.
func (e *extraction) sized() bool { return e.MaxError > 0 || e.Budget > 0 }

// climb makes the ladder of module i, or, where there is one, improves it.
func (f *fitting) climb(i int) error {
	if f.ladders[i] != nil {
		return f.improve(f.ladders[i])
	}
	l, err := f.ladder()
	f.ladders[i] = l
	return err
}

// ladder fits the module in all sizes that are asked for.
func (f *fitting) ladder() (*ladder, error) {
	var l *ladder
	var err error
	switch f.set.Method {
	case adapter.MethodLoRA:
		l, err = f.lora()
	case adapter.MethodKronA:
		l, err = f.krona()
	default:
		l, err = f.lsr()
	}
	if err != nil {
		return nil, err
	}
	l.base2 = f.d.base
	return l, nil
}

// triplets returns the leading triplets of ΔW (in, out): U (in, r), V (out, r).
func (f *fitting) triplets(r int) (*SVD, float64, error) {
	d, norm2, err := Leading(f.pool, f.d.d, f.d.rows, f.d.cols, r, f.Config.Seed)
	if err == nil && f.site.Transposed {
		d.U, d.V = d.V, d.U
	}
	return d, norm2, err
}

// errors2 returns the squared errors of keeping 0, 1, ... singular values of w
// (rows, cols), of wᵀ if flip. What all of them leave is ‖w‖² - Σ σ², or, where
// so little is left that the difference is rounding error, found from the
// elements.
func errors2(p *kernel.Pool, d *SVD, w []float32, rows, cols int, flip bool, norm2 float64) []float64 {
	n := len(d.S)
	rest := norm2
	for _, v := range d.S {
		rest -= v * v
	}
	if rest < 1e-6*norm2 {
		m := &matrix{p: p, w: w, rows: rows, cols: cols, flip: flip, norm2: norm2}
		u := slices.Clone(d.U)
		for i := range u {
			u[i] *= d.S[i%n]
		}
		s := kron.Shape{M: n}
		rest = m.residual2(&half{Factor: kron.Factor[float64]{Shape: s}, k: u}, &half{k: d.V})
	}
	e := make([]float64, n+1)
	e[n] = rest
	for i := n - 1; i >= 0; i-- {
		e[i] = e[i+1] + d.S[i]*d.S[i]
	}
	return e
}

// enough finds singular values until the error or the largest size is reached,
// first at a time to begin with. ask gives the r leading ones.
func (f *fitting) enough(first, most int, params func(r int) int, ask func(r int) (*SVD, float64, error)) (*SVD, float64, error) {
	r := most
	switch {
	case f.Budget > 0:
		for r > 1 && int64(params(r)) > f.Budget {
			r--
		}
	case f.MaxError > 0:
		r = min(first, most)
	}
	for {
		d, norm2, err := ask(r)
		if err != nil || f.Budget > 0 || r == most {
			return d, norm2, err
		}
		rest := norm2
		for _, v := range d.S {
			rest -= v * v
		}
		if rest <= f.MaxError*f.MaxError*norm2 {
			return d, norm2, nil
		}
		r = min(2*r, most)
	}
}

func (f *fitting) lora() (*ladder, error) {
	in, out := f.site.In, f.site.Out
	params := func(r int) int { return r * (in + out) }
	var d *SVD
	var norm2 float64
	var err error
	if f.sized() {
		d, norm2, err = f.enough(firstTriplets, min(f.MaxRank, in, out), params, f.triplets)
	} else {
		d, norm2, err = f.triplets(min(f.set.Rank.R1, in, out))
	}
	if err != nil {
		return nil, err
	}
	l := &ladder{norm2: norm2}
	left, right := halves(d, in, out)
	n, errs := len(d.S), errors2(f.pool, d, f.d.d, f.d.rows, f.d.cols, f.site.Transposed, norm2)
	if !f.sized() {
		r := f.set.Rank
		l.rungs = []rung{{rank: r, terms: 1, params: params(r.R1), error2: errs[n]}}
		l.build = func(int) [][]float32 {
			return [][]float32{firstRows(left, in, r.R1), firstColumns(right, out, n, r.R1)}
		}
		return l, nil
	}
	for r, e := range errs[1:] {
		l.rungs = append(l.rungs, rung{rank: adapter.Rank{R1: r + 1, R2: 1}, terms: 1, params: params(r + 1), error2: e})
	}
	l.build = func(i int) [][]float32 {
		return [][]float32{firstRows(left, in, i+1), firstColumns(right, out, n, i+1)}
	}
	return l, nil
}

// halves returns (U √S)ᵀ (r, in) and V √S (out, r): both sides of an update get
// the same norm, which trains best if training goes on.
func halves(d *SVD, in, out int) (left, right []float32) {
	n := len(d.S)
	left, right = make([]float32, in*n), make([]float32, out*n)
	for j, s := range d.S {
		root := math.Sqrt(s)
		for i := range in {
			left[j*in+i] = float32(d.U[i*n+j] * root)
		}
		for i := range out {
			right[i*n+j] = float32(d.V[i*n+j] * root)
		}
	}
	return left, right
}

// firstRows returns rows rows of x, with zeros where x has fewer.
func firstRows(x []float32, cols, rows int) []float32 {
	y := make([]float32, rows*cols)
	copy(y, x)
	return y
}

// firstColumns returns cols columns of x (rows, n), with zeros where x has
// fewer.
func firstColumns(x []float32, rows, n, cols int) []float32 {
	y := make([]float32, rows*cols)
	for i := range rows {
		copy(y[i*cols:(i+1)*cols], x[i*n:(i+1)*n])
	}
	return y
}

// shape is the Kronecker shape of krona's tensors C (s, a1, b1), D (s, a2, b2).
func (f *fitting) shape() (kron.Shape, error) {
	k, err := adapter.Lookup(adapter.MethodKronA)
	if err != nil {
		return kron.Shape{}, err
	}
	specs, err := k.Params(f.site, f.set)
	if err != nil {
		return kron.Shape{}, err
	}
	c, d := specs[0].Shape, specs[1].Shape
	return kron.Shape{S: c[0], A1: c[1], R1: c[2], A2: d[1], R2: d[2], N: f.site.In, M: f.site.Out}, nil
}

func (f *fitting) krona() (*ladder, error) {
	s, err := f.shape()
	if err != nil {
		return nil, err
	}
	x := f.d.d
	if f.site.Transposed {
		x = make([]float32, len(f.d.d))
		kernel.Transpose(x, f.d.rows, f.d.d, f.d.cols, f.d.rows, f.d.cols)
	}
	m1, m2 := s.A1*s.R1, s.A2*s.R2
	r := make([]float32, m1*m2)
	kron.Rearrange(r, x, s)
	ask := func(n int) (*SVD, float64, error) { return Leading(f.pool, r, m1, m2, n, f.Config.Seed) }
	params := func(n int) int { return n * (m1 + m2) }
	var d *SVD
	var norm2 float64
	if f.sized() {
		d, norm2, err = f.enough(firstTriplets, min(f.MaxRank, m1, m2), params, ask)
	} else {
		d, norm2, err = ask(min(s.S, m1, m2))
	}
	if err != nil {
		return nil, err
	}
	l := &ladder{norm2: norm2}
	one := adapter.Rank{R1: 1, R2: 1}
	c, right := halves(d, m1, m2)
	e := make([]float32, len(right)) // (n, m2)
	n, errs := len(d.S), errors2(f.pool, d, r, m1, m2, false, norm2)
	kernel.Transpose(e, m2, right, n, m2, n)
	terms := func(i int) int { return i + 1 }
	if f.sized() {
		for i, e := range errs[1:] {
			l.rungs = append(l.rungs, rung{rank: one, terms: i + 1, params: params(i + 1), error2: e})
		}
	} else {
		l.rungs = []rung{{rank: one, terms: s.S, params: params(s.S), error2: errs[n]}}
		terms = func(int) int { return s.S }
	}
	l.build = func(i int) [][]float32 { return [][]float32{firstRows(c, m1, terms(i)), firstRows(e, m2, terms(i))} }
	return l, nil
}
