package graph

import "reflect"

// group is forward operations [from, to).
type group struct {
	from, to int
	again    bool // computed again
}

// groups cuts the forward pass at every CheckpointLayers-th layer, last group
// first.
func (d *differ) groups() []group {
	n, layers := d.opt.CheckpointLayers, d.p.Layers
	end := d.p.Forward
	if n <= 0 || len(layers) <= n {
		return []group{{to: end}}
	}
	var gs []group
	for i := (len(layers) - 1) / n * n; i >= 0; i -= n {
		gs = append(gs, group{layers[i], end, end < d.p.Forward})
		end = layers[i]
	}
	return append(gs, group{to: end})
}

// repeating reports whether the group at hand is computed again: all its values
// are at hand then.
func (d *differ) repeating() bool { return len(d.again) > 0 }

// repeat emits forward operations [from, to) once more, as far as gradients
// read them, and then their gradients.
func (d *differ) repeat(from, to int) error {
	begin := len(d.p.Ops)
	d.p.Ops = append(d.p.Ops, make([]Op, to-from)...)
	for _, op := range d.p.Ops[from:to] {
		for _, v := range op.Outputs(nil) {
			d.stand(v)
		}
	}
	copies := make([]Op, to-from)
	for i, op := range d.p.Ops[from:to] {
		copies[i] = d.copyOf(op)
	}
	err := d.rules(copies, from)
	read := map[Value]bool{}
	mark := func(op Op) {
		for _, v := range op.Inputs(nil) {
			read[d.p.Root(v)] = true
		}
	}
	gradients := d.p.Ops[begin+len(copies):]
	for _, op := range gradients {
		mark(op)
	}
	keep := len(copies) // copies[keep:] are read
	for i := len(copies) - 1; i >= 0; i-- {
		for _, v := range copies[i].Outputs(nil) {
			if read[d.p.Root(v)] {
				mark(copies[i])
				keep--
				copies[keep] = copies[i]
				break
			}
		}
	}
	copies = copies[keep:]
	n := copy(d.p.Ops[begin:], copies)
	d.p.Ops = append(d.p.Ops[:begin+n], gradients...)
	clear(d.again)
	return err
}

// stand makes the value that stands for v, and for what v is a view of.
func (d *differ) stand(v Value) Value {
	if again, ok := d.again[v]; ok {
		return again
	}
	in := *d.p.Info(v)
	in.Name += "'"
	if in.Kind == ViewValue {
		in.Base = d.stand(in.Base)
	}
	again := d.p.NewValue(in)
	d.again[v], d.source[again] = again, v
	return again
}

var valueType = reflect.TypeFor[Value]()

// copyOf is op on the values that stand for those of its group.
func (d *differ) copyOf(op Op) Op {
	return renamed(op, func(v Value) Value {
		if _, ok := d.again[d.p.Root(v)]; ok {
			return d.stand(v)
		}
		return v
	})
}

// renamed is a copy of op on other values.
func renamed(op Op, name func(Value) Value) Op {
	c := reflect.New(reflect.TypeOf(op).Elem())
	c.Elem().Set(reflect.ValueOf(op).Elem())
	for i := range c.Elem().NumField() {
		if f := c.Elem().Field(i); f.Type() == valueType && f.Int() != int64(None) {
			f.SetInt(int64(name(Value(f.Int()))))
		}
	}
	return c.Interface().(Op)
}
