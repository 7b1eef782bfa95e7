package graph

import (
	"fmt"
	"slices"
)

// Validate checks p as a whole: every operand exists and is written, in full,
// before it is read; every value is written once, except ParamGrads, which
// only accumulating operations write; shapes agree with the operation's
// formula; views lie inside what they look into; outputs and loss are
// written. Errors name the operation and the value.
func Validate(p *Program) error {
	if err := validateValues(p); err != nil {
		return err
	}
	v := &writes{p: p, done: make([][]span, len(p.Values))}
	for i, op := range p.Ops {
		if err := v.step(op); err != nil {
			return fmt.Errorf("operation %d, %s: %w", i, op.Name(), err)
		}
		if err := checkShapes(p, op); err != nil {
			return fmt.Errorf("operation %d, %s: %w", i, op.Name(), err)
		}
	}
	for _, o := range append(slices.Clone(p.Outputs), p.Loss) {
		if o != None && !v.covered(o) {
			return fmt.Errorf("output %s is never written", p.Info(o).Name)
		}
	}
	return nil
}

func validateValues(p *Program) error {
	for i := 1; i < len(p.Values); i++ {
		in := &p.Values[i]
		switch in.Kind {
		case ParamValue, ParamGrad:
			if in.Param < 0 || in.Param >= len(p.Params) || p.Params[in.Param].Size != in.Rows.N*in.Cols || in.Rows.Kind != Fixed {
				return fmt.Errorf("value %s does not fit its parameter", in.Name)
			}
		case ViewValue:
			if in.Base <= 0 || int(in.Base) >= len(p.Values) {
				return fmt.Errorf("view %s has no base", in.Name)
			}
			b := &p.Values[in.Base]
			if b.Kind == ViewValue || b.Rows != in.Rows || in.Col < 0 || in.Cols <= 0 || in.Col+in.Cols > b.Cols {
				return fmt.Errorf("view %s (%v, %d at column %d) does not lie in %s (%v, %d)", in.Name, in.Rows, in.Cols, in.Col, b.Name, b.Rows, b.Cols)
			}
		}
	}
	return nil
}

// span is a range of columns.
type span struct{ lo, hi int }

// writes tracks which columns of which roots are written.
type writes struct {
	p    *Program
	done [][]span // by root, sorted, disjoint
}

func (w *writes) columns(v Value) span {
	in := w.p.Info(v)
	if in.Kind == ViewValue {
		return span{in.Col, in.Col + in.Cols}
	}
	return span{0, in.Cols}
}

// covered reports whether all columns of v are written.
func (w *writes) covered(v Value) bool {
	s := w.columns(v)
	for _, d := range w.done[w.p.Root(v)] {
		if d.lo <= s.lo && s.lo < d.hi {
			s.lo = min(d.hi, s.hi)
		}
	}
	return s.lo == s.hi || w.p.Info(w.p.Root(v)).Kind == ParamValue
}

func (w *writes) step(op Op) error {
	for _, v := range op.Inputs(nil) {
		if v <= 0 || int(v) >= len(w.p.Values) {
			return fmt.Errorf("operand %d does not exist", v)
		}
		if w.p.Info(w.p.Root(v)).Kind == ParamGrad {
			return fmt.Errorf("reads the parameter gradient %s", w.p.Info(v).Name)
		}
		if !w.covered(v) {
			return fmt.Errorf("reads %s before it is written", w.p.Info(v).Name)
		}
	}
	for _, v := range op.Outputs(nil) {
		if v <= 0 || int(v) >= len(w.p.Values) {
			return fmt.Errorf("result %d does not exist", v)
		}
		root := w.p.Root(v)
		switch w.p.Info(root).Kind {
		case ParamValue:
			return fmt.Errorf("writes the parameter %s", w.p.Info(v).Name)
		case ParamGrad:
			if !Accumulates(op) {
				return fmt.Errorf("cannot add to %s", w.p.Info(v).Name)
			}
			continue
		}
		s := w.columns(v)
		for _, d := range w.done[root] {
			if d.lo < s.hi && s.lo < d.hi {
				return fmt.Errorf("writes %s a second time", w.p.Info(v).Name)
			}
		}
		w.done[root] = append(w.done[root], s)
		slices.SortFunc(w.done[root], func(a, b span) int { return a.lo - b.lo })
	}
	return nil
}
