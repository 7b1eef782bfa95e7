package onnxmodel

import (
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// embedding recognises a lookup of token ids, type ids or positions in a table.
// Tables of cosines and causal masks are looked up by position as well: what
// happens to the result tells them apart.
func (im *importer) embedding(c *nodeCall, p *param, index *array) (*mat, bool) {
	l, ok := im.lookup(p, index)
	if !ok || l.stream != graph.StreamIDs && !(c.top && im.summed(c.n.Outputs[0])) {
		return nil, false
	}
	t := im.add(&term{op: opEmbed, tables: []lookup{l}, cols: p.t.Dims[1], node: nodeLabel(c.n)})
	axes := make([]axis, len(index.dims)+1)
	for i, d := range index.dims {
		switch {
		case d == im.tokens && i == len(index.dims)-1:
			axes[i] = axis{{dimToken, d, 0}}
		case d == im.batch && i == 0 && d > 1:
			axes[i] = axis{{dimBatch, d, 0}}
		case d == im.batch*im.tokens && len(index.dims) == 1:
			axes[i] = axis{{dimBatch, im.batch, 0}, {dimToken, im.tokens, 0}}
		case d != 1:
			return nil, false
		}
	}
	axes[len(index.dims)] = axis{{dimCol, t.cols, 1}}
	return (&mat{t: t, mul: 1}).with(axes), true
}

// lookup finds out what an array of indices is.
func (im *importer) lookup(p *param, index *array) (lookup, bool) {
	l := lookup{table: p.name, entries: p.t.Dims[0]}
	for _, s := range []graph.Stream{graph.StreamIDs, graph.StreamTypes} {
		if a := im.streams[s]; a != nil && slices.Equal(a.data, index.data) {
			l.stream = s
			return l, true
		}
	}
	if len(index.data) == 0 {
		return l, false
	}
	if u, ok := index.uniform(); ok && u == 0 && len(index.data) > 1 {
		l.stream, l.fixed = graph.StreamTypes, true
		return l, true
	}
	first := index.data[0]
	for i, v := range index.data {
		if v != first+float64(i%im.tokens) {
			return l, false
		}
	}
	l.stream, l.offset = graph.StreamPositions, int(first)
	return l, first >= 0 && len(index.data)%im.tokens == 0
}

// foldRows adds rows that all tokens get, whatever they are, to the tables of
// positions: a graph without type ids has the row of type 0 in every sum.
func (im *importer) foldRows() error {
	for _, t := range im.terms {
		at := slices.IndexFunc(t.tables, func(l lookup) bool { return l.fixed })
		for ; at >= 0; at = slices.IndexFunc(t.tables, func(l lookup) bool { return l.fixed }) {
			p := slices.IndexFunc(t.tables, func(l lookup) bool { return l.stream == graph.StreamPositions })
			if p < 0 {
				break // an error if anything needs the term
			}
			var err error
			if t.tables[p].table, err = im.folded(t.tables[p].table, t.tables[at].table, t.cols); err != nil {
				return err
			}
			t.tables = slices.Delete(slices.Clone(t.tables), at, at+1)
		}
	}
	return nil
}

// folded is a table plus row 0 of another.
func (im *importer) folded(table, other string, cols int) (string, error) {
	name := table + "+" + other
	if im.extra[name] != nil {
		return name, nil
	}
	row, err := im.rowsOf(other)
	if err != nil {
		return "", err
	}
	rows, err := im.rowsOf(table)
	if err != nil {
		return "", err
	}
	data := make([]float32, len(rows))
	for i := range data {
		data[i] = float32(rows[i] + row[i%cols])
	}
	im.extra[name] = data
	return name, nil
}

// rowsOf reads a table of the model or one that was computed.
func (im *importer) rowsOf(name string) ([]float64, error) {
	if p, ok := im.main.values[name].(*param); ok {
		a, err := im.load(p.t)
		if err != nil {
			return nil, err
		}
		return a.data, nil
	}
	out := make([]float64, len(im.extra[name]))
	for i, v := range im.extra[name] {
		out[i] = float64(v)
	}
	return out, nil
}

// positionSlice recognises the first rows of a table of position embeddings.
func (im *importer) positionSlice(c *nodeCall, p *param) (*mat, bool) {
	e, err := c.arrays(1)
	if err != nil {
		return nil, false
	}
	spans, err := sliceSpans(e, p.t.Dims)
	s, ok := spans[0]
	if err != nil || !ok || len(spans) != 1 || s.step != 1 || s.n != im.tokens {
		return nil, false
	}
	index := newArray(kindInt, im.tokens)
	for i := range index.data {
		index.data[i] = float64(s.from + i)
	}
	return im.embedding(c, p, index)
}

// handsOn are the operators between a lookup and its use.
var handsOn = []string{"Unsqueeze", "Squeeze", "Cast", "Reshape", "Expand", "Slice", "Transpose", "Identity", "Dropout"}

// summed says whether a value goes into a sum or a norm, as embeddings do.
func (im *importer) summed(name string) bool {
	for range 16 {
		r := im.readers[name]
		if len(r) == 0 {
			return false
		}
		n := r[0]
		switch {
		case n.Op == "Add" || n.Op == "LayerNormalization" || n.Op == "ReduceMean" || n.Domain == "com.microsoft" && n.Op != "RotaryEmbedding":
			return true
		case !slices.Contains(handsOn, n.Op):
			return false
		}
		name = n.Outputs[0]
	}
	return false
}

// turn multiplies by a table of cosines or sines.
func (c *nodeCall) turn(x value, a *array) (value, error) {
	m, isMat := x.(*mat)
	r, isRotated := x.(*rotated)
	if isRotated {
		m = r.m
	}
	if !isMat && !isRotated {
		return nil, c.fail("%s is multiplied by a constant of shape %v", describe(x), a.dims)
	}
	table, ok := c.table(m, a)
	if !ok {
		return nil, c.fail("a constant of shape %v that is no rotary table multiplies a value that depends on the weights", a.dims)
	}
	return &turned{m: m, table: table, rotated: isRotated}, nil
}

// table reads a constant as (tokens, last axis of m); ok is false where it also
// varies elsewhere.
func (c *nodeCall) table(m *mat, a *array) ([][]float64, bool) {
	dims := m.dims()
	full, err := a.broadcast(dims)
	at := slices.IndexFunc(m.axes, func(x axis) bool { return x.is(dimToken) })
	if err != nil || at < 0 || at == len(dims)-1 {
		return nil, false
	}
	last, s := dims[len(dims)-1], stridesOf(dims)
	out := make([][]float64, c.im.tokens)
	for i, v := range full.data {
		t, k := i/s[at]%dims[at], i%last
		if len(out[t]) == k {
			out[t] = append(out[t], v)
		} else if out[t][k] != v {
			return nil, false
		}
	}
	return out, true
}

// concatRule joins views of neighbouring columns, or makes [-x2, x1] of halves.
func concatRule(c *nodeCall) (value, error) {
	var list []*mat
	rank := 0
	for _, v := range c.in {
		if a, ok, _ := c.constant(v); ok && len(a.data) == 0 {
			continue // an empty cache of past keys and values
		}
		m, err := c.mat(v)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
		rank = len(m.axes)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	at, err := axisOf(int(c.n.Int("axis", 0)), rank)
	if err != nil || len(list) == 0 {
		return nil, c.fail("axis %d of %d", c.n.Int("axis", 0), rank)
	}
	if m, ok := c.joined(list, at); ok {
		return m, nil
	}
	if len(list) == 2 && at == rank-1 {
		if m, ok := c.joined([]*mat{list[1], list[0].times(-1)}, at); ok && sameAxes(list[0].axes, list[1].axes) {
			return &rotated{m}, nil
		}
		if m, ok := c.joinedRope(list[0], list[1]); ok {
			return m, nil
		}
	}
	return nil, c.fail("shapes %v and others of the probe are joined that are no neighbouring columns", list[0].dims())
}

// joined is the view of neighbouring columns together.
func (c *nodeCall) joined(list []*mat, at int) (*mat, bool) {
	out := list[0]
	for _, m := range list[1:] {
		if m.t != out.t || m.mul != out.mul || len(m.axes) != len(out.axes) {
			return nil, false
		}
		x, ok1 := single(out.axes[at], m.off-out.off)
		y, ok2 := single(m.axes[at], x.stride)
		if !ok1 || !ok2 {
			return nil, false
		}
		if x.stride != y.stride || m.off != out.off+x.size*x.stride {
			return nil, false
		}
		axes := slices.Clone(m.axes)
		axes[at] = out.axes[at]
		if !sameAxes(axes, out.axes) {
			return nil, false
		}
		axes[at] = axis{{dimCol, x.size + y.size, x.stride}}
		n := *out
		out = n.with(axes)
	}
	return out, true
}

// single is the atom of an axis of columns; one of size 1 has the given stride.
func single(a axis, stride int) (atom, bool) {
	if len(a) == 0 {
		return atom{dimCol, 1, stride}, true
	}
	return a[0], a.is(dimCol)
}

// joinedRope joins the rotated part of heads with the rest, which a rotation of
// whole heads has left as it was.
func (c *nodeCall) joinedRope(a, b *mat) (*mat, bool) {
	if a.t.op != opRope || a.t.in[0] != b.t || a.mul != b.mul {
		return nil, false
	}
	rest := *b
	rest.t = a.t
	return c.joined([]*mat{a, &rest}, len(a.axes)-1)
}

// rotation is x∘cos + rotated(x)∘sin.
func (c *nodeCall) rotation(x, y *turned, sign float64) (value, error) {
	if x.rotated {
		x, y = y, x
		if sign < 0 {
			return nil, c.fail("a difference of the parts of a rotation")
		}
	}
	if x.rotated || !y.rotated || !sameView(x.m, y.m) || y.m.mul*sign != x.m.mul {
		return nil, c.fail("the parts of a rotation do not belong together")
	}
	half := len(x.table[0]) / 2
	cos, sin := make([][]float64, len(x.table)), make([][]float64, len(x.table))
	for t := range x.table {
		cos[t], sin[t] = x.table[t][:half], y.table[t][:half]
		if !slices.Equal(cos[t], x.table[t][half:]) || !slices.Equal(sin[t], y.table[t][half:]) {
			return nil, c.fail("the halves of the rotary tables differ")
		}
	}
	return c.rotate(x.m, cos, sin, false)
}

// rotate turns the heads of m, whose last axis is rotated, by tables (tokens,
// half of it).
func (c *nodeCall) rotate(m *mat, cos, sin [][]float64, interleaved bool) (value, error) {
	r := &graph.Rope{Interleaved: interleaved}
	if err := c.frequencies(r, cos, sin); err != nil {
		return nil, err
	}
	f := m.mul
	m, _ = unit(m)
	cols := m.columns()
	n := 2 * len(r.Freq)
	if len(cols) == 0 || cols[len(cols)-1].stride != 1 || m.axes[len(m.axes)-1].size() != n || m.t.op == opScores {
		return nil, c.fail("a rotation of shape %v by %d frequencies", m.dims(), len(r.Freq))
	}
	// Where only a part of each head is rotated, the term rotates that of whole heads.
	dim, heads := n, 1
	if len(cols) > 1 {
		dim, heads = cols[len(cols)-2].stride, cols[len(cols)-2].size
	}
	whole := *m
	axes := slices.Clone(m.axes)
	axes[len(axes)-1] = axis{{dimCol, dim, 1}}
	whole.axes = axes
	all, ok := whole.block()
	if !ok || all != dim*heads || dim < n {
		return nil, c.fail("a rotation of columns %v", cols)
	}
	t, err := c.matrix(&whole)
	if err != nil {
		return nil, err
	}
	r.Heads, r.HeadDim = heads, dim
	out := c.whole(c.im.add(&term{op: opRope, in: []*term{t}, seq: t.seq, cols: t.cols, rope: r, node: nodeLabel(c.n)}), &whole)
	part, ok := out.slice(len(axes)-1, span{0, 1, n})
	if !ok {
		return nil, c.fail("a rotation of shape %v", m.dims())
	}
	return part.times(f), nil
}

// frequencies reads the angles per position off tables of cosines and sines.
func (c *nodeCall) frequencies(r *graph.Rope, cos, sin [][]float64) error {
	n := len(cos) - 1
	if n < 1 || len(cos[0]) == 0 {
		return c.fail("a rotation by empty tables")
	}
	scale := math.Hypot(cos[0][0], sin[0][0])
	r.Scale = float32(scale)
	for i := range cos[0] {
		f := math.Atan2(sin[1][i], cos[1][i])
		if f < 0 {
			f += 2 * math.Pi
		}
		// The last position tells more digits: its angle is n times as large.
		last := math.Atan2(sin[n][i], cos[n][i])
		f = (last + 2*math.Pi*math.Round((f*float64(n)-last)/(2*math.Pi))) / float64(n)
		for t := range cos {
			a := f * float64(t)
			if math.Abs(cos[t][i]-scale*math.Cos(a)) > 1e-3 || math.Abs(sin[t][i]-scale*math.Sin(a)) > 1e-3 {
				return c.fail("the tables of a rotation are no cosines and sines of the position times a frequency")
			}
		}
		r.Freq = append(r.Freq, float32(f))
	}
	return nil
}
