package onnxmodel

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

func activation(act graph.Act) func(*nodeCall) ([]value, error) {
	return view(func(c *nodeCall, m *mat) (value, error) { return c.elementwise(act, m, 1) })
}

func geluRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	if c.n.Text("approximate", "none") == "tanh" {
		return c.elementwise(graph.ActGELUTanh, m, 1)
	}
	return c.elementwise(graph.ActGELU, m, 1)
}

// swishRule is x·σ(αx), also as com.microsoft's QuickGelu.
func swishRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	def := float32(1)
	if c.n.Op == "QuickGelu" {
		def = 1.702
	}
	alpha := float64(c.n.Float("alpha", def))
	if alpha <= 0 {
		return nil, c.fail("alpha %v", alpha)
	}
	return c.elementwise(graph.ActSiLU, m.times(alpha), 1/alpha)
}

// whereRule chooses by a condition that the probe decides.
func whereRule(c *nodeCall) (value, error) {
	q, ok, err := c.constant(c.arg(0))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, c.fail("a choice that depends on the weights")
	}
	if u, ok := q.uniform(); ok {
		if u != 0 {
			return c.arg(1), nil
		}
		return c.arg(2), nil
	}
	for i := 1; i <= 2; i++ {
		m, isMat := c.arg(i).(*mat)
		if other, ok, _ := c.constant(c.arg(3 - i)); ok && isMat && m.t.op == opScores {
			if u, ok := other.uniform(); ok && u <= hidden {
				return c.masked(m, q.mapped(kindFloat, func(v float64) float64 {
					if (v != 0) == (i == 1) {
						return 0
					}
					return math.Inf(-1)
				}))
			}
		}
	}
	return nil, c.fail("a choice between elements that is no mask of an attention")
}
