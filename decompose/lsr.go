package decompose

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// half is one thin matrix K (n, r) = Σ_k F1_k ⊗ F2_k of an update, and its
// dense form: A, or the transpose of B.
type half struct {
	kron.Factor[float64]
	k []float64 // (n, r)
}

func newHalf(s kron.Shape) *half {
	f := kron.Factor[float64]{Shape: s, F1: make([]float64, s.S*s.A1*s.R1), F2: make([]float64, s.S*s.A2*s.R2)}
	return &half{Factor: f, k: make([]float64, s.N*s.M)}
}

func (h *half) materialize(p *kernel.Pool) { kron.Materialize(p, nil, h.k, h.Factor) }

// gram is Kᵀ K (r, r).
func (h *half) gram(p *kernel.Pool) []float64 {
	g := make([]float64, h.M*h.M)
	kernel.GemmF64(p, true, false, h.M, h.M, h.N, 1, h.k, h.M, h.k, h.M, 0, g, h.M)
	return g
}

// side is one of the two sets of small matrices of a half, for the least
// squares problem in it: rows of K are x·sx + y·sy, columns u·tx + v·ty, for x,
// u of the side that is solved for and y, v of the other.
type side struct {
	s              int
	x, y           []float64 // (s, ax, rx), (s, ay, ry)
	ax, rx, ay, ry int
	sx, sy, tx, ty int
	n, r           int
}

func (h *half) sides() [2]side {
	return [2]side{
		{h.S, h.F1, h.F2, h.A1, h.R1, h.A2, h.R2, h.A2, 1, h.R2, 1, h.N, h.M},
		{h.S, h.F2, h.F1, h.A2, h.R2, h.A1, h.R1, 1, h.A2, 1, h.R2, h.N, h.M},
	}
}

// rows is how many y give a row that is not cut off, for one x.
func (q *side) rows(x int) int {
	if x*q.sx >= q.n {
		return 0
	}
	return min(q.ay, (q.n-x*q.sx+q.sy-1)/q.sy)
}

// damping of a least squares problem, relative to its mean diagonal: it holds
// the old solution where the problem does not determine one.
const damping = 1e-9

// solve replaces x by the minimiser of tr(K g Kᵀ) - 2 tr(K cᵀ), the other side
// held fixed: g (r, r), rhs = mat(y) R(c)ᵀ (s, ax·rx), with R(c) 0 where K is
// cut. The rows of the small matrices are independent, with one matrix of
// normal equations for all that are cut alike.
func (q *side) solve(rhs, g []float64) error {
	size := q.s * q.rx
	groups := map[int][]int{}
	var counts []int
	for x := range q.ax {
		c := q.rows(x)
		if c > 0 && groups[c] == nil {
			counts = append(counts, c)
		}
		groups[c] = append(groups[c], x)
	}
	for _, count := range counts {
		chol, ridge, err := q.normal(g, count)
		if err != nil {
			return err
		}
		xs := groups[count]
		b := blas64.General{Rows: size, Cols: len(xs), Stride: len(xs), Data: make([]float64, size*len(xs))}
		for j, x := range xs {
			for k := range q.s {
				at := (k*q.ax + x) * q.rx
				for u := range q.rx {
					b.Data[(k*q.rx+u)*b.Stride+j] = rhs[at+u] + ridge*q.x[at+u]
				}
			}
		}
		lapack64.Potrs(chol, b)
		for j, x := range xs {
			for k := range q.s {
				at := (k*q.ax + x) * q.rx
				for u := range q.rx {
					q.x[at+u] = b.Data[(k*q.rx+u)*b.Stride+j]
				}
			}
		}
	}
	return nil
}

// errSingular is of a fit that broke down: its factors grew against each other until their
// products cancel.
var errSingular = errors.New("least squares problem is not positive definite")

// normal returns the Cholesky factor of the matrix of the normal equations with
// y < count, damped, and the damping.
func (q *side) normal(g []float64, count int) (blas64.Triangular, float64, error) {
	size := q.s * q.rx
	nm := q.equations(g, count)
	trace := 0.0
	for i := range size {
		trace += nm[i*size+i]
	}
	ridge := damping * trace / float64(size)
	if !(ridge > 0) {
		ridge = 1
	}
	// Where ΔW has a smaller rank than its update, nearly all of the matrix may
	// be rounding error: more damping then finds one of many equal solutions.
	first := true
	for ; ridge < 1e-2*trace || first; ridge *= 1e3 {
		first = false
		c := slices.Clone(nm)
		for i := range size {
			c[i*size+i] += ridge
		}
		chol, ok := lapack64.Potrf(blas64.Symmetric{N: size, Stride: size, Data: c, Uplo: blas.Upper})
		if ok {
			return chol, ridge, nil
		}
	}
	return blas64.Triangular{}, 0, fmt.Errorf("%w: size %d", errSingular, size)
}

