package merge

import (
	"encoding/binary"
	"math"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Error feedback, and stochastic rounding to float32, need the update in float64, but not one element
// at a time: carries that run down the columns are independent along a row, which is what kernel.Round64
// takes; and so are those that run along the rows once a block has been turned around.

// Blocks of error feedback along the rows.
const (
	chainCols = 256
	chainRows = 64
	fewRows   = 8 // less are rounded one element at a time
)

// chainBuffers are those of one worker.
type chainBuffers struct {
	d             []float64
	wide, w, kept []float32
	patches       []patch
}

// patch is an element of the output that a kernel has left in doubt.
type patch struct {
	at   int // byte of the tile
	code [4]byte
}

// inFloat64 tells whether the rounder takes kernels that round in float64. An update of no terms is
// zero, which these kernels leave in doubt.
func (r *rounder) inFloat64() bool {
	return r.fmt != nil && widens(r.from) && len(r.t.terms) > 0 && (r.mode == ErrorFeedback || r.mode == Stochastic && r.to == tensor.F32)
}

// across tells whether the rounder takes blocks of rows, turned around.
func (r *rounder) across() bool { return r.inFloat64() && r.mode == ErrorFeedback && r.along }

// rowInFloat64 is row for stochastic rounding, and for carries of one per column.
func (r *rounder) rowInFloat64(dst, src []byte, d, carry []float64, i, c0 int) error {
	n := len(d)
	w, v, doubt := r.widen(grow(&r.chain.w, n), src), grow(&r.chain.wide, n), grow(&r.doubt, (n+7)/8)
	base := r.keep(w)
	if r.mode == Stochastic {
		r.round64.AddRandom(v, w, base, d, r.randoms(i, c0, n), doubt)
	} else {
		r.round64.AddFeedback(v, w, base, d, carry, doubt)
	}
	s := r.round64.Sums()
	r.sums.addKernel(&s)
	r.narrowTo(dst, v)
	for k := range inDoubt(doubt) {
		var c []float64
		if r.mode == ErrorFeedback {
			c = carry[k:]
		}
		if err := r.otherOne(dst, src, float64(w[k]), d[k], c, i, c0, k); err != nil {
			return err
		}
	}
	return nil
}

// widen sets w to the base's elements.
func (r *rounder) widen(w []float32, src []byte) []float32 {
	switch r.from {
	case tensor.BF16:
		kernel.BF16ToF32(w, src)
	case tensor.F16:
		kernel.F16ToF32(w, src)
	default:
		for k := range w {
			w[k] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*k:]))
		}
	}
	return w
}

// keep is what w would be in the output without an update.
func (r *rounder) keep(w []float32) []float32 {
	if r.to == r.from || r.to == tensor.F32 {
		return w
	}
	kept, codes := grow(&r.chain.kept, len(w)), grow(&r.wide, 2*len(w))
	if r.to == tensor.BF16 {
		kernel.F32ToBF16(codes, w)
		kernel.BF16ToF32(kept, codes)
	} else {
		kernel.F32ToF16(codes, w)
		kernel.F16ToF32(kept, codes)
	}
	return kept
}

// narrowTo writes numbers of the output's format.
func (r *rounder) narrowTo(dst []byte, v []float32) {
	switch r.to {
	case tensor.BF16:
		kernel.F32ToBF16(dst, v)
	case tensor.F16:
		kernel.F32ToF16(dst, v)
	default:
		for k, x := range v {
			binary.LittleEndian.PutUint32(dst[4*k:], math.Float32bits(x))
		}
	}
}

// turned are the updates of the transposed tensor.
type turned struct {
	once   sync.Once
	deltas []*adapter.Delta
}

// across returns them.
func (t *target) across() []*adapter.Delta {
	t.turned.once.Do(func() {
		for k := range t.terms {
			t.turned.deltas = append(t.turned.deltas, t.terms[k].delta.Transpose())
		}
	})
	return t.turned.deltas
}

// blockAcross writes what block does, transposed, for terms with thin factors.
func (t *target) blockAcross(dst []float64, x rect) {
	m, n := x.r1-x.r0, x.c1-x.c0
	for k, d := range t.across() {
		beta := 1.0
		if k == 0 {
			beta = 0
		}
		kernel.GemmF64(nil, false, false, n, m, d.R, t.terms[k].weight*d.Scale, d.A[x.c0*d.R:], d.R, d.B[x.r0:], d.Out, beta, dst, m)
	}
}

