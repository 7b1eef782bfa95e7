package decompose

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// ExtractOptions say how [Extract] makes an adapter of a difference.
type ExtractOptions struct {
	// Config gives method (lora, lsr or krona), targets, rank, terms, splits,
	// seed and provenance. Alpha, scaling and overrides are set so that the
	// scale is 1.
	Config adapter.Config
	// MaxError, when above 0, asks for the smallest update of each module with
	// ‖ΔW - scale·A B‖ <= MaxError·‖ΔW‖.
	MaxError float64
	// Budget, when above 0, is the largest number of parameters of the whole
	// adapter, spread over the modules by the fall of the squared error per
	// parameter. Modules may get none.
	Budget int64
	// FixedRank keeps the rank of lsr under MaxError and Budget, so that only
	// the number of terms is chosen.
	FixedRank bool
	// MaxRank bounds the rank (for krona the terms) that MaxError and Budget
	// may choose; 0 is 128.
	MaxRank int
	// Save names modules that the adapter carries whole, from the tuned model.
	Save []string
	// Threads of computation; below 1 counts as 1. The result does not depend
	// on it.
	Threads int
	// Progress, unless nil, is told the elements done of all; from any
	// goroutine, one call at a time.
	Progress func(done, total int64)
}

// ExtractedModule says what became of one module.
type ExtractedModule struct {
	Module  string
	In, Out int
	Rank    adapter.Rank
	Terms   int
	// SplitIn and SplitOut are a1, a2 of in and b1, b2 of out; zero but for lsr.
	SplitIn, SplitOut [2]int

	Params   int
	Norm     float64 // ‖ΔW‖, Frobenius
	Relative float64 // ‖ΔW‖/‖W‖
	Error    float64 // ‖ΔW - scale·A B‖/‖ΔW‖
	Reached  bool    // MaxError, where it was asked for
}

// ExtractReport says what an extraction kept and what it lost.
type ExtractReport struct {
	Modules   []ExtractedModule
	Unchanged []string // targeted modules whose ΔW is 0, or got no parameters
	Error     float64  // of all modules together, relative to their ‖ΔW‖
	// Changed are tensors that differ between the models and that the adapter
	// does not carry, Added those of the tuned model alone, Missing those of
	// the base alone.
	Changed, Added, Missing []string
}

// defaultMaxRank bounds ranks where the caller does not.
const defaultMaxRank = 128

// Extract makes the adapter that turns base into tuned as nearly as it can:
// for every module that o.Config targets, ΔW = tuned - base is approximated in
// the least squares sense, by the truncated SVD (lora: the best of its rank,
// by Eckart and Young), by a sum of s Kronecker products (krona: the best, by
// Van Loan and Pitsianis) or by low-separation-rank factors (lsr: see
// [FitLSR]).
//
// Names, shapes and dtypes are compared before any number is read. Matrices
// are read one at a time in each of at most two groups of threads, so memory
// is some ten times that of the largest matrix in float32, whatever the size of
// the models. sites are the base's linear layers.
func Extract(ctx context.Context, base, tuned *formats.Checkpoint, sites []adapter.Site, o ExtractOptions) (*adapter.Adapter, *ExtractReport, error) {
	e, err := newExtraction(base, tuned, sites, o)
	if err != nil {
		return nil, nil, err
	}
	if e.pair, err = newPair(base, tuned); err != nil {
		return nil, nil, err
	}
	err = e.run(ctx)
	if err == nil {
		err = e.compareRest(ctx)
	}
	if err := errors.Join(err, e.pair.close()); err != nil {
		return nil, nil, err
	}
	return e.finish()
}

// extraction is the state of one Extract.
type extraction struct {
	ExtractOptions
	*pair
	names   naming
	matched []adapter.Matched
	ladders []*ladder // by module
	head    []adapter.Tensor
	report  ExtractReport
	add     func(site adapter.Site, d *difference) // unless nil, adds to the difference
	slope   float64                                // of the squared error, below which a budget takes no step

	mu          sync.Mutex
	done, total int64
}

