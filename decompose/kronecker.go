package decompose

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// NearestKronecker returns the factor of shape s whose materialised sum is
// nearest to k (s.N, s.M) in the Frobenius norm, elements that the cut
// excludes taken as 0. The weight of a term is shared evenly: both matrices
// of a term have the norm √σ. Terms beyond the rank of R(k) are 0.
//
// Cost: a truncated SVD of an (A1·R1, A2·R2) matrix. It panics if s is no
// shape or k has another size. Source: Van Loan and Pitsianis (1993).
func NearestKronecker(p *kernel.Pool, k []float64, s kron.Shape, seed uint64) (kron.Factor[float64], error) {
	return nearestKronecker(p, k, s, seed, Truncated)
}

// nearestKronecker is NearestKronecker by some method of truncated SVD.
func nearestKronecker(p *kernel.Pool, k []float64, s kron.Shape, seed uint64, svd func(p *kernel.Pool, a []float64, m, n, r int, seed uint64) (*SVD, error)) (kron.Factor[float64], error) {
	if err := s.Check(); err != nil {
		panic("decompose: " + err.Error())
	}
	if len(k) != s.N*s.M {
		panic(fmt.Sprintf("decompose: %v of %d elements", s, len(k)))
	}
	m1, m2 := s.A1*s.R1, s.A2*s.R2
	f := kron.Factor[float64]{Shape: s, F1: make([]float64, s.S*m1), F2: make([]float64, s.S*m2)}
	r := make([]float64, m1*m2)
	kron.Rearrange(r, k, s)
	n := min(s.S, m1, m2)
	d, err := svd(p, r, m1, m2, n, seed)
	if err != nil {
		return f, err
	}
	for t := range n {
		root := math.Sqrt(d.S[t])
		for i := range m1 {
			f.F1[t*m1+i] = d.U[i*n+t] * root
		}
		for i := range m2 {
			f.F2[t*m2+i] = d.V[i*n+t] * root
		}
	}
	return f, nil
}