// transpose64 writes the transpose of src (m, n), rows lds apart, to dst.
func transpose64(dst, src []float64, m, n, lds int) {
	const side = 16
	for i0 := 0; i0 < m; i0 += side {
		for k := range n {
			to := dst[k*m+i0:][:min(side, m-i0)]
			for i := range to {
				to[i] = src[(i0+i)*lds+k]
			}
		}
	}
}

// acrossBlock is block for error feedback along the rows, with one carry for each of the
// rectangle's rows.
func (r *run) acrossBlock(j *job, t *target, b *buffers, round *rounder, x rect, carry []float64) error {
	if t.scale == nil && !t.wholeRows {
		for i := x.r0; i < x.r1; i++ { // short pieces of many pages, which no processor foresees
			kernel.Prefetch(x.bytes(b.src, j, i, round.from.Bits()/8))
			kernel.Prefetch(x.bytes(b.dst, j, i, round.to.Bits()/8))
		}
		d := grow(&round.chain.d, (x.r1-x.r0)*(x.c1-x.c0))
		t.blockAcross(d, x)
		return round.rowsAcross(j, b, x, d, carry)
	}
	rows, err := r.update(j, t, b, round, x)
	if err != nil {
		return err
	}
	m, n := x.r1-x.r0, x.c1-x.c0
	for c := x.c0; c < x.c1; c += chainCols {
		piece := rect{x.r0, x.r1, c, min(c+chainCols, x.c1)}
		d := grow(&round.chain.d, m*(piece.c1-c))
		transpose64(d, rows[c-x.c0:], m, piece.c1-c, n)
		if err := round.rowsAcross(j, b, piece, d, carry); err != nil {
			return err
		}
	}
	return nil
}

// update computes the rectangle's update in float64.
func (r *run) update(j *job, t *target, b *buffers, round *rounder, x rect) ([]float64, error) {
	n := x.c1 - x.c0
	d := grow(&b.delta, (x.r1-x.r0)*n)
	if t.wholeRows {
		grow(&b.tmp, len(d))
	}
	t.block(d, b.tmp, x.r0, x.r1, x.c0, x.c1)
	if t.scale == nil {
		return d, nil
	}
	for i := x.r0; i < x.r1; i++ {
		if err := t.rescaled(d[(i-x.r0)*n:][:n], grow(&b.base64, n), x.bytes(b.src, j, i, round.from.Bits()/8), round.from, i, x.c0); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// rowsAcross rounds a rectangle of which d has the update, transposed.
func (r *rounder) rowsAcross(j *job, b *buffers, x rect, d, carry []float64) error {
	m, n := x.r1-x.r0, x.c1-x.c0
	wi, wo := r.from.Bits()/8, r.to.Bits()/8
	wide, w := grow(&r.chain.wide, m*n), grow(&r.chain.w, m*n)
	for i := range m {
		r.widen(wide[i*n:][:n], x.bytes(b.src, j, x.r0+i, wi))
	}
	kernel.Transpose(w, m, wide, n, m, n)
	base, v := r.keep(w), wide
	doubt := grow(&r.doubt, (m+7)/8)
	r.chain.patches = r.chain.patches[:0]
	for k := range n {
		at := k * m
		r.round64.AddFeedback(v[at:][:m], w[at:][:m], base[at:][:m], d[at:][:m], carry[:m], doubt)
		for l := range inDoubt(doubt) {
			i := x.r0 + l
			dst := x.bytes(b.dst, j, i, wo)
			if err := r.otherOne(dst, x.bytes(b.src, j, i, wi), float64(w[at+l]), d[at+l], carry[l:], i, x.c0, k); err != nil {
				return err
			}
			p := patch{at: (i-j.r0)*wo*j.work.cols + (x.c0-j.c0+k)*wo}
			copy(p.code[:], dst[k*wo:][:wo])
			r.chain.patches = append(r.chain.patches, p)
		}
	}
	s := r.round64.Sums()
	r.sums.addKernel(&s)
	kernel.Transpose(w, n, v, m, n, m)
	for i := range m {
		r.narrowTo(x.bytes(b.dst, j, x.r0+i, wo), w[i*n:][:n])
	}
	for _, p := range r.chain.patches {
		copy(b.dst[p.at:][:wo], p.code[:])
	}
	return nil
}
