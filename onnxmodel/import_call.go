package onnxmodel

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// nodeCall is a node with the values of its inputs; absent ones are nil.
type nodeCall struct {
	im   *importer
	n    *onnx.Node
	in   []value
	site *adapter.Site // the node is a linear layer that an adapter may go on
	top  bool          // the node is one of the main graph
}

func (c *nodeCall) arg(i int) value {
	if i < len(c.in) {
		return c.in[i]
	}
	return nil
}

// fail is an error about the node.
func (c *nodeCall) fail(format string, args ...any) error { return graphError(c.n, format, args...) }

// evaluate computes a node whose inputs are known.
func (c *nodeCall) evaluate() ([]value, error) {
	switch c.n.Op {
	case "Split":
		return c.splitKnown()
	case "SplitToSequence":
		return c.splitSequence()
	case "SequenceAt":
		return c.sequenceAt()
	}
	f := evaluators[c.n.Op]
	if f == nil {
		if rule := rules[c.n.Op]; rule != nil {
			return rule(c)
		}
		return nil, c.fail("%v", errNoRule)
	}
	e, err := c.arrays(0)
	if err != nil {
		return nil, err
	}
	a, err := f(e)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	c.noteDistance(e)
	return []value{a}, nil
}

// distances are the operators by which a mask compares positions.
var distances = []string{"Add", "Sub", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}

// noteDistance remembers the least number beyond the probe that positions are
// compared with: a sliding window of that size would hide nothing here, and the
// program is only right for sequences within it.
func (c *nodeCall) noteDistance(e *call) {
	if !slices.Contains(distances, c.n.Op) || len(e.in) != 2 || e.in[0].kind != kindInt {
		return
	}
	for i, a := range e.in {
		u, same := a.uniform()
		_, other := e.in[1-i].uniform()
		if u = math.Abs(u); same && !other && u >= float64(c.im.tokens) && u < firstType {
			c.im.reach = min(c.im.reach, int(u))
		}
	}
}

// arrays reads the inputs from i on, those before stay nil.
func (c *nodeCall) arrays(i int) (*call, error) {
	e := &call{n: c.n, in: make([]*array, len(c.in)), load: c.im.load}
	for k := i; k < len(c.in); k++ {
		if c.in[k] == nil {
			continue
		}
		a, err := c.im.array(c.in[k])
		if err != nil {
			return nil, c.fail("input %d: %v", k, err)
		}
		e.in[k] = a
	}
	if i == 0 && (len(e.in) == 0 || e.in[0] == nil) {
		return nil, c.fail("no input")
	}
	return e, nil
}

// parameter handles nodes that hand a parameter on, and lookups in tables, without
// reading the elements. done is false where the node is to be evaluated.
func (c *nodeCall) parameter() (v value, done bool, err error) {
	p, ok := c.arg(0).(*param)
	if !ok {
		return nil, false, nil
	}
	switch c.n.Op {
	case "Identity":
		return p, true, nil
	case "Cast":
		if kindOfType(p.t.Type) == kindFloat && kindOfType(onnx.DataType(c.n.Int("to", 1))) == kindFloat {
			return p, true, nil
		}
	case "Shape":
		return shapeSpan(c.n, p.dims()), true, nil
	case "Transpose":
		if perm := permOf(c.n); len(p.t.Dims) == 2 && (perm == nil || slices.Equal(perm, []int{1, 0})) {
			q := *p
			q.transposed = !q.transposed
			return &q, true, nil
		}
	case "Reshape", "Unsqueeze", "Squeeze":
		if len(p.t.Dims) == 1 && p.t.Elements() > 1 && c.top {
			return c.sameVector(p)
		}
	case "Gather":
		if c.n.Int("axis", 0) != 0 || len(p.t.Dims) != 2 || kindOfType(p.t.Type) != kindFloat || p.transposed {
			return nil, false, nil
		}
		index, err := c.im.array(c.arg(1))
		if err != nil {
			return nil, true, err
		}
		if m, ok := c.im.embedding(c, p, index); ok {
			return m, true, nil
		}
	case "Slice":
		if len(p.t.Dims) == 2 && kindOfType(p.t.Type) == kindFloat && !p.transposed {
			if m, ok := c.im.positionSlice(c, p); ok {
				return m, true, nil
			}
		}
	}
	return nil, false, nil
}

