package decompose

import (
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

const (
	// screenTriplets are looked at for updates that are plain on one side.
	screenTriplets = 32
	// screenSteps are taken for a split of rank 1 and refineSteps for each rank
	// of the refined ones, which are the most promising of each side.
	screenSteps  = 4
	refineSteps  = 6
	refinedSplit = 4
	// mostOneSided bounds the rank of updates that are plain on one side.
	mostOneSided = 16
)

// oneSided proposes updates of one term that are plain on one side: of splits
// a1·a2 of in,
//
//	A = P ⊗ y (in, r) or y ⊗ P,  P (a1, r), y (a2),  B (r, out),
//
// and the same with the sides exchanged. They need r(a1 + out) + a2
// parameters where LoRA needs r(in + out), and are near to ΔW where its leading
// singular vectors are products over a split of the dimension: the mean of an
// activation that is alike in all neurons, or few heads.
//
// Only the leading singular triplets of ΔW are looked at, by alternating
// projections, so that each guess is an error that its start does reach.
func (f *fitting) oneSided(d *SVD, norm2 float64, g *goal) ([]trial, error) {
	in, out := f.site.In, f.site.Out
	d = leadingOf(d, in, out, min(screenTriplets, len(d.S)))
	seen := *g
	seen.points = slices.Clone(g.points)
	var all []trial
	for _, side := range []struct {
		u, v     []float64
		n, other int
		flip     bool
	}{{d.U, d.V, in, out, false}, {d.V, d.U, out, in, true}} {
		z := weighted(side.u, d.S)
		for _, p := range promising(z, side.n, side.other, len(d.S)) {
			missed := 0
			for r := 1; r <= min(mostOneSided, p.free, side.other, len(d.S)) && missed < 2; r++ {
				params := r*(p.free+side.other) + side.n/p.free
				if f.Budget > 0 && int64(params) > f.Budget || params >= side.n*side.other {
					break
				}
				guess := norm2 - p.project(z, len(d.S), r, refineSteps)
				if guess >= g.below(params) {
					missed++
					continue
				}
				missed = 0
				t, err := f.trial(p.settings(f.set, r, side.other, side.flip))
				if err != nil {
					return nil, err
				}
				t.guess, t.start = guess, p.start(&t, f.pool, z, side.v, side.flip)
				all = append(all, t)
				seen.add(t.params, guess)
			}
		}
	}
	return slices.DeleteFunc(all, func(t trial) bool { return !seen.onHull(t.params, t.guess) }), nil
}

// weighted is U S.
func weighted(u, s []float64) []float64 {
	z := make([]float64, len(u))
	for i := range z {
		z[i] = u[i] * s[i%len(s)]
	}
	return z
}

// projection is a split of a dimension n into the index of P, free values, and
// that of y, and the best P and y so far.
type projection struct {
	free  int
	minor bool      // P has the faster index
	y     []float64 // (n/free), of norm 1
	w     []float64 // (l, r): P is the orthonormal basis of T(y) w
	p     []float64 // (free, r)
	got   float64   // squared norm of what the projection holds
}

// at is the row of index x of P and k of y.
func (p *projection) at(x, k int) int {
	if p.minor {
		return k*p.free + x
	}
	return x*len(p.y) + k
}

// promising returns the splits of n that hold most for their number of
// parameters with rank 1.
func promising(z []float64, n, other, l int) []*projection {
	var all []*projection
	for free := 2; free < n; free++ {
		if n%free != 0 {
			continue
		}
		for _, minor := range []bool{false, true} {
			p := &projection{free: free, minor: minor, y: make([]float64, n/free)}
			p.begin(z, l)
			p.project(z, l, 1, screenSteps)
			all = append(all, p)
		}
	}
	rate := func(p *projection) float64 { return p.got / float64(p.free+other+len(p.y)) }
	slices.SortStableFunc(all, func(x, y *projection) int {
		switch a, b := rate(x), rate(y); {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	return all[:min(refinedSplit, len(all))]
}

// begin sets y to the rows' leading direction in the first triplet.
func (p *projection) begin(z []float64, l int) {
	best := 0.0
	for x := range p.free {
		sum := 0.0
		for k := range p.y {
			v := z[p.at(x, k)*l]
			sum += v * v
		}
		if sum > best {
			best = sum
			for k := range p.y {
				p.y[k] = z[p.at(x, k)*l]
			}
		}
	}
	unitNorm(p.y)
}

// project improves P and y for rank r and returns what they hold of z (n, l):
// ‖Pᵀ T‖² with T = Σ_k y_k z[·, k] (free, l). No step lowers it.
func (p *projection) project(z []float64, l, r, steps int) float64 {
	w := make([]float64, l*r)
	had := 0
	if len(p.w) > 0 {
		had = len(p.w) / l
	}
	for j := range l {
		for c := range r {
			if c < had {
				w[j*r+c] = p.w[j*had+c]
			} else if j == c {
				w[j*r+c] = 1
			}
		}
	}
	p.w, p.p = w, make([]float64, p.free*r)
	for step := range steps {
		t := p.contract(z, l)
		multiply(p.p, t, p.w, p.free, l, r)
		gramSchmidt(p.p, p.free, r)
		p.got = multiplyT(p.w, p.p, t, p.free, r, l)
		if step == steps-1 {
			break
		}
		// y goes to the inner products with P Pᵀ T.
		m := make([]float64, p.free*l)
		for x := range p.free {
			for j := range l {
				for c := range r {
					m[x*l+j] += p.p[x*r+c] * p.w[j*r+c]
				}
			}
		}
		for k := range p.y {
			sum := 0.0
			for x := range p.free {
				row := z[p.at(x, k)*l:][:l]
				for j, v := range row {
					sum += v * m[x*l+j]
				}
			}
			p.y[k] = sum
		}
		unitNorm(p.y)
	}
	return p.got
}

// contract is T(y) (free, l).
func (p *projection) contract(z []float64, l int) []float64 {
	t := make([]float64, p.free*l)
	for x := range p.free {
		to := t[x*l:][:l]
		for k, c := range p.y {
			for j, v := range z[p.at(x, k)*l:][:l] {
				to[j] += c * v
			}
		}
	}
	return t
}

// settings are those of an update of rank r with this split of in, or of out if
// flip.
func (p *projection) settings(set adapter.Settings, r, other int, flip bool) adapter.Settings {
	set.Terms = 1
	set.Rank, set.Split, set.SplitOut = adapter.Rank{R1: r, R2: 1}, [2]int{p.free, len(p.y)}, [2]int{other, 1}
	if p.minor {
		set.Rank, set.Split, set.SplitOut = adapter.Rank{R1: 1, R2: r}, [2]int{len(p.y), p.free}, [2]int{1, other}
	}
	if flip {
		set.Split, set.SplitOut = set.SplitOut, set.Split
	}
	return set
}

// start is the update of the projection: P ⊗ y and, as p.w is Tᵀ P, V p.w.
func (p *projection) start(t *trial, pool *kernel.Pool, z, v []float64, flip bool) *lsrFit {
	r, l := t.Rank.R(), len(p.w)/t.Rank.R()
	f := &lsrFit{pool: pool, a: newHalf(t.a), b: newHalf(turned(t.b)), error2: math.Inf(1)}
	split, plain := f.a, f.b
	if flip {
		split, plain = f.b, f.a
	}
	s1, s2, p1, p2 := split.F1, split.F2, plain.F1, plain.F2
	if p.minor {
		s1, s2, p1, p2 = s2, s1, p2, p1
	}
	copy(s1, p.p)
	copy(s2, p.y)
	multiply(p1, v, p.w, len(v)/l, l, r)
	p2[0] = 1
	split.materialize(pool)
	plain.materialize(pool)
	f.balance()
	return f
}

// turned is the shape of the transpose.
func turned(s kron.Shape) kron.Shape {
	return kron.Shape{S: s.S, A1: s.R1, R1: s.A1, A2: s.R2, R2: s.A2, N: s.M, M: s.N}
}

func unitNorm(x []float64) {
	if n := norm(x); n > 0 {
		scale(x, 1/n)
	}
}

// multiply sets c (m, n) to a (m, k) b (k, n), for small n.
func multiply(c, a, b []float64, m, k, n int) {
	kernel.GemmF64(nil, false, false, m, n, k, 1, a, k, b, n, 0, c, n)
}

// multiplyT sets c (n, r) to bᵀ a for a (m, r), b (m, n) and returns ‖c‖².
func multiplyT(c, a, b []float64, m, r, n int) float64 {
	kernel.GemmF64(nil, true, false, n, r, m, 1, b, n, a, r, 0, c, r)
	s := norm(c)
	return s * s
}

// gramSchmidt makes the columns of x (rows, cols) orthonormal, or 0 where they
// depend on those before.
func gramSchmidt(x []float64, rows, cols int) {
	for c := range cols {
		before := 0.0
		for i := range rows {
			before += x[i*cols+c] * x[i*cols+c]
		}
		for range 2 {
			for b := range c {
				dot := 0.0
				for i := range rows {
					dot += x[i*cols+b] * x[i*cols+c]
				}
				for i := range rows {
					x[i*cols+c] -= dot * x[i*cols+b]
				}
			}
		}
		n := 0.0
		for i := range rows {
			n += x[i*cols+c] * x[i*cols+c]
		}
		s := 0.0
		if n > 1e-20*before {
			s = 1 / math.Sqrt(n)
		}
		for i := range rows {
			x[i*cols+c] *= s
		}
	}
}
