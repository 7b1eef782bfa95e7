package decompose

import (
	"cmp"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// trial is an LSR update of one size and form to be fitted.
type trial struct {
	adapter.Settings
	a, b   kron.Shape
	params int
	// guess is a squared error: one that no fit is below, or what start leaves.
	guess float64
	start *lsrFit // unless nil, where the fit starts
}

func (f *fitting) trial(set adapter.Settings) (trial, error) {
	a, b, err := adapter.LSRShapes(f.site, set)
	return trial{Settings: set, a: a, b: b, params: a.Params() + b.Params()}, err
}

// lsrSizes lists the sizes to try with the split of the settings, cheapest
// first.
func (f *fitting) lsrSizes() ([]trial, error) {
	if !f.sized() {
		t, err := f.trial(f.set)
		return []trial{t}, err
	}
	ranks := []adapter.Rank{f.set.Rank}
	if !f.FixedRank {
		ranks = nil
		for r := 1; r*r <= min(f.MaxRank, f.site.In, f.site.Out); r *= 2 {
			ranks = append(ranks, adapter.Rank{R1: r, R2: r})
		}
	}
	var all []trial
	for _, r := range ranks {
		for s := 1; ; s *= 2 {
			set := f.set
			set.Rank, set.Terms = r, s
			t, err := f.trial(set)
			if err != nil {
				return nil, err
			}
			a, b, n := t.a, t.b, t.params
			// More terms than either rearranged factor has rank add nothing, nor does
			// what costs as much as the factors of that rank themselves.
			if f.mixed() && n >= plainParams(f.site, r.R()) || s > 1 && s/2 >= max(min(a.A1*a.R1, a.A2*a.R2), min(b.A1*b.R1, b.A2*b.R2)) || 2*n > f.site.In*f.site.Out || f.Budget > 0 && int64(n) > f.Budget {
				break
			}
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(x, y trial) int { return cmp.Compare(x.params, y.params) })
	return all, nil
}

// mixed says whether a module may also get plain factors, which are LSR with
// the splits in x 1 and out x 1, and plain ones on one side: where size and
// splits are free to choose. Then no LSR update of some size is further from ΔW
// than LoRA's.
func (e *extraction) mixed() bool {
	none := [2]int{}
	c := e.Config.Settings
	return c.Method == adapter.MethodLSR && e.sized() && !e.FixedRank && c.Split == none && c.SplitOut == none
}

// passes is how often the modules are gone through: under a budget for mixed
// forms, plain factors show first which other forms can be worth a fit.
func (e *extraction) passes() int {
	if e.mixed() && e.Budget > 0 {
		return 2
	}
	return 1
}

// plainParams is the number of parameters of plain factors of rank r.
func plainParams(site adapter.Site, r int) int { return r * (site.In + site.Out) }

// plainRungs are the plain factors of every rank that there are triplets for;
// errors are the squared errors of keeping 0, 1, ... of them.
func (f *fitting) plainRungs(errors []float64) []rung {
	var rungs []rung
	for r := 1; r <= min(len(errors)-1, f.MaxRank); r++ {
		if f.Budget > 0 && int64(plainParams(f.site, r)) > f.Budget {
			break
		}
		rungs = append(rungs, rung{rank: adapter.Rank{R1: r, R2: 1}, terms: 1, params: plainParams(f.site, r),
			split: [2]int{f.site.In, 1}, splitOut: [2]int{f.site.Out, 1}, error2: errors[r]})
	}
	return rungs
}

// triplets32 are singular triplets as plain factors hold them.
type triplets32 struct {
	in, out     int
	s           []float64
	left, right []float32 // (U √S)ᵀ (r, in), V √S (out, r)
}

func (t *triplets32) svd() *SVD {
	n := len(t.s)
	d := &SVD{U: make([]float64, t.in*n), S: t.s, V: make([]float64, t.out*n)}
	for j, s := range t.s {
		if s == 0 {
			continue
		}
		root := 1 / math.Sqrt(s)
		for i := range t.in {
			d.U[i*n+j] = float64(t.left[j*t.in+i]) * root
		}
		for i := range t.out {
			d.V[i*n+j] = float64(t.right[i*n+j]) * root
		}
	}
	return d
}

// plain returns the tensors of plain factors of rank r.
func (t *triplets32) plain(r int) [][]float32 {
	n := len(t.s)
	a, b := make([]float32, t.in*r), make([]float32, r*t.out)
	kernel.Transpose(a, r, t.left, t.in, r, t.in)
	kernel.Transpose(b, t.out, t.right, n, t.out, r)
	return [][]float32{a, b}
}

// lsr makes the ladder of an LSR update; of mixed forms under a budget only the
// plain factors, for improve to add the others to.
func (f *fitting) lsr() (*ladder, error) {
	sets, err := f.lsrSizes()
	if err != nil {
		return nil, err
	}
	least := 1
	for _, s := range sets {
		least = max(least, s.Rank.R())
	}
	least = min(least+spareTriplets, f.site.In, f.site.Out)
	var d *SVD
	var norm2 float64
	if f.mixed() {
		ask := func(r int) (*SVD, float64, error) { return f.triplets(max(r, least)) }
		d, norm2, err = f.enough(least, max(least, min(f.MaxRank, f.site.In, f.site.Out)), func(r int) int { return plainParams(f.site, r) }, ask)
	} else {
		d, norm2, err = f.triplets(least)
	}
	if err != nil {
		return nil, err
	}
	l := &ladder{norm2: norm2}
	if norm2 == 0 {
		return l, nil
	}
	l.bounds = errors2(f.pool, d, f.d.d, f.d.rows, f.d.cols, f.site.Transposed, norm2)
	if !f.mixed() {
		l.rungs, err = f.fits(sets, d, l.bounds)
		l.build = func(i int) [][]float32 { return l.rungs[i].tensors }
		return l, err
	}
	l.plain = f.plainRungs(l.bounds)
	l.rungs = slices.Clone(l.plain)
	l.triplets = &triplets32{in: f.site.In, out: f.site.Out, s: d.S}
	l.triplets.left, l.triplets.right = halves(d, f.site.In, f.site.Out)
	l.build = func(i int) [][]float32 {
		if r := l.rungs[i]; r.tensors == nil {
			return l.triplets.plain(r.rank.R1)
		}
		return l.rungs[i].tensors
	}
	if f.passes() == 1 {
		err = f.improve(l)
	}
	return l, err
}

// byError says whether the smallest size within an error is asked for.
func (e *extraction) byError() bool { return e.MaxError > 0 && e.Budget == 0 }

// fits fits ΔW in each of the sizes, cheapest first, until one is within the
// error that is asked for. bounds are the squared errors that a rank leaves at
// least.
func (f *fitting) fits(sets []trial, d *SVD, bounds []float64) ([]rung, error) {
	m := f.matrix(bounds[0])
	if len(sets) > 1 {
		m.trials = 1
	}
	target := f.MaxError * f.MaxError * bounds[0]
	var rungs []rung
	for _, t := range sets {
		r := t.Rank.R()
		// No update of that rank is nearer than the SVD's.
		if f.byError() && r < len(d.S)-spareTriplets && bounds[r] > target {
			continue
		}
		fit, err := m.fit(leadingOf(d, f.site.In, f.site.Out, r+spareTriplets), &t, f.Config.Seed, math.Inf(1))
		if err != nil {
			return nil, err
		}
		rungs = append(rungs, t.rung(fit))
		if f.byError() && fit.error2 <= target {
			break
		}
	}
	if f.sized() {
		rungs = falling(rungs)
	}
	return rungs, nil
}

func (f *fitting) matrix(norm2 float64) *matrix {
	return &matrix{p: f.pool, w: f.d.d, rows: f.d.rows, cols: f.d.cols, flip: f.site.Transposed, norm2: norm2, trials: moreStarts}
}

func (t *trial) rung(fit *lsrFit) rung {
	return rung{rank: t.Rank, terms: t.Terms, params: t.params, split: t.Split, splitOut: t.SplitOut, error2: fit.error2, tensors: fit.tensors()}
}

// improve adds to a ladder of plain factors the other forms that cost less for
// their error: plain factors on one side, and Kronecker sums on both.
func (f *fitting) improve(l *ladder) error {
	if l.norm2 == 0 {
		return nil
	}
	g := f.goalOf(l)
	d := l.triplets.svd()
	trials, err := f.oneSided(d, l.norm2, g)
	if err != nil {
		return err
	}
	sums, err := f.lsrSizes()
	if err != nil {
		return err
	}
	for i := range sums {
		// No update of that rank is nearer than the SVD's.
		if r := sums[i].Rank.R(); r < len(l.bounds) {
			sums[i].guess = l.bounds[r]
		}
	}
	trials = append(trials, sums...)
	slices.SortStableFunc(trials, func(x, y trial) int { return cmp.Compare(x.params, y.params) })
	m := f.matrix(l.norm2)
	m.trials = 1
	for _, t := range trials {
		most := g.below(t.params)
		if t.guess >= most {
			continue
		}
		fit, err := m.fit(leadingOf(d, f.site.In, f.site.Out, t.Rank.R()+spareTriplets), &t, f.Config.Seed, most)
		if err != nil {
			return err
		}
		if fit != nil && fit.error2 < most {
			l.rungs = append(l.rungs, t.rung(fit))
			g.add(t.params, fit.error2)
		}
	}
	slices.SortStableFunc(l.rungs, func(x, y rung) int { return cmp.Compare(x.params, y.params) })
	l.rungs = falling(l.rungs)
	f.forget(l)
	return nil
}

// forget drops what cannot be asked for any more: by error all but one rung.
func (f *fitting) forget(l *ladder) {
	if !f.byError() {
		return
	}
	i, _ := l.reach(f.MaxError)
	l.rungs = slices.Clone(l.rungs[i : i+1])
	if l.rungs[0].tensors == nil {
		l.rungs[0].tensors = l.triplets.plain(l.rungs[0].rank.R1)
	}
	l.triplets = nil
}
