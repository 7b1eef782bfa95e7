package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// blockMatMul is one product a part: each reads and writes columns in place.
func (x *executable) blockMatMul(o *graph.BlockMatMul) {
	in, w, y := x.matrix(o.X), x.matrix(o.W), x.matrix(o.Y)
	if y.rows == 0 {
		return
	}
	beta := x.start(o.Y, o.C)
	if !o.Trans {
		for _, p := range graph.BlockParts(o.Blocks, in.cols, y.cols, o.Shuffle) {
			kernel.Gemm(x.pool, false, false, in.rows, p.Cols, p.Rows, o.Alpha, in.data[p.Row:], in.ld, w.row(p.Block)[p.At:], p.Ld, beta, y.data[p.Col:], y.ld)
		}
		return
	}
	// The parts of a block add to the same columns.
	last := -1
	for _, p := range graph.BlockParts(o.Blocks, y.cols, in.cols, o.Shuffle) {
		first := beta
		if p.Block == last {
			first = 1
		}
		last = p.Block
		kernel.Gemm(x.pool, false, true, in.rows, p.Rows, p.Cols, o.Alpha, in.data[p.Col:], in.ld, w.row(p.Block)[p.At:], p.Ld, first, y.data[p.Row:], y.ld)
	}
}

func (x *executable) blockMatMulGrad(o *graph.BlockMatMulGrad) {
	in, dy, dw := x.matrix(o.X), x.matrix(o.DY), x.matrix(o.DW)
	if o.Trans {
		in, dy = dy, in
	}
	beta := float32(0)
	if x.accumulates(o.DW) {
		beta = 1
	}
	if in.rows == 0 {
		if beta == 0 {
			x.eachSpan(func(_, i, n int) { clear(dw.span(i, n)) }, dw)
		}
		return
	}
	for _, p := range graph.BlockParts(o.Blocks, in.cols, dy.cols, o.Shuffle) {
		kernel.Gemm(x.pool, true, false, p.Rows, p.Cols, in.rows, o.Alpha, in.data[p.Row:], in.ld, dy.data[p.Col:], dy.ld, beta, dw.row(p.Block)[p.At:], p.Ld)
	}
}
