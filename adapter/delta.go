package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// Delta is the update ΔW (In, Out) of one module, y = x (W + ΔW), in float64.
// Either of two forms is set:
//
//	ΔW = Scale·A B               A (In, R), B (R, Out), row-major
//	ΔW = Scale·Σ_k F1_k ⊗ F2_k   Kron, cut to (In, Out)
type Delta struct {
	In, Out int
	Scale   float64
	R       int
	A, B    []float64
	Kron    *kron.Factor[float64] // nil for the first form
}

// Transpose returns ΔWᵀ (Out, In): what to add to a weight stored as torch's
// nn.Linear stores it.
func (d *Delta) Transpose() *Delta {
	t := &Delta{In: d.Out, Out: d.In, Scale: d.Scale, R: d.R}
	if d.Kron == nil {
		t.A, t.B = transpose(d.B, d.R, d.Out), transpose(d.A, d.In, d.R)
		return t
	}
	f := d.Kron
	g := kron.Factor[float64]{Shape: kron.Shape{S: f.S, A1: f.R1, R1: f.A1, A2: f.R2, R2: f.A2, N: f.M, M: f.N}}
	for k := range f.S {
		g.F1 = append(g.F1, transpose(f.F1[k*f.A1*f.R1:][:f.A1*f.R1], f.A1, f.R1)...)
		g.F2 = append(g.F2, transpose(f.F2[k*f.A2*f.R2:][:f.A2*f.R2], f.A2, f.R2)...)
	}
	t.Kron = &g
	return t
}

// Rows writes rows [lo, hi) of ΔW, scale included, to dst (hi-lo, Out). It
// panics if the length disagrees.
func (d *Delta) Rows(dst []float64, lo, hi int) {
	if lo < 0 || hi < lo || hi > d.In || len(dst) != (hi-lo)*d.Out {
		panic(fmt.Sprintf("adapter: rows [%d, %d) of (%d, %d) to %d elements", lo, hi, d.In, d.Out, len(dst)))
	}
	if lo == hi {
		return
	}
	if d.Kron != nil {
		kron.MaterializeRows(nil, nil, dst, *d.Kron, lo, hi)
		for i := range dst {
			dst[i] *= d.Scale
		}
		return
	}
	kernel.GemmF64(nil, false, false, hi-lo, d.Out, d.R, d.Scale, d.A[lo*d.R:], d.R, d.B, d.Out, 0, dst, d.Out)
}

// Dense returns ΔW (In, Out), scale included.
func (d *Delta) Dense() []float64 {
	w := make([]float64, d.In*d.Out)
	d.Rows(w, 0, d.In)
	return w
}

// IsZero reports whether ΔW is exactly 0 by its factors: Scale is 0, or a
// factor is all zeros, or every element of ΔW is.
func (d *Delta) IsZero() bool {
	if d.Scale == 0 {
		return true
	}
	if d.Kron == nil && (allZero(d.A) || allZero(d.B)) || d.Kron != nil && (allZero(d.Kron.F1) || allZero(d.Kron.F2)) {
		return true
	}
	return d.eachBlock(allZero)
}

func allZero(x []float64) bool {
	for _, v := range x {
		if v != 0 {
			return false
		}
	}
	return true
}

// Norm returns the Frobenius norm of ΔW, scale included, computed from its
// elements.
func (d *Delta) Norm() float64 {
	var sum float64
	d.eachBlock(func(x []float64) bool {
		for _, v := range x {
			sum += v * v
		}
		return true
	})
	return math.Sqrt(sum)
}

// eachBlock calls f with consecutive blocks of rows while it returns true.
func (d *Delta) eachBlock(f func([]float64) bool) bool {
	const elems = 1 << 16
	step := max(1, elems/d.Out)
	buf := make([]float64, min(step, d.In)*d.Out)
	for lo := 0; lo < d.In; lo += step {
		hi := min(lo+step, d.In)
		x := buf[:(hi-lo)*d.Out]
		d.Rows(x, lo, hi)
		if !f(x) {
			return false
		}
	}
	return true
}
