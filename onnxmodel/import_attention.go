package onnxmodel

import (
	"math"
	"slices"
	"strings"
)

// hidden is the largest addend to a score that hides a key: exp(-10000) is 0.
// Old exports of BERT use just that, others the type's smallest number.
const hidden = -9999

// tiny is the largest addend to a score that counts as none.
const tiny = 1e-6

func matMulRule(c *nodeCall) (value, error) {
	x, y := c.arg(0), c.arg(1)
	if known([]value{y}) && y != nil {
		w, err := c.weight(y, false)
		if err != nil {
			return nil, err
		}
		return c.linear(x, w, nil)
	}
	a, err := c.mat(x)
	if err != nil {
		return nil, err
	}
	b, err := c.mat(y)
	if err != nil {
		return nil, err
	}
	return c.contract(a, b)
}

// linear is x W + bias.
func (c *nodeCall) linear(x value, w weightRef, bias value) (*mat, error) {
	m, err := c.mat(x)
	if err != nil {
		return nil, err
	}
	rows, ok := m.rowAxes(1)
	if !ok {
		return nil, c.fail("a product with a part of the columns of shape %v", m.dims())
	}
	t, err := c.matrix(m)
	if err != nil {
		return nil, err
	}
	if t.cols != w.in {
		return nil, c.fail("%d columns times a weight of (%d, %d)", t.cols, w.in, w.out)
	}
	out := &term{op: opLinear, in: []*term{t}, seq: t.seq, cols: w.out, weight: w, site: c.site, node: nodeLabel(c.n)}
	if bias != nil {
		if out.bias, err = c.vector(bias, w.out); err != nil {
			return nil, err
		}
	}
	return c.rows(c.im.add(out), rows), nil
}

func gemmRule(c *nodeCall) (value, error) {
	if c.n.Int("transA", 0) != 0 {
		return nil, c.fail("transA")
	}
	if !known([]value{c.arg(1)}) {
		return nil, c.fail("a product of two values that depend on the weights")
	}
	w, err := c.weight(c.arg(1), c.n.Int("transB", 0) != 0)
	if err != nil {
		return nil, err
	}
	alpha, beta := float64(c.n.Float("alpha", 1)), float64(c.n.Float("beta", 1))
	if c.arg(2) == nil || alpha == 1 && beta == 1 {
		m, err := c.linear(c.arg(0), w, c.arg(2))
		if err != nil {
			return nil, err
		}
		return m.times(alpha), nil
	}
	return nil, c.fail("alpha %v and beta %v", alpha, beta)
}

// contract is the product of two values that depend on the weights: the scores
// q kᵀ of an attention, or its probabilities times v.
func (c *nodeCall) contract(a, b *mat) (value, error) {
	n := len(a.axes)
	if n < 3 || len(b.axes) != n {
		return nil, c.fail("shapes %v and %v of the probe are multiplied", a.dims(), b.dims())
	}
	rows, cols := a.axes[n-2], a.axes[n-1]
	switch {
	case a.t.op == opProbs && rows.is(dimToken) && cols.is(dimKey) && b.axes[n-2].is(dimToken):
		return c.attend(a, b)
	case rows.is(dimToken) && b.axes[n-1].is(dimToken) && cols.size() == b.axes[n-2].size() && !a.axes[n-1].is(dimToken):
		k := slices.Clone(b.axes)
		k[n-2], k[n-1] = k[n-1], k[n-2]
		return c.scores(a, b.with(k))
	case a.t.op == opScores:
		return nil, c.fail("scores are multiplied before a softmax over the keys")
	}
	return nil, c.fail("shapes %v and %v of the probe are multiplied: no attention that is known", a.dims(), b.dims())
}

// headAtoms splits the axes before the last two into the sequence and the heads, and
// repeated heads.
func (c *nodeCall) headAtoms(m *mat) (heads, rep int, err error) {
	heads, rep = 1, 1
	seen := 0
	for _, a := range m.axes[:len(m.axes)-2] {
		for _, x := range a {
			switch {
			case x.dim == dimBatch && seen == 0:
			case x.dim == dimCol && x.stride != 0 && rep == 1:
				heads *= x.size
			case x.dim == dimCol && x.stride == 0:
				rep *= x.size
			default:
				return 0, 0, c.fail("shape %v of the probe has no sequences and heads in front", m.dims())
			}
			seen++
		}
	}
	return heads, rep, nil
}

