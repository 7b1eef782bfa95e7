package graph

import (
	"errors"
	"fmt"
	"slices"
)

// Recompute says which forward values the backward pass computes a second
// time instead of keeping them.
type Recompute uint8

// The degrees of recomputation.
const (
	// RecomputeRows repeats dropouts and norms: reading and writing a row
	// once costs far less than the products between them.
	RecomputeRows Recompute = iota
	// RecomputeActs repeats activation functions and gated products as well:
	// the widest values of a transformer, at the cost of their exponentials.
	RecomputeActs
	// RecomputeNone keeps every value.
	RecomputeNone
)

// DiffOptions are the choices of [DifferentiateWith].
type DiffOptions struct {
	Recompute Recompute
	// CheckpointLayers, if positive, keeps of the forward pass only what
	// crosses from one group of so many layers to the next. The backward pass
	// computes a group again before its gradients, with the same dropout: the
	// same gradients, less memory, more time (Chen et al., arXiv 1604.06174).
	// The last group follows its own forward pass and is not computed again.
	CheckpointLayers int
}

// Differentiate is [DifferentiateWith] with the zero options.
func Differentiate(p *Program) error { return DifferentiateWith(p, DiffOptions{}) }

// DifferentiateWith appends the backward pass of p.Loss: reverse-mode
// differentiation of every forward operation between a parameter and the
// loss, and of no other. Frozen weights and all that lies below the lowest
// parameter get no gradient. Parameter gradients are ParamGrad values, to
// which the operations add.
//
// It sets Linear.Pre, Norm.Stats, Attention.LSE, LMLoss.DX and
// Weight.Backward where the backward pass reads them.
//
// A value that is read through views gets its gradient through views too:
// they must tile its columns, and nothing else may read it. The errors say
// where this does not hold, name an operation that has no gradient, and
// refuse a loss that no parameter influences. After an error p is unusable.
func DifferentiateWith(p *Program, o DiffOptions) error {
	if p.Loss == None {
		return errors.New("differentiate: the program has no loss")
	}
	if p.Forward != len(p.Ops) {
		return errors.New("differentiate: the program already has a backward pass")
	}
	d := newDiffer(p, o)
	if err := d.analyse(); err != nil {
		return fmt.Errorf("differentiate: %w", err)
	}
	for _, g := range d.groups() {
		var err error
		if g.again {
			err = d.repeat(g.from, g.to)
		} else {
			err = d.rules(p.Ops[g.from:g.to], g.from)
		}
		if err != nil {
			return fmt.Errorf("differentiate: %w", err)
		}
	}
	return nil
}

// rules emits the gradients of ops, which are, or stand for, the forward
// operations from number first on.
func (d *differ) rules(ops []Op, first int) error {
	for i := len(ops) - 1; i >= 0; i-- {
		if !d.active[first+i] {
			continue
		}
		if err := d.rule(ops[i]); err != nil {
			return err
		}
	}
	return nil
}

// Untrained returns the names of the parameters that got no gradient from
// [Differentiate]: they do not influence the loss.
func (p *Program) Untrained() []string {
	var names []string
	for i := range p.Params {
		if _, ok := p.grads[i]; !ok {
			names = append(names, p.Params[i].Name)
		}
	}
	return names
}

// differ holds the state of one differentiation. Slices are indexed by
// forward values, which keep their numbers while gradients are added.
type differ struct {
	p        *Program
	opt      DiffOptions
	canon    []Value         // one name for views of the same columns
	producer []int           // operation that writes a value, -1 for parameters
	readers  []int           // number of forward operations that read a root
	needs    []bool          // a parameter lies upstream (of roots)
	active   []bool          // operations that pass a gradient on
	uses     []int           // contributions still to come, by canonical value
	grad     []Value         // their sum so far
	base     map[Value]Value // gradients of values that are read through views
	remade   map[Value]Value // recomputed forward values
	pending  []Op            // sums to emit after the current operation
	again    map[Value]Value // values of a group that is computed again
	source   map[Value]Value // and what they stand for
}

