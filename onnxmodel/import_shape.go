package onnxmodel

import (
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// one wraps the result of a rule with one output.
func one(f func(c *nodeCall) (value, error)) func(*nodeCall) ([]value, error) {
	return func(c *nodeCall) ([]value, error) {
		v, err := f(c)
		if err != nil {
			return nil, err
		}
		return []value{v}, nil
	}
}

// view makes a rule of one that changes how a mat is seen.
func view(f func(c *nodeCall, m *mat) (value, error)) func(*nodeCall) ([]value, error) {
	return one(func(c *nodeCall) (value, error) {
		m, err := c.mat(c.arg(0))
		if err != nil {
			return nil, err
		}
		return f(c, m)
	})
}

// rules are the operators on values that depend on the weights, by domain and name.
var rules map[string]func(*nodeCall) ([]value, error)

func init() {
	rules = map[string]func(*nodeCall) ([]value, error){
		"Identity": passOn, "Cast": passOn, "Dropout": passOn, "Shape": one(shapeRule), "IsNaN": one(never), "IsInf": one(never),
		"Transpose": view(transposeRule), "Reshape": view(reshapeRule), "Flatten": view(flattenRule), "Squeeze": view(squeezeRule),
		"Unsqueeze": view(unsqueezeRule), "Expand": view(expandRule), "Slice": view(sliceRule), "Split": splitRule, "Gather": view(gatherRule),
		"GatherND": view(gatherNDRule), "GatherElements": view(gatherElementsRule), "Concat": one(concatRule), "Tile": view(tileRule),
		"SplitToSequence": (*nodeCall).splitSequence, "SequenceAt": (*nodeCall).sequenceAt,

		"Add": one(addRule), "Sub": one(subRule), "Mul": one(mulRule), "Div": one(divRule), "Pow": one(powRule), "Sqrt": one(sqrtRule), "Neg": one(negRule),
		"Reciprocal": one(reciprocalRule), "Where": one(whereRule), "ReduceMean": one(reduceMeanRule), "ReduceSum": one(reduceSumRule),
		"Erf": function("erf"), "Tanh": function("tanh"), "Sigmoid": function("sigmoid"), "Relu": activation(graph.ActReLU), "Gelu": one(geluRule),
		"Swish": one(swishRule),

		"MatMul": one(matMulRule), "Gemm": one(gemmRule), "Softmax": view(softmaxRule), "Einsum": one(einsumRule),
		"LayerNormalization": one(layerNormRule), "RMSNormalization": one(rmsNormRule), "SimplifiedLayerNormalization": one(rmsNormRule),
		"Attention": onnxAttentionRule, "RotaryEmbedding": one(rotaryRule),
	}
	for op, f := range fusedRules {
		rules["com.microsoft."+op] = f
	}
}

func passOn(c *nodeCall) ([]value, error) { return []value{c.in[0]}, nil }

// never: a value of a run without overflow is a number. Exporters guard rows of
// scores in which everything is hidden, which the packed form has not.
func never(*nodeCall) (value, error) { return scalar(kindBool, 0), nil }

func shapeRule(c *nodeCall) (value, error) {
	switch v := c.in[0].(type) {
	case *array:
		return shapeSpan(c.n, v.dims), nil
	case *statistic:
		d := v.m.dims()
		d[len(d)-1] = 1
		return shapeSpan(c.n, d), nil
	case *centered:
		return shapeSpan(c.n, v.m.dims()), nil
	case *fn:
		return shapeSpan(c.n, v.arg.m.dims()), nil
	case *poly:
		return shapeSpan(c.n, v.m.dims()), nil
	}
	m, err := c.mat(c.in[0])
	if err != nil {
		return nil, err
	}
	return shapeSpan(c.n, m.dims()), nil
}

func transposeRule(c *nodeCall, m *mat) (value, error) {
	perm := permOf(c.n)
	if perm == nil {
		for i := range m.axes {
			perm = append(perm, len(m.axes)-1-i)
		}
	}
	if len(perm) != len(m.axes) {
		return nil, c.fail("permutation %v of shape %v", perm, m.dims())
	}
	axes := make([]axis, len(perm))
	for i, p := range perm {
		axes[i] = m.axes[p]
	}
	return m.with(axes), nil
}

func (c *nodeCall) toDims(m *mat, dims []int) (value, error) {
	out, ok := m.reshape(dims)
	if !ok {
		return nil, c.fail("shape %v from %v of the probe cuts through tokens", dims, m.dims())
	}
	return out, nil
}

func reshapeRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	want, _ := e.list("shape", 1)
	dims, err := reshapeDims(c.n, m.dims(), want)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	return c.toDims(m, dims)
}

func flattenRule(c *nodeCall, m *mat) (value, error) {
	d := m.dims()
	axis, err := axisOf(int(c.n.Int("axis", 1)), len(d)+1)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	return c.toDims(m, []int{product(d[:axis]), product(d[axis:])})
}

func squeezeRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	drop, err := squeezeAxes(e, m.dims())
	if err != nil {
		return nil, c.fail("%v", err)
	}
	var axes []axis
	for i, a := range m.axes {
		if !drop[i] {
			axes = append(axes, a)
		} else if a.size() != 1 {
			return nil, c.fail("axis %d has size %d", i, a.size())
		}
	}
	return m.with(axes), nil
}

func unsqueezeRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	add, rank, err := unsqueezeAxes(e, len(m.axes))
	if err != nil {
		return nil, c.fail("%v", err)
	}
	axes, k := make([]axis, rank), 0
	for i := range axes {
		if !add[i] {
			axes[i] = m.axes[k]
			k++
		}
	}
	return m.with(axes), nil
}

// spread repeats axes of size 1.
func (c *nodeCall) spread(m *mat, dims []int) (value, error) {
	want, err := broadcastDims(m.dims(), dims)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	axes := slices.Concat(make([]axis, len(want)-len(m.axes)), slices.Clone(m.axes))
	for i, d := range want {
		switch {
		case axes[i].size() == d:
		case d == c.im.batch && !m.has(dimBatch):
			axes[i] = axis{{dimBatch, d, 0}}
		default:
			axes[i] = axis{{dimCol, d, 0}}
		}
	}
	return m.with(axes), nil
}

func (m *mat) has(d dim) bool {
	return slices.ContainsFunc(m.axes, func(a axis) bool { return slices.ContainsFunc(a, func(x atom) bool { return x.dim == d }) })
}

func expandRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	return c.spread(m, e.in[1].ints())
}

func tileRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	dims := m.dims()
	for i, n := range e.in[1].ints() {
		if n != 1 && (i >= len(dims) || dims[i] != 1) {
			return nil, c.fail("repeats %v of shape %v", e.in[1].ints(), dims)
		}
		dims[i] *= n
	}
	return c.spread(m, dims)
}

// cut takes a span of an axis; of tokens the first or the last one.
func (c *nodeCall) cut(m *mat, at int, s span) (*mat, error) {
	if m.axes[at].is(dimToken) && s.n == 1 && c.im.tokens > 1 {
		return c.pick(m, at, s.from)
	}
	out, ok := m.slice(at, s)
	if !ok {
		return nil, c.fail("elements from %d on, %d of them, of axis %d of shape %v: only columns and the first or last token are cut out", s.from, s.n, at, m.dims())
	}
	return out, nil
}

// pick takes one token of each sequence; the axis stays with size 1.
func (c *nodeCall) pick(m *mat, at, index int) (*mat, error) {
	p := graph.PickFirst
	switch index {
	case 0:
	case c.im.tokens - 1:
		p = graph.PickLast
	default:
		return nil, c.fail("token %d of each sequence: only the first and the last are picked", index)
	}
	if m.t.op == opScores || m.t.op == opProbs {
		return nil, c.fail("the scores of one token")
	}
	t := c.im.add(&term{op: opSelect, in: []*term{m.t}, seq: true, cols: m.t.cols, pick: p, node: nodeLabel(c.n)})
	out := *m
	out.t = t
	axes := slices.Clone(m.axes)
	axes[at] = nil
	return out.with(axes), nil
}

func sliceRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	spans, err := sliceSpans(e, m.dims())
	if err != nil {
		return nil, c.fail("%v", err)
	}
	for at, s := range spans {
		if s.n == 0 { // the rest of heads that are rotated whole
			dims := m.dims()
			dims[at] = 0
			return newArray(kindFloat, dims...), nil
		}
	}
	for at := range m.axes {
		if s, ok := spans[at]; ok {
			if m, err = c.cut(m, at, s); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func splitRule(c *nodeCall) ([]value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	at, err := axisOf(int(c.n.Int("axis", 0)), len(m.axes))
	if err != nil {
		return nil, c.fail("%v", err)
	}
	parts, err := c.splitParts(m.axes[at].size())
	if err != nil {
		return nil, err
	}
	var out []value
	from := 0
	for _, n := range parts {
		x, err := c.cut(m, at, span{from, 1, n})
		if err != nil {
			return nil, err
		}
		out = append(out, x)
		from += n
	}
	return out, nil
}

// gatherRule takes one element of an axis, or repeats each so many times.
func gatherRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	at, err := axisOf(int(c.n.Int("axis", 0)), len(m.axes))
	if err != nil {
		return nil, c.fail("%v", err)
	}
	index, size := e.in[1].ints(), m.axes[at].size()
	for i := range index {
		if index[i] < 0 {
			index[i] += size
		}
	}
	switch dims := e.in[1].dims; {
	case len(dims) == 1 && len(index) == c.im.batch && len(m.axes[at]) == 2 && m.axes[at][0].dim == dimBatch && m.axes[at][1].dim == dimToken:
		return c.pickFlat(m, at, index)
	case len(index) == 1 && len(dims) <= 1:
		out, err := c.cut(m, at, span{index[0], 1, 1})
		if err != nil || len(dims) == 1 {
			return out, err
		}
		return out.with(slices.Delete(slices.Clone(out.axes), at, at+1)), nil
	case len(dims) == 1 && m.axes[at].is(dimCol) && len(index)%size == 0:
		rep := len(index) / size
		for i, v := range index {
			if v != i/rep {
				return nil, c.fail("indices %v", index)
			}
		}
		axes := slices.Clone(m.axes)
		axes[at] = append(slices.Clone(axes[at]), atom{dimCol, rep, 0})
		return m.with(axes), nil
	}
	return nil, c.fail("indices of shape %v into shape %v", e.in[1].dims, m.dims())
}

// pickFlat takes the same token of each sequence, counted through all tokens.
func (c *nodeCall) pickFlat(m *mat, at int, index []int) (value, error) {
	for i, v := range index {
		if v != i*c.im.tokens+index[0] {
			return nil, c.fail("tokens %v of all tokens are not one token of each sequence", index)
		}
	}
	axes := slices.Clone(m.axes)
	axes = slices.Replace(axes, at, at+1, axis{m.axes[at][0]}, axis{m.axes[at][1]})
	out, err := c.pick(m.with(axes), at+1, index[0])
	if err != nil {
		return nil, err
	}
	return out.with(slices.Delete(slices.Clone(out.axes), at+1, at+2)), nil
}

// gatherNDRule takes the same token of each sequence by (sequence, token).
func gatherNDRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	index, batch := e.in[1], int(c.n.Int("batch_dims", 0))
	v := index.ints()
	ok := len(m.axes) > 2 && m.axes[0].is(dimBatch) && m.axes[1].is(dimToken) && len(index.dims) == 2 && index.dims[0] == c.im.batch && index.dims[1] == 2-batch
	token := -1
	for i := 0; ok && i < c.im.batch; i++ {
		t := v[i*(2-batch)+1-batch]
		if t < 0 {
			t += c.im.tokens
		}
		ok = (batch == 1 || v[2*i] == i) && (i == 0 || t == token)
		token = t
	}
	if !ok {
		return nil, c.fail("indices of shape %v into shape %v are not one token of each sequence", index.dims, m.dims())
	}
	out, err := c.pick(m, 1, token)
	if err != nil {
		return nil, err
	}
	return out.with(slices.Delete(slices.Clone(out.axes), 1, 2)), nil
}

// gatherElementsRule takes one token of each sequence by an index that is the same
// for all columns.
func gatherElementsRule(c *nodeCall, m *mat) (value, error) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, err
	}
	at, err := axisOf(int(c.n.Int("axis", 0)), len(m.axes))
	u, ok := e.in[1].uniform()
	if err != nil || !ok || !m.axes[at].is(dimToken) || len(e.in[1].dims) != len(m.axes) || e.in[1].dims[at] != 1 {
		return nil, c.fail("indices of shape %v into shape %v are not one token of each sequence", e.in[1].dims, m.dims())
	}
	return c.pick(m, at, int(u))
}

// parts is a sequence of tensors.
type parts []value

func (c *nodeCall) splitSequence() ([]value, error) {
	k := *c
	n := *c.n
	n.Op = "Split"
	if v := c.arg(1); v != nil {
		a, err := c.im.array(v)
		if err != nil {
			return nil, err
		}
		if len(a.data) != 1 || len(a.dims) != 0 {
			return nil, c.fail("%v", errSequence)
		}
		var size int
		if x, err := c.im.array(c.in[0]); err == nil {
			size = x.dims[n.Int("axis", 0)]
		} else if m, err := c.mat(c.in[0]); err == nil {
			size = m.dims()[n.Int("axis", 0)]
		} else {
			return nil, err
		}
		if each := int(a.data[0]); each > 0 {
			n.Attributes = append(slices.Clone(n.Attributes), onnx.IntAttr("num_outputs", int64((size+each-1)/each)))
		}
	}
	k.n, k.in = &n, c.in[:1]
	var out []value
	var err error
	if known(k.in) {
		out, err = k.splitKnown()
	} else {
		out, err = splitRule(&k)
	}
	return []value{parts(out)}, err
}

func (c *nodeCall) sequenceAt() ([]value, error) {
	list, ok := c.arg(0).(parts)
	a, err := c.im.array(c.arg(1))
	if !ok || err != nil || len(a.data) != 1 {
		return nil, c.fail("%v", errSequence)
	}
	i := a.ints()[0]
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		return nil, c.fail("element %d of %d", i, len(list))
	}
	return []value{list[i]}, nil
}