// distinct is m without repeated heads.
func (m *mat) distinct() *mat {
	axes := make([]axis, len(m.axes))
	for i, a := range m.axes {
		axes[i] = slices.DeleteFunc(slices.Clone(a), func(x atom) bool { return x.dim == dimCol && x.stride == 0 })
	}
	return m.with(axes)
}

// scores is q kᵀ, both (…heads…, tokens, dim).
func (c *nodeCall) scores(q, k *mat) (*mat, error) {
	n := len(q.axes)
	heads, rep, err := c.headAtoms(q)
	if err != nil {
		return nil, err
	}
	kv, krep, err := c.headAtoms(k)
	if err != nil {
		return nil, err
	}
	if rep != 1 || kv*krep != heads && kv != 1 {
		return nil, c.fail("%d heads of queries, %d of keys", heads*rep, kv*krep)
	}
	f := q.mul * k.mul
	q, _ = unit(q)
	k, _ = unit(k.distinct())
	tq, err := c.matrix(q)
	if err != nil {
		return nil, err
	}
	tk, err := c.matrix(k)
	if err != nil {
		return nil, err
	}
	t := c.im.add(&term{op: opScores, in: []*term{tq, tk}, cols: heads, heads: headSizes{heads, kv, q.axes[n-1].size()}, node: nodeLabel(c.n)})
	axes := slices.Clone(q.axes)
	axes[n-1] = axis{{dimKey, c.im.tokens, 0}}
	m := c.whole(t, q.with(axes))
	return m.times(f), nil
}

// masked adds a constant to scores that leaves or hides keys.
func (c *nodeCall) masked(m *mat, add *array) (*mat, error) {
	dims := m.dims()
	add, err := add.broadcast(dims)
	if err != nil {
		return nil, c.fail("a mask: %v", err)
	}
	tokens := c.im.tokens
	visible, set := make([]bool, tokens*tokens), make([]bool, tokens*tokens)
	strides := stridesOf(dims)
	for i, v := range add.data {
		q, k := 0, 0
		for d, a := range m.axes {
			at := i / strides[d] % dims[d]
			switch {
			case a.is(dimToken):
				q = at
			case a.is(dimKey):
				k = at
			}
		}
		see := v > hidden
		if see && math.Abs(v) > tiny {
			return nil, c.fail("%v is added to a score: an attention bias has no operation", v)
		}
		p := q*tokens + k
		if set[p] && visible[p] != see {
			return nil, c.fail("a mask that differs between heads or sequences of the same length")
		}
		visible[p], set[p] = see, true
	}
	t := *m.t
	if t.visible != nil {
		for p := range visible {
			visible[p] = visible[p] && t.visible[p]
		}
	}
	t.visible = visible
	out := *m
	out.t = c.im.add(&t)
	return &out, nil
}

func softmaxRule(c *nodeCall, m *mat) (value, error) {
	axis, err := axisOf(int(c.n.Int("axis", -1)), len(m.axes))
	if err != nil || m.t.op != opScores || !m.axes[axis].is(dimKey) {
		return nil, c.fail("a softmax over axis %d of shape %v that are no scores of an attention", c.n.Int("axis", -1), m.dims())
	}
	return c.softmax(m), nil
}

func (c *nodeCall) softmax(m *mat) *mat {
	t := *m.t
	t.op, t.mul = opProbs, m.mul
	out, _ := unit(m)
	out.t = c.im.add(&t)
	return out
}

