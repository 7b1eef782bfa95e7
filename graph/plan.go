package graph

import (
	"cmp"
	"slices"
)

// Alignment is that of every value in the arena, in bytes: a cache line, and
// the width of the widest vector registers.
const Alignment = 64

const alignFloats = Alignment / 4

// Plan places the activations of a program in one arena for batches up to
// given sizes. Values whose lifetimes do not meet share memory; parameters and
// their gradients lie in flat buffers of their own.
//
// A smaller batch runs in the same places: a value then fills the beginning
// of its place.
type Plan struct {
	Dims Dims
	// Offset is, per Value, its first element in the arena, in floats; -1 for
	// parameters, their gradients and values that no operation touches. A view
	// starts Col floats into its base and has the base's row length.
	Offset []int64
	// ArenaBytes is the size of the arena, at least LiveBytes, the largest sum
	// of values that live at once (at operation PeakOp).
	ArenaBytes, LiveBytes int64
	PeakOp                int
	// ParamBytes is for the parameters, and with a backward pass for their
	// gradients and AdamW's two moments.
	ParamBytes int64
	// PeakBytes is ArenaBytes + ParamBytes. Frozen weights and an engine's
	// scratch come on top.
	PeakBytes int64
}

// block is one place in the arena: a value, or several in sequence that are
// computed in place of one another.
type block struct {
	size       int64 // floats, aligned
	first, end int   // operations that write it first and touch it last
	offset     int64
}

// NewPlan plans p, which must be valid, for batches up to d.
//
// Lifetimes follow the list of operations, both ends included, so an
// operation's results never overlap its operands, except in place of one
// ([InPlace]). Outputs and the loss live to the end of the run. Blocks are placed
// by decreasing size, each in the lowest gap that is free for its lifetime.
func NewPlan(p *Program, d Dims) *Plan {
	blocks, of := lifetimes(p, d)
	pl := &Plan{Dims: d, Offset: make([]int64, len(p.Values))}
	pl.ArenaBytes = 4 * place(blocks)
	pl.LiveBytes, pl.PeakOp = peak(blocks, len(p.Ops))
	for v := range p.Values {
		pl.Offset[v] = -1
		if b := of[p.Root(Value(v))]; v > 0 && b >= 0 {
			pl.Offset[v] = blocks[b].offset + int64(p.Values[v].Col)
		}
	}
	pl.ParamBytes = 4 * int64(p.ParamSize)
	if p.Forward < len(p.Ops) {
		pl.ParamBytes *= 4
	}
	pl.PeakBytes = pl.ArenaBytes + pl.ParamBytes
	return pl
}

// InPlace appends the operands of op that its first result (for GatedGrad,
// in order, DGate and DUp) may be written over: same element or same
// accumulator, read before the write. A plan puts a result there when the
// operand dies; an engine must therefore expect these pairs, and no others,
// to be the same memory. An operand that op reads twice is never shared.
func InPlace(op Op, dst []Value) []Value {
	switch o := op.(type) {
	case *Linear:
		// With an activation the product must be finished before the residual
		// is added, so engines cannot use the residual as their accumulator.
		if o.Act == ActNone && o.Pre == None {
			dst = append(dst, o.Residual)
		}
	case *LinearGrad:
		dst = append(dst, o.C)
	case *MatMul:
		dst = append(dst, o.C)
	case *AddBias:
		dst = append(dst, o.X)
	case *ColSum:
		dst = append(dst, o.C)
	case *Axpby:
		dst = append(dst, o.A, o.B)
	case *ColScale:
		dst = append(dst, o.X)
	case *ColDot:
		dst = append(dst, o.C)
	case *Activate:
		dst = append(dst, o.X)
	case *ActivateGrad:
		dst = append(dst, o.C, o.DY, o.X)
	case *Gated:
		dst = append(dst, o.Gate, o.Up)
	case *GatedGrad:
		dst = append(dst, o.Gate, o.Up)
	case *NormGrad:
		dst = append(dst, o.C)
	case *Dropout:
		dst = append(dst, o.X, o.Residual)
	case *DropoutGrad:
		dst = append(dst, o.C, o.DY)
	case *SelectGrad:
		dst = append(dst, o.C)
	case *MeanPoolGrad:
		dst = append(dst, o.C)
	case *BlockMatMul:
		dst = append(dst, o.C)
	case *KronApply:
		dst = append(dst, o.C)
	case *MSEGrad:
		dst = append(dst, o.Pred)
	case *BCEGrad:
		dst = append(dst, o.Logits)
	}
	return slices.DeleteFunc(dst, func(v Value) bool { return v == None })
}

