package decompose

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

const (
	// trialSweeps are spent on each start before the best goes on.
	trialSweeps = 6
	// coarseSweeps and fineSweeps bound the sweeps on the leading triplets
	// and on ΔW itself; both end when a sweep lowers the squared error by less
	// than sweepGain of it.
	coarseSweeps = 80
	fineSweeps   = 12
	sweepGain    = 1e-4
	// moreStarts are tried beside that of the SVD.
	moreStarts = 7
	// spareTriplets are kept beyond the rank for the sweeps on triplets.
	spareTriplets = 8
)

// FitLSR finds factors A (in, r) of shape a and B (r, out) of shape b whose
// product is near to w (in, out), row-major, in the Frobenius norm, and
// returns them with the squared error ‖w - A B‖².
//
// For any invertible G, A B = (A G)(G⁻¹ B), so that the truncated SVD of w
// fixes A and B only up to G, and few choices of G have a low separation rank.
// The fit therefore starts from the SVD's factors, truncated to s terms each,
// and, unless that comes near the SVD's own error, from up to seven random ones,
// and improves the small matrices in turn by
// alternating least squares, of which every step is solved exactly and none
// raises the error: first on the leading singular triplets of w, where a sweep
// costs no more than reading the factors, then on w itself. The problem is not
// convex: planted factors are found in some ten sweeps from most starts where s
// is small beside the sides of the factors, but no start is sure to.
//
// Products with w are float32, everything else float64. The start is drawn
// from seed and the result does not depend on the pool. It panics if the
// shapes do not compose to w's. NaN and infinities in w are an error.
func FitLSR(p *kernel.Pool, w []float32, a, b kron.Shape, seed uint64) (fa, fb kron.Factor[float64], error2 float64, err error) {
	if a.M != b.N || a.R1 != b.A1 || a.R2 != b.A2 || len(w) != a.N*b.M {
		panic("decompose: " + a.String() + " and " + b.String() + " are no update of " + strconv.Itoa(len(w)) + " elements")
	}
	d, norm2, err := Leading(p, w, a.N, b.M, min(a.M+spareTriplets, a.N, b.M), seed)
	if err != nil {
		return fa, fb, 0, err
	}
	m := &matrix{p: p, w: w, rows: a.N, cols: b.M, norm2: norm2, trials: moreStarts}
	f, err := m.fit(d, a, b, seed)
	if err != nil {
		return fa, fb, 0, err
	}
	return f.a.Factor, transposed(f.b.Factor), f.error2, nil
}

// matrix is ΔW (in, out) as it is stored: (rows, cols), which is (out, in) if
// flip.
type matrix struct {
	p          *kernel.Pool
	w          []float32
	rows, cols int
	flip       bool
	norm2      float64
	trials     int // random starts
}

// products multiplies by ΔW in float32.
func (m *matrix) products() products {
	mul := func(trans bool) func(dst, x []float64, r int) {
		return func(dst, x []float64, r int) {
			n, k := m.rows, m.cols
			if trans {
				n, k = k, n
			}
			x32, y := make([]float32, k*r), make([]float32, n*r)
			narrowInto(x32, x)
			kernel.Gemm(m.p, trans, false, n, r, k, 1, m.w, m.cols, x32, r, 0, y, r)
			for i, v := range y {
				dst[i] = float64(v)
			}
		}
	}
	return products{m.norm2, mul(m.flip), mul(!m.flip)}
}

// residual2 is ‖ΔW - A Bᵀ‖², from the elements of the difference.
func (m *matrix) residual2(a, b *half) float64 {
	x, y := a, b
	if m.flip {
		x, y = b, a
	}
	const block = 256
	sum := 0.0
	buf := make([]float64, block*m.cols)
	for lo := 0; lo < m.rows; lo += block {
		n := min(block, m.rows-lo)
		kernel.GemmF64(m.p, false, true, n, m.cols, a.M, 1, x.k[lo*a.M:], a.M, y.k, a.M, 0, buf, m.cols)
		for i, v := range m.w[lo*m.cols:][:n*m.cols] {
			e := float64(v) - buf[i]
			sum += e * e
		}
	}
	return sum
}

