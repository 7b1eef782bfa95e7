package graph

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// String is Dump as a string.
func (p *Program) String() string {
	var b strings.Builder
	p.Dump(&b)
	return b.String()
}

// Dump writes p for people: parameters, then one operation per line with its
// operands' names and shapes and its settings, the backward pass set apart.
// It returns the error of w.
func (p *Program) Dump(w io.Writer) error {
	e := &errWriter{w: w}
	fmt.Fprintf(e, "%d values, %d operations (%d forward), %d weights, %d parameters of %d elements\n",
		len(p.Values)-1, len(p.Ops), p.Forward, len(p.Weights), len(p.Params), p.ParamSize)
	for i := range p.Params {
		fmt.Fprintf(e, "param   %s %v at %d\n", p.Params[i].Name, p.Params[i].Shape, p.Params[i].Offset)
	}
	for i, op := range p.Ops {
		if i == p.Forward {
			fmt.Fprintf(e, "backward of %s\n", p.label(p.Loss))
		}
		fmt.Fprintf(e, "%5d   %s\n", i, p.OpString(op))
	}
	for _, o := range p.Outputs {
		fmt.Fprintf(e, "output  %s\n", p.label(o))
	}
	return e.err
}

// OpString writes one operation as "y = name(field=operand, ...)".
func (p *Program) OpString(op Op) string {
	outs := op.Outputs(nil)
	var b strings.Builder
	for i, o := range outs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.label(o))
	}
	fmt.Fprintf(&b, " = %s(", op.Name())
	first := true
	p.fields(&b, reflect.ValueOf(op).Elem(), outs, &first)
	b.WriteString(")")
	return b.String()
}

// fields writes the settings and operands of an operation that are not zero
// and not results.
func (p *Program) fields(b *strings.Builder, s reflect.Value, outs []Value, first *bool) {
	for i := range s.NumField() {
		f := s.Field(i)
		if f.IsZero() {
			continue
		}
		name := strings.ToLower(s.Type().Field(i).Name)
		var text string
		switch x := f.Interface().(type) {
		case Value:
			if slices.Contains(outs, x) {
				continue
			}
			text = p.label(x)
		case WeightID:
			text = p.Weight(x).Name
		case []WeightID:
			for j, w := range x {
				text += strings.Repeat("+", min(j, 1)) + p.Weight(w).Name
			}
		case *Attention:
			p.fields(b, f.Elem(), outs, first)
			continue
		case []float32:
			text = fmt.Sprintf("[%d]", len(x))
		default:
			text = fmt.Sprint(x)
		}
		if !*first {
			b.WriteString(", ")
		}
		*first = false
		fmt.Fprintf(b, "%s=%s", name, text)
	}
}

// label is %number:name(rows,cols).
func (p *Program) label(v Value) string {
	if v == None || int(v) >= len(p.Values) {
		return fmt.Sprintf("%%%d", v)
	}
	in := p.Info(v)
	return fmt.Sprintf("%%%d:%s(%v,%d)", v, in.Name, in.Rows, in.Cols)
}

// errWriter keeps the first error.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(b []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(b)
	e.err = err
	return n, err
}
