package cuda

import (
	"fmt"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// maxHeadDim is the widest head that the kernels of attention hold in
// registers.
const maxHeadDim = 256

// attnArgs mirrors struct Attn of kernels/attention.cu.
type attnArgs struct {
	q, k, v, y, dy, out, lse, delta, dq, dk, dv ptr

	ldq, ldk, ldv, ldy, lddy, ldout, ldlse, lddq, lddk, lddv int32
	heads, kvHeads, hd, causal, window, pick                 int32
	scale                                                    float32
	drop                                                     drop
	_                                                        int32
}

func (x *executable) attn(o *graph.Attention) attnArgs {
	q, k, v, y, lse := x.mat(o.Q), x.mat(o.K), x.mat(o.V), x.mat(o.Y), x.mat(o.LSE)
	return attnArgs{q: q.p, k: k.p, v: v.p, y: y.p, out: y.p, lse: lse.p, ldq: q.ld, ldk: k.ld, ldv: v.ld, ldy: y.ld, ldout: y.ld, ldlse: lse.ld,
		heads: int32(o.Heads), kvHeads: int32(o.KVHeads), hd: int32(o.HeadDim), causal: bit(o.Causal), window: int32(o.Window), pick: int32(o.QueryPick),
		scale: o.Scale, drop: dropOf(o.DropP, o.Site)}
}

// width is the compiled width that holds a head.
func width(hd int) int {
	for _, w := range []int{32, 64, 128} {
		if hd <= w {
			return w
		}
	}
	return maxHeadDim
}

// queryBlocks bounds the number of tiles of queries.
func (x *executable) queryBlocks(o *graph.Attention) int {
	if o.QueryPick == graph.PickAll {
		return maxTiles(x.bound)
	}
	return x.bound.S
}

// rowsShared is the shared memory of n tiles of rows of a head and of m tiles
// of weights, in bytes.
func rowsShared(n, m, hd int) int { return 4 * (n*tileLen*(hd+1) + m*tileLen*(tileLen+1)) }

func (x *executable) attention(o *graph.Attention) error {
	a := x.attn(o)
	return x.emit(fmt.Sprintf("attention_%d", width(o.HeadDim)), grid{x: x.queryBlocks(o), y: o.Heads}, 128, rowsShared(3, 1, o.HeadDim), x.batch.p, unsafe.Pointer(&a))
}

func (x *executable) attentionGrad(g *graph.AttentionGrad) error {
	o := g.Fwd
	a := x.attn(o)
	dy, dq, dk, dv := x.mat(g.DY), x.mat(g.DQ), x.mat(g.DK), x.mat(g.DV)
	a.dy, a.dq, a.dk, a.dv, a.lddy, a.lddq, a.lddk, a.lddv = dy.p, dq.p, dk.p, dv.p, dy.ld, dq.ld, dk.ld, dv.ld
	rows := x.rows(dy)
	a.delta = x.shared(0, 4*int64(rows)*int64(o.Heads))
	if err := x.emit("attention_delta", grid{x: (rows*o.Heads + 7) / 8}, 256, 0, x.batch.p, unsafe.Pointer(&a)); err != nil {
		return err
	}
	w := width(o.HeadDim)
	if g.DQ != graph.None {
		if err := x.emit(fmt.Sprintf("attention_dq_%d", w), grid{x: x.queryBlocks(o), y: o.Heads}, 128, rowsShared(4, 1, o.HeadDim), x.batch.p, unsafe.Pointer(&a)); err != nil {
			return err
		}
	}
	if g.DK == graph.None && g.DV == graph.None {
		return nil
	}
	return x.emit(fmt.Sprintf("attention_dkv_%d", w), grid{x: maxTiles(x.bound), y: o.KVHeads}, 128, rowsShared(4, 2, o.HeadDim), x.batch.p, unsafe.Pointer(&a))
}

// ropeTable is the cosines and sines of one set of frequencies for the tokens
// of the batch.
type ropeTable struct {
	freq  []float32
	scale float32
}

func sameRope(t ropeTable, o *graph.Rope) bool {
	return len(o.Freq) > 0 && len(t.freq) == len(o.Freq) && &t.freq[0] == &o.Freq[0] && t.scale == o.Scale
}

// findRopes lists the tables; layers of a model share theirs.
func (x *executable) findRopes() {
	x.ropes = nil
	for _, op := range x.p.Ops {
		if o, ok := op.(*graph.Rope); ok && len(o.Freq) > 0 && x.ropeOf(o) < 0 {
			x.ropes = append(x.ropes, ropeTable{freq: o.Freq, scale: o.Scale})
		}
	}
}

func (x *executable) ropeOf(o *graph.Rope) int {
	for i, t := range x.ropes {
		if sameRope(t, o) {
			return i
		}
	}
	return -1
}

func (x *executable) freqBytes() int64 {
	var n int64
	for _, t := range x.ropes {
		n += 4 * int64(len(t.freq))
	}
	return n
}

func (x *executable) ropeBytes(d graph.Dims) int64 { return 2 * int64(d.T) * x.freqBytes() }

// ropeAt returns where the frequencies and the values of table i lie.
func (x *executable) ropeAt(i int) (freq, table ptr) {
	before := 0
	for _, t := range x.ropes[:i] {
		before += 4 * len(t.freq)
	}
	return x.freqs.p + ptr(before), x.tables.p + ptr(2*x.plan.Dims.T*before)
}

func (x *executable) uploadFreqs() error {
	for i, t := range x.ropes {
		freq, _ := x.ropeAt(i)
		if err := x.uploadBytes(freq, unsafe.Slice((*byte)(unsafe.Pointer(&t.freq[0])), 4*len(t.freq))); err != nil {
			return err
		}
	}
	return nil
}

// fillRopes computes the tables of the batch.
func (x *executable) fillRopes() error {
	for i, t := range x.ropes {
		freq, table := x.ropeAt(i)
		if err := x.emit("rope_table", flat(int64(x.bound.T)*int64(len(t.freq))), 256, 0, x.batch.p, freq, len(t.freq), t.scale, table); err != nil {
			return err
		}
	}
	return nil
}

func (x *executable) rope(o *graph.Rope) error {
	y, sign := x.mat(o.Y), float32(1)
	if o.Inverse {
		sign = -1
	}
	var table ptr
	if i := x.ropeOf(o); i >= 0 {
		_, table = x.ropeAt(i)
	}
	return x.over(y, "rope", x.mat(o.X), table, len(o.Freq), o.HeadDim, int(bit(o.Interleaved)), sign, int(o.Pick), y)
}