func newDiffer(p *Program, o DiffOptions) *differ {
	n := len(p.Values)
	d := &differ{
		p: p, opt: o,
		canon: make([]Value, n), producer: make([]int, n), readers: make([]int, n), needs: make([]bool, n),
		active: make([]bool, len(p.Ops)), uses: make([]int, n), grad: make([]Value, n),
		base: map[Value]Value{}, remade: map[Value]Value{}, again: map[Value]Value{}, source: map[Value]Value{},
	}
	type columns struct {
		base      Value
		col, cols int
	}
	views := map[columns]Value{}
	for i := 1; i < n; i++ {
		v := Value(i)
		in := &p.Values[v]
		d.canon[v], d.producer[v] = v, -1
		switch in.Kind {
		case ParamValue:
			d.needs[v] = true
		case ViewValue:
			key := columns{in.Base, in.Col, in.Cols}
			if in.Cols == p.Values[in.Base].Cols {
				d.canon[v] = in.Base
			} else if first, ok := views[key]; ok {
				d.canon[v] = first
			} else {
				views[key] = v
			}
		}
	}
	return d
}

// analyse finds which operations take part and how many contributions each
// gradient receives.
func (d *differ) analyse() error {
	p := d.p
	var vs []Value
	for i, op := range p.Ops {
		needs := false
		vs = op.Inputs(vs[:0])
		for _, v := range vs {
			needs = needs || d.needs[p.Root(v)]
			d.readers[p.Root(v)]++
		}
		_, constant := op.(*ColNorm)
		for _, y := range op.Outputs(nil) {
			if p.Root(y) != y {
				return fmt.Errorf("%s writes the view %s, which has no gradient rule", op.Name(), p.Info(y).Name)
			}
			d.producer[y] = i
			d.needs[y] = needs && !constant
		}
	}
	if i := d.producer[p.Loss]; i < 0 || !isLoss(p.Ops[i]) {
		return fmt.Errorf("%s is not the result of a loss operation", p.Info(p.Loss).Name)
	}
	if !d.needs[p.Loss] {
		return errors.New("no parameter influences the loss")
	}
	reached := make([]bool, len(p.Values))
	reached[p.Loss] = true
	for i := p.Forward - 1; i >= 0; i-- {
		for _, y := range p.Ops[i].Outputs(nil) {
			d.active[i] = d.active[i] || reached[y] && d.needs[y]
		}
		if !d.active[i] {
			continue
		}
		for _, v := range p.Ops[i].Inputs(nil) {
			if d.wants(v) {
				reached[p.Root(v)] = true
				d.uses[d.canon[v]]++
			}
		}
	}
	return d.checkViews()
}

// checkViews verifies that the gradients of views fill the gradient of what
// they look into.
func (d *differ) checkViews() error {
	views := map[Value][]Value{}
	for i := range d.uses {
		v := Value(i)
		if d.uses[v] > 0 && d.p.Values[v].Kind == ViewValue && d.p.Values[d.p.Root(v)].Kind == Activation {
			views[d.p.Root(v)] = append(views[d.p.Root(v)], v)
		}
	}
	for base, vs := range views {
		in := d.p.Info(base)
		if d.uses[base] > 0 {
			return fmt.Errorf("%s is read whole and through views: its gradient needs one or the other", in.Name)
		}
		slices.SortFunc(vs, func(a, b Value) int { return d.p.Values[a].Col - d.p.Values[b].Col })
		col := 0
		for _, v := range vs {
			if d.p.Values[v].Col != col {
				return fmt.Errorf("the views of %s do not tile it: column %d belongs to none or two of those that the loss reads", in.Name, min(col, d.p.Values[v].Col))
			}
			col += d.p.Values[v].Cols
		}
		if col != in.Cols {
			return fmt.Errorf("the views of %s do not tile it: the loss reads %d of %d columns", in.Name, col, in.Cols)
		}
	}
	return nil
}

// wants reports whether the gradient of v is needed.
func (d *differ) wants(v Value) bool {
	v = d.original(v)
	return v != None && d.needs[d.p.Root(v)]
}

// original is the forward value that v is, or stands for.
func (d *differ) original(v Value) Value {
	if o, ok := d.source[v]; ok {
		return o
	}
	return v
}

