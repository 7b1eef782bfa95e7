package onnxmodel

import (
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// constant reads an operand that does not depend on the weights; ok is false
// for one that does.
func (c *nodeCall) constant(v value) (a *array, ok bool, err error) {
	if !known([]value{v}) || v == nil {
		return nil, false, nil
	}
	a, err = c.im.array(v)
	return a, err == nil, err
}

// split sorts the operands of a commutative operator: what depends on the
// weights first.
func (c *nodeCall) commuted() (x, y value) {
	x, y = c.arg(0), c.arg(1)
	if known([]value{x}) {
		x, y = y, x
	}
	return x, y
}

// lastVector says whether a constant is one number per column of m.
func lastVector(v value, m *mat) bool {
	var dims []int
	switch v := v.(type) {
	case *array:
		dims = v.dims
	case *param:
		dims = v.dims()
	}
	n, _ := m.block()
	return len(m.axes) > 0 && len(dims) > 0 && dims[len(dims)-1] == product(dims) && product(dims) == n && m.axes[len(m.axes)-1].size() == n
}

func addRule(c *nodeCall) (value, error) {
	x, y := c.commuted()
	return c.addition(x, y, 1)
}

func subRule(c *nodeCall) (value, error) {
	x, y := c.arg(0), c.arg(1)
	if known([]value{x}) {
		neg, err := c.scaled(y, -1)
		if err != nil {
			return nil, err
		}
		return c.addition(neg, x, 1)
	}
	return c.addition(x, y, -1)
}

// addition is x + sign·y; x depends on the weights.
func (c *nodeCall) addition(x, y value, sign float64) (value, error) {
	if m, ok := x.(*mat); ok && sign == 1 && lastVector(y, m) && m.t.op != opScores {
		return c.addVector(m, y)
	}
	a, ok, err := c.constant(y)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	if ok {
		return c.addConstant(x, a, sign)
	}
	switch x := x.(type) {
	case *turned:
		if y, ok := y.(*turned); ok {
			return c.rotation(x, y, sign)
		}
	case *mat:
		if s, ok := y.(*statistic); ok && sign == -1 && s.of == "mean" && s.form == 1 && same(s.m, x) {
			return &centered{x, 1}, nil
		}
	}
	if p, ok := polyOf(x); ok {
		if q, ok := polyOf(y); ok {
			if s, ok := p.plus(q, sign); ok {
				return s.simple(), nil
			}
		}
	}
	a1, err := c.mat(x)
	if err != nil {
		return nil, err
	}
	b1, err := c.mat(y)
	if err != nil {
		return nil, err
	}
	return c.sum(a1, b1, sign)
}

// addConstant adds numbers: to a polynomial or function one, to scores a mask.
func (c *nodeCall) addConstant(x value, a *array, sign float64) (value, error) {
	if m, ok := x.(*mat); ok && m.t.op == opScores {
		return c.masked(m, a.mapped(kindFloat, func(v float64) float64 { return sign * v }))
	}
	u, ok := a.uniform()
	if !ok {
		return nil, c.fail("a constant of shape %v is added where there is no place for it", a.dims)
	}
	u *= sign
	if u == 0 {
		return x, nil
	}
	switch x := x.(type) {
	case *statistic:
		if x.form == 1 {
			s := *x
			s.eps += u
			return &s, nil
		}
	case *fn:
		f := *x
		f.a += u
		return &f, nil
	case *mat, *poly:
		p, _ := polyOf(x)
		p.c[0] += u
		return p.simple(), nil
	}
	return nil, c.fail("a constant is added to %s", describe(x))
}

// addVector adds a number per column: the bias of a linear layer or of a norm.
func (c *nodeCall) addVector(m *mat, y value) (value, error) {
	t := m.t
	n, ok := m.block()
	whole := ok && m.off == 0 && n == t.cols && m.mul == 1
	if !whole || t.bias != "" || t.op != opLinear && t.op != opNorm {
		if a, ok, _ := c.constant(y); ok {
			if u, same := a.uniform(); same && u == 0 {
				return m, nil
			}
		}
		return nil, c.fail("a vector is added to something else than the product of a linear layer or a norm")
	}
	name, err := c.vector(y, n)
	if err != nil {
		return nil, err
	}
	biased := *t
	biased.bias = name
	out := *m
	out.t = c.im.add(&biased)
	return &out, nil
}

// sum is a + sign·b. Lookups in tables are joined to one embedding.
func (c *nodeCall) sum(a, b *mat, sign float64) (*mat, error) {
	if a.t.op == opScores || b.t.op == opScores {
		return nil, c.fail("a term that depends on the weights is added to the scores of an attention")
	}
	if a.t.op == opEmbed && b.t.op == opEmbed && sign == 1 && a.mul == 1 && b.mul == 1 && a.t.cols == b.t.cols {
		if len(b.axes) > len(a.axes) || b.has(dimBatch) && !a.has(dimBatch) {
			a, b = b, a
		}
		t := c.im.add(&term{op: opEmbed, cols: a.t.cols, node: nodeLabel(c.n), tables: slices.Concat(a.t.tables, b.t.tables)})
		return c.whole(t, a), nil
	}
	f, g := a.mul, b.mul*sign
	a, _ = unit(a)
	b, _ = unit(b)
	like := a
	ta, tb := a.t, b.t
	na, oka := a.block()
	nb, okb := b.block()
	if !(sameAxes(a.axes, b.axes) && a.off == 0 && b.off == 0 && oka && okb && na == ta.cols && nb == tb.cols) {
		ra, _ := a.rowAxes(1)
		rb, _ := b.rowAxes(1)
		if len(ra) == 0 || !sameAxes(ra, rb) || na != nb {
			return nil, c.fail("shapes %v and %v of the probe are added", a.dims(), b.dims())
		}
		var err error
		if ta, err = c.matrix(a); err != nil {
			return nil, err
		}
		if tb, err = c.matrix(b); err != nil {
			return nil, err
		}
		like = c.rows(ta, ra)
	}
	t := c.im.add(&term{op: opSum, in: []*term{ta, tb}, seq: ta.seq, cols: ta.cols, mul: f, mul2: g, node: nodeLabel(c.n)})
	return c.whole(t, like), nil
}

// scaled is f·x.
func (c *nodeCall) scaled(x value, f float64) (value, error) {
	switch x := x.(type) {
	case *mat:
		return x.times(f), nil
	case *poly:
		return x.scaled(f).simple(), nil
	case *fn:
		g := *x
		g.a, g.b = g.a*f, g.b*f
		return &g, nil
	case *rotated:
		return &rotated{x.m.times(f)}, nil
	case *turned:
		t := *x
		t.m = t.m.times(f)
		return &t, nil
	case *sums:
		if near(f*float64(c.im.tokens), 1) {
			return x.mean, nil
		}
		return &sums{x.mean.times(f)}, nil
	}
	if f == 1 {
		return x, nil
	}
	return nil, c.fail("%s is scaled", describe(x))
}

func negRule(c *nodeCall) (value, error) { return c.scaled(c.arg(0), -1) }

func mulRule(c *nodeCall) (value, error) {
	x, y := c.commuted()
	if m, ok := x.(*mat); ok && lastVector(y, m) && m.t.op == opNorm && m.t.gamma == "" && m.t.bias == "" && m.mul == 1 && m.off == 0 {
		name, err := c.vector(y, m.t.cols)
		if err != nil {
			return nil, err
		}
		t := *m.t
		t.gamma = name
		out := *m
		out.t = c.im.add(&t)
		return &out, nil
	}
	a, ok, err := c.constant(y)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	if ok {
		if u, ok := a.uniform(); ok {
			return c.scaled(x, u)
		}
		return c.turn(x, a)
	}
	return c.multiplied(x, y)
}

// multiplied is x·y of two operands that depend on the weights.
func (c *nodeCall) multiplied(x, y value) (value, error) {
	for range 2 {
		switch x := x.(type) {
		case *fn:
			if m, ok := y.(*mat); ok {
				if v, err := c.activated(x, m); v != nil || err != nil {
					return v, err
				}
			}
		case *statistic:
			if x.form == -0.5 {
				return c.normalised(y, x)
			}
		case *centered:
			if z, ok := y.(*centered); ok && x.power == 1 && z.power == 1 && same(x.m, z.m) {
				return &centered{x.m, 2}, nil
			}
		}
		x, y = y, x
	}
	if p, ok := polyOf(x); ok {
		if q, ok := polyOf(y); ok {
			if r, ok := p.multiplied(q); ok {
				return r.simple(), nil
			}
		}
	}
	a, err := c.mat(x)
	if err != nil {
		return nil, err
	}
	b, err := c.mat(y)
	if err != nil {
		return nil, err
	}
	return c.product(a, b)
}

// product is a∘b, with the activation of a or of b in the same operation.
func (c *nodeCall) product(a, b *mat) (value, error) {
	f := a.mul * b.mul
	a, _ = unit(a)
	b, _ = unit(b)
	ra, ok1 := a.rowAxes(1)
	rb, ok2 := b.rowAxes(1)
	if !ok1 || !ok2 || !sameAxes(ra, rb) || a.t.op == opScores || b.t.op == opScores {
		return nil, c.fail("shapes %v and %v of the probe are multiplied", a.dims(), b.dims())
	}
	ta, err := c.matrix(a)
	if err != nil {
		return nil, err
	}
	tb, err := c.matrix(b)
	if err != nil {
		return nil, err
	}
	if ta.cols != tb.cols {
		return nil, c.fail("%d and %d columns are multiplied", ta.cols, tb.cols)
	}
	if tb.op == opAct && ta.op != opAct {
		ta, tb = tb, ta
	}
	t := &term{op: opMul, in: []*term{ta, tb}, seq: ta.seq, cols: ta.cols, node: nodeLabel(c.n)}
	if ta.op == opAct {
		t.act, t.in[0] = ta.act, ta.in[0]
	}
	return c.rows(c.im.add(t), ra).times(f), nil
}

func divRule(c *nodeCall) (value, error) {
	x, y := c.arg(0), c.arg(1)
	if s, ok := y.(*statistic); ok {
		if s.form == 0.5 {
			r := *s
			r.form = -0.5
			if a, ok, _ := c.constant(x); ok {
				if u, ok := a.uniform(); ok && u == 1 {
					return &r, nil
				}
			}
			return c.normalised(x, &r)
		}
		return nil, c.fail("a division by a statistic of the row")
	}
	a, ok, err := c.constant(y)
	if err != nil {
		return nil, c.fail("%v", err)
	}
	u, same := 0.0, false
	if ok {
		u, same = a.uniform()
	}
	if !same || u == 0 {
		return nil, c.fail("a division by something else than a number")
	}
	return c.scaled(x, 1/u)
}

func powRule(c *nodeCall) (value, error) {
	a, ok, err := c.constant(c.arg(1))
	if err != nil {
		return nil, c.fail("%v", err)
	}
	if !ok {
		return nil, c.fail("a power that is no constant")
	}
	u, _ := a.uniform()
	switch x := c.arg(0).(type) {
	case *statistic:
		if x.form == 1 && math.Abs(u) == 0.5 {
			s := *x
			s.form = u
			return &s, nil
		}
	case *centered:
		if x.power == 1 && u == 2 {
			return &centered{x.m, 2}, nil
		}
	default:
		if p, ok := polyOf(x); ok && (u == 2 || u == 3) {
			out := p
			for range int(u) - 1 {
				if out, ok = out.multiplied(p); !ok {
					break
				}
			}
			if ok {
				return out.simple(), nil
			}
		}
	}
	return nil, c.fail("the power %v of %s", u, describe(c.arg(0)))
}

func sqrtRule(c *nodeCall) (value, error) {
	if s, ok := c.arg(0).(*statistic); ok && s.form == 1 {
		r := *s
		r.form = 0.5
		return &r, nil
	}
	return nil, c.fail("a root of something else than a variance or a mean of squares")
}

func reciprocalRule(c *nodeCall) (value, error) {
	if s, ok := c.arg(0).(*statistic); ok && s.form == 0.5 {
		r := *s
		r.form = -0.5
		return &r, nil
	}
	return nil, c.fail("the reciprocal of something else than a deviation")
}

// function begins an activation.
func function(name string) func(*nodeCall) ([]value, error) {
	return one(func(c *nodeCall) (value, error) {
		p, ok := polyOf(c.arg(0))
		if !ok {
			m, err := c.mat(c.arg(0))
			if err != nil {
				return nil, err
			}
			p, _ = polyOf(m)
		}
		return &fn{f: name, arg: p, b: 1}, nil
	})
}

// activated recognises x·(a + b·f(p(x))).
func (c *nodeCall) activated(f *fn, x *mat) (value, error) {
	if !sameView(f.arg.m, x) || f.arg.c[0] != 0 || f.arg.c[2] != 0 {
		return nil, nil
	}
	const tanhSlope, cubic = 0.7978845608028654, 0.044715 // √(2/π); arXiv 1606.08415, section 2
	linear, third := f.arg.c[1], f.arg.c[3]
	gelu := math.Abs(f.a-f.b) <= 1e-3*math.Abs(f.b)
	switch {
	case f.f == "erf" && gelu && third == 0 && near(linear, math.Sqrt2/2):
		return c.elementwise(graph.ActGELU, f.arg.m, 2*f.b*x.mul)
	case f.f == "tanh" && gelu && near(linear, tanhSlope) && near(third, cubic*tanhSlope):
		return c.elementwise(graph.ActGELUTanh, f.arg.m, 2*f.b*x.mul)
	case f.f == "sigmoid" && f.a == 0 && near(linear, 2*tanhSlope) && near(third, 2*cubic*tanhSlope):
		return c.elementwise(graph.ActGELUTanh, f.arg.m, f.b*x.mul)
	case f.f == "sigmoid" && f.a == 0 && third == 0 && linear > 0:
		// x·σ(αx) = silu(αx)/α
		return c.elementwise(graph.ActSiLU, f.arg.m.times(linear), f.b*x.mul/linear)
	}
	return nil, nil
}

// elementwise is f·act(m).
func (c *nodeCall) elementwise(act graph.Act, m *mat, f float64) (*mat, error) {
	t, err := c.matrix(m)
	if err != nil {
		return nil, err
	}
	out := c.im.add(&term{op: opAct, in: []*term{t}, seq: t.seq, cols: t.cols, act: act, node: nodeLabel(c.n)})
	return c.whole(out, m).times(f), nil
}