// fit is FitLSR on given leading triplets, at least as many as the rank where
// there are.
func (m *matrix) fit(d *SVD, a, b kron.Shape, seed uint64) (*lsrFit, error) {
	sb := kron.Shape{S: b.S, A1: b.R1, R1: b.A1, A2: b.R2, R2: b.A2, N: b.M, M: b.N} // of Bᵀ
	if m.norm2 == 0 {
		return &lsrFit{a: newHalf(a), b: newHalf(sb)}, nil
	}
	coarse := compressed(m.p, d, a.N, sb.N)
	best, err := m.starts(d, a, sb, coarse, seed)
	if err != nil {
		return nil, err
	}
	best.error2 = math.Inf(1)
	if err := best.settle(m.products(), fineSweeps); err != nil {
		return nil, err
	}
	best.error2 = m.residual2(best.a, best.b)
	return best, nil
}

// starts tries the start from the SVD and random ones, until one comes near the
// best that its rank allows, and goes on with the two best.
func (m *matrix) starts(d *SVD, a, sb kron.Shape, t products, seed uint64) (*lsrFit, error) {
	bound := t.norm2 // no update of this rank leaves less
	for _, s := range d.S[:min(a.M, len(d.S))] {
		bound -= s * s
	}
	good := 1.05*max(bound, 0) + 1e-4*t.norm2
	var tried []*lsrFit
	for i := range 1 + m.trials {
		f, err := m.start(d, a, sb, i, seed)
		if err != nil {
			return nil, err
		}
		if err := f.settle(t, trialSweeps); err != nil {
			return nil, err
		}
		tried = append(tried, f)
		if f.error2 <= good {
			break
		}
	}
	slices.SortStableFunc(tried, func(x, y *lsrFit) int { return cmp.Compare(x.error2, y.error2) })
	tried = tried[:min(2, len(tried))]
	for _, f := range tried {
		if err := f.settle(t, coarseSweeps); err != nil {
			return nil, err
		}
		if f.error2 <= good {
			return f, nil
		}
	}
	return slices.MinFunc(tried, func(x, y *lsrFit) int { return cmp.Compare(x.error2, y.error2) }), nil
}

// start makes start i: 0 from the singular triplets, others at random.
func (m *matrix) start(d *SVD, a, sb kron.Shape, i int, seed uint64) (*lsrFit, error) {
	src := adapter.Source{Seed: seed}
	f := &lsrFit{pool: m.p, a: newHalf(a), b: newHalf(sb), error2: math.Inf(1)}
	for j, h := range []*half{f.a, f.b} {
		u := d.U
		if j == 1 {
			u = d.V
		}
		if i > 0 {
			h.random(src, "start "+strconv.Itoa(i)+" "+strconv.Itoa(j))
		} else {
			var err error
			if h.Factor, err = rooted(m.p, u, d.S, h.Shape, seed); err != nil {
				return nil, err
			}
		}
		h.materialize(m.p)
	}
	return f, nil
}

// rooted is U √S for the rank of s, truncated to the terms of s.
func rooted(p *kernel.Pool, u, sv []float64, s kron.Shape, seed uint64) (kron.Factor[float64], error) {
	k, l := make([]float64, s.N*s.M), len(sv)
	for i := range s.N {
		for j := range min(l, s.M) {
			k[i*s.M+j] = u[i*l+j] * math.Sqrt(sv[j])
		}
	}
	return NearestKronecker(p, k, s, seed)
}

func (h *half) random(src adapter.Source, name string) {
	for i, f := range [][]float64{h.F1, h.F2} {
		x := make([]float32, len(f))
		src.Normal(name+" "+strconv.Itoa(i), x, 1)
		for j, v := range x {
			f[j] = float64(v)
		}
	}
}

// settle sweeps until the gain is small.
func (f *lsrFit) settle(t products, sweeps int) error {
	for range sweeps {
		before := f.error2
		if err := f.sweep(t); err != nil {
			return err
		}
		if before-f.error2 <= sweepGain*f.error2 || f.error2 <= roundOff*roundOff*t.norm2 {
			return nil
		}
	}
	return nil
}

// transposed returns the factor of Kᵀ.
func transposed(f kron.Factor[float64]) kron.Factor[float64] {
	g := kron.Factor[float64]{Shape: kron.Shape{S: f.S, A1: f.R1, R1: f.A1, A2: f.R2, R2: f.A2, N: f.M, M: f.N}, F1: make([]float64, len(f.F1)), F2: make([]float64, len(f.F2))}
	for k := range f.S {
		flip(g.F1[k*f.A1*f.R1:], f.F1[k*f.A1*f.R1:], f.A1, f.R1)
		flip(g.F2[k*f.A2*f.R2:], f.F2[k*f.A2*f.R2:], f.A2, f.R2)
	}
	return g
}

