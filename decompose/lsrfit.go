package decompose

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

const (
	// trialSweeps are spent on each start before the best goes on.
	trialSweeps = 6
	// coarseSweeps and fineSweeps bound the sweeps on the leading triplets
	// and on ΔW itself; both end when a sweep lowers the squared error by less
	// than sweepGain of it.
	coarseSweeps = 80
	fineSweeps   = 12
	sweepGain    = 1e-4
	// A fit is given up after patientSweeps where furtherSweeps that each gain as
	// much as the last one would not be enough.
	patientSweeps = 6
	furtherSweeps = 40
	// directElements bounds the matrices on which a fit that may be given up is
	// swept at once: the triplets alone show too little of a flat spectrum.
	directElements = 1 << 22
	// moreStarts are tried beside that of the SVD.
	moreStarts = 7
	// spareTriplets are kept beyond the rank for the sweeps on triplets.
	spareTriplets = 8
)

// FitLSR finds factors A (in, r) of shape a and B (r, out) of shape b whose
// product is near to w (in, out), row-major, in the Frobenius norm, and
// returns them with the squared error ‖w - A B‖².
//
// For any invertible G, A B = (A G)(G⁻¹ B), so that the truncated SVD of w
// fixes A and B only up to G, and few choices of G have a low separation rank.
// The fit therefore starts from the SVD's factors, truncated to s terms each,
// and, unless that comes near the SVD's own error, from up to seven random ones,
// and improves the small matrices in turn by
// alternating least squares, of which every step is solved exactly and none
// raises the error: first on the leading singular triplets of w, where a sweep
// costs no more than reading the factors, then on w itself. The problem is not
// convex: planted factors are found in some ten sweeps from most starts where s
// is small beside the sides of the factors, but no start is sure to.
//
// Products with w are float32, everything else float64. The start is drawn
// from seed and the result does not depend on the pool. It panics if the
// shapes do not compose to w's. NaN and infinities in w are an error.
func FitLSR(p *kernel.Pool, w []float32, a, b kron.Shape, seed uint64) (fa, fb kron.Factor[float64], error2 float64, err error) {
	if a.M != b.N || a.R1 != b.A1 || a.R2 != b.A2 || len(w) != a.N*b.M {
		panic("decompose: " + a.String() + " and " + b.String() + " are no update of " + strconv.Itoa(len(w)) + " elements")
	}
	d, norm2, err := Leading(p, w, a.N, b.M, min(a.M+spareTriplets, a.N, b.M), seed)
	if err != nil {
		return fa, fb, 0, err
	}
	m := &matrix{p: p, w: w, rows: a.N, cols: b.M, norm2: norm2, trials: moreStarts}
	f, err := m.fit(d, &trial{a: a, b: b}, seed, math.Inf(1))
	if err != nil {
		return fa, fb, 0, err
	}
	return f.a.Factor, transposed(f.b.Factor), f.error2, nil
}

// matrix is ΔW (in, out) as it is stored: (rows, cols), which is (out, in) if
// flip.
type matrix struct {
	p          *kernel.Pool
	w          []float32
	rows, cols int
	flip       bool
	norm2      float64
	trials     int // random starts
}

// products multiplies by ΔW in float32.
func (m *matrix) products() products {
	mul := func(trans bool) func(dst, x []float64, r int) {
		return func(dst, x []float64, r int) {
			n, k := m.rows, m.cols
			if trans {
				n, k = k, n
			}
			x32, y := make([]float32, k*r), make([]float32, n*r)
			narrowInto(x32, x)
			kernel.Gemm(m.p, trans, false, n, r, k, 1, m.w, m.cols, x32, r, 0, y, r)
			for i, v := range y {
				dst[i] = float64(v)
			}
		}
	}
	return products{m.norm2, mul(m.flip), mul(!m.flip)}
}