// lifetimes returns the blocks of the arena and, per value, the index of its
// block or -1.
func lifetimes(p *Program, d Dims) ([]block, []int) {
	n := len(p.Values)
	first, last := make([]int, n), make([]int, n)
	of := make([]int, n)
	for v := range n {
		first[v], last[v], of[v] = -1, -1, -1
	}
	var vs []Value
	for i, op := range p.Ops {
		vs = op.Outputs(op.Inputs(vs[:0]))
		for _, v := range vs {
			r := p.Root(v)
			last[r] = i
			if first[r] < 0 {
				first[r] = i
			}
		}
	}
	for _, v := range append(slices.Clone(p.Outputs), p.Loss) {
		if v != None && first[p.Root(v)] >= 0 {
			last[p.Root(v)] = len(p.Ops) // beyond every operation
		}
	}
	var blocks []block
	for i, op := range p.Ops {
		for j, v := range op.Outputs(nil) {
			r := p.Root(v)
			if p.Values[r].Kind != Activation || of[r] >= 0 {
				continue
			}
			if r == v {
				if x := reusable(p, i, j, blocks, of); x != None {
					of[r] = of[x]
					blocks[of[r]].end = last[r]
					continue
				}
			}
			size := (int64(p.Values[r].Rows.Count(d))*int64(p.Values[r].Cols) + alignFloats - 1) / alignFloats * alignFloats
			of[r] = len(blocks)
			blocks = append(blocks, block{size: size, first: first[r], end: last[r]})
		}
	}
	return blocks, of
}

// reusable returns an operand of operation i in whose place its j-th result
// can be computed, or None: one that InPlace names, whose block ends here,
// and of which the operation reads nothing else.
func reusable(p *Program, i, j int, blocks []block, of []int) Value {
	op := p.Ops[i]
	pairs := InPlace(op, nil)
	if _, ok := op.(*GatedGrad); ok {
		if len(op.Outputs(nil)) != 2 {
			return None
		}
		pairs = pairs[j : j+1]
	}
	for _, x := range pairs {
		if p.Info(x).Kind != Activation || blocks[of[x]].end != i {
			continue
		}
		reads := 0
		for _, u := range op.Inputs(nil) {
			if p.Root(u) == x {
				reads++
			}
		}
		if reads == 1 {
			return x
		}
	}
	return None
}

// place gives every block its offset and returns the size of the arena.
func place(blocks []block) int64 {
	order := make([]int, len(blocks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(blocks[b].size, blocks[a].size) })
	var arena int64
	var placed []int // by offset
	for _, i := range order {
		b := &blocks[i]
		at := int64(0)
		for _, j := range placed {
			o := &blocks[j]
			if o.end < b.first || b.end < o.first {
				continue
			}
			if at+b.size <= o.offset {
				break // the gap before o is free
			}
			at = max(at, o.offset+o.size)
		}
		b.offset = at
		arena = max(arena, at+b.size)
		k, _ := slices.BinarySearchFunc(placed, at, func(j int, at int64) int { return cmp.Compare(blocks[j].offset, at) })
		placed = slices.Insert(placed, k, i)
	}
	return arena
}

// peak returns the largest sum of blocks alive at one operation, in bytes,
// and which operation that is.
func peak(blocks []block, ops int) (bytes int64, op int) {
	delta := make([]int64, ops+2)
	for _, b := range blocks {
		delta[b.first] += 4 * b.size
		delta[b.end+1] -= 4 * b.size
	}
	var live int64
	for i, d := range delta {
		if live += d; live > bytes {
			bytes, op = live, i
		}
	}
	return bytes, op
}

// FitBatch returns the largest batch with d's average lengths, from one
// sequence up to d, whose PeakBytes is at most budget, and its plan. When not
// even one sequence fits, ok is false and the plan is that of one sequence:
// it says what would be needed.
func FitBatch(p *Program, d Dims, budget int64) (fit Dims, plan *Plan, ok bool) {
	seqs := max(d.S, 1)
	part := func(n int) Dims {
		// Rounded up, so that the sizes are upper bounds.
		scale := func(x int) int { return (x*n + seqs - 1) / seqs }
		return Dims{T: max(scale(d.T), min(d.MaxLen, d.T)), S: min(n, d.S), R: scale(d.R), MaxLen: d.MaxLen}
	}
	lo, hi := 1, seqs // the answer lies in [lo, hi] if there is one
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if NewPlan(p, part(mid)).PeakBytes <= budget {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	fit = part(lo)
	plan = NewPlan(p, fit)
	return fit, plan, plan.PeakBytes <= budget
}
