package decompose

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// CombineMethod is a rule that makes one update of several.
type CombineMethod string

// The rules. ΔW_i are the updates with their scales, w_i the weights.
const (
	// CombineLinear is Σ w_i ΔW_i at the rank that it has.
	CombineLinear CombineMethod = "linear"
	// CombineCat is Σ w_i ΔW_i with the factors side by side, as they are.
	CombineCat CombineMethod = "cat"
	// CombineTIES trims every w_i ΔW_i to its largest elements, elects the sign
	// of each element by their sum and averages those that agree (Yadav et al.,
	// arXiv 2306.01708).
	CombineTIES CombineMethod = "ties"
	// CombineDARE drops elements at random and scales the others up by the
	// inverse of the density before the sum (Yu et al., arXiv 2311.03099).
	CombineDARE CombineMethod = "dare"
	// CombineSVD is Σ w_i ΔW_i reduced to a rank.
	CombineSVD CombineMethod = "svd"
)

// CombineOptions say how [Combine] works.
type CombineOptions struct {
	Method  CombineMethod
	Weights []float64 // one for each adapter, nil for 1
	// Rank of the result of svd, ties and dare; 0 is the largest of the inputs.
	Rank int
	// Density is the share of elements that ties and dare keep, above 0 and up
	// to 1; 0 is 0.5.
	Density float64
	Seed    uint64       // of dare
	Pool    *kernel.Pool // nil computes on the caller
}

// CombinedModule says what one module has become.
type CombinedModule struct {
	Module string
	Rank   int
	Terms  int
	Norm   float64 // of the combined update before reduction to a rank
	Error  float64 // what the reduction lost, relative to Norm
}

// Combine makes one adapter of several: a LoRA, or krona of the terms of all
// where linear and cat get krona of one split. A module that an adapter has not
// counts as 0 there. linear and cat are exact up to the rounding to float32;
// the report says what the others lose by the reduction to a rank.
//
// The result has no head; targets are listed by name. Adapters of different
// base weights or with different dimensions of a module are an error that wraps
// ErrMismatch.
func Combine(ctx context.Context, adapters []*adapter.Adapter, o CombineOptions) (*adapter.Adapter, []CombinedModule, error) {
	c, err := newCombination(adapters, o)
	if err != nil {
		return nil, nil, err
	}
	first := adapters[0]
	out := &adapter.Adapter{Config: adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLoRA, Terms: 1, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero},
		BaseModel: first.BaseModel, BaseHash: c.hash, TaskType: first.TaskType, Seed: o.Seed}}
	var report []CombinedModule
	for _, m := range c.modules {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		mod, line, err := c.module(m)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", m.site.Module, err)
		}
		if len(out.Modules) == 0 {
			out.Method = mod.Method
		} else if out.Method != mod.Method {
			return nil, nil, fmt.Errorf("%s: %w: it is %s, %s is %s: use svd, which makes all lora", m.site.Module, ErrMismatch, mod.Method, out.Modules[0].Module, out.Method)
		}
		out.Modules, report = append(out.Modules, mod), append(report, line)
	}
	explicit(out, true)
	return out, report, nil
}

// combination is the state of one Combine.
type combination struct {
	CombineOptions
	hash    string
	modules []*combinedSite
}

// combinedSite is one module with its updates.
type combinedSite struct {
	site   adapter.Site
	deltas []*adapter.Delta // their Scale includes the weight
	which  []int            // the adapters that they are of
}

func newCombination(adapters []*adapter.Adapter, o CombineOptions) (*combination, error) {
	c := &combination{CombineOptions: o}
	if c.Density == 0 {
		c.Density = 0.5
	}
	switch {
	case len(adapters) == 0:
		return nil, fmt.Errorf("no adapters to combine")
	case o.Weights != nil && len(o.Weights) != len(adapters):
		return nil, fmt.Errorf("%d weights for %d adapters", len(o.Weights), len(adapters))
	case !(c.Density > 0 && c.Density <= 1):
		return nil, fmt.Errorf("density %v: want a number above 0 and up to 1", o.Density)
	case !slices.Contains([]CombineMethod{CombineLinear, CombineCat, CombineTIES, CombineDARE, CombineSVD}, o.Method):
		return nil, fmt.Errorf("combination %q: there are linear, cat, ties, dare and svd", o.Method)
	}
	at := map[string]*combinedSite{}
	for i, a := range adapters {
		if c.hash == "" {
			c.hash = a.BaseHash
		} else if a.BaseHash != "" && a.BaseHash != c.hash {
			return nil, fmt.Errorf("%s: %w: it was made for other base weights than the adapters before it", a.Dir, ErrMismatch)
		}
		ds, err := a.Deltas()
		if err != nil {
			return nil, err
		}
		for _, d := range ds {
			m := at[d.Module]
			if m == nil {
				m = &combinedSite{site: d.Site}
				at[d.Module] = m
				c.modules = append(c.modules, m)
			}
			if m.site.In != d.Site.In || m.site.Out != d.Site.Out {
				return nil, fmt.Errorf("%s: %w: module %s is (%d, %d) here and (%d, %d) before", a.Dir, ErrMismatch, d.Module, d.Site.In, d.Site.Out, m.site.In, m.site.Out)
			}
			if o.Weights != nil {
				d.Delta.Scale *= o.Weights[i]
			}
			m.deltas, m.which = append(m.deltas, d.Delta), append(m.which, i)
		}
	}
	return c, nil
}

