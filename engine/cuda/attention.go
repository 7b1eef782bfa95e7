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

// attnKernel is a kernel of attention and its shared memory.
type attnKernel struct {
	name   string
	shared int
}

// The passes of attention.
const (
	attnForward = iota
	attnQueries // the gradient of queries
	attnKeys    // of keys and values
)

// attnKernels are the kernels of a pass: on tensor cores in the precisions
// that use them, if the tiles fit into the shared memory of a block. Heads of
// more than 128 have no kernels for TF32, and in bf16 two for keys and values.
func (e *Engine) attnKernels(pass, hd int) []attnKernel {
	w, p := width(hd), e.opt.Precision
	kind, per := [...]string{"", "dq_", "dkv_"}[pass], map[string]int{"tf32": 1, "bf16": 2}[p]
	if per > 0 && (w <= 128 || p == "bf16") {
		if n := attnShared(pass, w, per); n <= e.dev.info.SharedMemory {
			if pass == attnKeys && w > 128 {
				return []attnKernel{{fmt.Sprintf("attention_dk_%s_%d", p, w), n}, {fmt.Sprintf("attention_dv_%s_%d", p, w), n}}
			}
			return []attnKernel{{fmt.Sprintf("attention_%s%s_%d", kind, p, w), n}}
		}
	}
	n := [...]int{rowsShared(3, 1, hd), rowsShared(4, 1, hd), rowsShared(4, 2, hd)}[pass]
	return []attnKernel{{fmt.Sprintf("attention_%s%d", kind, w), n}}
}

// attnShared is the shared memory of the kernels of attention_tc.cu, in bytes,
// for heads of width w and per elements in a word.
func attnShared(pass, w, per int) int {
	const rows = 64
	c := 32 // rows of the other side
	if pass == attnForward && w <= 64 {
		c = 64
	}
	row, column := w/per+4, w*(c/per+4)
	return 4 * [...]int{(rows+c)*row + column, 2*(rows+c)*row + column, 2*(rows+c)*row + 2*column + 2*c}[pass]
}

// attend launches the kernels of a pass.
func (x *executable) attend(pass int, g grid, a *attnArgs) error {
	for _, k := range x.e.attnKernels(pass, int(a.hd)) {
		if err := x.emit(k.name, g, 128, k.shared, x.batch.p, unsafe.Pointer(a)); err != nil {
			return err
		}
	}
	return nil
}

func (x *executable) attention(o *graph.Attention) error {
	a := x.attn(o)
	return x.attend(attnForward, grid{x: x.queryBlocks(o), y: o.Heads}, &a)
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
	if g.DQ != graph.None {
		if err := x.attend(attnQueries, grid{x: x.queryBlocks(o), y: o.Heads}, &a); err != nil {
			return err
		}
	}
	if g.DK == graph.None && g.DV == graph.None {
		return nil
	}
	return x.attend(attnKeys, grid{x: maxTiles(x.bound), y: o.KVHeads}, &a)
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
