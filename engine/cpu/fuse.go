package cpu

import (
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// fusions are operations that run as part of others. They change what lies in
// memory between operations, never what a program computes but for rounding.
type fusions struct {
	// slopes are the values Linear.Pre that hold the derivative of the
	// activation instead of its argument: the forward pass has what both need
	// at hand, and the backward pass is left with a multiplication.
	slopes map[graph.Value]bool
	// joined are the products whose result only such a multiplication reads:
	// it happens while a tile is in the cache.
	joined map[*graph.LinearGrad]*graph.ActivateGrad
	inside map[*graph.ActivateGrad]bool // those of joined
	// backs are the gradients of a Kronecker sum's terms that are computed with
	// the gradient of x, by the operation after them; begun are the former.
	backs map[*graph.KronApply]*graph.KronApplyGrad
	begun map[*graph.KronApplyGrad]bool
}

// findFusions looks for them in p as it is laid out by pl.
func findFusions(p *graph.Program, pl *graph.Plan) fusions {
	f := fusions{map[graph.Value]bool{}, map[*graph.LinearGrad]*graph.ActivateGrad{}, map[*graph.ActivateGrad]bool{},
		map[*graph.KronApply]*graph.KronApplyGrad{}, map[*graph.KronApplyGrad]bool{}}
	readers := map[graph.Value][]graph.Op{}
	for _, op := range p.Ops {
		for _, v := range op.Inputs(nil) {
			readers[p.Root(v)] = append(readers[p.Root(v)], op)
		}
	}
	for _, op := range p.Ops {
		if l, ok := op.(*graph.Linear); ok && l.Pre != graph.None && !slices.Contains(p.Outputs, l.Pre) && p.Root(l.Pre) == l.Pre && onlySlopes(l, readers[l.Pre]) {
			f.slopes[l.Pre] = true
		}
	}
	for i, op := range p.Ops[:max(len(p.Ops)-1, 0)] {
		l, ok := op.(*graph.LinearGrad)
		if !ok {
			continue
		}
		g, ok := p.Ops[i+1].(*graph.ActivateGrad)
		if !ok || g.DY != l.DX || g.C != graph.None || !f.slopes[g.X] || len(readers[l.DX]) != 1 || slices.Contains(p.Outputs, l.DX) {
			continue
		}
		// The product is written where the gradient belongs, so that must be
		// the memory that the product has anyway, and hold its addend if any.
		at := func(v graph.Value) int64 { return pl.Offset[v] }
		if at(l.DX) < 0 || at(g.DX) != at(l.DX) || l.C != graph.None && at(l.C) != at(l.DX) {
			continue
		}
		f.joined[l], f.inside[g] = g, true
	}
	f.findBacks(p, pl)
	return f
}

// findBacks looks for a KronApplyGrad and the KronApply of the same dy next to
// each other. Together they run in the place of the second, whose result may
// take the memory of x, which the first reads: then it must be that of x row by
// row, and hold no addend beforehand.
func (f *fusions) findBacks(p *graph.Program, pl *graph.Plan) {
	place := func(v graph.Value) (lo, hi int64) {
		in := p.Info(v)
		lo = pl.Offset[v]
		return lo, lo + int64(in.Rows.Count(pl.Dims))*int64(p.Info(p.Root(v)).Cols)
	}
	for i, op := range p.Ops[:max(len(p.Ops)-1, 0)] {
		g, ok := op.(*graph.KronApplyGrad)
		if !ok || g.Trans || g.DF1 == graph.None || g.DF2 == graph.None {
			continue
		}
		a, ok := p.Ops[i+1].(*graph.KronApply)
		if !ok || !a.Trans || a.X != g.DY || a.F1 != g.F1 || a.F2 != g.F2 || a.Alpha != g.Alpha {
			continue
		}
		x0, x1 := place(g.X)
		y0, y1 := place(a.Y)
		apart := x0 >= 0 && y0 >= 0 && (x1 <= y0 || y1 <= x0)
		over := x0 >= 0 && x0 == y0 && p.Root(g.X) == g.X && p.Root(a.Y) == a.Y && a.C == graph.None
		if apart || over {
			f.backs[a], f.begun[g] = g, true
		}
	}
}

// onlySlopes reports whether all that is done with l.Pre is to multiply
// gradients by its derivative, which must be finite: ReLU's is not used, since
// it has to hide infinite gradients.
func onlySlopes(l *graph.Linear, readers []graph.Op) bool {
	if a := kernel.Act(l.Act); a != kernel.ActGELU && a != kernel.ActGELUTanh {
		return false
	}
	for _, r := range readers {
		if g, ok := r.(*graph.ActivateGrad); !ok || g.X != l.Pre || g.Act != l.Act || g.DY == l.Pre || g.C == l.Pre {
			return false
		}
	}
	return len(readers) > 0
}
