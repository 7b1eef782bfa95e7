package reference

import (
	"errors"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/philox"
)

const none = graph.None

// run executes one operation. Shapes were checked by graph.Validate.
func (x *Executable) run(op graph.Op) error {
	switch o := op.(type) {
	case *graph.Input:
		cols := x.get(o.Y).cols
		x.put(o.Y, each(x.dims.T, cols, func(t, j int) float64 { return float64(x.batch.Inputs[t*cols+j]) }), none)
	case *graph.Embed:
		x.embed(o)
	case *graph.Linear:
		x.linear(o)
	case *graph.LinearGrad:
		x.put(o.DX, x.get(o.DY).times(x.weight(o.W).t(true)), o.C)
	case *graph.MatMul:
		y := x.get(o.A).t(o.TransA).times(x.get(o.B).t(o.TransB))
		x.put(o.Y, each(y.rows, y.cols, func(i, j int) float64 { return float64(o.Alpha) * y.at(i, j) }), o.C)
	case *graph.AddBias:
		a, bias := x.get(o.X), x.get(o.Bias)
		x.put(o.Y, each(a.rows, a.cols, func(i, j int) float64 { return a.at(i, j) + bias.at(0, j) }), none)
	case *graph.ColSum:
		a := x.get(o.X)
		x.put(o.Y, each(1, a.cols, func(_, j int) float64 {
			return float64(o.Alpha) * sum(a.rows, func(i int) float64 { return a.at(i, j) })
		}), o.C)
	case *graph.Axpby:
		a, b := x.get(o.A), x.get(o.B)
		x.put(o.Y, each(a.rows, a.cols, func(i, j int) float64 {
			y := float64(o.Alpha) * a.at(i, j)
			if o.B != none {
				y += float64(o.Beta) * b.at(i, j)
			}
			return y
		}), none)
	case *graph.ColScale:
		a, s := x.get(o.X), x.get(o.S)
		x.put(o.Y, each(a.rows, a.cols, func(i, j int) float64 { return a.at(i, j)*s.at(0, j) + vector(x.weight(o.Bias), j, 0) }), none)
	case *graph.ColDot:
		a, b := x.get(o.A), x.get(o.B)
		x.put(o.Y, each(1, a.cols, func(_, j int) float64 {
			return sum(a.rows, func(i int) float64 { return a.at(i, j) * b.at(i, j) })
		}), o.C)
	case *graph.Activate:
		a := x.get(o.X)
		x.put(o.Y, each(a.rows, a.cols, func(i, j int) float64 { return act(o.Act, a.at(i, j)) }), none)
	case *graph.ActivateGrad:
		a, dy := x.get(o.X), x.get(o.DY)
		x.put(o.DX, each(a.rows, a.cols, func(i, j int) float64 { return dy.at(i, j) * actGrad(o.Act, a.at(i, j)) }), o.C)
	case *graph.Gated:
		gate, up := x.get(o.Gate), x.get(o.Up)
		x.put(o.Y, each(up.rows, up.cols, func(i, j int) float64 { return act(o.Act, gate.at(i, j)) * up.at(i, j) }), none)
	case *graph.GatedGrad:
		gate, up, dy := x.get(o.Gate), x.get(o.Up), x.get(o.DY)
		dgate := each(up.rows, up.cols, func(i, j int) float64 { return dy.at(i, j) * actGrad(o.Act, gate.at(i, j)) * up.at(i, j) })
		dup := each(up.rows, up.cols, func(i, j int) float64 { return dy.at(i, j) * act(o.Act, gate.at(i, j)) })
		x.put(o.DGate, dgate, none)
		x.put(o.DUp, dup, none)
	case *graph.Norm:
		x.norm(o)
	case *graph.NormGrad:
		x.normGrad(o)
	case *graph.Dropout:
		x.dropout(o.X, o.P, o.Site, o.Residual, o.Y)
	case *graph.DropoutGrad:
		x.dropout(o.DY, o.P, o.Site, o.C, o.DX)
	case *graph.Rope:
		x.rope(o)
	case *graph.Attention:
		x.attention(o)
	case *graph.AttentionGrad:
		x.attentionGrad(o)
	default:
		return x.runMore(op)
	}
	return nil
}