// attend is probabilities times v.
func (c *nodeCall) attend(p, v *mat) (*mat, error) {
	n := len(p.axes)
	kv, rep, err := c.headAtoms(v)
	if err != nil {
		return nil, err
	}
	h := p.t.heads
	if kv != h.kv || v.axes[n-1].size() != h.dim || kv*rep != h.heads && kv != 1 || p.mul != 1 {
		return nil, c.fail("values of %d heads of %d for an attention of %d of %d", kv, v.axes[n-1].size(), h.kv, h.dim)
	}
	f := v.mul
	v, _ = unit(v.distinct())
	tv, err := c.matrix(v)
	if err != nil {
		return nil, err
	}
	t, err := c.attention(p.t, tv)
	if err != nil {
		return nil, err
	}
	axes := slices.Clone(p.axes)
	axes[n-1] = axis{{dimCol, h.dim, 1}}
	return c.whole(t, p.with(axes)).times(f), nil
}

// attention is the term of probabilities (opProbs) times v.
func (c *nodeCall) attention(p *term, v *term) (*term, error) {
	t := &term{op: opAttention, in: []*term{p.in[0], p.in[1], v}, cols: p.heads.heads * p.heads.dim, heads: p.heads, mul: p.mul, node: nodeLabel(c.n)}
	var err error
	if t.causal, t.window, err = c.maskKind(p.visible); err != nil {
		return nil, err
	}
	return c.im.add(t), nil
}

// maskKind recognises what a mask hides: nothing, later keys, or also keys too
// far back.
func (c *nodeCall) maskKind(visible []bool) (causal bool, window int, err error) {
	n := c.im.tokens
	if visible == nil || !slices.Contains(visible, false) {
		return false, 0, nil
	}
	for _, w := range c.windows(visible) {
		if slices.Equal(visible, causalMask(n, w)) {
			return true, w, nil
		}
	}
	return false, 0, c.fail("the mask of the attention is neither causal nor a causal window")
}

// windows are the windows that a mask can have: none, or as many keys as the
// last query sees.
func (c *nodeCall) windows(visible []bool) []int {
	n, w := c.im.tokens, 0
	for _, v := range visible[(n-1)*n:] {
		w += int(truth(v))
	}
	if w < n && w > 0 {
		return []int{w}
	}
	return []int{0}
}

// causalMask hides later keys, and with a window those further back than it.
func causalMask(n, window int) []bool {
	m := make([]bool, n*n)
	for q := range n {
		for k := range q + 1 {
			m[q*n+k] = window == 0 || q-k < window
		}
	}
	return m
}

// einsumRule follows products of two operands as MatMul does, by moving axes.
func einsumRule(c *nodeCall) (value, error) {
	eq := strings.ReplaceAll(c.n.Text("equation", ""), " ", "")
	in, out, ok := strings.Cut(eq, "->")
	x, y, two := strings.Cut(in, ",")
	if !ok || !two || len(c.in) != 2 || strings.Contains(eq, ".") {
		return nil, c.fail("equation %q", eq)
	}
	a, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	b, err := c.mat(c.arg(1))
	if err != nil {
		return nil, err
	}
	batch, row, col, inner := einsumLetters(x, y, out)
	if len(row) != 1 || len(col) != 1 || len(inner) != 1 || len(out) != len(batch)+2 || len(x) != len(a.axes) || len(y) != len(b.axes) {
		return nil, c.fail("equation %q of shapes %v and %v", eq, a.dims(), b.dims())
	}
	v, err := c.contract(a.moved(x, batch+row+inner), b.moved(y, batch+inner+col))
	if err != nil {
		return nil, err
	}
	m, err := c.mat(v)
	if err != nil {
		return nil, err
	}
	return m.moved(batch+row+col, out), nil
}

// einsumLetters sorts the letters of a product: in both operands and the result, in
// one and the result, in both operands alone.
func einsumLetters(x, y, out string) (batch, row, col, inner string) {
	for _, l := range x {
		switch {
		case strings.ContainsRune(y, l) && strings.ContainsRune(out, l):
			batch += string(l)
		case strings.ContainsRune(y, l):
			inner += string(l)
		default:
			row += string(l)
		}
	}
	for _, l := range y {
		if !strings.ContainsRune(x, l) {
			col += string(l)
		}
	}
	return batch, row, col, inner
}

// moved puts axes that have the letters of have in the order of want.
func (m *mat) moved(have, want string) *mat {
	axes := make([]axis, len(want))
	for i, l := range want {
		axes[i] = m.axes[strings.IndexRune(have, l)]
	}
	return m.with(axes)
}
