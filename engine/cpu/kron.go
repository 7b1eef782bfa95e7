package cpu

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// carve takes n floats from the front of *buf.
func carve(buf *[]float32, n int) []float32 {
	s := (*buf)[:n:n]
	*buf = (*buf)[n:]
	return s
}

// factor returns Σ f1 ⊗ f2 as package kron wants it: without gaps.
func (x *executable) factor(buf *[]float32, s kron.Shape, f1, f2 graph.Value) kron.Factor[float32] {
	a, b := x.matrix(f1), x.matrix(f2)
	return kron.NewFactor(s, packed(a, carve(buf, a.rows*a.cols)), packed(b, carve(buf, b.rows*b.cols)))
}

func (x *executable) kronSum(o *graph.KronSum) {
	y, buf := x.matrix(o.Y), x.shared
	f := x.factor(&buf, kron.Shape{S: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2, N: y.rows, M: y.cols}, o.F1, o.F2)
	if y.contiguous() {
		kron.Materialize(x.pool, &x.kron, y.flat(), f)
		return
	}
	t := carve(&buf, y.rows*y.cols)
	kron.Materialize(x.pool, &x.kron, t, f)
	for i := range y.rows {
		copy(y.row(i), t[i*y.cols:])
	}
}

// termGrads calls add with contiguous memory that holds what the gradients of
// the terms are to be added to, of n1 and n2 elements, and puts the result in
// its place.
func (x *executable) termGrads(buf *[]float32, df1, df2 graph.Value, n1, n2 int, add func(d1, d2 []float32)) {
	m1, m2 := x.matrix(df1), x.matrix(df2)
	d1, d2 := x.sum(buf, df1, m1, n1), x.sum(buf, df2, m2, n2)
	add(d1, d2)
	for _, t := range []struct {
		m matrix
		d []float32
	}{{m1, d1}, {m2, d2}} {
		if t.m.data != nil && !t.m.contiguous() {
			for i := range t.m.rows {
				copy(t.m.row(i), t.d[i*t.m.cols:])
			}
		}
	}
}

// sum returns n contiguous floats that start as v does: as they are for a
// parameter's gradient, 0 otherwise.
func (x *executable) sum(buf *[]float32, v graph.Value, m matrix, n int) []float32 {
	t := carve(buf, n)
	d := t
	if v != graph.None {
		d = packed(m, t)
	}
	if !x.accumulates(v) {
		clear(d)
	}
	return d
}

func (x *executable) kronSumGrad(o *graph.KronSumGrad) {
	dy, buf := x.matrix(o.DY), x.shared
	f := x.factor(&buf, kron.Shape{S: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2, N: dy.rows, M: dy.cols}, o.F1, o.F2)
	d := packed(dy, carve(&buf, dy.rows*dy.cols))
	x.termGrads(&buf, o.DF1, o.DF2, len(f.F1), len(f.F2), func(d1, d2 []float32) {
		kron.Grad(x.pool, &x.kron, d1, d2, f, d)
	})
}

func (x *executable) kronApply(o *graph.KronApply) {
	in, y, buf := x.matrix(o.X), x.matrix(o.Y), x.shared
	f := x.factor(&buf, kron.Shape{S: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2, N: o.N, M: o.M}, o.F1, o.F2)
	beta := x.start(o.Y, o.C)
	if g := x.backs[o]; g != nil {
		gx := x.matrix(g.X)
		x.termGrads(&buf, g.DF1, g.DF2, len(f.F1), len(f.F2), func(d1, d2 []float32) {
			kron.Back(x.pool, &x.kron, y.data, y.ld, d1, d2, in.data, in.ld, gx.data, gx.ld, in.rows, f, o.Alpha, beta)
		})
		return
	}
	kron.Apply(x.pool, &x.kron, y.data, y.ld, in.data, in.ld, in.rows, f, o.Trans, o.Alpha, beta)
}