// residual2 is ‖ΔW - A Bᵀ‖², from the elements of the difference.
func (m *matrix) residual2(a, b *half) float64 {
	x, y := a, b
	if m.flip {
		x, y = b, a
	}
	const block = 256
	sum := 0.0
	buf := make([]float64, block*m.cols)
	for lo := 0; lo < m.rows; lo += block {
		n := min(block, m.rows-lo)
		kernel.GemmF64(m.p, false, true, n, m.cols, a.M, 1, x.k[lo*a.M:], a.M, y.k, a.M, 0, buf, m.cols)
		for i, v := range m.w[lo*m.cols:][:n*m.cols] {
			e := float64(v) - buf[i]
			sum += e * e
		}
	}
	return sum
}

// fit is FitLSR on given leading triplets, at least as many as the rank where
// there are. It returns nil where it sees that the squared error will not fall
// below most. Without such a bound it is an error that no start leads anywhere.
func (m *matrix) fit(d *SVD, t *trial, seed uint64, most float64) (*lsrFit, error) {
	f, err := m.fitted(d, t, seed, most)
	if f == nil && err == nil && math.IsInf(most, 1) {
		return nil, errSingular
	}
	return f, err
}

func (m *matrix) fitted(d *SVD, t *trial, seed uint64, most float64) (*lsrFit, error) {
	if m.norm2 == 0 {
		return &lsrFit{a: newHalf(t.a), b: newHalf(turned(t.b))}, nil
	}
	best := t.start
	if best == nil {
		var err error
		if best, err = m.starts(d, t.a, turned(t.b), seed, most); best == nil || err != nil {
			return nil, err
		}
	}
	best.error2 = math.Inf(1)
	if err := best.settle(m.products(), fineSweeps, most); err != nil || best.hopeless {
		return nil, err
	}
	best.error2 = m.residual2(best.a, best.b)
	return best, nil
}

// starts tries the start from the SVD and random ones, on the triplets alone
// unless most is a bound and ΔW small, until one comes near the best that its
// rank allows, and goes on with the two best. It returns nil where none will
// bring the squared error below most.
func (m *matrix) starts(d *SVD, a, sb kron.Shape, seed uint64, most float64) (*lsrFit, error) {
	t := compressed(m.p, d, a.N, sb.N)
	if !math.IsInf(most, 1) && len(m.w) <= directElements {
		t = m.products()
	}
	most -= m.norm2 - t.norm2 // the triplets leave the rest
	bound := t.norm2          // no update of this rank leaves less
	for _, s := range d.S[:min(a.M, len(d.S))] {
		bound -= s * s
	}
	good := 1.05*max(bound, 0) + 1e-4*t.norm2
	var tried []*lsrFit
	for i := range 1 + m.trials {
		f, err := m.start(d, a, sb, i, seed)
		if err != nil {
			return nil, err
		}
		if err := f.settle(t, trialSweeps, most); err != nil {
			return nil, err
		}
		if f.hopeless {
			continue
		}
		tried = append(tried, f)
		if f.error2 <= good {
			break
		}
	}
	byError := func(x, y *lsrFit) int { return cmp.Compare(x.error2, y.error2) }
	slices.SortStableFunc(tried, byError)
	tried = tried[:min(2, len(tried))]
	for _, f := range tried {
		if err := f.settle(t, coarseSweeps, most); err != nil {
			return nil, err
		}
		if f.error2 <= good && !f.hopeless {
			return f, nil
		}
	}
	tried = slices.DeleteFunc(tried, func(f *lsrFit) bool { return f.hopeless })
	if len(tried) == 0 {
		return nil, nil
	}
	return slices.MinFunc(tried, byError), nil
}

// start makes start i: 0 from the singular triplets, others at random.
func (m *matrix) start(d *SVD, a, sb kron.Shape, i int, seed uint64) (*lsrFit, error) {
	src := adapter.Source{Seed: seed}
	f := &lsrFit{pool: m.p, a: newHalf(a), b: newHalf(sb), error2: math.Inf(1)}
	for j, h := range []*half{f.a, f.b} {
		u := d.U
		if j == 1 {
			u = d.V
		}
		if i > 0 {
			h.random(src, "start "+strconv.Itoa(i)+" "+strconv.Itoa(j))
		} else {
			var err error
			if h.Factor, err = rooted(m.p, u, d.S, h.Shape, seed); err != nil {
				return nil, err
			}
		}
		h.materialize(m.p)
	}
	return f, nil
}

