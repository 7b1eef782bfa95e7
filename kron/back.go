package kron

import "github.com/lsrsurgeon/lsrsurgeon/internal/kernel"

// ApplyGrad adds the gradients of the terms for y = alpha·x K (or x Kᵀ),
// without forming dK:
//
//	dF1_k += alpha·Σ_t X_t F2_k dY_tᵀ    dF2_k += alpha·Σ_t X_tᵀ F1_k dY_t
//
// Shapes: x and dy as x and y in [Apply]; df1 (S, A1, R1), df2 (S, A2, R2).
// The gradient with respect to x is Apply of dy with trans inverted; [Back] gives
// both. Sums in T. Nothing may overlap; it panics if the shapes disagree. p and w
// may be nil.
func ApplyGrad[T Float](p *kernel.Pool, w *Work[T], df1, df2 []T, dy []T, lddy int, x []T, ldx, rows int, f Factor[T], trans bool, alpha T) {
	if trans {
		// ⟨dy, x Kᵀ⟩ = ⟨x, dy K⟩: the same sums with the two exchanged.
		x, ldx, dy, lddy = dy, lddy, x, ldx
	}
	Back(p, w, nil, 0, df1, df2, dy, lddy, x, ldx, rows, f, alpha, 0)
}

// backParts is how many sums of gradients are made side by side, whatever the
// number of threads.
const backParts = 16

// Back is the whole gradient of y = alpha·x K: it writes dx = alpha·dy Kᵀ + beta·dx
// unless dx is nil, and adds to df1 and df2 what [ApplyGrad] adds. What the three
// have in common is computed once: with dY_t F2_kᵀ at hand for dx,
//
//	dF1_k += alpha·Σ_t X_t (dY_t F2_kᵀ)ᵀ    dF2_k += alpha·Σ_t (F1_kᵀ X_t)ᵀ dY_t
//
// or the mirror image with F1_k dY_t, whichever takes fewer operations. dx (rows,
// N), rows lddx apart, may be x itself, and must not overlap anything else.
func Back[T Float](p *kernel.Pool, w *Work[T], dx []T, lddx int, df1, df2 []T, dy []T, lddy int, x []T, ldx, rows int, f Factor[T], alpha, beta T) {
	f.must()
	length("df1", df1, len(f.F1))
	length("df2", df2, len(f.F2))
	if w == nil {
		w = &Work[T]{}
	}
	g := sideways(f, false)
	b := back[T]{side: g, dx: dx, lddx: lddx, dy: dy, lddy: lddy, x: x, ldx: ldx, alpha: alpha, beta: beta}
	b.mirror = 2*f.A1*f.R1*f.R2+3*f.A1*f.A2*f.R2 < 2*f.A2*f.R1*f.R2+3*f.A1*f.A2*f.R1
	// F1 for the product with x and for that with dy.
	var forX, forDY []T
	if b.mirror {
		forDY = g.order(&w.f, true, true)
	} else {
		forX, forDY = g.order(&w.f, true, false), g.order(&w.v, false, true)
	}
	size := len(f.F1) + len(f.F2)
	parts := max(1, min(backParts, rows/8))
	sums := grow(&w.sums, parts*size)
	clear(sums)
	ws := w.of(p.Threads())
	p.Run(parts, func(worker, part int) {
		lo, hi := rows*part/parts, rows*(part+1)/parts
		chunks := max(1, (hi-lo+g.tokens-1)/g.tokens)
		s := sums[part*size:][:size]
		for c := range chunks {
			b.chunk(&ws[worker], s[:len(f.F1)], s[len(f.F1):], forX, forDY, lo+(hi-lo)*c/chunks, lo+(hi-lo)*(c+1)/chunks)
		}
	})
	for part := range parts {
		s := sums[part*size:][:size]
		b.add(df1, s)
		for i, v := range s[len(f.F1):] {
			df2[i] += alpha * v
		}
	}
}

// back is one call of Back.
type back[T Float] struct {
	side[T]
	mirror      bool
	dx, dy, x   []T
	lddx        int
	lddy, ldx   int
	alpha, beta T
}

