package decompose

import (
	"fmt"
	"math"
	"strconv"

	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
	"gonum.org/v1/gonum/mat"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

const (
	// extraColumns is the oversampling of Leading.
	extraColumns = 8
	// maxIterations bounds the subspace iterations of Leading.
	maxIterations = 8
	// settled is the share of the squared residual below which the gain of an
	// iteration ends it, and roundOff that of the squared norm which float32
	// cannot resolve.
	settled  = 2e-3
	roundOff = 1e-9
)

// Leading returns the r leading singular triplets of a large float32 matrix a
// (m, n), row-major, and its squared Frobenius norm.
//
// Subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm
// 4.4) with the products by the matrix in float32 and everything thin in
// float64. It goes on until an iteration lowers the squared residual by less
// than 0.2 %, so that spectra which fall fast cost two iterations and flat
// ones, where more would change little, few more. The start is drawn from
// seed; the result depends neither on the pool nor on its threads. When r is
// not much below min(m, n), the smaller Gram matrix is decomposed instead.
//
// Cost: 4·m·n·(r+8) operations for each iteration, memory (m+n)·(r+8) beside
// a. It panics unless 1 <= r <= min(m, n) and a has m·n elements. NaN and
// infinities in a are an error.
func Leading(p *kernel.Pool, a []float32, m, n, r int, seed uint64) (*SVD, float64, error) {
	if r < 1 || r > min(m, n) || len(a) != m*n {
		panic(fmt.Sprintf("decompose: %d triplets of (%d, %d) in %d elements", r, m, n, len(a)))
	}
	st := kernel.Stats(a)
	if st.NaN+st.Inf > 0 {
		return nil, 0, fmt.Errorf("%d elements of %d are not finite", st.NaN+st.Inf, len(a))
	}
	norm2 := st.SumSquares
	if norm2 == 0 {
		return &SVD{U: unit(m, r), S: make([]float64, r), V: unit(n, r)}, 0, nil
	}
	// Away from the ends of float32's range, so that squares stay finite.
	scale := math.Ldexp(1, -math.Ilogb(math.Sqrt(norm2/float64(len(a)))))
	var d *SVD
	var err error
	if l := r + extraColumns; 2*l >= min(m, n) {
		d, err = byGram(p, a, m, n, r)
	} else {
		d, err = subspace(p, a, m, n, r, l, seed, norm2, scale)
	}
	return d, norm2, err
}

// unit returns the first r columns of the identity (rows, r).
func unit(rows, r int) []float64 {
	x := make([]float64, rows*r)
	for i := range r {
		x[i*r+i] = 1
	}
	return x
}

func subspace(p *kernel.Pool, a []float32, m, n, r, l int, seed uint64, norm2, scale float64) (*SVD, error) {
	z := make([]float32, n*l)
	y := make([]float32, m*l)
	adapter.Source{Seed: seed}.Normal("subspace "+strconv.Itoa(n), z, 1)
	last := 0.0
	for step := 0; ; step++ {
		kernel.Gemm(p, false, false, m, l, n, float32(scale), a, n, z, l, 0, y, l)
		q, _ := orthonormal(p, y, m, l)
		narrowInto(y, q)
		kernel.Gemm(p, true, false, n, l, m, float32(scale), a, n, y, l, 0, z, l)
		v, rz := orthonormal(p, z, n, l)
		small, err := dense(rz, l, l, l) // z = v rz
		if err != nil {
			return nil, err
		}
		captured := 0.0
		for _, s := range small.S[:r] {
			captured += s * s / (scale * scale)
		}
		rest := max(norm2-captured, 0)
		if rest <= roundOff*norm2 || step > 0 && captured-last <= settled*rest || step == maxIterations {
			return assemble(p, q, v, small, m, n, l, r, scale), nil
		}
		last = captured
		narrowInto(z, v)
	}
}

// assemble makes the triplets of Q zᵀ = Q (V rz)ᵀ, rz = W S Xᵀ: U = Q X and
// V W.
func assemble(p *kernel.Pool, q, v []float64, small *SVD, m, n, l, r int, scale float64) *SVD {
	d := &SVD{U: make([]float64, m*r), V: make([]float64, n*r), S: small.S[:r]}
	kernel.GemmF64(p, false, false, m, r, l, 1, q, l, small.V, l, 0, d.U, r)
	kernel.GemmF64(p, false, false, n, r, l, 1, v, l, small.U, l, 0, d.V, r)
	for i := range d.S {
		d.S[i] /= scale
	}
	return d
}

// byGram decomposes the Gram matrix of the smaller side. Singular values below
// 1e-7 of the largest, which float32 does not hold, come out as noise of that
// size or 0.
func byGram(p *kernel.Pool, a []float32, m, n, r int) (*SVD, error) {
	k, wide := min(m, n), m <= n
	x := make([]float64, len(a))
	for i, v := range a {
		x[i] = float64(v)
	}
	g := make([]float64, k*k)
	if wide {
		kernel.GemmF64(p, false, true, k, k, n, 1, x, n, x, n, 0, g, k)
	} else {
		kernel.GemmF64(p, true, false, k, k, m, 1, x, n, x, n, 0, g, k)
	}
	var eig mat.EigenSym
	if !eig.Factorize(mat.NewSymDense(k, g), true) {
		return nil, fmt.Errorf("eigenvalues of a %d x %d gram matrix do not converge", k, k)
	}
	var vec mat.Dense
	eig.VectorsTo(&vec)
	w := make([]float64, k*r) // leading eigenvectors, largest first
	for j := range r {
		for i := range k {
			w[i*r+j] = vec.At(i, k-1-j)
		}
	}
	other := make([]float64, max(m, n)*r)
	if wide { // aᵀ w
		kernel.GemmF64(p, true, false, n, r, m, 1, x, n, w, r, 0, other, r)
	} else {
		kernel.GemmF64(p, false, false, m, r, n, 1, x, n, w, r, 0, other, r)
	}
	q, rr := householder(other, max(m, n), r)
	small, err := dense(rr, r, r, r) // other = q·small
	if err != nil {
		return nil, err
	}
	d := &SVD{U: make([]float64, max(m, n)*r), V: make([]float64, k*r), S: small.S}
	kernel.GemmF64(p, false, false, max(m, n), r, r, 1, q, r, small.U, r, 0, d.U, r)
	kernel.GemmF64(p, false, false, k, r, r, 1, w, r, small.V, r, 0, d.V, r)
	if wide {
		d.U, d.V = d.V, d.U
	}
	return d, nil
}

// orthonormal returns x = Q R in float64: Q (rows, cols) with orthonormal
// columns and R (cols, cols), by CholeskyQR2 (Yamamoto et al., 2015), which is
// as accurate as Householder's method up to a condition of about 1e8, and by
// reflections beyond.
func orthonormal(p *kernel.Pool, x []float32, rows, cols int) (q, r []float64) {
	q = make([]float64, len(x))
	for i, v := range x {
		q[i] = float64(v)
	}
	y := make([]float64, len(x))
	var first *mat.TriDense
	for round := range 2 {
		g := make([]float64, cols*cols)
		kernel.GemmF64(p, true, false, cols, cols, rows, 1, q, cols, q, cols, 0, g, cols)
		var chol mat.Cholesky
		// A condition of the Gram matrix of 1e14 is one of 1e7 of x.
		if !chol.Factorize(mat.NewSymDense(cols, g)) || chol.Cond() > 1e14 {
			for i, v := range x {
				q[i] = float64(v)
			}
			return householder(q, rows, cols)
		}
		var u, inv mat.TriDense
		chol.UTo(&u)
		if err := inv.InverseTri(&u); err != nil {
			for i, v := range x {
				q[i] = float64(v)
			}
			return householder(q, rows, cols)
		}
		kernel.GemmF64(p, false, false, rows, cols, cols, 1, q, cols, upper(&inv), cols, 0, y, cols)
		q, y = y, q
		if round == 0 {
			first = &u
			continue
		}
		r = make([]float64, cols*cols)
		kernel.GemmF64(p, false, false, cols, cols, cols, 1, upper(&u), cols, upper(first), cols, 0, r, cols)
	}
	return q, r
}

// upper returns the elements of an upper triangular matrix, row-major.
func upper(t *mat.TriDense) []float64 {
	raw := t.RawTriangular()
	x := make([]float64, raw.N*raw.N)
	for i := range raw.N {
		copy(x[i*raw.N+i:(i+1)*raw.N], raw.Data[i*raw.Stride+i:i*raw.Stride+raw.N])
	}
	return x
}

// householder returns x = Q R by reflections, for rows >= cols. It changes x.
func householder(x []float64, rows, cols int) (q, r []float64) {
	a := blas64.General{Rows: rows, Cols: cols, Data: x, Stride: cols}
	tau := make([]float64, cols)
	work := make([]float64, 1)
	lapack64.Geqrf(a, tau, work, -1)
	work = make([]float64, max(int(work[0]), 64*cols))
	lapack64.Geqrf(a, tau, work, len(work))
	r = make([]float64, cols*cols)
	for i := range cols {
		copy(r[i*cols+i:(i+1)*cols], x[i*cols+i:(i+1)*cols])
	}
	lapack64.Orgqr(a, tau, work, len(work))
	return x, r
}

func narrowInto(dst []float32, src []float64) {
	for i, v := range src {
		dst[i] = float32(v)
	}
}