// sameVector keeps a vector that only gains or loses axes of size 1.
func (c *nodeCall) sameVector(p *param) (value, bool, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, true, err
	}
	e.in[0] = newArray(kindFloat, p.t.Dims...)
	a, err := evaluators[c.n.Op](e)
	if err != nil {
		return nil, true, err
	}
	if a.dims[len(a.dims)-1] != len(a.data) {
		return nil, false, nil
	}
	return p, true, nil
}

// mat resolves a value to a term as the graph sees it.
func (c *nodeCall) mat(v value) (*mat, error) {
	switch v := v.(type) {
	case *mat:
		return v, nil
	case *fn:
		if v.f == "tanh" && v.a == 0 && v.arg.c[0] == 0 && v.arg.c[2] == 0 && v.arg.c[3] == 0 {
			return c.elementwise(graph.ActTanh, v.arg.m.times(v.arg.c[1]), v.b)
		}
		return nil, c.fail("%s stands alone: no activation that is known is made of it", v.f)
	case *poly:
		return c.polynomial(v)
	case *failed:
		return nil, v.err
	case *sums:
		return nil, c.fail("a sum over tokens that is not divided by their number")
	case nil:
		return nil, c.fail("a missing input")
	}
	return nil, c.fail("the input is %s", describe(v))
}

func describe(v value) string {
	switch v.(type) {
	case *array, *param:
		return "a constant"
	case *statistic, *centered:
		return "a piece of a norm that is not completed"
	case *rotated, *turned:
		return "a piece of a rotation that is not completed"
	}
	return "not a tensor"
}

// polynomial writes squares as products; other polynomials have no operation.
func (c *nodeCall) polynomial(p *poly) (*mat, error) {
	if p.c[0] != 0 || p.c[3] != 0 {
		return nil, c.fail("the addition of a constant or a third power that belongs to no activation that is known")
	}
	t, err := c.matrix(p.m)
	if err != nil {
		return nil, err
	}
	square := c.im.add(&term{op: opMul, in: []*term{t, t}, seq: t.seq, cols: t.cols, node: nodeLabel(c.n)})
	m := c.whole(square, p.m).times(p.c[2])
	if p.c[1] == 0 {
		return m, nil
	}
	return c.sum(m, p.m.times(p.c[1]), 1)
}

// add appends a term.
func (im *importer) add(t *term) *term {
	t.id = len(im.terms)
	im.terms = append(im.terms, t)
	return t
}

// matrix is the term whose columns are those of m in order, its factor included.
func (c *nodeCall) matrix(m *mat) (*term, error) {
	n, ok := m.block()
	if !ok {
		return nil, c.fail("the columns %v are not neighbours", m.columns())
	}
	t := m.t
	if t.op == opScores || t.op == opProbs {
		return nil, c.fail("the scores or probabilities of an attention are used beside it")
	}
	if m.off != 0 || n != t.cols {
		t = c.im.columns(t, m.off, n)
	}
	if m.mul != 1 {
		t = c.im.add(&term{op: opScale, in: []*term{t}, seq: t.seq, cols: n, mul: m.mul, node: nodeLabel(c.n)})
	}
	return t, nil
}

// columns is the term of columns [from, from+n) of base: one, as each may be
// used once where gradients flow.
func (im *importer) columns(base *term, from, n int) *term {
	for _, t := range im.terms[base.id+1:] {
		if t.op == opColumns && t.in[0] == base && t.col == from && t.cols == n {
			return t
		}
	}
	return im.add(&term{op: opColumns, in: []*term{base}, seq: base.seq, cols: n, col: from, node: base.node})
}

// whole sees all columns of t, which were made of like's in order, as like does.
func (c *nodeCall) whole(t *term, like *mat) *mat {
	axes := make([]axis, len(like.axes))
	n := t.cols
	for i, a := range like.axes {
		axes[i] = slices.Clone(a)
		for k := range axes[i] {
			if x := &axes[i][k]; x.dim == dimCol {
				n /= x.size
				x.stride = n
			}
		}
	}
	return (&mat{t: t, mul: 1}).with(axes)
}