// module combines the updates of one module.
func (c *combination) module(m *combinedSite) (adapter.Module, CombinedModule, error) {
	switch c.Method {
	case CombineTIES, CombineDARE:
		return c.reduced(m, c.merged(m))
	case CombineLinear, CombineCat:
		if slices.ContainsFunc(m.deltas, func(d *adapter.Delta) bool { return d.Kron != nil }) {
			return joinTerms(m)
		}
	}
	a, b, r := joinRanks(m)
	if c.Method == CombineCat {
		mod, err := loraModule(m.site, a, b, r)
		norm := (&adapter.Delta{In: m.site.In, Out: m.site.Out, Scale: 1, R: r, A: a, B: b}).Norm()
		return mod, CombinedModule{Module: m.site.Module, Rank: r, Terms: 1, Norm: norm}, err
	}
	if r == 0 || r > min(m.site.In, m.site.Out) || slices.ContainsFunc(m.deltas, func(d *adapter.Delta) bool { return d.Kron != nil }) {
		return c.reduced(m, sum(m))
	}
	d, err := c.product(m.site, a, b, r)
	if err != nil {
		return adapter.Module{}, CombinedModule{}, err
	}
	norm2 := 0.0
	for _, s := range d.S {
		norm2 += s * s
	}
	keep := c.rank(m)
	if c.Method == CombineLinear {
		keep = 1
		for keep < r && d.S[keep] > 1e-7*d.S[0] {
			keep++
		}
	}
	return finishReduced(m.site, d, min(keep, r), norm2)
}

// rank is the rank to reduce to.
func (c *combination) rank(m *combinedSite) int {
	r := c.Rank
	if r == 0 {
		for _, d := range m.deltas {
			r = max(r, d.R)
		}
	}
	if r == 0 {
		r = 16 // updates of full rank have none to go by
	}
	return min(r, m.site.In, m.site.Out)
}

// joinRanks returns A (in, r) and B (r, out) of the weighted sum, r the sum of
// the ranks.
func joinRanks(m *combinedSite) (a, b []float64, r int) {
	for _, d := range m.deltas {
		r += d.R
	}
	a = make([]float64, m.site.In*r)
	at := 0
	for _, d := range m.deltas {
		for i := range m.site.In * d.R {
			a[i/d.R*r+at+i%d.R] = d.A[i]
		}
		for _, v := range d.B {
			b = append(b, v*d.Scale)
		}
		at += d.R
	}
	return a, b, r
}

// joinTerms returns the sum of krona updates of one split.
func joinTerms(m *combinedSite) (adapter.Module, CombinedModule, error) {
	var f kron.Factor[float64]
	for i, d := range m.deltas {
		if d.Kron == nil {
			return adapter.Module{}, CombinedModule{}, fmt.Errorf("%w: krona and low-rank updates have no common exact form: use svd", ErrMismatch)
		}
		k := *d.Kron
		k.S = f.S
		if i > 0 && k.Shape != f.Shape {
			return adapter.Module{}, CombinedModule{}, fmt.Errorf("%w: splits %v and %v have no common exact form: use svd", ErrMismatch, f.Shape, d.Kron.Shape)
		}
		s := f.S + d.Kron.S
		f.Shape = d.Kron.Shape
		f.S = s
		f.F2 = append(f.F2, d.Kron.F2...)
		for _, v := range d.Kron.F1 {
			f.F1 = append(f.F1, v*d.Scale)
		}
	}
	set := adapter.Settings{Method: adapter.MethodKronA, Rank: adapter.Rank{R1: 1, R2: 1}, Terms: f.S, Alpha: 1, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero,
		Split: [2]int{f.A1, f.A2}, SplitOut: [2]int{f.R1, f.R2}}
	if f.A1*f.A2 != m.site.In {
		set.Split = [2]int{}
	}
	if f.R1*f.R2 != m.site.Out {
		set.SplitOut = [2]int{}
	}
	mod, err := moduleOf(m.site, set, f.F1, f.F2)
	norm := (&adapter.Delta{In: m.site.In, Out: m.site.Out, Scale: 1, Kron: &f}).Norm()
	return mod, CombinedModule{Module: m.site.Module, Rank: 1, Terms: f.S, Norm: norm}, err
}

func moduleOf(site adapter.Site, set adapter.Settings, tensors ...[]float64) (adapter.Module, error) {
	m := adapter.Module{Site: site, Settings: set}
	k, err := adapter.Lookup(set.Method)
	if err != nil {
		return m, err
	}
	if m.Specs, err = k.Params(site, set); err != nil {
		return m, err
	}
	for _, x := range tensors {
		t := make([]float32, len(x))
		narrowInto(t, x)
		m.Tensors = append(m.Tensors, t)
	}
	return m, nil
}

