package cuda

import "github.com/lsrsurgeon/lsrsurgeon/graph"

// schedule returns p with its Kronecker sums brought together: those of
// parameters at the start of the forward and of the backward pass, gradients
// of sums at the end. One launch then does all of them. Values keep their
// numbers; the price is that the small matrices of all layers live at once.
func schedule(p *graph.Program) *graph.Program {
	q := *p
	forward := p.Ops[:p.Forward:p.Forward]
	q.Ops = reorder(p, forward, reorder(p, p.Ops[p.Forward:], nil))
	return &q
}

// reorder returns ops, sums first and gradients of sums last, before rest.
func reorder(p *graph.Program, ops, rest []graph.Op) []graph.Op {
	var first, middle, last []graph.Op
	for _, op := range ops {
		switch o := op.(type) {
		case *graph.KronSum:
			if kind(p, o.F1) == graph.ParamValue && kind(p, o.F2) == graph.ParamValue && p.Info(o.Y).Kind == graph.Activation {
				first = append(first, op)
				continue
			}
		case *graph.KronSumGrad:
			if gradOrNone(p, o.DF1) && gradOrNone(p, o.DF2) {
				last = append(last, op)
				continue
			}
		}
		middle = append(middle, op)
	}
	return append(append(append(first, middle...), last...), rest...)
}

func kind(p *graph.Program, v graph.Value) graph.ValueKind { return p.Info(p.Root(v)).Kind }

func gradOrNone(p *graph.Program, v graph.Value) bool {
	return v == graph.None || kind(p, v) == graph.ParamGrad
}

// hasGrads reports whether p computes gradients of parameters.
func hasGrads(p *graph.Program) bool {
	for i := range p.Values {
		if p.Values[i].Kind == graph.ParamGrad {
			return true
		}
	}
	return p.Forward < len(p.Ops)
}

// bucket rounds sizes up, to at most an eighth more, so that few graphs serve
// all batches.
func bucket(d graph.Dims) graph.Dims {
	return graph.Dims{T: roundUp(d.T), S: roundUp(d.S), R: roundUp(d.R), MaxLen: d.MaxLen}
}

func roundUp(n int) int {
	step := 1
	for 16*step <= n {
		step *= 2
	}
	return (n + step - 1) / step * step
}

// larger returns sizes that hold both.
func larger(a, b graph.Dims) graph.Dims {
	return graph.Dims{T: max(a.T, b.T), S: max(a.S, b.S), R: max(a.R, b.R), MaxLen: max(a.MaxLen, b.MaxLen)}
}