// runMore continues run: row selections, Kronecker operations, losses.
func (x *Executable) runMore(op graph.Op) error {
	switch o := op.(type) {
	case *graph.Select:
		a := x.get(o.X)
		y := x.get(o.Y)
		x.put(o.Y, each(y.rows, y.cols, func(i, j int) float64 { return a.at(x.token(o.Pick, i), j) }), none)
	case *graph.SelectGrad:
		dy, dx := x.get(o.DY), newMatrix(x.dims.T, x.get(o.DX).cols)
		for i := range dy.rows {
			copy(dx.row(x.token(o.Pick, i)), dy.row(i))
		}
		x.put(o.DX, dx, o.C)
	case *graph.MeanPool:
		a := x.get(o.X)
		x.put(o.Y, each(x.dims.S, a.cols, func(s, j int) float64 {
			lo, hi := x.sequence(s)
			return sum(hi-lo, func(t int) float64 { return a.at(lo+t, j) }) / float64(hi-lo)
		}), none)
	case *graph.MeanPoolGrad:
		dy, dx := x.get(o.DY), newMatrix(x.dims.T, x.get(o.DX).cols)
		for s := range x.dims.S {
			lo, hi := x.sequence(s)
			for t := lo; t < hi; t++ {
				for j := range dx.cols {
					dx.set(t, j, dy.at(s, j)/float64(hi-lo))
				}
			}
		}
		x.put(o.DX, dx, o.C)
	case *graph.KronSum:
		y := x.get(o.Y)
		x.put(o.Y, kron{o.Terms, o.A1, o.R1, o.A2, o.R2}.matrix(x.get(o.F1), x.get(o.F2), y.rows, y.cols), none)
	case *graph.KronSumGrad:
		x.kronGrad(kron{o.Terms, o.A1, o.R1, o.A2, o.R2}, o.F1, o.F2, x.get(o.DY), o.DF1, o.DF2)
	case *graph.KronApply:
		k := kron{o.Terms, o.A1, o.R1, o.A2, o.R2}.matrix(x.get(o.F1), x.get(o.F2), o.N, o.M)
		y := x.get(o.X).times(k.t(o.Trans))
		x.put(o.Y, each(y.rows, y.cols, func(i, j int) float64 { return float64(o.Alpha) * y.at(i, j) }), o.C)
	case *graph.KronApplyGrad:
		// dK = alpha·xᵀ dy, and for y = alpha·x Kᵀ its transpose.
		dk := x.get(o.X).t(true).times(x.get(o.DY)).t(o.Trans)
		dk = each(dk.rows, dk.cols, func(i, j int) float64 { return float64(o.Alpha) * dk.at(i, j) })
		x.kronGrad(kron{o.Terms, o.A1, o.R1, o.A2, o.R2}, o.F1, o.F2, dk, o.DF1, o.DF2)
	case *graph.RowOuter:
		u, v := x.get(o.U), x.get(o.V)
		x.put(o.Y, each(u.rows, u.cols*v.cols, func(i, j int) float64 { return u.at(i, j/v.cols) * v.at(i, j%v.cols) }), none)
	case *graph.RowOuterGrad:
		u, v, dy := x.get(o.U), x.get(o.V), x.get(o.DY)
		du := each(u.rows, u.cols, func(i, a int) float64 {
			return sum(v.cols, func(b int) float64 { return dy.at(i, a*v.cols+b) * v.at(i, b) })
		})
		dv := each(v.rows, v.cols, func(i, b int) float64 {
			return sum(u.cols, func(a int) float64 { return dy.at(i, a*v.cols+b) * u.at(i, a) })
		})
		x.put(o.DU, du, none)
		x.put(o.DV, dv, none)
	default:
		return x.runScaled(op)
	}
	return nil
}

