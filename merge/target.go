package merge

import (
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// term is one update of a tensor, in the orientation of the stored tensor.
type term struct {
	weight float64
	delta  *adapter.Delta // (rows, cols)
}

// target is a touched tensor (rows, cols) with its updates at hand.
type target struct {
	rows, cols int
	terms      []term
	wholeRows  bool // some update can be had by whole rows only
	scale      *rescale
	// errBound bounds |computed - exact| of Σ weight·ΔW, for every element.
	errBound float64
	narrow   *narrow32 // of use without scale; nil where float32 does not serve
	turned   turned    // for what is not rounded to nearest
}

// newTarget takes the updates of one tensor. An update in the orientation
// x W is turned around where the tensor is stored as (out, in).
func newTarget(rows, cols int, terms []term) *target {
	t := &target{rows: rows, cols: cols, terms: terms}
	for _, m := range terms {
		b := m.bound(len(terms))
		t.errBound += b
		t.wholeRows = t.wholeRows || m.delta.Kron != nil
	}
	t.narrow = newNarrow32(t)
	return t
}

// bound estimates, from above, the error of the term as block computes it: K
// products summed in any order with or without fused operations, the
// scaling, and the sum with further terms. By Cauchy and Schwarz the magnitudes of the
// products sum up to at most the norm of the row of A times that of the column of B.
// An element of R products goes through R roundings of them and their sum, one of the scaling and one with each
// of the terms; six more are for the norms and for second orders.
func (t *term) bound(terms int) float64 {
	d := t.delta
	c := math.Abs(t.weight * d.Scale)
	if d.Kron == nil {
		rows, col := t.norms()
		return float64(d.R+terms+8) * 0x1p-53 * c * slices.Max(append(rows, 0)) * col
	}
	g := d.Kron
	var s float64
	for k := range g.S {
		s += maxAbs(g.F1[k*g.A1*g.R1:][:g.A1*g.R1]) * maxAbs(g.F2[k*g.A2*g.R2:][:g.A2*g.R2])
	}
	return float64(g.S+8) * 0x1p-52 * c * s
}

func maxAbs(x []float64) float64 {
	m := 0.0
	for _, v := range x {
		m = max(m, math.Abs(v)) // NaN stays
	}
	return m
}

// block writes Σ weight·ΔW of rows [r0, r1) and columns [c0, c1) to dst
// (r1-r0, c1-c0). tmp has the same length. Terms that come by whole rows
// require c0 = 0 and c1 = cols.
func (t *target) block(dst, tmp []float64, r0, r1, c0, c1 int) {
	m, n := r1-r0, c1-c0
	if len(t.terms) == 0 {
		clear(dst)
	}
	for k := range t.terms {
		x := &t.terms[k]
		d := x.delta
		if d.Kron == nil {
			beta := 1.0
			if k == 0 {
				beta = 0
			}
			kernel.GemmF64(nil, false, false, m, n, d.R, x.weight*d.Scale, d.A[r0*d.R:], d.R, d.B[c0:], d.Out, beta, dst, n)
			continue
		}
		if c0 != 0 || c1 != t.cols {
			panic(fmt.Sprintf("merge: columns [%d, %d) of an update that comes by rows of %d", c0, c1, t.cols))
		}
		if k == 0 && x.weight == 1 {
			d.Rows(dst, r0, r1)
			continue
		}
		if k == 0 {
			clear(dst)
		}
		d.Rows(tmp, r0, r1)
		for i, v := range tmp {
			dst[i] += x.weight * v
		}
	}
}

// at is element (i, j) of what block computes, up to errBound.
func (t *target) at(i, j int) float64 {
	var sum float64
	for k := range t.terms {
		d := t.terms[k].delta
		var s float64
		if d.Kron != nil {
			t.terms[k].each(i, j, func(x, y float64) { s += x * y })
		} else {
			b := d.B[j:]
			for l, a := range d.A[i*d.R:][:d.R] {
				s += a * b[l*d.Out]
			}
		}
		sum += t.terms[k].weight * d.Scale * s
	}
	return sum
}

// term loads an update and turns it to the orientation of the stored tensor.
func (u *plannedUpdate) term() (term, error) {
	d, err := u.delta()
	if err != nil {
		return term{}, fmt.Errorf("%s: %s: %w", u.from, u.Site.Module, err)
	}
	if d.In != u.Site.In || d.Out != u.Site.Out {
		return term{}, fmt.Errorf("%s: %w: the update of %s is (%d, %d), the layer (%d, %d)", u.from, ErrMismatch, u.Site.Module, d.In, d.Out, u.Site.In, u.Site.Out)
	}
	factors := [][]float64{d.A, d.B, {d.Scale}}
	if d.Kron != nil {
		factors = append(factors, d.Kron.F1, d.Kron.F2)
	}
	for _, f := range factors {
		if m := maxAbs(f); math.IsInf(m, 0) || m != m {
			return term{}, fmt.Errorf("%s: %w: the update of %s", u.from, ErrNonFinite, u.Site.Module)
		}
	}
	if u.Site.Transposed {
		d = d.Transpose()
	}
	return term{u.weight, d}, nil
}
