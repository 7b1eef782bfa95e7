package kron

import "github.com/lsrsurgeon/lsrsurgeon/internal/kernel"

// Apply writes y = alpha·x K + beta·y, or with trans y = alpha·x Kᵀ + beta·y,
// without forming K.
//
// With x[t] seen as a matrix X_t (A1, A2), which row-major storage already is,
// and y[t] as Y_t (R1, R2), a Kronecker product acts by two small products,
//
//	Y_t = alpha·Σ_k F1_kᵀ X_t F2_k,
//
// and the cheaper of the two orders is taken: 2·T·S·R1·A2·(A1+R2) operations
// with F1 first, 2·T·S·A1·R2·(A2+R1) with F2 first. Tokens are regrouped so
// that each stage is one large product.
//
// Shapes: x (rows, N) with rows ldx apart, y (rows, M) with rows ldy apart;
// with trans x has M columns and y has N. Sums in T. x and y must not overlap.
// It panics if the shapes disagree. p and w may be nil.
func Apply[T Float](p *kernel.Pool, w *Work[T], y []T, ldy int, x []T, ldx, rows int, f Factor[T], trans bool, alpha, beta T) {
	f.must()
	if w == nil {
		w = &Work[T]{}
	}
	g := sideways(f, trans)
	for t0 := 0; t0 < rows; t0 += g.tokens {
		n := min(g.tokens, rows-t0)
		gx := g.gather(&w.x, x[t0*ldx:], ldx, n, g.a1, g.a2, g.n)
		gy := grow(&w.y, g.r1*n*g.r2)
		if g.firstFirst() {
			g.withF1(p, grow(&w.v, g.S*g.r1*n*g.a2), gx, n)
			for k := range g.S {
				gemm(p, false, g.trans, g.r1*n, g.r2, g.a2, alpha, w.v[k*g.r1*n*g.a2:], g.a2, g.F2[k*g.A2*g.R2:], g.R2, bit[T](k > 0), gy, g.r2)
			}
		} else {
			g.withF2(p, grow(&w.u, g.S*g.a1*n*g.r2), gx, n)
			for k := range g.S {
				gemm(p, !g.trans, false, g.r1, n*g.r2, g.a1, alpha, g.F1[k*g.A1*g.R1:], g.R1, w.u[k*g.a1*n*g.r2:], n*g.r2, bit[T](k > 0), gy, n*g.r2)
			}
		}
		g.scatter(y[t0*ldy:], ldy, gy, n, beta)
	}
}

// ApplyGrad adds the gradients of the terms for y = alpha·x K (or x Kᵀ),
// without forming dK:
//
//	dF1_k += alpha·Σ_t X_t F2_k dY_tᵀ    dF2_k += alpha·Σ_t X_tᵀ F1_k dY_t
//
// Shapes: x and dy as x and y in [Apply]; df1 (S, A1, R1), df2 (S, A2, R2).
// The gradient with respect to x is Apply of dy with trans inverted. Sums in
// T. Nothing may overlap; it panics if the shapes disagree. p and w may be nil.
func ApplyGrad[T Float](p *kernel.Pool, w *Work[T], df1, df2 []T, dy []T, lddy int, x []T, ldx, rows int, f Factor[T], trans bool, alpha T) {
	f.must()
	length("df1", df1, len(f.F1))
	length("df2", df2, len(f.F2))
	if trans {
		// ⟨dy, x Kᵀ⟩ = ⟨x, dy K⟩: the same sums with the two exchanged.
		x, ldx, dy, lddy = dy, lddy, x, ldx
	}
	if w == nil {
		w = &Work[T]{}
	}
	g := sideways(f, false)
	s1, s2 := f.A1*f.R1, f.A2*f.R2
	for t0 := 0; t0 < rows; t0 += g.tokens {
		n := min(g.tokens, rows-t0)
		gx := g.gather(&w.x, x[t0*ldx:], ldx, n, g.A1, g.A2, g.N)
		gd := g.gather(&w.y, dy[t0*lddy:], lddy, n, g.R1, g.R2, g.M)
		g.withF2(p, grow(&w.u, g.S*g.A1*n*g.R2), gx, n)
		g.withF1(p, grow(&w.v, g.S*g.R1*n*g.A2), gx, n)
		for k := range g.S {
			gemm(p, false, true, g.A1, g.R1, n*g.R2, alpha, w.u[k*g.A1*n*g.R2:], n*g.R2, gd, n*g.R2, 1, df1[k*s1:], g.R1)
			gemm(p, true, false, g.A2, g.R2, g.R1*n, alpha, w.v[k*g.R1*n*g.A2:], g.A2, gd, g.R2, 1, df2[k*s2:], g.R2)
		}
	}
}

