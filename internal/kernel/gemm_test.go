package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

func randn(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 7))
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(r.NormFloat64())
	}
	return s
}

// at reads op(M)[i, j].
func at[T float32 | float64](m []T, ld int, trans bool, i, j int) float64 {
	if trans {
		i, j = j, i
	}
	return float64(m[i*ld+j])
}

// product is op(A)·op(B) in float64.
func product[T float32 | float64](transA, transB bool, m, n, k int, a []T, lda int, b []T, ldb int) []float64 {
	c := make([]float64, m*n)
	for i := range m {
		for x := range k {
			u := at(a, lda, transA, i, x)
			for j := range n {
				c[i*n+j] += u * at(b, ldb, transB, x, j)
			}
		}
	}
	return c
}

var gemmShapes = [][3]int{ // m, n, k
	{1, 1, 1}, {1, 16, 3}, {5, 7, 9}, {13, 31, 8}, {6, 16, 64}, {7, 17, 65}, {14, 32, 16}, {33, 65, 70}, {64, 4, 768},
	{97, 8, 130}, {64, 768, 4}, {50, 129, 33}, {130, 140, 150}, {100, 130, 900}, {300, 150, 40}, {200, 64, 1100}, {4, 200, 300},
	{257, 48, 257}, {16, 300, 200},
}

func TestGemm(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		pool := kernel.NewPool(3)
		defer pool.Close()
		for _, s := range gemmShapes {
			m, n, k := s[0], s[1], s[2]
			for mode := range 4 {
				transA, transB := mode&1 != 0, mode&2 != 0
				for _, coef := range [][2]float32{{1, 0}, {0.5, 1}, {-2, 0.25}} {
					name := fmt.Sprintf("%s transA=%v transB=%v alpha=%v beta=%v", testkit.Shape(m, n, k), transA, transB, coef[0], coef[1])
					checkGemm(t, name, pool, transA, transB, m, n, k, coef[0], coef[1])
				}
			}
		}
	})
}

func checkGemm(t *testing.T, name string, pool *kernel.Pool, transA, transB bool, m, n, k int, alpha, beta float32) {
	t.Helper()
	ar, ac, br, bc := m, k, k, n
	if transA {
		ar, ac = ac, ar
	}
	if transB {
		br, bc = bc, br
	}
	lda, ldb, ldc := ac+3, bc+1, n+5
	a, b := randn(ar*lda, 1), randn(br*ldb, 2)
	c0 := randn(m*ldc, 3)
	want := product(transA, transB, m, n, k, a, lda, b, ldb)
	c, check := testkit.Guarded[float32](t, m*ldc, 1)
	copy(c, c0)
	kernel.Gemm(pool, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
	check()
	tol := testkit.DotTolerance(k, 1) + 1e-6
	for i := range m {
		for j := range ldc {
			got, w := float64(c[i*ldc+j]), float64(c0[i*ldc+j])
			limit := 0.0
			if j < n {
				w = float64(alpha)*want[i*n+j] + float64(beta)*w
				limit = tol * 2
			}
			if !testkit.Near(got, w, limit, 0) {
				t.Fatalf("%s: C[%d,%d] = %v, want %v", name, i, j, got, w)
			}
		}
	}
	one := append([]float32(nil), c0...)
	kernel.Gemm(nil, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, one, ldc)
	testkit.EqualBits(t, name+" on one thread", one, c)
}