func (d *differ) emit(op Op) { d.p.Ops = append(d.p.Ops, op) }

// of returns the finished gradient of the output y.
func (d *differ) of(y Value) Value {
	y = d.original(y)
	if g, ok := d.base[y]; ok {
		return g
	}
	return d.grad[y]
}

// temp makes a value of the shape of v.
func (d *differ) temp(v Value) Value {
	in := d.p.Info(v)
	return d.p.NewValue(Info{Name: "d" + in.Name, Rows: in.Rows, Cols: in.Cols})
}

// param returns the accumulating gradient of v if v is (a view of) a
// parameter.
func (d *differ) param(v Value) (Value, bool) {
	root := d.p.Info(d.p.Root(v))
	if root.Kind != ParamValue {
		return None, false
	}
	return d.viewLike(v, d.p.GradOf(root.Param)), true
}

// viewLike returns the columns of g that v has of its base, or g itself.
func (d *differ) viewLike(v, g Value) Value {
	in := *d.p.Info(v)
	if in.Kind != ViewValue {
		return g
	}
	in.Name, in.Base = "d"+in.Name, g
	return d.p.NewValue(in)
}

// place takes one contribution to the gradient of the canonical value v off
// the list and returns where the sum so far belongs: the last sum for a view
// goes to its columns of the gradient of the base.
func (d *differ) place(v Value) Value {
	d.uses[v]--
	in := d.p.Info(v)
	if d.uses[v] > 0 || in.Kind != ViewValue {
		return d.temp(v)
	}
	g, ok := d.base[in.Base]
	if !ok {
		g = d.temp(in.Base)
		d.base[in.Base] = g
	}
	return d.viewLike(v, g)
}

// add emits the operation that op returns for a destination and an addend:
// a contribution to the gradient of v by an operation that can add.
func (d *differ) add(v Value, op func(dst, c Value) Op) {
	if !d.wants(v) {
		return
	}
	v = d.canon[d.original(v)]
	if g, ok := d.param(v); ok {
		if o := op(g, None); Accumulates(o) {
			d.emit(o)
			return
		}
		t := d.temp(v)
		d.emit(op(t, None))
		d.emit(&Axpby{A: t, Alpha: 1, Y: g})
		return
	}
	dst := d.place(v)
	d.emit(op(dst, d.grad[v]))
	d.grad[v] = dst
}

// put returns the destination for a contribution to the gradient of v by an
// operation that cannot add (accumulates: unless it is a parameter's), or
// None when nobody needs it. flush must follow the operation.
func (d *differ) put(v Value, accumulates bool) Value {
	if !d.wants(v) {
		return None
	}
	v = d.canon[d.original(v)]
	if g, ok := d.param(v); ok {
		if accumulates {
			return g
		}
		t := d.temp(v)
		d.pending = append(d.pending, &Axpby{A: t, Alpha: 1, Y: g})
		return t
	}
	sum := d.grad[v]
	dst := d.place(v)
	d.grad[v] = dst
	if sum == None {
		return dst
	}
	t := d.temp(v)
	d.pending = append(d.pending, &Axpby{A: t, Alpha: 1, B: sum, Beta: 1, Y: dst})
	return t
}

// flush emits the sums that put left.
func (d *differ) flush() {
	for _, op := range d.pending {
		d.emit(op)
	}
	d.pending = d.pending[:0]
}

// pass contributes g itself to the gradient of v, without a copy where it is
// the only contribution so far.
func (d *differ) pass(v, g Value) {
	if !d.wants(v) {
		return
	}
	v = d.canon[d.original(v)]
	if pg, ok := d.param(v); ok {
		d.emit(&Axpby{A: g, Alpha: 1, Y: pg})
		return
	}
	sum := d.grad[v]
	if sum == None && (d.uses[v] > 1 || d.p.Info(v).Kind != ViewValue) {
		d.uses[v]--
		d.grad[v] = g
		return
	}
	dst := d.place(v)
	d.grad[v] = dst
	if sum == None {
		d.emit(&Axpby{A: g, Alpha: 1, Y: dst})
		return
	}
	d.emit(&Axpby{A: g, Alpha: 1, B: sum, Beta: 1, Y: dst})
}
