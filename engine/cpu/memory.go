package cpu

import (
	"fmt"
	"syscall"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// scratch returns the floats of working memory that the operations of the
// program need at most for batches up to d: shared by all workers, and for
// each.
func (x *executable) scratch(d graph.Dims) (shared, work int) {
	widest := jobElems
	for i := range x.p.Values {
		widest = max(widest, x.p.Values[i].Cols)
	}
	work = tmps * ((widest + 15) &^ 15)
	cells := func(v graph.Value) int {
		if v == graph.None {
			return 0
		}
		in := x.p.Info(v)
		return in.Rows.Count(d) * in.Cols
	}
	for _, op := range x.p.Ops {
		switch o := op.(type) {
		case *graph.Attention:
			work = max(work, forwardScratch(d))
		case *graph.AttentionGrad:
			work = max(work, backwardScratch(d))
		case *graph.LMLoss:
			rows := min(x.p.Info(o.X).Rows.Count(d), x.lmRows(x.p.Weight(o.W).Out))
			shared = max(shared, rows*x.p.Weight(o.W).Out)
		case *graph.KronSum:
			shared = max(shared, cells(o.F1)+cells(o.F2)+cells(o.Y))
		case *graph.KronSumGrad:
			shared = max(shared, 2*cells(o.F1)+2*cells(o.F2)+cells(o.DY))
		case *graph.KronApply:
			shared = max(shared, 2*cells(o.F1)+2*cells(o.F2)) // with the gradients of the terms, see findBacks
		case *graph.KronApplyGrad:
			shared = max(shared, 2*cells(o.F1)+2*cells(o.F2))
		case *graph.ColNorm:
			r := cells(o.A) / x.p.Weight(o.W).In
			shared = max(shared, cells(o.A)+cells(o.B)+r*r)
		}
	}
	return shared, work
}

// size is what the program takes with a plan for batches up to d.
func (x *executable) size(d graph.Dims, plan *graph.Plan) graph.Memory {
	shared, work := x.scratch(d)
	return graph.Memory{Weights: x.estimateWeights(), Plan: plan.PeakBytes, Scratch: 4 * int64(shared+x.e.opt.Threads*work)}
}

// memoryError says what would fit. It is [syscall.ENOMEM].
type memoryError string

func (e memoryError) Error() string { return string(e) }

// Is reports whether target is ENOMEM.
func (e memoryError) Is(target error) bool { return target == syscall.ENOMEM }

// fits returns an error if the program with batches up to d needs more than
// the engine's limit.
func (x *executable) fits(d graph.Dims) error {
	limit := x.e.opt.MemoryLimit
	if limit <= 0 {
		return nil
	}
	need := x.size(d, graph.NewPlan(x.p, d))
	if need.Total() <= limit {
		return nil
	}
	fit, plan, ok := graph.FitBatch(x.p, d, limit-need.Weights-need.Scratch)
	if !ok {
		return memoryError(fmt.Sprintf("cpu: %s are needed for %d tokens and the limit is %s; one sequence already takes %s, of which frozen weights %s: raise the limit, shorten the sequences or hold the base as int8",
			size(need.Total()), d.T, size(limit), size(x.size(fit, plan).Total()), size(need.Weights)))
	}
	return memoryError(fmt.Sprintf("cpu: %s are needed for %d tokens in %d sequences and the limit is %s; %d tokens in %d sequences would fit", size(need.Total()), d.T, d.S, size(limit), fit.T, fit.S))
}

// estimateWeights is weightBytes before anything is loaded, without the
// padding of packed matrices.
func (x *executable) estimateWeights() int64 {
	var n int64
	all := weightUses(x.p)
	for table := range x.tiedTables(all) {
		all[table][gathered] = false
	}
	for id, need := range all {
		if id == 0 {
			continue
		}
		w := x.p.Weight(graph.WeightID(id))
		cells := int64(w.In) * int64(w.Out)
		for u := range numUses {
			if !need[u] {
				continue
			}
			switch {
			case u == vector:
				n += 4 * cells
			case u == squares:
				n += 8 * int64(w.Out)
			case x.e.opt.BaseDType == "f32":
				n += 4 * cells
			case x.e.opt.BaseDType == "int8":
				n += cells
			default:
				n += 2 * cells
			}
		}
	}
	return n
}

// size formats bytes for messages.
func size(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