// loraModule is the LoRA of A (in, r) and B (r, out) with scale 1.
func loraModule(site adapter.Site, a, b []float64, r int) (adapter.Module, error) {
	if r == 0 {
		return adapter.Module{}, fmt.Errorf("%w: updates of full rank have no factors to put side by side: use svd", ErrMismatch)
	}
	ta, tb := make([]float64, len(a)), make([]float64, len(b))
	flip(ta, a, site.In, r)
	flip(tb, b, r, site.Out)
	return moduleOf(site, adapter.Settings{Method: adapter.MethodLoRA, Rank: adapter.Rank{R1: r, R2: 1}, Terms: 1, Alpha: float64(r), Scaling: adapter.ScaleLoRA, Init: adapter.InitZero}, ta, tb)
}

// product returns the singular triplets of A B without forming it: with
// A = Qa Ra and Bᵀ = Qb Rb, those of Ra Rbᵀ (r, r).
func (c *combination) product(site adapter.Site, a, b []float64, r int) (*SVD, error) {
	bt := make([]float64, len(b))
	flip(bt, b, r, site.Out)
	qa, ra := householder(a, site.In, r)
	qb, rb := householder(bt, site.Out, r)
	core := make([]float64, r*r)
	kernel.GemmF64(c.Pool, false, true, r, r, r, 1, ra, r, rb, r, 0, core, r)
	small, err := dense(core, r, r, r)
	if err != nil {
		return nil, err
	}
	return assemble(c.Pool, qa, qb, &SVD{U: small.V, S: small.S, V: small.U}, site.In, site.Out, r, r, 1), nil
}

// sum is the weighted sum (in, out).
func sum(m *combinedSite) []float64 {
	w := make([]float64, m.site.In*m.site.Out)
	for _, d := range m.deltas {
		for i, v := range d.Dense() {
			w[i] += v
		}
	}
	return w
}

// merged is the update by TIES or DARE (in, out).
func (c *combination) merged(m *combinedSite) []float64 {
	n := m.site.In * m.site.Out
	if c.Method == CombineDARE {
		w, u := make([]float64, n), make([]float32, n)
		for i, d := range m.deltas {
			adapter.Source{Seed: c.Seed}.Uniform("dare "+strconv.Itoa(m.which[i])+" "+m.site.Module, u, 1)
			for j, v := range d.Dense() {
				if (float64(u[j])+1)/2 < c.Density {
					w[j] += v / c.Density
				}
			}
		}
		return w
	}
	elected, agree, count := make([]float64, n), make([]float64, n), make([]float64, n)
	trimmed := make([][]float64, len(m.deltas))
	for i, d := range m.deltas {
		trimmed[i] = trim(d.Dense(), c.Density)
		for j, v := range trimmed[i] {
			elected[j] += v
		}
	}
	for _, x := range trimmed {
		for j, v := range x {
			if v != 0 && math.Signbit(v) == math.Signbit(elected[j]) {
				agree[j] += v
				count[j]++
			}
		}
	}
	for j := range agree {
		agree[j] /= max(1, count[j])
	}
	return agree
}

// trim sets all but the largest elements of x to 0, keeping the density's share
// of them and any that are as large as the smallest of those.
func trim(x []float64, density float64) []float64 {
	keep := int(math.Round(density * float64(len(x))))
	if keep >= len(x) {
		return x
	}
	size := make([]float64, len(x))
	for i, v := range x {
		size[i] = math.Abs(v)
	}
	slices.Sort(size)
	least := math.Inf(1)
	if keep > 0 {
		least = size[len(size)-keep]
	}
	for i, v := range x {
		if math.Abs(v) < least {
			x[i] = 0
		}
	}
	return x
}

// reduced is the LoRA nearest to w (in, out).
func (c *combination) reduced(m *combinedSite, w []float64) (adapter.Module, CombinedModule, error) {
	x := make([]float32, len(w))
	narrowInto(x, w)
	r := c.rank(m)
	d, norm2, err := Leading(c.Pool, x, m.site.In, m.site.Out, r, c.Seed)
	if err != nil {
		return adapter.Module{}, CombinedModule{}, err
	}
	return finishReduced(m.site, d, r, norm2)
}

func finishReduced(site adapter.Site, d *SVD, keep int, norm2 float64) (adapter.Module, CombinedModule, error) {
	rest := norm2
	for _, s := range d.S[:keep] {
		rest -= s * s
	}
	line := CombinedModule{Module: site.Module, Rank: keep, Terms: 1, Norm: math.Sqrt(norm2)}
	if norm2 > 0 {
		line.Error = math.Sqrt(max(0, rest) / norm2)
	}
	d = leadingOf(d, site.In, site.Out, keep)
	left, right := make([]float64, site.In*keep), make([]float64, keep*site.Out)
	for j, s := range d.S {
		root := math.Sqrt(s)
		for i := range site.In {
			left[i*keep+j] = d.U[i*keep+j] * root
		}
		for i := range site.Out {
			right[j*site.Out+i] = d.V[i*keep+j] * root
		}
	}
	mod, err := loraModule(site, left, right, keep)
	return mod, line, err
}
