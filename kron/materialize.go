package kron

import "github.com/lsrsurgeon/lsrsurgeon/internal/kernel"

// Work holds buffers that functions of this package reuse between calls. The
// zero value is ready; nil stands for fresh buffers. A Work serves one call at
// a time.
type Work[T Float] struct {
	x, y, u, v []T
	f          []T       // F1 in the order of a product
	sums       []T       // gradients of parts of the rows
	workers    []Work[T] // of the threads of a pool
}

// of returns memory for each of n threads.
func (w *Work[T]) of(n int) []Work[T] {
	for len(w.workers) < n {
		w.workers = append(w.workers, Work[T]{})
	}
	return w.workers
}

func grow[T Float](buf *[]T, n int) []T {
	if cap(*buf) < n {
		*buf = make([]T, n)
	}
	return (*buf)[:n]
}

// chunkElems bounds buffers, in elements: 512 KiB of float32, within the
// second-level cache of current processors.
const chunkElems = 1 << 17

// Materialize writes K = Σ_k F1_k ⊗ F2_k, cut to (N, M), to dst.
//
// Shapes: f.F1 (S, A1, R1), f.F2 (S, A2, R2), dst (N, M), row-major. Computed
// as R(K) = mat(F1)ᵀ mat(F2) and rearranged; sums over the S terms in T.
// Cost: 2·S·A1·R1·A2·R2 operations. dst must not overlap the factors. It
// panics if the shapes disagree. p and w may be nil. Source: arXiv 2502.13568,
// the definition of the factors; Van Loan and Pitsianis (1993).
func Materialize[T Float](p *kernel.Pool, w *Work[T], dst []T, f Factor[T]) {
	f.must()
	length("dst", dst, f.N*f.M)
	MaterializeRows(p, w, dst, f, 0, f.N)
}

// MaterializeRows writes rows [lo, hi) of K to dst (hi-lo, M): Materialize by
// parts, for callers that bound their memory.
func MaterializeRows[T Float](p *kernel.Pool, w *Work[T], dst []T, f Factor[T], lo, hi int) {
	f.must()
	if lo < 0 || hi < lo || hi > f.N {
		panic("kron: rows out of range")
	}
	length("dst", dst, (hi-lo)*f.M)
	if hi == lo {
		return
	}
	if w == nil {
		w = &Work[T]{}
	}
	m2 := f.A2 * f.R2
	step := max(1, chunkElems/(f.R1*m2)) // rows of F1_k at a time
	for i0 := lo / f.A2; i0*f.A2 < hi; i0 += step {
		n := min(step, (hi+f.A2-1)/f.A2-i0)
		r := grow(&w.u, n*f.R1*m2)
		// Rows [i0·R1, (i0+n)·R1) of R(K).
		gemm(p, true, false, n*f.R1, m2, f.S, 1, f.F1[i0*f.R1:], f.A1*f.R1, f.F2, m2, 0, r, m2)
		for i := range n {
			for u := range f.A2 {
				row := (i0+i)*f.A2 + u
				if row < lo || row >= hi {
					continue
				}
				unrearrangeRow(dst[(row-lo)*f.M:][:f.M], r[i*f.R1*m2+u*f.R2:], f.R1, f.R2, m2)
			}
		}
	}
}

// unrearrangeRow gathers one row of K: R1 runs of R2 elements, stride apart.
func unrearrangeRow[T Float](dst, src []T, r1, r2, stride int) {
	for j := range r1 {
		if len(dst) <= r2 {
			copy(dst, src[j*stride:])
			return
		}
		copy(dst[:r2], src[j*stride:])
		dst = dst[r2:]
	}
}

// Rearrange writes R(K), (A1·R1, A2·R2), for a matrix K (N, M): the element
// R[i·R1+j, u·R2+v] is K[i·A2+u, j·R2+v], and 0 where K is cut. Only the
// shape of s is used, not its number of terms. src and dst must not overlap;
// it panics if the lengths disagree. Source: Van Loan and Pitsianis (1993).
func Rearrange[T Float](dst, src []T, s Shape) {
	length("src", src, s.N*s.M)
	length("dst", dst, s.A1*s.R1*s.A2*s.R2)
	rearrangeRows(dst, src, s, 0, s.A1)
}

// rearrangeRows is Rearrange for rows [i0·R1, (i0+n)·R1) of R(K).
func rearrangeRows[T Float](dst, src []T, s Shape, i0, n int) {
	m2 := s.A2 * s.R2
	for i := range n {
		for u := range s.A2 {
			row := (i0+i)*s.A2 + u
			for j := range s.R1 {
				d := dst[(i*s.R1+j)*m2+u*s.R2:][:s.R2]
				got := 0
				if row < s.N && j*s.R2 < s.M {
					got = copy(d, src[row*s.M+j*s.R2:(row+1)*s.M])
				}
				clear(d[got:])
			}
		}
	}
}

// Unrearrange is the inverse of [Rearrange]: it writes K (N, M), dropping what
// the cut excludes.
func Unrearrange[T Float](dst, src []T, s Shape) {
	length("dst", dst, s.N*s.M)
	length("src", src, s.A1*s.R1*s.A2*s.R2)
	m2 := s.A2 * s.R2
	for row := range s.N {
		i, u := row/s.A2, row%s.A2
		unrearrangeRow(dst[row*s.M:][:s.M], src[i*s.R1*m2+u*s.R2:], s.R1, s.R2, m2)
	}
}

// Grad adds the gradients of the terms, given the gradient dK of the
// materialised sum:
//
//	dmat(F1) += mat(F2) R(dK)ᵀ    dmat(F2) += mat(F1) R(dK)
//
// Shapes: dK (N, M), df1 (S, A1, R1), df2 (S, A2, R2). Sums over A2·R2 (A1·R1)
// products in T. Cost: 4·S·A1·R1·A2·R2 operations. Nothing may overlap; it
// panics if the shapes disagree. p and w may be nil. Source: the chain rule on
// R(K) = mat(F1)ᵀ mat(F2).
func Grad[T Float](p *kernel.Pool, w *Work[T], df1, df2 []T, f Factor[T], dK []T) {
	f.must()
	length("dK", dK, f.N*f.M)
	length("df1", df1, len(f.F1))
	length("df2", df2, len(f.F2))
	if w == nil {
		w = &Work[T]{}
	}
	m1, m2 := f.A1*f.R1, f.A2*f.R2
	step := max(1, chunkElems/(f.R1*m2))
	for i0 := 0; i0 < f.A1; i0 += step {
		n := min(step, f.A1-i0)
		r := grow(&w.u, n*f.R1*m2)
		rearrangeRows(r, dK, f.Shape, i0, n)
		gemm(p, false, true, f.S, n*f.R1, m2, 1, f.F2, m2, r, m2, 1, df1[i0*f.R1:], m1)
		gemm(p, false, false, f.S, m2, n*f.R1, 1, f.F1[i0*f.R1:], m1, r, m2, 1, df2, m2)
	}
}
