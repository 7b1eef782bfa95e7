package cpu

import (
	"cmp"
	"slices"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// profile collects times by kind of operation.
type profile struct{ times map[string]*graph.OpTime }

// StartProfile implements graph.Profiler.
func (x *executable) StartProfile() { x.profile = &profile{times: map[string]*graph.OpTime{}} }

// Profile implements graph.Profiler: the times since StartProfile, longest
// first.
func (x *executable) Profile() []graph.OpTime {
	if x.profile == nil {
		return nil
	}
	var all []graph.OpTime
	for _, t := range x.profile.times {
		all = append(all, *t)
	}
	slices.SortFunc(all, func(a, b graph.OpTime) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Op, b.Op))
	})
	return all
}

func (p *profile) add(x *executable, op graph.Op, d time.Duration) {
	t := p.times[op.Name()]
	if t == nil {
		t = &graph.OpTime{Op: op.Name()}
		p.times[op.Name()] = t
	}
	t.Calls++
	t.Seconds += d.Seconds()
	t.FLOP += x.flop(op)
}

// flop counts the multiplications and additions of the matrix products of op
// on the current batch; other work is not counted.
func (x *executable) flop(op graph.Op) float64 {
	product := func(v graph.Value, k int) float64 {
		m := x.matrix(v)
		return 2 * float64(m.rows) * float64(m.cols) * float64(k)
	}
	switch o := op.(type) {
	case *graph.Linear:
		return product(o.Y, x.p.Weight(o.W).In)
	case *graph.LinearGrad:
		return product(o.DX, x.p.Weight(o.W).Out)
	case *graph.MatMul:
		k := x.matrix(o.A).cols
		if o.TransA {
			k = x.matrix(o.A).rows
		}
		return product(o.Y, k)
	case *graph.Attention:
		return 4 * x.pairs(o) * float64(o.Heads*o.HeadDim)
	case *graph.AttentionGrad:
		return 10 * x.pairs(o.Fwd) * float64(o.Fwd.Heads*o.Fwd.HeadDim)
	case *graph.LMLoss:
		f := product(o.X, x.p.Weight(o.W).Out)
		if o.DX != graph.None {
			f *= 2
		}
		return f
	case *graph.KronSum:
		return 2 * float64(o.Terms) * float64(o.A1*o.R1) * float64(o.A2*o.R2)
	case *graph.KronSumGrad:
		return 4 * float64(o.Terms) * float64(o.A1*o.R1) * float64(o.A2*o.R2)
	}
	return 0
}

// pairs counts the pairs of a query and a key that it sees.
func (x *executable) pairs(o *graph.Attention) float64 {
	a := x.heads(o)
	n := 0
	var few [8]queryBlock
	for s := range x.dims.S {
		for _, b := range a.queriesOf(few[:0], s) {
			for i := range b.n {
				lo, hi := a.visible(b.pos+i, b.len)
				n += hi - lo
			}
		}
	}
	return float64(n)
}