// flip writes srcᵀ for src (rows, cols).
func flip(dst, src []float64, rows, cols int) {
	for i := range rows {
		for j := range cols {
			dst[j*rows+i] = src[i*cols+j]
		}
	}
}

// lsrShapes returns the shapes of A and B in some settings.
func lsrShapes(site adapter.Site, set adapter.Settings) (a, b kron.Shape, err error) {
	k, err := adapter.Lookup(adapter.MethodLSR)
	if err != nil {
		return a, b, err
	}
	specs, err := k.Params(site, set)
	if err != nil {
		return a, b, err
	}
	s := func(i, j int) int { return specs[i].Shape[j] }
	a = kron.Shape{S: s(0, 0), A1: s(0, 1), R1: s(0, 2), A2: s(1, 1), R2: s(1, 2), N: site.In, M: s(0, 2) * s(1, 2)}
	b = kron.Shape{S: s(2, 0), A1: s(2, 1), R1: s(2, 2), A2: s(3, 1), R2: s(3, 2), N: a.M, M: site.Out}
	return a, b, nil
}

// lsrSizes lists the sizes to try, cheapest first.
func (f *fitting) lsrSizes() ([]adapter.Settings, error) {
	if !f.sized() {
		return []adapter.Settings{f.set}, nil
	}
	ranks := []adapter.Rank{f.set.Rank}
	if !f.FixedRank {
		ranks = nil
		for r := 1; r*r <= min(f.MaxRank, f.site.In, f.site.Out); r *= 2 {
			ranks = append(ranks, adapter.Rank{R1: r, R2: r})
		}
	}
	type sized struct {
		adapter.Settings
		params int
	}
	var all []sized
	for _, r := range ranks {
		for s := 1; ; s *= 2 {
			set := f.set
			set.Rank, set.Terms = r, s
			a, b, err := lsrShapes(f.site, set)
			if err != nil {
				return nil, err
			}
			n := a.Params() + b.Params()
			// More terms than either rearranged factor has rank add nothing, nor does
			// what costs as much as the factors of that rank themselves.
			if f.mixed() && n >= plainParams(f.site, r.R()) || s > 1 && s/2 >= max(min(a.A1*a.R1, a.A2*a.R2), min(b.A1*b.R1, b.A2*b.R2)) || 2*n > f.site.In*f.site.Out || f.Budget > 0 && int64(n) > f.Budget {
				break
			}
			all = append(all, sized{set, n})
		}
	}
	slices.SortStableFunc(all, func(x, y sized) int { return cmp.Compare(x.params, y.params) })
	sets := make([]adapter.Settings, len(all))
	for i, s := range all {
		sets[i] = s.Settings
	}
	return sets, nil
}

// mixed says whether a module may also get plain factors, which are LSR with
// the splits in x 1 and out x 1: where size and splits are free to choose. Then
// no LSR update of some size is further from ΔW than LoRA's.
func (f *fitting) mixed() bool {
	none := [2]int{}
	return f.sized() && !f.FixedRank && f.set.Split == none && f.set.SplitOut == none
}

// plainParams is the number of parameters of plain factors of rank r.
func plainParams(site adapter.Site, r int) int { return r*(site.In+site.Out) + 2 }

// plainRungs are the plain factors of every rank that d has triplets for;
// errors are the squared errors of keeping 0, 1, ... of them.
func (f *fitting) plainRungs(d *SVD, errors []float64) []rung {
	n := min(len(d.S), f.MaxRank)
	var rungs []rung
	for r := 1; r <= n; r++ {
		if f.Budget > 0 && int64(plainParams(f.site, r)) > f.Budget {
			break
		}
		rungs = append(rungs, rung{rank: adapter.Rank{R1: r, R2: 1}, terms: 1, params: plainParams(f.site, r), plain: true, error2: errors[r]})
	}
	return rungs
}

// plain returns the tensors of plain factors of any rank up to r.
func (f *fitting) plain(d *SVD, r int) func(r int) [][]float32 {
	in, out := f.site.In, f.site.Out
	d = leadingOf(d, in, out, r)
	n := len(d.S)
	left, right := halves(d, in, out) // (n, in), (out, n)
	return func(r int) [][]float32 {
		a, b := make([]float32, in*r), make([]float32, r*out)
		kernel.Transpose(a, r, left, in, r, in)
		kernel.Transpose(b, out, right, n, out, r)
		return [][]float32{a, {1}, b, {1}}
	}
}