// runScaled continues run: what DoRA and GraLoRA need.
func (x *Executable) runScaled(op graph.Op) error {
	switch o := op.(type) {
	case *graph.ColNorm:
		w, ab := x.weight(o.W), x.get(o.A).t(o.TransA).times(x.get(o.B).t(o.TransB))
		x.put(o.Y, each(1, w.cols, func(_, j int) float64 {
			n := math.Sqrt(sum(w.rows, func(i int) float64 { return sq(w.at(i, j) + float64(o.Alpha)*ab.at(i, j)) }))
			if o.Inverse {
				return 1 / n
			}
			return n
		}), none)
	case *graph.BlockMatMul:
		in := x.get(o.X)
		d := blockDiagonal(x.get(o.W), o.Blocks, blockRows(o.Trans, o.Blocks, in.cols, x.get(o.Y).cols), o.Shuffle)
		y := in.times(d.t(o.Trans))
		x.put(o.Y, each(y.rows, y.cols, func(i, j int) float64 { return float64(o.Alpha) * y.at(i, j) }), o.C)
	case *graph.BlockMatMulGrad:
		in, dy := x.get(o.X), x.get(o.DY)
		dd := in.t(true).times(dy).t(o.Trans)
		a := blockRows(o.Trans, o.Blocks, in.cols, dy.cols)
		b := dd.cols / o.Blocks
		x.put(o.DW, each(o.Blocks, a*b, func(k, e int) float64 {
			return float64(o.Alpha) * dd.at(k*a+e/b, blockColumn(k, e%b, b, o.Blocks, o.Shuffle))
		}), none)
	default:
		return x.runLoss(op)
	}
	return nil
}

var errUnknown = errors.New("the reference engine does not know this operation")

// token returns which token row i of a selection stands for.
func (x *Executable) token(p graph.Pick, i int) int {
	switch p {
	case graph.PickFirst:
		return int(x.batch.CuSeqlens[i])
	case graph.PickLast:
		return int(x.batch.CuSeqlens[i+1]) - 1
	case graph.PickRows:
		return int(x.batch.Rows[i])
	}
	return i
}

// sequence returns the tokens [lo, hi) of sequence s.
func (x *Executable) sequence(s int) (lo, hi int) {
	return int(x.batch.CuSeqlens[s]), int(x.batch.CuSeqlens[s+1])
}

func (x *Executable) embed(o *graph.Embed) {
	cols := x.get(o.Y).cols
	x.put(o.Y, each(x.dims.T, cols, func(t, j int) float64 {
		return sum(len(o.Tables), func(k int) float64 {
			row := o.Offsets[k]
			if s := x.batch.Stream(o.Streams[k]); s != nil {
				row += int(s[t])
			}
			return x.weight(o.Tables[k]).at(row, j)
		})
	}), none)
}

func (x *Executable) linear(o *graph.Linear) {
	pre := x.get(o.X).times(x.weight(o.W))
	if o.Bias != graph.NoWeight {
		bias := x.weight(o.Bias)
		pre = each(pre.rows, pre.cols, func(i, j int) float64 { return pre.at(i, j) + bias.at(0, j) })
	}
	x.put(o.Pre, pre, none)
	x.put(o.Y, each(pre.rows, pre.cols, func(i, j int) float64 { return act(o.Act, pre.at(i, j)) }), o.Residual)
}

