package decompose

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// SVD are the leading singular triplets of a matrix (m, n),
// A ≈ U diag(S) Vᵀ.
type SVD struct {
	U []float64 // (m, r), orthonormal columns
	S []float64 // (r), descending, not negative
	V []float64 // (n, r), orthonormal columns
}

const (
	// oversampling and powerSteps of the randomised method. With four steps
	// the error of a triplet falls with (σ_{l+1}/σ_i)^9.
	oversampling = 16
	powerSteps   = 4
	// exactLimit is the smaller dimension up to which the dense method is
	// used: it takes under half a second there.
	exactLimit = 256
)

// Truncated returns the r leading singular triplets of a (m, n), row-major.
//
// Small matrices, and those of which a large part of the spectrum is wanted,
// are decomposed densely (LAPACK's dgesvd in gonum). Others by subspace
// iteration from a random start, orthonormalised in each step: Halko,
// Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1. The start is
// drawn from seed; the same input gives the same output. All in float64.
//
// It panics unless 1 <= r <= min(m, n) and a has m·n elements. NaN and
// infinities in a are an error.
func Truncated(p *kernel.Pool, a []float64, m, n, r int, seed uint64) (*SVD, error) {
	if r < 1 || r > min(m, n) || len(a) != m*n {
		panic(fmt.Sprintf("decompose: %d triplets of (%d, %d) in %d elements", r, m, n, len(a)))
	}
	for _, v := range a {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("singular values of a matrix with %v in it", v)
		}
	}
	if small := min(m, n); small <= exactLimit || 2*(r+oversampling) >= small {
		return dense(a, m, n, r)
	}
	return randomised(p, a, m, n, r, seed)
}

func dense(a []float64, m, n, r int) (*SVD, error) {
	var d mat.SVD
	if !d.Factorize(mat.NewDense(m, n, a), mat.SVDThin) {
		return nil, fmt.Errorf("singular values of a %d x %d matrix do not converge", m, n)
	}
	var u, v mat.Dense
	d.UTo(&u)
	d.VTo(&v)
	return &SVD{U: columns(&u, m, r), S: d.Values(nil)[:r], V: columns(&v, n, r)}, nil
}

// columns returns the first r columns of x, row-major.
func columns(x *mat.Dense, rows, r int) []float64 {
	y := make([]float64, 0, rows*r)
	for i := range rows {
		y = append(y, x.RawRowView(i)[:r]...)
	}
	return y
}

func randomised(p *kernel.Pool, a []float64, m, n, r int, seed uint64) (*SVD, error) {
	l := r + oversampling
	start := make([]float32, n*l)
	adapter.Source{Seed: seed}.Normal("subspace", start, 1)
	z := make([]float64, n*l) // (n, l)
	for i, v := range start {
		z[i] = float64(v)
	}
	q := make([]float64, m*l) // (m, l)
	for step := 0; ; step++ {
		kernel.GemmF64(p, false, false, m, l, n, 1, a, n, z, l, 0, q, l)
		orthonormalise(q, m, l)
		kernel.GemmF64(p, true, false, n, l, m, 1, a, n, q, l, 0, z, l)
		if step == powerSteps {
			break
		}
		orthonormalise(z, n, l)
	}
	// z = Aᵀ Q, so A ≈ Q zᵀ, and with z = V S Wᵀ: A ≈ (Q W) S Vᵀ.
	small, err := dense(z, n, l, l)
	if err != nil {
		return nil, err
	}
	u := make([]float64, m*l)
	kernel.GemmF64(p, false, false, m, l, l, 1, q, l, small.V, l, 0, u, l)
	return &SVD{U: columns(mat.NewDense(m, l, u), m, r), S: small.S[:r], V: columns(mat.NewDense(n, l, small.U), n, r)}, nil
}

// orthonormalise replaces x (rows, cols) by an orthonormal basis of its
// columns, by Householder reflections.
func orthonormalise(x []float64, rows, cols int) { householder(x, rows, cols) }