// equations returns the matrix of the normal equations (s·rx, s·rx):
// Σ_ab F[k,a;l,b] G[u,a;v,b] at (k,u;l,v), with F the products of the other
// side's columns over y < count. It is one product of the two rearranged.
func (q *side) equations(g []float64, count int) []float64 {
	w := q.s * q.ry
	f := make([]float64, count*w) // (count, s·ry)
	for k := range q.s {
		for y := range count {
			copy(f[y*w+k*q.ry:][:q.ry], q.y[(k*q.ay+y)*q.ry:][:q.ry])
		}
	}
	m := make([]float64, w*w)
	kernel.GemmF64(nil, true, false, w, w, count, 1, f, w, f, w, 0, m, w)
	pairs, xs := q.ry*q.ry, q.rx*q.rx
	mm, gg := make([]float64, q.s*q.s*pairs), make([]float64, xs*pairs)
	for k := range q.s {
		for l := range q.s {
			for a := range q.ry {
				copy(mm[(k*q.s+l)*pairs+a*q.ry:][:q.ry], m[(k*q.ry+a)*w+l*q.ry:])
			}
		}
	}
	for u := range q.rx {
		for v := range q.rx {
			to := gg[(u*q.rx+v)*pairs:][:pairs]
			for a := range q.ry {
				from := g[(u*q.tx+a*q.ty)*q.r+v*q.tx:]
				for b := range q.ry {
					to[a*q.ry+b] = from[b*q.ty]
				}
			}
		}
	}
	prod := make([]float64, q.s*q.s*xs)
	kernel.GemmF64(nil, false, true, q.s*q.s, xs, pairs, 1, mm, pairs, gg, pairs, 0, prod, xs)
	size := q.s * q.rx
	nm := make([]float64, size*size)
	for k := range q.s {
		for l := range q.s {
			for u := range q.rx {
				copy(nm[(k*q.rx+u)*size+l*q.rx:][:q.rx], prod[(k*q.s+l)*xs+u*q.rx:])
			}
		}
	}
	return nm
}

// improve solves for both sides of h in turn, twice.
func (h *half) improve(p *kernel.Pool, c, g []float64) error {
	m1, m2 := h.A1*h.R1, h.A2*h.R2
	rc := make([]float64, m1*m2)
	kron.Rearrange(rc, c, h.Shape)
	sides := h.sides()
	r1, r2 := make([]float64, h.S*m1), make([]float64, h.S*m2)
	for range 2 {
		kernel.GemmF64(p, false, true, h.S, m1, m2, 1, h.F2, m2, rc, m2, 0, r1, m1)
		if err := sides[0].solve(r1, g); err != nil {
			return err
		}
		kernel.GemmF64(p, false, false, h.S, m2, m1, 1, h.F1, m1, rc, m2, 0, r2, m2)
		if err := sides[1].solve(r2, g); err != nil {
			return err
		}
	}
	return nil
}

// products gives the two products with a fixed ΔW (in, out).
type products struct {
	norm2 float64
	right func(dst, x []float64, r int) // ΔW X (in, r) for X (out, r)
	left  func(dst, y []float64, r int) // ΔWᵀ Y (out, r) for Y (in, r)
}

// compressed gives the products of U diag(S) Vᵀ.
func compressed(p *kernel.Pool, d *SVD, in, out int) products {
	l := len(d.S)
	us, vs := make([]float64, in*l), make([]float64, out*l)
	norm2 := 0.0
	for j, s := range d.S {
		norm2 += s * s
		for i := range in {
			us[i*l+j] = d.U[i*l+j] * s
		}
		for i := range out {
			vs[i*l+j] = d.V[i*l+j] * s
		}
	}
	thin := func(big, small []float64, n, m int) func(dst, x []float64, r int) {
		return func(dst, x []float64, r int) {
			t := make([]float64, l*r)
			kernel.GemmF64(p, true, false, l, r, m, 1, small, l, x, r, 0, t, r)
			kernel.GemmF64(p, false, false, n, r, l, 1, big, l, t, r, 0, dst, r)
		}
	}
	return products{norm2, thin(us, d.V, in, out), thin(vs, d.U, out, in)}
}

// lsrFit is an update in the making: ΔW ≈ A Bᵀ, A (in, r), B (out, r).
type lsrFit struct {
	pool   *kernel.Pool
	a, b   *half
	error2 float64
	// hopeless says that settle saw no way below the error that it was given, or that
	// the fit broke down.
	hopeless bool
}

// sweep improves A and then B once by alternating least squares and sets
// error2. No step makes the error larger.
func (f *lsrFit) sweep(t products) error {
	r := f.a.M
	for _, turn := range []struct {
		h, other *half
		mul      func(dst, x []float64, r int)
	}{{f.a, f.b, t.right}, {f.b, f.a, t.left}} {
		c := make([]float64, turn.h.N*r)
		turn.mul(c, turn.other.k, r)
		g := turn.other.gram(f.pool)
		if err := turn.h.improve(f.pool, c, g); err != nil {
			return err
		}
		turn.h.materialize(f.pool)
		f.error2 = quadratic(t.norm2, turn.h, f.pool, c, g)
	}
	f.balance()
	return nil
}

// quadratic is ‖ΔW - A Bᵀ‖² for a half with its c and g.
func quadratic(norm2 float64, h *half, p *kernel.Pool, c, g []float64) float64 {
	dot, sq := 0.0, 0.0
	for i, v := range h.k {
		dot += v * c[i]
	}
	for i, v := range h.gram(p) {
		sq += v * g[i]
	}
	return max(0, norm2-2*dot+sq)
}

// balance gives A and B the same norm, and the two matrices of each term.
func (f *lsrFit) balance() {
	na, nb := norm(f.a.k), norm(f.b.k)
	if na == 0 || nb == 0 {
		return
	}
	for _, s := range []struct {
		h *half
		c float64
	}{{f.a, math.Sqrt(nb / na)}, {f.b, math.Sqrt(na / nb)}} {
		scale(s.h.k, s.c)
		m1, m2 := s.h.A1*s.h.R1, s.h.A2*s.h.R2
		for k := range s.h.S {
			x, y := s.h.F1[k*m1:][:m1], s.h.F2[k*m2:][:m2]
			n1, n2 := norm(x), norm(y)
			if n1 == 0 || n2 == 0 {
				scale(x, s.c)
				continue
			}
			scale(x, s.c*math.Sqrt(n2/n1))
			scale(y, math.Sqrt(n1/n2))
		}
	}
}

func norm(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	return math.Sqrt(sum)
}

func scale(x []float64, c float64) {
	for i := range x {
		x[i] *= c
	}
}