// rows sees t as a matrix with the row axes of like and one axis of columns.
func (c *nodeCall) rows(t *term, rows []axis) *mat {
	return (&mat{t: t, mul: 1}).with(append(slices.Clone(rows), axis{{dimCol, t.cols, 1}}))
}

// vector finds the checkpoint's name of a vector of n elements. One that was
// computed gets a name of its own.
func (c *nodeCall) vector(v value, n int) (string, error) {
	if p, ok := v.(*param); ok && p.t.Elements() == int64(n) && kindOfType(p.t.Type) == kindFloat {
		return p.name, nil
	}
	a, err := c.im.array(v)
	if err != nil {
		return "", c.fail("%v", err)
	}
	if u, ok := a.uniform(); ok && len(a.data) == 1 && n != 1 {
		a = vector(kindFloat, slices.Repeat([]float64{u}, n)...)
	}
	if len(a.data) != n {
		return "", c.fail("a vector of shape %v where %d elements are expected", a.dims, n)
	}
	return c.im.keep(c.n, a), nil
}

// keep puts a computed tensor among the frozen ones.
func (im *importer) keep(n *onnx.Node, a *array) string {
	name := fmt.Sprintf("%s#%d", nodeLabel(n), len(im.extra))
	data := make([]float32, len(a.data))
	for i, v := range a.data {
		data[i] = float32(v)
	}
	im.extra[name] = data
	return name
}

// weight finds the matrix of a linear layer.
func (c *nodeCall) weight(v value, transposed bool) (weightRef, error) {
	switch v := v.(type) {
	case *param:
		if d := v.dims(); len(d) == 2 && kindOfType(v.t.Type) == kindFloat {
			w := weightRef{name: v.name, in: d[0], out: d[1], transposed: v.transposed}
			if transposed {
				w.in, w.out, w.transposed = w.out, w.in, !w.transposed
			}
			return w, nil
		}
	case nil:
		return weightRef{}, c.fail("no weight")
	}
	a, err := c.im.array(v)
	if err != nil {
		return weightRef{}, c.fail("%v", err)
	}
	d := a.dims
	for len(d) > 2 && d[0] == 1 {
		d = d[1:]
	}
	if len(d) != 2 {
		return weightRef{}, c.fail("a weight of shape %v", a.dims)
	}
	w := weightRef{name: c.im.keep(c.n, a), in: d[0], out: d[1]}
	if transposed {
		w.in, w.out, w.transposed = w.out, w.in, true
	}
	return w, nil
}

// splitKnown splits an array.
func (c *nodeCall) splitKnown() ([]value, error) {
	a, err := c.im.array(c.in[0])
	if err != nil {
		return nil, err
	}
	axis, err := axisOf(int(c.n.Int("axis", 0)), len(a.dims))
	if err != nil {
		return nil, c.fail("%v", err)
	}
	parts, err := c.splitParts(a.dims[axis])
	if err != nil {
		return nil, err
	}
	var out []value
	at := 0
	for _, n := range parts {
		out = append(out, a.sliced(axis, span{at, 1, n}))
		at += n
	}
	return out, nil
}

// splitParts are the sizes that Split cuts an axis into.
func (c *nodeCall) splitParts(size int) ([]int, error) {
	e := &call{n: c.n, in: make([]*array, 2)}
	if v := c.arg(1); v != nil {
		a, err := c.im.array(v)
		if err != nil {
			return nil, err
		}
		e.in[1] = a
	}
	parts, given := e.list("split", 1)
	if !given {
		n := int(c.n.Int("num_outputs", int64(len(c.n.Outputs))))
		if n < 1 {
			return nil, c.fail("no outputs")
		}
		each := (size + n - 1) / n
		for left := size; left > 0; left -= each {
			parts = append(parts, min(each, left))
		}
	}
	sum := 0
	for _, n := range parts {
		sum += n
	}
	if sum != size {
		return nil, c.fail("parts %v of %d", parts, size)
	}
	return parts, nil
}

var errSequence = errors.New("only sequences of parts of equal size are followed")