func (x *Executable) norm(o *graph.Norm) {
	a := x.get(o.X)
	cols := a.cols / o.Parts()
	n := float64(cols)
	stats := newMatrix(a.rows, 2*o.Parts())
	for i := range a.rows {
		for h := range o.Parts() {
			mean := 0.0
			if !o.RMS {
				mean = sum(cols, func(j int) float64 { return a.at(i, h*cols+j) }) / n
			}
			variance := sum(cols, func(j int) float64 { return sq(a.at(i, h*cols+j) - mean) }) / n
			stats.set(i, 2*h, mean)
			stats.set(i, 2*h+1, 1/math.Sqrt(variance+float64(o.Eps)))
		}
	}
	x.put(o.Stats, stats, none)
	x.put(o.Y, each(a.rows, a.cols, func(i, j int) float64 {
		h := j / cols
		y := (a.at(i, j) - stats.at(i, 2*h)) * stats.at(i, 2*h+1) * vector(x.weight(o.Gamma), j%cols, 1)
		return y + vector(x.weight(o.Beta), j%cols, 0)
	}), none)
}

// vector is element j of w, or what an absent w stands for.
func vector(w matrix, j int, absent float64) float64 {
	if w.a == nil {
		return absent
	}
	return w.at(0, j)
}

// normGrad: with z = (x-μ)/σ and g = dy·γ, dx = (g - mean(g) - z·mean(g·z))/σ; the
// RMS norm has no mean to differentiate.
func (x *Executable) normGrad(o *graph.NormGrad) {
	a, stats, dy := x.get(o.X), x.get(o.Stats), x.get(o.DY)
	cols := a.cols / o.Parts()
	n := float64(cols)
	dx := newMatrix(a.rows, a.cols)
	for i := range a.rows {
		for h := range o.Parts() {
			z := func(j int) float64 { return (a.at(i, h*cols+j) - stats.at(i, 2*h)) * stats.at(i, 2*h+1) }
			g := func(j int) float64 { return dy.at(i, h*cols+j) * vector(x.weight(o.Gamma), j, 1) }
			meanG := 0.0
			if !o.RMS {
				meanG = sum(cols, g) / n
			}
			meanGZ := sum(cols, func(j int) float64 { return g(j) * z(j) }) / n
			for j := range cols {
				dx.set(i, h*cols+j, stats.at(i, 2*h+1)*(g(j)-meanG-z(j)*meanGZ))
			}
		}
	}
	x.put(o.DX, dx, o.C)
}

// mask is what element i of a dropout is multiplied by.
func (x *Executable) mask(p float32, site uint32, i uint64) float64 {
	if !x.batch.Train || p == 0 {
		return 1
	}
	if !philox.Keep(p, x.batch.Seed, site, x.batch.Step, i) {
		return 0
	}
	return float64(philox.Scale(p))
}

func (x *Executable) dropout(src graph.Value, p float32, site uint32, c, dst graph.Value) {
	a := x.get(src)
	x.put(dst, each(a.rows, a.cols, func(i, j int) float64 {
		return a.at(i, j) * x.mask(p, site, uint64(i)*uint64(a.cols)+uint64(j))
	}), c)
}

func (x *Executable) rope(o *graph.Rope) {
	a := x.get(o.X)
	y := each(a.rows, a.cols, a.at)
	for i := range a.rows {
		position := float64(x.batch.Positions[x.token(o.Pick, i)])
		for h := range o.Heads {
			for k, freq := range o.Freq {
				sin, cos := math.Sincos(position * float64(freq))
				sin, cos = sin*float64(o.Scale), cos*float64(o.Scale)
				if o.Inverse {
					sin = -sin
				}
				first, second := h*o.HeadDim+k, h*o.HeadDim+k+len(o.Freq)
				if o.Interleaved {
					first, second = h*o.HeadDim+2*k, h*o.HeadDim+2*k+1
				}
				y.set(i, first, a.at(i, first)*cos-a.at(i, second)*sin)
				y.set(i, second, a.at(i, second)*cos+a.at(i, first)*sin)
			}
		}
	}
	x.put(o.Y, y, none)
}

func sum(n int, f func(int) float64) float64 {
	s := 0.0
	for i := range n {
		s += f(i)
	}
	return s
}

func sq(x float64) float64 { return x * x }
