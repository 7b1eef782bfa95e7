package cpu

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// index is the row of a table that token t reads.
func (x *executable) index(s graph.Stream, t int) int {
	switch s {
	case graph.StreamIDs:
		return int(x.batch.IDs[t])
	case graph.StreamTypes:
		if x.batch.TypeIDs == nil {
			return 0
		}
		return int(x.batch.TypeIDs[t])
	}
	return int(x.batch.Positions[t])
}

func (x *executable) embed(o *graph.Embed) {
	y := x.matrix(o.Y)
	x.eachRows(y.rows, y.cols, func(w, lo, hi int) {
		for t := lo; t < hi; t++ {
			dst := y.row(t)
			for j, table := range o.Tables {
				entry := x.index(o.Streams[j], t) + o.Offsets[j]
				at := entry * y.cols
				s := x.weights[table][gathered]
				row := dst
				if j > 0 {
					row = x.tmp(w, 0, y.cols)
				}
				switch {
				case s.packed != nil:
					s.packed.Row(row, entry)
				case s.half != nil:
					kernel.BF16ToF32(row, s.half[2*at:][:2*y.cols])
				case s.bytes8 != nil:
					kernel.Int8ToF32(row, s.bytes8[at:][:y.cols], s.scales[entry])
				case j == 0:
					copy(dst, s.f32[at:])
				default:
					row = s.f32[at:][:y.cols]
				}
				if j > 0 {
					kernel.Add(dst, dst, row)
				}
			}
		}
	})
}

func (x *executable) input(o *graph.Input) {
	y := x.matrix(o.Y)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for t := lo; t < hi; t++ {
			copy(y.row(t), x.batch.Inputs[t*y.cols:])
		}
	})
}

// picked returns the token row that row i of a selection takes.
func (x *executable) picked(p graph.Pick, i int) int {
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

func (x *executable) selectRows(o *graph.Select) {
	in, y := x.matrix(o.X), x.matrix(o.Y)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			copy(y.row(i), in.row(x.picked(o.Pick, i)))
		}
	})
}

// fill sets y = c, or 0 where there is no c.
func (x *executable) fill(y, c graph.Value) {
	if x.start(y, c) == 0 {
		m := x.matrix(y)
		x.eachSpan(func(_, i, n int) { clear(m.span(i, n)) }, m)
	}
}

func (x *executable) selectGrad(o *graph.SelectGrad) {
	dy, dx := x.matrix(o.DY), x.matrix(o.DX)
	x.fill(o.DX, o.C)
	// By columns, so that a row that is picked twice is added twice.
	x.pool.Run((dx.cols+sumCols-1)/sumCols, func(_, job int) {
		lo, hi := job*sumCols, min((job+1)*sumCols, dx.cols)
		for i := range dy.rows {
			d := dx.row(x.picked(o.Pick, i))[lo:hi]
			kernel.Add(d, d, dy.row(i)[lo:hi])
		}
	})
}

func (x *executable) meanPool(o *graph.MeanPool) {
	in, y := x.matrix(o.X), x.matrix(o.Y)
	x.pool.Run(y.rows, func(_, s int) {
		lo, hi := int(x.batch.CuSeqlens[s]), int(x.batch.CuSeqlens[s+1])
		dst := y.row(s)
		copy(dst, in.row(lo))
		for t := lo + 1; t < hi; t++ {
			kernel.Add(dst, dst, in.row(t))
		}
		kernel.Scale(1/float32(hi-lo), dst)
	})
}

func (x *executable) meanPoolGrad(o *graph.MeanPoolGrad) {
	dy, dx := x.matrix(o.DY), x.matrix(o.DX)
	x.fill(o.DX, o.C)
	x.pool.Run(dy.rows, func(_, s int) {
		lo, hi := int(x.batch.CuSeqlens[s]), int(x.batch.CuSeqlens[s+1])
		for t := lo; t < hi; t++ {
			kernel.Axpy(1/float32(hi-lo), dy.row(s), dx.row(t))
		}
	})
}

// turns are the cosines and sines of a rotary embedding, [position][frequency],
// times its scale.
type turns struct{ cos, sin []float32 }

func (t *turns) bytes() int64 { return 4 * int64(len(t.cos)+len(t.sin)) }

// turnKey tells tables apart; layers of a model share their frequencies.
type turnKey struct {
	freq  *float32
	n     int
	scale float32
}

// turnsOf returns a table for the positions of the batch.
func (x *executable) turnsOf(o *graph.Rope) *turns {
	key := turnKey{&o.Freq[0], len(o.Freq), o.Scale}
	t := x.turns[key]
	if t == nil {
		t = &turns{}
		x.turns[key] = t
	}
	last := 0
	for _, p := range x.batch.Positions {
		last = max(last, int(p))
	}
	for p := len(t.cos) / len(o.Freq); p <= last; p++ {
		for _, f := range o.Freq {
			sin, cos := math.Sincos(float64(p) * float64(f))
			t.cos = append(t.cos, float32(cos*float64(o.Scale)))
			t.sin = append(t.sin, float32(sin*float64(o.Scale)))
		}
	}
	return t
}

func (x *executable) rope(o *graph.Rope) {
	in, y := x.matrix(o.X), x.matrix(o.Y)
	n := len(o.Freq)
	if n == 0 {
		x.eachSpan(func(_, i, k int) { copy(y.span(i, k), in.span(i, k)) }, y, in)
		return
	}
	t := x.turnsOf(o)
	sign := float32(1)
	if o.Inverse {
		sign = -1
	}
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			p := int(x.batch.Positions[x.picked(o.Pick, i)]) * n
			cos, sin := t.cos[p:][:n], t.sin[p:][:n]
			for h := range o.Heads {
				src, dst := in.row(i)[h*o.HeadDim:][:o.HeadDim], y.row(i)[h*o.HeadDim:][:o.HeadDim]
				if o.Interleaved {
					turnPairs(dst, src, cos, sin, sign)
				} else {
					turnHalves(dst, src, cos, sin, sign)
				}
				copy(dst[2*n:], src[2*n:])
			}
		}
	})
}

// turnHalves rotates the pairs (j, j+n) of a head.
func turnHalves(dst, src, cos, sin []float32, sign float32) {
	n := len(cos)
	x1, x2, y1, y2 := src[:n], src[n:][:n], dst[:n], dst[n:][:n]
	for j, c := range cos {
		s, a, b := sign*sin[j], x1[j], x2[j]
		y1[j], y2[j] = a*c-b*s, b*c+a*s
	}
}

// turnPairs rotates the pairs (2j, 2j+1) of a head.
func turnPairs(dst, src, cos, sin []float32, sign float32) {
	for j, c := range cos {
		s, a, b := sign*sin[j], src[2*j], src[2*j+1]
		dst[2*j], dst[2*j+1] = a*c-b*s, b*c+a*s
	}
}