func newExtraction(base, tuned *formats.Checkpoint, sites []adapter.Site, o ExtractOptions) (*extraction, error) {
	e, err := planExtraction(sites, o)
	if err != nil {
		return nil, err
	}
	weights := make([]string, len(e.matched))
	for i, m := range e.matched {
		weights[i] = m.Weight
	}
	e.names = namingOf(weights, tuned)
	return e, checkPair(base, tuned, e.matched, e.names)
}

// planExtraction checks the options and matches the modules.
func planExtraction(sites []adapter.Site, o ExtractOptions) (*extraction, error) {
	e := &extraction{ExtractOptions: o}
	c := &e.Config
	if e.MaxRank < 1 {
		e.MaxRank = defaultMaxRank
	}
	if e.MaxError < 0 || e.MaxError >= 1 || math.IsNaN(e.MaxError) {
		return nil, fmt.Errorf("maximal error %v: want a number from 0 to 1", e.MaxError)
	}
	switch c.Method {
	case adapter.MethodLoRA, adapter.MethodLSR, adapter.MethodKronA:
	default:
		return nil, fmt.Errorf("method %q cannot be extracted: there are lora, lsr and krona", c.Method)
	}
	c.Scaling, c.Init, c.Overrides = adapter.ScaleLoRA, adapter.InitZero, nil
	c.Alpha = unitAlpha(c.Method, c.Rank)
	var err error
	if e.matched, _, err = adapter.Match(sites, *c); err != nil {
		return nil, err
	}
	if _, err := adapter.Plan(sites, *c); err != nil {
		return nil, err
	}
	for _, m := range e.matched {
		e.total += int64(e.passes()) * int64(m.In) * int64(m.Out)
	}
	e.ladders = make([]*ladder, len(e.matched))
	return e, nil
}

// unitAlpha is the alpha that makes the scale 1.
func unitAlpha(method string, r adapter.Rank) float64 {
	if method == adapter.MethodKronA {
		return 1
	}
	return float64(r.R())
}

// run goes through the modules once or twice, see passes.
func (e *extraction) run(ctx context.Context) error {
	for pass := range e.passes() {
		e.between(pass)
		if err := e.pass(ctx); err != nil {
			return err
		}
	}
	return nil
}

// between prepares for a pass. In the second, cheaper forms lower what the last
// parameters of a budget bring, as they leave more of the budget: half of it is
// room for that.
func (e *extraction) between(pass int) {
	if pass > 0 {
		e.slope = marginal(e.ladders, e.Budget) / 2
	}
}