// chunk adds the sums of rows [t0, t1) to d1 and d2, and writes their dx.
func (b *back[T]) chunk(w *Work[T], d1, d2, forX, forDY []T, t0, t1 int) {
	n := t1 - t0
	if n == 0 {
		return
	}
	gx := b.gather(&w.x, b.x[t0*b.ldx:], b.ldx, n, b.A1, b.A2, b.N)
	gd := b.gather(&w.y, b.dy[t0*b.lddy:], b.lddy, n, b.R1, b.R2, b.M)
	var dx []T
	if b.dx != nil {
		dx = grow(&w.f, b.A1*n*b.A2)
	}
	if b.mirror {
		b.secondFirst(w, d1, d2, dx, gx, gd, forDY, n)
	} else {
		b.firstSecond(w, d1, d2, dx, gx, gd, forX, forDY, n)
	}
	if dx != nil {
		// dx sees x from the other side.
		o := side[T]{r1: b.A1, r2: b.A2, m: b.N}
		o.scatter(b.dx[t0*b.lddx:], b.lddx, dx, n, b.beta)
	}
}

// firstSecond goes by V_k = dY F2_kᵀ and U_k = F1_kᵀ X; d1 is (S, R1, A1).
func (b *back[T]) firstSecond(w *Work[T], d1, d2, dx, gx, gd, forX, forDY []T, n int) {
	size := b.R1 * n * b.A2
	v, u := grow(&w.v, b.S*size), grow(&w.u, b.S*size)
	for k := range b.S {
		gemm(nil, false, true, b.R1*n, b.A2, b.R2, 1, gd, b.R2, b.f2(k), b.R2, 0, v[k*size:], b.A2)
	}
	if dx != nil {
		gemm(nil, true, false, b.A1, n*b.A2, b.S*b.R1, b.alpha, forDY, b.A1, v, n*b.A2, 0, dx, n*b.A2)
	}
	gemm(nil, false, true, b.S*b.R1, b.A1, n*b.A2, 1, v, n*b.A2, gx, n*b.A2, 1, d1, b.A1)
	gemm(nil, true, false, b.S*b.R1, n*b.A2, b.A1, 1, forX, b.S*b.R1, gx, n*b.A2, 0, u, n*b.A2)
	for k := range b.S {
		gemm(nil, true, false, b.A2, b.R2, b.R1*n, 1, u[k*size:], b.A2, gd, b.R2, 1, d2[k*b.A2*b.R2:], b.R2)
	}
}

// secondFirst goes by W_k = F1_k dY and P_k = X F2_k; d1 is (S, A1, R1).
func (b *back[T]) secondFirst(w *Work[T], d1, d2, dx, gx, gd, forDY []T, n int) {
	size := b.A1 * n * b.R2
	v, u := grow(&w.v, b.S*size), grow(&w.u, b.S*size)
	gemm(nil, true, false, b.S*b.A1, n*b.R2, b.R1, 1, forDY, b.S*b.A1, gd, n*b.R2, 0, v, n*b.R2)
	for k := range b.S {
		if dx != nil {
			gemm(nil, false, true, b.A1*n, b.A2, b.R2, b.alpha, v[k*size:], b.R2, b.f2(k), b.R2, bit[T](k > 0), dx, b.A2)
		}
		gemm(nil, true, false, b.A2, b.R2, b.A1*n, 1, gx, b.A2, v[k*size:], b.R2, 1, d2[k*b.A2*b.R2:], b.R2)
		gemm(nil, false, false, b.A1*n, b.R2, b.A2, 1, gx, b.A2, b.f2(k), b.R2, 0, u[k*size:], b.R2)
	}
	gemm(nil, false, true, b.S*b.A1, b.R1, n*b.R2, 1, u, n*b.R2, gd, n*b.R2, 1, d1, b.R1)
}

// add adds alpha times a part's sum to df1.
func (b *back[T]) add(df1, d1 []T) {
	for k := range b.S {
		for i := range b.A1 {
			row := df1[(k*b.A1+i)*b.R1:][:b.R1]
			for j := range row {
				if b.mirror {
					row[j] += b.alpha * d1[(k*b.A1+i)*b.R1+j]
				} else {
					row[j] += b.alpha * d1[(k*b.R1+j)*b.A1+i]
				}
			}
		}
	}
}
