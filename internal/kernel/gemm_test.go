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

// wide is op(M) as a dense (rows, cols) matrix of float64.
func wide[T float32 | float64](m []T, ld int, trans bool, rows, cols int) []float64 {
	w := make([]float64, rows*cols)
	for i := range rows {
		for j := range cols {
			if trans {
				w[i*cols+j] = float64(m[j*ld+i])
			} else {
				w[i*cols+j] = float64(m[i*ld+j])
			}
		}
	}
	return w
}

// product is op(A)·op(B) in float64.
func product[T float32 | float64](transA, transB bool, m, n, k int, a []T, lda int, b []T, ldb int) []float64 {
	aw, bw := wide(a, lda, transA, m, k), wide(b, ldb, transB, k, n)
	c := make([]float64, m*n)
	for i := range m {
		row := c[i*n:][:n]
		for x, u := range aw[i*k:][:k] {
			for j, v := range bw[x*n:][:n] {
				row[j] += u * v
			}
		}
	}
	return c
}

// m, n, k: corners of tiles, each thin path and its limits, blocks of rows and
// of depth.
var gemmShapes = [][3]int{
	{1, 1, 1}, {1, 16, 3}, {5, 7, 9}, {13, 31, 8}, {6, 16, 64}, {7, 17, 65}, {14, 32, 16}, {33, 65, 70}, {64, 4, 768},
	{97, 8, 130}, {64, 768, 4}, {50, 129, 33}, {130, 140, 150}, {4, 200, 300}, {100, 9, 200},
	{200, 130, 140}, {16, 300, 200}, {131, 133, 900}, {30, 20, 1100}, {37, 24, 32}, {24, 24, 150}, {24, 72, 130}, {130, 72, 24},
	{20, 48, 40}, {24, 144, 70}, {30, 12, 50}, {144, 20, 66}, {9, 53, 70},
}

// gemmCase is one product and the operands to try it with.
type gemmCase[T float32 | float64] struct {
	name           string
	transA, transB bool
	m, n, k        int
	a, b, old      []T
	lda, ldb, ldc  int
	want           []float64
}

func newGemmCase[T float32 | float64](m, n, k int, transA, transB bool) *gemmCase[T] {
	ar, ac, br, bc := m, k, k, n
	if transA {
		ar, ac = ac, ar
	}
	if transB {
		br, bc = bc, br
	}
	g := &gemmCase[T]{transA: transA, transB: transB, m: m, n: n, k: k, lda: ac + 3, ldb: bc + 1, ldc: n + 5}
	g.name = fmt.Sprintf("%s transA=%v transB=%v", testkit.Shape(m, n, k), transA, transB)
	g.a, g.b, g.old = randOf[T](ar*g.lda, 1), randOf[T](br*g.ldb, 2), randOf[T](m*g.ldc, 3)
	g.want = product(transA, transB, m, n, k, g.a, g.lda, g.b, g.ldb)
	return g
}

func randOf[T float32 | float64](n int, seed uint64) []T {
	s := make([]T, n)
	for i, v := range randn(n, seed) {
		s[i] = T(v)
	}
	return s
}

type gemmFunc[T float32 | float64] func(p *kernel.Pool, transA, transB bool, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int)

// check compares the product on three threads with the reference, and with the
// product on one thread bit by bit.
func (g *gemmCase[T]) check(t *testing.T, f gemmFunc[T], pool *kernel.Pool, alpha, beta T, tol float64) {
	t.Helper()
	c, check := testkit.Guarded[T](t, g.m*g.ldc, 1)
	copy(c, g.old)
	f(pool, g.transA, g.transB, g.m, g.n, g.k, alpha, g.a, g.lda, g.b, g.ldb, beta, c, g.ldc)
	check()
	one := append([]T(nil), g.old...)
	f(nil, g.transA, g.transB, g.m, g.n, g.k, alpha, g.a, g.lda, g.b, g.ldb, beta, one, g.ldc)
	for i := range g.m {
		for j := range g.ldc {
			got, w, limit := float64(c[i*g.ldc+j]), float64(g.old[i*g.ldc+j]), 0.0
			if j < g.n {
				w = float64(alpha)*g.want[i*g.n+j] + float64(beta)*w
				limit = 2 * tol
			}
			if !testkit.Near(got, w, limit, 0) {
				t.Fatalf("%s alpha=%v beta=%v: C[%d,%d] = %v, want %v", g.name, alpha, beta, i, j, got, w)
			}
			if one[i*g.ldc+j] != c[i*g.ldc+j] {
				t.Fatalf("%s alpha=%v beta=%v: C[%d,%d] is %v on one thread, %v on three", g.name, alpha, beta, i, j, one[i*g.ldc+j], c[i*g.ldc+j])
			}
		}
	}
}

func TestGemm(t *testing.T) {
	pool := kernel.NewPool(3)
	defer pool.Close()
	for _, s := range gemmShapes {
		for mode := range 4 {
			g32 := newGemmCase[float32](s[0], s[1], s[2], mode&1 != 0, mode&2 != 0)
			g64 := newGemmCase[float64](s[0], s[1], s[2], mode&1 != 0, mode&2 != 0)
			coefs := [][2]float32{{-2, 0.25}, {1, 0}, {0.5, 1}}
			if s[0]*s[1]*s[2] > 1e6 {
				coefs = coefs[:1]
			}
			kerneltest.ForEach(t, func(t *testing.T) {
				for _, coef := range coefs {
					tol := testkit.DotTolerance(s[2], 1) + 1e-6
					g32.check(t, kernel.Gemm, pool, coef[0], coef[1], tol)
					g64.check(t, kernel.GemmF64, pool, float64(coef[0]), float64(coef[1]), tol*0x1p-29)
				}
			})
		}
	}
}

// TestGemmNothing has no products to add, or none that count.
func TestGemmNothing(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, c := range []struct {
			k           int
			alpha, beta float32
			want        float32
		}{{0, 1, 0, 0}, {0, 1, 1, 3}, {0, 1, 2, 6}, {2, 0, 0, 0}, {2, 0, 1, 3}} {
			x, y := []float32{nan, nan, nan, nan}, []float32{3, 3, 3, 3}
			kernel.Gemm(nil, false, false, 2, 2, c.k, c.alpha, x, 2, x, 2, c.beta, y, 2)
			for _, v := range y {
				if v != c.want {
					t.Errorf("k=%d alpha=%v beta=%v gives %v, want %v", c.k, c.alpha, c.beta, v, c.want)
				}
			}
		}
		kernel.Gemm(nil, false, false, 0, 3, 3, 1, nil, 3, make([]float32, 9), 3, 0, nil, 3)
		y := []float32{nan}
		kernel.Gemm(nil, false, false, 1, 1, 1, 1, []float32{2}, 1, []float32{3}, 1, 0, y, 1)
		if y[0] != 6 {
			t.Errorf("beta = 0 reads C: %v", y[0])
		}
	})
}