// pass fits all modules, the largest first.
func (e *extraction) pass(ctx context.Context) error {
	order := make([]int, len(e.matched))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return e.matched[j].In*e.matched[j].Out - e.matched[i].In*e.matched[i].Out
	})
	threads := max(1, e.Threads)
	groups := min(2, threads)
	var next atomic.Int64
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, groups)
	var wg sync.WaitGroup
	for g := range groups {
		wg.Go(func() {
			pool := kernel.NewPool(threads / groups)
			defer pool.Close()
			b, d := newPart(), &difference{}
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(order) {
					return
				}
				if errs[g] = e.one(pool, b, d, order[i]); errs[g] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return ctx.Err()
}

// one fits module i.
func (e *extraction) one(pool *kernel.Pool, b *part, d *difference, i int) error {
	m := e.matched[i]
	if err := e.pair.read(b, m.Weight, e.names.tuned(m.Weight), d); err != nil {
		return err
	}
	if e.add != nil {
		e.add(m.Site, d)
	}
	f := &fitting{extraction: e, pool: pool, site: m.Site, set: m.Settings, d: d}
	if err := f.climb(i); err != nil {
		return &formats.Error{Path: e.tuned.ckpt.Path(), Tensor: e.names.tuned(m.Weight), Reason: err.Error(), Hint: "leave the module out of --target, or choose another method", Err: err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done += int64(m.In) * int64(m.Out)
	if e.Progress != nil {
		e.Progress(e.done, e.total)
	}
	return nil
}

// choose returns the rung of every module, or -1.
func (e *extraction) choose() (at []int, reached []bool) {
	at, reached = make([]int, len(e.ladders)), make([]bool, len(e.ladders))
	switch {
	case e.Budget > 0 && e.mixed():
		return spreadMixed(e.ladders, e.Budget), reached
	case e.Budget > 0:
		return spread(e.ladders, e.Budget), reached
	}
	for i, l := range e.ladders {
		switch {
		case l.norm2 == 0:
			at[i] = -1
		case e.MaxError > 0:
			at[i], reached[i] = l.reach(e.MaxError)
		default:
			at[i] = len(l.rungs) - 1
		}
	}
	return at, reached
}

// finish makes the adapter and the report.
func (e *extraction) finish() (*adapter.Adapter, *ExtractReport, error) {
	a := &adapter.Adapter{Config: e.Config, Head: e.head}
	at, reached := e.choose()
	var lost, all float64
	for i, l := range e.ladders {
		m := e.matched[i]
		all += l.norm2
		if at[i] < 0 {
			lost += l.norm2
			e.report.Unchanged = append(e.report.Unchanged, m.Module)
			continue
		}
		r := l.rungs[at[i]]
		lost += r.error2
		mod := adapter.Module{Site: m.Site, Settings: m.Settings, Tensors: l.build(at[i])}
		mod.Rank, mod.Terms, mod.Alpha = r.rank, r.terms, unitAlpha(m.Method, r.rank)
		if r.split != [2]int{} {
			mod.Split, mod.SplitOut = r.split, r.splitOut
		}
		k, err := adapter.Lookup(mod.Method)
		if err != nil {
			return nil, nil, err
		}
		if mod.Specs, err = k.Params(mod.Site, mod.Settings); err != nil {
			return nil, nil, err
		}
		a.Modules = append(a.Modules, mod)
		splitIn, splitOut := splitsOf(mod)
		e.report.Modules = append(e.report.Modules, ExtractedModule{Module: m.Module, In: m.In, Out: m.Out, Rank: r.rank, Terms: r.terms, SplitIn: splitIn, SplitOut: splitOut, Params: r.params,
			Norm: math.Sqrt(l.norm2), Relative: math.Sqrt(l.norm2 / l.base2), Error: math.Sqrt(r.error2 / l.norm2), Reached: reached[i]})
	}
	if len(a.Modules) == 0 {
		path := "the adapter"
		if e.pair != nil {
			path = e.tuned.ckpt.Path()
		}
		return nil, nil, &formats.Error{Path: path, Reason: "no targeted module gets an update: their weights are the base's, or the budget is below the smallest one", Hint: "see lsrsurgeon diff, and --budget", Err: ErrMismatch}
	}
	e.report.Error = math.Sqrt(lost / all)
	explicit(a, len(a.Modules) < len(e.matched))
	return a, &e.report, nil
}

// splitsOf are the splits of in and out that an lsr module has.
func splitsOf(m adapter.Module) (in, out [2]int) {
	if m.Method != adapter.MethodLSR {
		return in, out
	}
	a, b, err := adapter.LSRShapes(m.Site, m.Settings)
	if err != nil {
		return in, out // not reached: the module has been made with these settings
	}
	return [2]int{a.A1, a.A2}, [2]int{b.R1, b.R2}
}

// explicit makes the configuration of a describe its modules: with targets by
// name if listed, and overrides where settings differ.
func explicit(a *adapter.Adapter, listed bool) {
	c := &a.Config
	if listed {
		c.Targets = adapter.Targets{}
		for _, m := range a.Modules {
			c.Targets.Modules = append(c.Targets.Modules, m.Module)
		}
	}
	// The settings that most modules have are the configuration's.
	type size struct {
		rank  adapter.Rank
		terms int
	}
	count := map[size]int{}
	best := size{c.Rank, c.Terms}
	for _, m := range a.Modules {
		s := size{m.Rank, m.Terms}
		if count[s]++; count[s] > count[best] {
			best = s
		}
	}
	c.Rank, c.Terms, c.Alpha = best.rank, best.terms, unitAlpha(c.Method, best.rank)
	c.Overrides = adapter.OverridesFor(c.Settings, a.Modules)
}