func (x *executable) kronApplyGrad(o *graph.KronApplyGrad) {
	if x.begun[o] {
		return
	}
	in, dy, buf := x.matrix(o.X), x.matrix(o.DY), x.shared
	f := x.factor(&buf, kron.Shape{S: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2, N: o.N, M: o.M}, o.F1, o.F2)
	x.termGrads(&buf, o.DF1, o.DF2, len(f.F1), len(f.F2), func(d1, d2 []float32) {
		kron.ApplyGrad(x.pool, &x.kron, d1, d2, dy.data, dy.ld, in.data, in.ld, in.rows, f, o.Trans, o.Alpha)
	})
}

func (x *executable) rowOuter(o *graph.RowOuter) {
	u, v, y := x.matrix(o.U), x.matrix(o.V), x.matrix(o.Y)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			dst, vi := y.row(i), v.row(i)
			for a, ua := range u.row(i) {
				d := dst[a*v.cols:][:v.cols]
				copy(d, vi)
				kernel.Scale(ua, d)
			}
		}
	})
}

func (x *executable) rowOuterGrad(o *graph.RowOuterGrad) {
	u, v, dy, du, dv := x.matrix(o.U), x.matrix(o.V), x.matrix(o.DY), x.matrix(o.DU), x.matrix(o.DV)
	addU, addV := x.accumulates(o.DU), x.accumulates(o.DV)
	x.eachRows(dy.rows, dy.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			ui, vi := u.row(i), v.row(i)
			if du.data != nil {
				for a, d := range du.row(i) {
					if !addU {
						d = 0
					}
					du.row(i)[a] = d + kernel.Dot(dy.row(i)[a*v.cols:][:v.cols], vi)
				}
			}
			if dv.data != nil {
				if !addV {
					clear(dv.row(i))
				}
				for a, ua := range ui {
					kernel.Axpy(ua, dy.row(i)[a*v.cols:][:v.cols], dv.row(i))
				}
			}
		}
	})
}

// colNorm uses Σ_i (w + α·Ab)² = Σ w² + 2α·(Aᵀw)·b + α²·bᵀ(AᵀA)b for each column
// (w of W, b of B): W is only multiplied with, never unpacked. Σ w² was taken in
// float64 when W was packed, of the values as they were rounded.
func (x *executable) colNorm(o *graph.ColNorm) {
	a, b, y, buf := x.matrix(o.A), x.matrix(o.B), x.matrix(o.Y).row(0), x.shared
	r, in, out := a.cols, a.rows, len(y)
	at := matrix{rows: r, cols: in, ld: in}
	if o.TransA {
		r, in = a.rows, a.cols
		at = a
	} else {
		at.data = carve(&buf, r*in)
		kernel.Transpose(at.data, in, a.data, a.ld, in, r)
	}
	down, across := b.ld, 1 // from b[k, j] to b[k+1, j] and b[k, j+1]
	if o.TransB {
		down, across = 1, b.ld
	}
	aw, aa := carve(&buf, r*out), carve(&buf, r*r)
	x.packedOf(o.W, forward).Mul(x.pool, r, at.data, at.ld, aw, out, nil)
	kernel.Gemm(x.pool, false, true, r, r, in, 1, at.data, at.ld, at.data, at.ld, 0, aa, r)
	ww, alpha := x.weights[o.W][squares].squares, float64(o.Alpha)
	x.eachRows(out, r*r, func(_, lo, hi int) {
		for j := lo; j < hi; j++ {
			s := ww[j]
			for k := range r {
				bk := float64(b.data[k*down+j*across])
				t := 2 * float64(aw[k*out+j])
				for l := range r {
					t += alpha * float64(aa[k*r+l]) * float64(b.data[l*down+j*across])
				}
				s += alpha * bk * t
			}
			n := math.Sqrt(max(s, 0))
			if o.Inverse {
				n = 1 / n
			}
			y[j] = float32(n)
		}
	})
}
