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
	f1 := g.order(&w.f, g.firstFirst(), g.trans)
	ws := w.of(p.Threads())
	p.Run((rows+g.tokens-1)/g.tokens, func(worker, job int) {
		w := &ws[worker]
		t0 := job * g.tokens
		n := min(g.tokens, rows-t0)
		gx := g.gather(&w.x, x[t0*ldx:], ldx, n, g.a1, g.a2, g.n)
		gy := grow(&w.y, g.r1*n*g.r2)
		if g.firstFirst() {
			v := grow(&w.v, g.S*g.r1*n*g.a2)
			gemm(nil, true, false, g.S*g.r1, n*g.a2, g.a1, 1, f1, g.S*g.r1, gx, n*g.a2, 0, v, n*g.a2)
			for k := range g.S {
				gemm(nil, false, g.trans, g.r1*n, g.r2, g.a2, alpha, v[k*g.r1*n*g.a2:], g.a2, g.f2(k), g.R2, bit[T](k > 0), gy, g.r2)
			}
		} else {
			u := grow(&w.u, g.S*g.a1*n*g.r2)
			for k := range g.S {
				gemm(nil, false, g.trans, g.a1*n, g.r2, g.a2, 1, gx, g.a2, g.f2(k), g.R2, 0, u[k*g.a1*n*g.r2:], g.r2)
			}
			gemm(nil, true, false, g.r1, n*g.r2, g.S*g.a1, alpha, f1, g.r1, u, n*g.r2, 0, gy, n*g.r2)
		}
		g.scatter(y[t0*ldy:], ldy, gy, n, beta)
	})
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

// f2 is term k of F2.
func (f *Factor[T]) f2(k int) []T { return f.F2[k*f.A2*f.R2:] }

// order copies F1 (S, A1, R1) so that one product does for all terms: with the
// term beside the column, (A1, S, R1), or, for flipped terms, (R1, S, A1); without
// beside, (S, A1, R1) as it is or (S, R1, A1).
func (f *Factor[T]) order(buf *[]T, beside, flipped bool) []T {
	if !beside && !flipped {
		return f.F1
	}
	rows, cols := f.A1, f.R1
	if flipped {
		rows, cols = cols, rows
	}
	d := grow(buf, f.S*f.A1*f.R1)
	for k := range f.S {
		for i := range rows {
			at := (k*rows + i) * cols
			if beside {
				at = (i*f.S + k) * cols
			}
			for j := range cols {
				if flipped {
					d[at+j] = f.F1[(k*f.A1+j)*f.R1+i]
				} else {
					d[at+j] = f.F1[(k*f.A1+i)*f.R1+j]
				}
			}
		}
	}
	return d
}

func bit[T Float](b bool) T {
	if b {
		return 1
	}
	return 0
}