// rooted is U √S for the rank of s, truncated to the terms of s.
func rooted(p *kernel.Pool, u, sv []float64, s kron.Shape, seed uint64) (kron.Factor[float64], error) {
	k, l := make([]float64, s.N*s.M), len(sv)
	for i := range s.N {
		for j := range min(l, s.M) {
			k[i*s.M+j] = u[i*l+j] * math.Sqrt(sv[j])
		}
	}
	return nearestKronecker(p, k, s, seed, roughly)
}

// roughly is Truncated for a start, which the sweeps improve anyway: by random
// projection wherever that takes less.
func roughly(p *kernel.Pool, a []float64, m, n, r int, seed uint64) (*SVD, error) {
	if 2*(r+oversampling) >= min(m, n) {
		return Truncated(p, a, m, n, r, seed)
	}
	return randomised(p, a, m, n, r, seed)
}

func (h *half) random(src adapter.Source, name string) {
	for i, f := range [][]float64{h.F1, h.F2} {
		x := make([]float32, len(f))
		src.Normal(name+" "+strconv.Itoa(i), x, 1)
		for j, v := range x {
			f[j] = float64(v)
		}
	}
}

// settle sweeps until the gain is small, or the fit is hopeless: where it breaks down, or even
// further sweeps that gain as much as the last one would not bring the squared
// error below most.
func (f *lsrFit) settle(t products, sweeps int, most float64) error {
	for i := range sweeps {
		before := f.error2
		if err := f.sweep(t); errors.Is(err, errSingular) {
			f.hopeless = true
			return nil
		} else if err != nil {
			return err
		}
		gain := before - f.error2
		if i+1 >= patientSweeps && f.error2-furtherSweeps*gain > most {
			f.hopeless = true
			return nil
		}
		if gain <= sweepGain*f.error2 || f.error2 <= roundOff*roundOff*t.norm2 {
			return nil
		}
	}
	return nil
}

// transposed returns the factor of Kᵀ.
func transposed(f kron.Factor[float64]) kron.Factor[float64] {
	g := kron.Factor[float64]{Shape: turned(f.Shape), F1: make([]float64, len(f.F1)), F2: make([]float64, len(f.F2))}
	for k := range f.S {
		flip(g.F1[k*f.A1*f.R1:], f.F1[k*f.A1*f.R1:], f.A1, f.R1)
		flip(g.F2[k*f.A2*f.R2:], f.F2[k*f.A2*f.R2:], f.A2, f.R2)
	}
	return g
}

// flip writes srcᵀ for src (rows, cols).
func flip(dst, src []float64, rows, cols int) {
	for i := range rows {
		for j := range cols {
			dst[j*rows+i] = src[i*cols+j]
		}
	}
}

// leadingOf keeps the first r triplets.
func leadingOf(d *SVD, in, out, r int) *SVD {
	n := len(d.S)
	if r >= n {
		return d
	}
	cut := func(x []float64, rows int) []float64 {
		y := make([]float64, rows*r)
		for i := range rows {
			copy(y[i*r:(i+1)*r], x[i*n:])
		}
		return y
	}
	return &SVD{U: cut(d.U, in), S: d.S[:r], V: cut(d.V, out)}
}

// tensors are those of an lsr module.
func (f *lsrFit) tensors() [][]float32 {
	return append(f.a.tensors(), (&half{Factor: transposed(f.b.Factor)}).tensors()...)
}

// tensors are F1 and F2, or K alone if it is plain.
func (h *half) tensors() [][]float32 {
	if !h.Plain() {
		return [][]float32{narrowed(h.F1, 1), narrowed(h.F2, 1)}
	}
	if h.A2*h.R2 == 1 {
		return [][]float32{narrowed(h.F1, h.F2[0])}
	}
	return [][]float32{narrowed(h.F2, h.F1[0])}
}

// narrowed is c·x in float32.
func narrowed(x []float64, c float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(c * v)
	}
	return y
}
