package onnxmodel

import (
	"math"
	"slices"
)

// norm makes a norm of m's rows.
func (c *nodeCall) norm(m *mat, gamma, beta value, eps float64, rms bool) (*mat, error) {
	rows, ok := m.rowAxes(1)
	if !ok {
		return nil, c.fail("a norm over a part of the columns of shape %v", m.dims())
	}
	t, err := c.matrix(m)
	if err != nil {
		return nil, err
	}
	out := &term{op: opNorm, in: []*term{t}, seq: t.seq, cols: t.cols, eps: eps, rms: rms, node: nodeLabel(c.n)}
	if gamma != nil {
		if out.gamma, err = c.vector(gamma, t.cols); err != nil {
			return nil, err
		}
	}
	if beta != nil {
		if out.bias, err = c.vector(beta, t.cols); err != nil {
			return nil, err
		}
	}
	return c.rows(c.im.add(out), rows), nil
}

// lastAxis checks that a norm goes over the last axis alone.
func (c *nodeCall) lastAxis(m *mat) error {
	if axis, err := axisOf(int(c.n.Int("axis", -1)), len(m.axes)); err != nil || axis != len(m.axes)-1 {
		return c.fail("axis %d of shape %v: norms go over the last axis", c.n.Int("axis", -1), m.dims())
	}
	return nil
}

func layerNormRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	if err := c.lastAxis(m); err != nil {
		return nil, err
	}
	return c.norm(m, c.arg(1), c.arg(2), float64(c.n.Float("epsilon", 1e-5)), false)
}

func rmsNormRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	if err := c.lastAxis(m); err != nil {
		return nil, err
	}
	return c.norm(m, c.arg(1), nil, float64(c.n.Float("epsilon", 1e-5)), true)
}

// normalised is x over a deviation: the last step of a norm written out.
func (c *nodeCall) normalised(x value, s *statistic) (value, error) {
	switch x := x.(type) {
	case *centered:
		if s.of == "variance" && x.power == 1 && same(x.m, s.m) {
			return c.norm(x.m, nil, nil, s.eps, false)
		}
	case *mat:
		if s.of == "squares" && sameView(x, s.m) && math.Abs(x.mul-s.m.mul) <= 1e-6*s.m.mul {
			return c.norm(x, nil, nil, s.eps, true)
		}
	}
	return nil, c.fail("a division by a deviation of something else")
}

// reduced resolves the axes of a reduction: over the last axis, or over tokens.
func (c *nodeCall) reduced(rank int) (axis int, keep bool, err error) {
	e, err := c.arrays(1)
	if err != nil {
		return 0, false, err
	}
	axes, keep, err := reduceAxes(e, rank)
	if err != nil || len(axes) != 1 {
		return 0, false, c.fail("a reduction over axes %v of %d", axes, rank)
	}
	return axes[0], keep, nil
}

func reduceMeanRule(c *nodeCall) (value, error) {
	switch x := c.arg(0).(type) {
	case *centered:
		if axis, keep, err := c.reduced(len(x.m.axes)); err != nil || axis != len(x.m.axes)-1 || !keep || x.power != 2 {
			return nil, c.fail("a mean that is no variance of rows")
		}
		return &statistic{m: x.m, of: "variance", form: 1}, nil
	case *poly:
		axis, keep, err := c.reduced(len(x.m.axes))
		if err != nil || axis != len(x.m.axes)-1 || !keep || x.c[0] != 0 || x.c[1] != 0 || x.c[3] != 0 || x.c[2] <= 0 {
			return nil, c.fail("a mean of something else than squares")
		}
		return &statistic{m: x.m.times(math.Sqrt(x.c[2])), of: "squares", form: 1}, nil
	}
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	axis, keep, err := c.reduced(len(m.axes))
	if err != nil {
		return nil, err
	}
	if m.axes[axis].is(dimToken) {
		return c.mean(m, axis, keep)
	}
	if _, ok := m.rowAxes(1); !ok || axis != len(m.axes)-1 || !keep {
		return nil, c.fail("a mean over axis %d of shape %v", axis, m.dims())
	}
	return &statistic{m: m, of: "mean", form: 1}, nil
}

// mean is the mean over the tokens of each sequence.
func (c *nodeCall) mean(m *mat, at int, keep bool) (*mat, error) {
	if m.t.op == opScores || m.t.op == opProbs {
		return nil, c.fail("a mean of scores")
	}
	t := c.im.add(&term{op: opMean, in: []*term{m.t}, seq: true, cols: m.t.cols, node: nodeLabel(c.n)})
	out := *m
	out.t = t
	axes := slices.Clone(m.axes)
	if axes[at] = nil; !keep {
		axes = slices.Delete(axes, at, at+1)
	}
	return out.with(axes), nil
}

func reduceSumRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	axis, keep, err := c.reduced(len(m.axes))
	if err != nil {
		return nil, err
	}
	if !m.axes[axis].is(dimToken) {
		return nil, c.fail("a sum over axis %d of shape %v", axis, m.dims())
	}
	mean, err := c.mean(m, axis, keep)
	if err != nil {
		return nil, err
	}
	return &sums{mean}, nil
}
