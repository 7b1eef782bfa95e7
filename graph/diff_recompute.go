package graph

import "slices"

// saved returns the value that the backward pass reads for the forward value
// v: v itself, or a copy computed again just before its first use there.
func (d *differ) saved(v Value) Value {
	if v == None || d.repeating() {
		return v
	}
	if again, ok := d.remade[v]; ok {
		return again
	}
	if !d.repeats(v) {
		return v
	}
	again := d.p.NewValue(Info{Name: d.p.Info(v).Name + "'", Rows: d.p.Info(v).Rows, Cols: d.p.Info(v).Cols})
	switch o := d.p.Ops[d.producer[v]].(type) {
	case *Dropout:
		d.emit(&Dropout{X: d.saved(o.X), P: o.P, Site: o.Site, Y: again})
	case *Norm:
		redo := *o
		redo.X, redo.Stats, redo.Y = d.saved(o.X), None, again
		d.emit(&redo)
	case *Linear:
		d.emit(&Activate{X: d.pre(o), Act: o.Act, Y: again})
	case *Activate:
		d.emit(&Activate{X: d.saved(o.X), Act: o.Act, Y: again})
	case *Gated:
		d.emit(&Gated{Gate: d.saved(o.Gate), Up: d.saved(o.Up), Act: o.Act, Y: again})
	}
	d.remade[v] = again
	return again
}

// repeats decides whether v is computed again. It is when its operation is
// cheap enough and what that reads is kept for the backward pass anyway, so
// that v need not be.
func (d *differ) repeats(v Value) bool {
	i := d.producer[v]
	if d.opt.Recompute == RecomputeNone || i < 0 || d.p.Info(v).Kind != Activation || slices.Contains(d.p.Outputs, v) {
		return false
	}
	acts := d.opt.Recompute == RecomputeActs
	switch o := d.p.Ops[i].(type) {
	case *Dropout:
		// x is kept instead of v: no worse, and better when it serves another
		// reader or is itself repeated. A view would keep its whole base.
		return o.Residual == None && d.p.Info(o.X).Kind == Activation && (d.readers[o.X] > 1 || d.repeats(o.X))
	case *Norm:
		return d.active[i] && v == o.Y // its gradient reads x
	case *Linear:
		return acts && d.active[i] && v == o.Y && d.wants(o.X) && o.Act != ActNone && o.Residual == None
	case *Activate:
		return acts && d.active[i]
	case *Gated:
		return acts && d.active[i]
	}
	return false
}