// side is a factor seen from the side that x enters by: X_t (a1, a2) becomes
// Y_t (r1, r2). tokens is how many rows are regrouped at a time.
type side[T Float] struct {
	Factor[T]
	trans            bool
	a1, a2, r1, r2   int
	n, m             int
	tokens           int
	flopsF1, flopsF2 int // per token, F1 first and F2 first
}

func sideways[T Float](f Factor[T], trans bool) side[T] {
	g := side[T]{Factor: f, trans: trans, a1: f.A1, a2: f.A2, r1: f.R1, r2: f.R2, n: f.N, m: f.M}
	if trans {
		g.a1, g.a2, g.r1, g.r2, g.n, g.m = f.R1, f.R2, f.A1, f.A2, f.M, f.N
	}
	g.flopsF1 = 2 * f.S * g.r1 * g.a2 * (g.a1 + g.r2)
	g.flopsF2 = 2 * f.S * g.a1 * g.r2 * (g.a2 + g.r1)
	g.tokens = max(8, chunkElems/max(f.S*g.r1*g.a2, f.S*g.a1*g.r2))
	return g
}

// firstFirst says whether F1 before F2 is the cheaper order.
func (g *side[T]) firstFirst() bool { return g.flopsF1 <= g.flopsF2 }

// gather copies n rows of x (c1·c2 columns, of which the first cols exist) to
// the order (c1, n, c2), with 0 for what is cut.
func (g *side[T]) gather(buf *[]T, x []T, ldx, n, c1, c2, cols int) []T {
	d := grow(buf, c1*n*c2)
	for t := range n {
		row := x[t*ldx:][:cols]
		for i := range c1 {
			e := d[(i*n+t)*c2:][:c2]
			got := 0
			if i*c2 < cols {
				got = copy(e, row[i*c2:])
			}
			clear(e[got:])
		}
	}
	return d
}

// scatter writes y = src + beta·y from the order (r1, n, r2).
func (g *side[T]) scatter(y []T, ldy int, src []T, n int, beta T) {
	for t := range n {
		row := y[t*ldy:][:g.m]
		for j := 0; j*g.r2 < g.m; j++ {
			s := src[(j*n+t)*g.r2:][:g.r2]
			d := row[j*g.r2:]
			d = d[:min(len(d), g.r2)]
			switch {
			case beta == 0:
				copy(d, s)
			default:
				for l := range d {
					d[l] = beta*d[l] + s[l]
				}
			}
		}
	}
}

// withF1 writes v (S, r1, n, a2): V_k = F1_kᵀ X, all terms one after another.
func (g *side[T]) withF1(p *kernel.Pool, v, x []T, n int) {
	for k := range g.S {
		gemm(p, !g.trans, false, g.r1, n*g.a2, g.a1, 1, g.F1[k*g.A1*g.R1:], g.R1, x, n*g.a2, 0, v[k*g.r1*n*g.a2:], n*g.a2)
	}
}

// withF2 writes u (S, a1, n, r2): U_k = X F2_k.
func (g *side[T]) withF2(p *kernel.Pool, u, x []T, n int) {
	for k := range g.S {
		gemm(p, false, g.trans, g.a1*n, g.r2, g.a2, 1, x, g.a2, g.F2[k*g.A2*g.R2:], g.R2, 0, u[k*g.a1*n*g.r2:], g.r2)
	}
}

func bit[T Float](b bool) T {
	if b {
		return 1
	}
	return 0
}
