package onnxmodel

import (
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// value is what is known of a value of the graph: an *array, a *param, a *mat,
// or a piece of a pattern that later nodes complete.
type value any

// param is a tensor of the checkpoint that was not read.
type param struct {
	t          *onnx.Tensor
	name       string
	transposed bool // of two dimensions
}

func (p *param) dims() []int {
	d := slices.Clone(p.t.Dims)
	if p.transposed {
		slices.Reverse(d)
	}
	return d
}

// failed is the value of a node that has no rule: an error as soon as something
// needs it.
type failed struct{ err error }

// poly is Σ c[i]·mⁱ, elementwise; m has the factor 1.
type poly struct {
	m *mat
	c [4]float64
}

// fn is a + b·f(arg), elementwise, for f erf, tanh or sigmoid.
type fn struct {
	f    string
	arg  poly
	a, b float64
}

// statistic is a number per row: its mean, variance or mean of squares plus eps,
// to the power of form: 1, 1/2 or -1/2.
type statistic struct {
	m    *mat
	of   string // "mean", "variance", "squares"
	eps  float64
	form float64
}

// centered is (m - mean of its row) to the power of 1 or 2.
type centered struct {
	m     *mat
	power int
}

// rotated is [-x2, x1] of the halves of m's last axis.
type rotated struct{ m *mat }

// turned is a summand of a rotation: m∘cos or rotated(m)∘sin, with the table
// (tokens, last axis).
type turned struct {
	m       *mat
	table   [][]float64
	rotated bool
}

// sums is the sum over the tokens of each sequence, which a division by their
// number makes a mean.
type sums struct{ mean *mat }

// unit returns m with the factor 1, and the factor.
func unit(m *mat) (*mat, float64) {
	c := *m
	c.mul = 1
	return &c, m.mul
}

// times returns m with its factor multiplied.
func (m *mat) times(f float64) *mat {
	c := *m
	c.mul *= f
	return &c
}

// polyOf sees a value as a polynomial.
func polyOf(v value) (poly, bool) {
	switch v := v.(type) {
	case *mat:
		m, f := unit(v)
		return poly{m, [4]float64{0, f, 0, 0}}, true
	case *poly:
		return *v, true
	}
	return poly{}, false
}

// simple gives a polynomial back as a mat where it is one.
func (p poly) simple() value {
	if p.c[0] == 0 && p.c[2] == 0 && p.c[3] == 0 {
		return p.m.times(p.c[1])
	}
	return &p
}

func (p poly) scaled(f float64) poly {
	for i := range p.c {
		p.c[i] *= f
	}
	return p
}

// plus adds two polynomials of one mat.
func (p poly) plus(q poly, sign float64) (poly, bool) {
	if !sameView(p.m, q.m) {
		return p, false
	}
	for i := range p.c {
		p.c[i] += sign * q.c[i]
	}
	return p, true
}

// multiplied multiplies two polynomials of one mat, up to degree 3.
func (p poly) multiplied(q poly) (poly, bool) {
	if !sameView(p.m, q.m) {
		return p, false
	}
	out := poly{m: p.m}
	for i, x := range p.c {
		for j, y := range q.c {
			if x*y == 0 {
				continue
			}
			if i+j > 3 {
				return p, false
			}
			out.c[i+j] += x * y
		}
	}
	return out, true
}

// near compares constants that an exporter may have rounded to half precision.
func near(x, y float64) bool { return math.Abs(x-y) <= 1e-3*math.Abs(y) }

// graphError is an error about a node.
func graphError(n *onnx.Node, format string, args ...any) error {
	op := n.Op
	if n.Domain != "" && n.Domain != "ai.onnx" {
		op = n.Domain + "." + op
	}
	return &onnx.Error{Node: nodeLabel(n), Reason: op + ": " + fmt.Sprintf(format, args...), Err: onnx.ErrUnsupported,
		Hint: "the importer does not know this form; docs/onnx.md lists the exporters that it reads"}
}

// nodeLabel names a node by its name, else by its first output.
func nodeLabel(n *onnx.Node) string {
	if n.Name != "" || len(n.Outputs) == 0 {
		return n.Name
	}
	return n.Outputs[0]
}
