package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

func (x *executable) linear(o *graph.Linear) {
	in, y := x.matrix(o.X), x.matrix(o.Y)
	e := kernel.Epilogue{Bias: x.vectorOf(o.Bias), Act: kernel.Act(o.Act)}
	if o.Pre != graph.None {
		pre := x.matrix(o.Pre)
		e.Pre, e.LdPre, e.Slope = pre.data, pre.ld, x.slopes[o.Pre]
	}
	if o.Residual != graph.None {
		res := x.matrix(o.Residual)
		if sameMemory(res, y) { // only without an activation, see graph.InPlace
			e.Accumulate = true
		} else {
			e.Residual, e.LdRes = res.data, res.ld
		}
	}
	x.packedOf(o.W, forward).Mul(x.pool, in.rows, in.data, in.ld, y.data, y.ld, &e)
}

func (x *executable) linearGrad(o *graph.LinearGrad) {
	dy, dx := x.matrix(o.DY), x.matrix(o.DX)
	var e kernel.Epilogue
	if g := x.joined[o]; g != nil {
		slope := x.matrix(g.X)
		e.Factor, e.LdFactor = slope.data, slope.ld
		dx = x.matrix(g.DX)
	}
	if o.C != graph.None {
		c := x.matrix(o.C)
		if sameMemory(c, dx) {
			e.Accumulate = true
		} else {
			e.Residual, e.LdRes = c.data, c.ld
		}
	}
	x.packedOf(o.W, backward).Mul(x.pool, dy.rows, dy.data, dy.ld, dx.data, dx.ld, &e)
}

// start prepares y for an operation that adds to it: y = c, or y as it is for
// a parameter's gradient. It returns 1 if there is something to add to, else 0
// (y is then to be overwritten).
func (x *executable) start(y, c graph.Value) float32 {
	if x.accumulates(y) {
		return 1
	}
	if c == graph.None {
		return 0
	}
	dst, src := x.matrix(y), x.matrix(c)
	if !sameMemory(dst, src) {
		x.eachSpan(func(_, i, n int) { copy(dst.span(i, n), src.span(i, n)) }, dst, src)
	}
	return 1
}

func (x *executable) matMul(o *graph.MatMul) {
	a, b, y := x.matrix(o.A), x.matrix(o.B), x.matrix(o.Y)
	k := a.cols
	if o.TransA {
		k = a.rows
	}
	beta := x.start(o.Y, o.C)
	kernel.Gemm(x.pool, o.TransA, o.TransB, y.rows, y.cols, k, o.Alpha, a.data, a.ld, b.data, b.ld, beta, y.data, y.ld)
}

func (x *executable) addBias(o *graph.AddBias) {
	in, y, bias := x.matrix(o.X), x.matrix(o.Y), x.matrix(o.Bias).row(0)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			kernel.Add(y.row(i), in.row(i), bias)
		}
	})
}

func (x *executable) colScale(o *graph.ColScale) {
	in, y, s, bias := x.matrix(o.X), x.matrix(o.Y), x.matrix(o.S).row(0), x.vectorOf(o.Bias)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			kernel.Mul(y.row(i), in.row(i), s)
			if bias != nil {
				kernel.Add(y.row(i), y.row(i), bias)
			}
		}
	})
}

func (x *executable) colSum(o *graph.ColSum) {
	in := x.matrix(o.X)
	x.columnSums(o.Y, o.C, in.rows, o.Alpha, func(_ []float32, sum []float32, i, col int) {
		kernel.Add(sum, sum, in.row(i)[col:][:len(sum)])
	})
}

func (x *executable) colDot(o *graph.ColDot) {
	a, b := x.matrix(o.A), x.matrix(o.B)
	x.columnSums(o.Y, o.C, a.rows, 1, func(tmp, sum []float32, i, col int) {
		kernel.Mul(tmp, a.row(i)[col:][:len(sum)], b.row(i)[col:][:len(sum)])
		kernel.Add(sum, sum, tmp)
	})
}

const (
	sumCols = 256 // columns of a job of columnSums
	sumRows = 64  // rows added in float32 before the sum goes to float64
)

// columnSums sets y = alpha·Σ_i term(i) + c, where add adds the terms of row i
// in columns [col, col+len(sum)) to sum; tmp is scratch as long as sum.
func (x *executable) columnSums(y, c graph.Value, rows int, alpha float32, add func(tmp, sum []float32, i, col int)) {
	beta := x.start(y, c)
	dst := x.matrix(y).row(0)
	x.pool.Run((len(dst)+sumCols-1)/sumCols, func(w, job int) {
		col := job * sumCols
		d := dst[col:min(col+sumCols, len(dst))]
		sum, tmp := x.tmp(w, 0, len(d)), x.tmp(w, 1, len(d))
		var total [sumCols]float64
		for lo := 0; lo < rows; lo += sumRows {
			clear(sum)
			for i := lo; i < min(lo+sumRows, rows); i++ {
				add(tmp, sum, i, col)
			}
			for j, v := range sum {
				total[j] += float64(v)
			}
		}
		for j := range d {
			t := float64(alpha) * total[j]
			if beta != 0 {
				t += float64(d[j])
			}
			d[j] = float32(t)
		}
	})
}