func (f *fitting) lsr() (*ladder, error) {
	sets, err := f.lsrSizes()
	if err != nil {
		return nil, err
	}
	most := 1
	for _, s := range sets {
		most = max(most, s.Rank.R())
	}
	d, norm2, err := f.triplets(min(most+spareTriplets, f.site.In, f.site.Out))
	if err != nil {
		return nil, err
	}
	l := &ladder{norm2: norm2}
	if norm2 == 0 {
		return l, nil
	}
	bounds := errors2(f.pool, d, f.d.d, f.d.rows, f.d.cols, f.site.Transposed, norm2)
	var plains []rung
	if f.mixed() {
		plains = f.plainRungs(d, bounds)
	}
	if l.rungs, err = f.fits(sets, d, bounds, plains); err != nil {
		return nil, err
	}
	l.rungs = append(l.rungs, plains...)
	if f.sized() {
		slices.SortStableFunc(l.rungs, func(x, y rung) int { return cmp.Compare(x.params, y.params) })
		l.rungs = falling(l.rungs)
	}
	// Only the triplets that may still be asked for are kept.
	rest := l.rungs
	if i, ok := l.reach(f.MaxError); ok && f.byError() {
		rest = rest[i : i+1]
	}
	largest := 0
	for _, r := range rest {
		if r.plain {
			largest = max(largest, r.rank.R1)
		}
	}
	plain := f.plain(d, largest)
	l.build = func(i int) [][]float32 {
		if r := l.rungs[i]; r.plain {
			return plain(r.rank.R1)
		}
		return l.rungs[i].tensors
	}
	return l, nil
}

// byError says whether the smallest size within an error is asked for.
func (f *fitting) byError() bool { return f.MaxError > 0 && f.Budget == 0 }

// fits fits ΔW in each of the sizes, cheapest first, until one is within the
// error that is asked for or the plain factors that are cost less. bounds are
// the squared errors that a rank leaves at least.
func (f *fitting) fits(sets []adapter.Settings, d *SVD, bounds []float64, plains []rung) ([]rung, error) {
	m := &matrix{p: f.pool, w: f.d.d, rows: f.d.rows, cols: f.d.cols, flip: f.site.Transposed, norm2: bounds[0], trials: moreStarts}
	if len(sets) > 1 {
		m.trials = 1
	}
	target, limit := f.MaxError*f.MaxError*bounds[0], math.MaxInt
	if i := slices.IndexFunc(plains, func(r rung) bool { return r.error2 <= target }); i >= 0 && f.byError() {
		limit = plains[i].params
	}
	var rungs []rung
	for _, set := range sets {
		r := set.Rank.R()
		a, b, err := lsrShapes(f.site, set)
		if err != nil {
			return nil, err
		}
		params := a.Params() + b.Params()
		if params >= limit {
			break
		}
		// No update of that rank is nearer than the SVD's.
		if f.byError() && r < len(d.S)-spareTriplets && bounds[r] > target {
			continue
		}
		fit, err := m.fit(leadingOf(d, f.site.In, f.site.Out, r+spareTriplets), a, b, f.Config.Seed)
		if err != nil {
			return nil, err
		}
		rungs = append(rungs, rung{rank: set.Rank, terms: set.Terms, params: params, error2: fit.error2, tensors: fit.tensors()})
		if f.byError() && fit.error2 <= target {
			break
		}
	}
	return rungs, nil
}

// leadingOf keeps the first r triplets.
func leadingOf(d *SVD, in, out, r int) *SVD {
	n := len(d.S)
	if r >= n {
		return d
	}
	cut := func(x []float64, rows int) []float64 {
		y := make([]float64, rows*r)
		for i := range rows {
			copy(y[i*r:(i+1)*r], x[i*n:])
		}
		return y
	}
	return &SVD{U: cut(d.U, in), S: d.S[:r], V: cut(d.V, out)}
}

// tensors are A1, A2, B1, B2 of an lsr module.
func (f *lsrFit) tensors() [][]float32 {
	b := transposed(f.b.Factor)
	ts := make([][]float32, 4)
	for i, x := range [][]float64{f.a.F1, f.a.F2, b.F1, b.F2} {
		ts[i] = make([]float32, len(x))
		narrowInto(ts[i], x)
	}
	return ts
}
