package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// tmps is the number of temporary spans that each worker has.
const tmps = 3

// tmp returns the i-th temporary span of a worker, n elements of it.
func (x *executable) tmp(worker, i, n int) []float32 {
	size := len(x.work[worker]) / tmps &^ 15
	return x.work[worker][i*size:][:n]
}

func (x *executable) axpby(o *graph.Axpby) {
	a, b, y := x.matrix(o.A), x.matrix(o.B), x.matrix(o.Y)
	acc, inB := x.accumulates(o.Y), sameMemory(b, y)
	x.eachSpan(func(_, i, n int) {
		dst, s := y.span(i, n), a.span(i, n)
		switch {
		case acc:
			kernel.Axpy(o.Alpha, s, dst)
			if o.B != graph.None {
				kernel.Axpy(o.Beta, b.span(i, n), dst)
			}
		case o.B == graph.None:
			copy(dst, s)
			scale(o.Alpha, dst)
		case o.Alpha == 1 && o.Beta == 1:
			kernel.Add(dst, s, b.span(i, n))
		case inB:
			scale(o.Beta, dst)
			kernel.Axpy(o.Alpha, s, dst)
		default:
			copy(dst, s)
			scale(o.Alpha, dst)
			kernel.Axpy(o.Beta, b.span(i, n), dst)
		}
	}, y, a, b)
}

func scale(alpha float32, v []float32) {
	if alpha != 1 {
		kernel.Scale(alpha, v)
	}
}

func (x *executable) activate(o *graph.Activate) {
	in, y := x.matrix(o.X), x.matrix(o.Y)
	x.eachSpan(func(_, i, n int) { kernel.ActForward(kernel.Act(o.Act), y.span(i, n), in.span(i, n)) }, y, in)
}

func (x *executable) activateGrad(o *graph.ActivateGrad) {
	if x.inside[o] {
		return
	}
	slope := x.slopes[o.X]
	in, dy, c, dx := x.matrix(o.X), x.matrix(o.DY), x.matrix(o.C), x.matrix(o.DX)
	x.eachSpan(func(w, i, n int) {
		x.addend(w, dx, c, i, n, func(dst []float32) {
			if slope {
				kernel.Mul(dst, dy.span(i, n), in.span(i, n))
			} else {
				kernel.ActBackward(kernel.Act(o.Act), dst, dy.span(i, n), in.span(i, n))
			}
		})
	}, dx, in, dy, c)
}

// addend computes dst = op + c on a span of dst; c may be absent, or dst
// itself. op overwrites what it is given.
func (x *executable) addend(worker int, dst, c matrix, i, n int, op func(dst []float32)) {
	d := dst.span(i, n)
	switch {
	case c.data == nil:
		op(d)
	case sameMemory(dst, c):
		t := x.tmp(worker, 0, len(d))
		op(t)
		kernel.Add(d, d, t)
	default:
		op(d)
		kernel.Add(d, d, c.span(i, n))
	}
}

func (x *executable) gated(o *graph.Gated) {
	gate, up, y := x.matrix(o.Gate), x.matrix(o.Up), x.matrix(o.Y)
	x.eachSpan(func(w, i, n int) {
		d, g, u := y.span(i, n), gate.span(i, n), up.span(i, n)
		switch o.Act {
		case graph.ActSiLU:
			kernel.SiLUMul(d, g, u)
		case graph.ActGELUTanh:
			kernel.GELUTanhMul(d, g, u)
		default:
			t := x.tmp(w, 0, len(d))
			kernel.ActForward(kernel.Act(o.Act), t, g)
			kernel.Mul(d, t, u)
		}
	}, y, gate, up)
}

func (x *executable) gatedGrad(o *graph.GatedGrad) {
	gate, up, dy, dgate, dup := x.matrix(o.Gate), x.matrix(o.Up), x.matrix(o.DY), x.matrix(o.DGate), x.matrix(o.DUp)
	x.eachSpan(func(w, i, n int) {
		g, u, d := gate.span(i, n), up.span(i, n), dy.span(i, n)
		// What nobody needs goes to temporary memory.
		dg, du := x.tmp(w, 0, len(d)), x.tmp(w, 1, len(d))
		if o.DGate != graph.None {
			dg = dgate.span(i, n)
		}
		if o.DUp != graph.None {
			du = dup.span(i, n)
		}
		switch o.Act {
		case graph.ActSiLU:
			kernel.SiLUMulBackward(dg, du, d, g, u)
		case graph.ActGELUTanh:
			kernel.GELUTanhMulBackward(dg, du, d, g, u)
		default:
			// du may be u and dg may be g: u is read before du is written.
			t := x.tmp(w, 2, len(d))
			kernel.Mul(t, d, u)
			kernel.ActForward(kernel.Act(o.Act), du, g)
			kernel.Mul(du, du, d)
			kernel.ActBackward(kernel.Act(o.Act), dg, t, g)
		}
	}, dy, gate, up, dgate, dup)
}

// stream names a dropout site in the current step, see graph/philox.
func (x *executable) stream(site uint32) uint64 {
	return uint64(site) | uint64(uint32(x.batch.Step))<<32
}

// mask writes src·mask/(1-p) to dst, for n rows from row i of a matrix with
// cols columns, or just copies when the batch is not for training.
func (x *executable) mask(dst, src []float32, p float32, site uint32, i, cols int) {
	if !x.batch.Train || p == 0 {
		copy(dst, src)
		return
	}
	kernel.Dropout(dst, src, p, x.batch.Seed, x.stream(site), uint64(i)*uint64(cols))
}

func (x *executable) dropout(o *graph.Dropout) {
	in, res, y := x.matrix(o.X), x.matrix(o.Residual), x.matrix(o.Y)
	x.eachSpan(func(w, i, n int) {
		x.addend(w, y, res, i, n, func(dst []float32) { x.mask(dst, in.span(i, n), o.P, o.Site, i, in.cols) })
	}, y, in, res)
}

func (x *executable) dropoutGrad(o *graph.DropoutGrad) {
	dy, c, dx := x.matrix(o.DY), x.matrix(o.C), x.matrix(o.DX)
	x.eachSpan(func(w, i, n int) {
		x.addend(w, dx, c, i, n, func(dst []float32) { x.mask(dst, dy.span(i, n), o.P, o.Site, i, dy.cols) })
	}, dx, dy, c)
}
