package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// attentionCase is attention over sequences of several lengths.
type attentionCase struct {
	name string
	lens []int
	op   graph.Attention
}

// attentionCases cover every mask, remainders of all tiles and all widths of
// heads; the longer sequences are three tiles of queries and of keys.
var attentionCases = []attentionCase{
	{"plain", []int{70, 1, 33}, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 16}},
	{"odd head", []int{9, 64, 2}, graph.Attention{Heads: 3, KVHeads: 1, HeadDim: 21}},
	{"causal", []int{140, 5}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 32, Causal: true}},
	{"grouped causal dropout", []int{75, 3, 17}, graph.Attention{Heads: 4, KVHeads: 2, HeadDim: 8, Causal: true, DropP: 0.3}},
	{"dropout", []int{37, 66}, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 40, DropP: 0.1}},
	{"window", []int{150, 20}, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 8, Causal: true, Window: 70}},
	{"window both sides", []int{101}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 8, Window: 9, DropP: 0.2}},
	{"negative scale", []int{20}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 64, Scale: -0.3}},
	{"first query", []int{70, 1, 33}, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 16, DropP: 0.2, QueryPick: graph.PickFirst}},
	{"last query", []int{70, 1, 33}, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 16, Causal: true, Window: 40, QueryPick: graph.PickLast}},
	{"heads of 100", []int{34, 40}, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 100, Causal: true}},
	{"one key over a tile", []int{129, 65}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 8, Causal: true}},
	{"heads of 200", []int{40, 3}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 200, DropP: 0.1}},
}

// build is the operation and its gradient on activations from the batch, and
// what they compute. All inputs are bf16, so that only probabilities and their
// gradients are rounded.
func (c attentionCase) build() (*graph.Program, *graph.Batch, []graph.Value) {
	op := c.op
	if op.Scale == 0 {
		op.Scale = 0.5 / float32(math.Sqrt(float64(op.HeadDim)))
	}
	b := graph.NewBuilder()
	qc, kc := op.Heads*op.HeadDim, op.KVHeads*op.HeadDim
	x := b.Input("x", 2*qc+2*kc)
	op.Q, op.K, op.V = b.Select("q", b.View(x, 0, qc), op.QueryPick), b.View(x, qc, kc), b.View(x, qc+kc, kc)
	dy := b.Select("dy", b.View(x, qc+2*kc, qc), op.QueryPick)
	rows := op.QueryPick.Rows()
	value := func(name string, rows graph.Rows, cols int) graph.Value {
		return b.P.NewValue(graph.Info{Name: name, Rows: rows, Cols: cols})
	}
	op.Y, op.LSE = value("y", rows, qc), value("lse", rows, op.Heads)
	g := &graph.AttentionGrad{Fwd: &op, DY: dy, DQ: value("dq", rows, qc), DK: value("dk", graph.PerToken, kc), DV: value("dv", graph.PerToken, kc)}
	b.P.Ops = append(b.P.Ops, &op, g)
	b.P.Forward = len(b.P.Ops)
	outs := []graph.Value{op.Y, op.LSE, g.DQ, g.DK, g.DV}
	for _, v := range outs {
		b.Output(v)
	}
	r := rand.New(rand.NewPCG(11, uint64(len(c.name))))
	batch := &graph.Batch{CuSeqlens: []int32{0}, Train: true, Seed: 5, Step: 2}
	for _, n := range c.lens {
		for i := range n {
			batch.IDs, batch.Positions = append(batch.IDs, 0), append(batch.Positions, int32(i))
		}
		batch.CuSeqlens = append(batch.CuSeqlens, int32(len(batch.IDs)))
	}
	for range len(batch.IDs) * (2*qc + 2*kc) {
		v := float32(1.5 * r.NormFloat64())
		batch.Inputs = append(batch.Inputs, math.Float32frombits(math.Float32bits(v)&^0xffff))
	}
	return b.P, batch, outs
}

// compare runs c on e and compares with the float64 reference, in share of the
// size of each result.
func (c attentionCase) compare(t *testing.T, e graph.Engine, tolerance float64) {
	t.Helper()
	p, batch, outs := c.build()
	want, err := reference.New().Load(p, noise{})
	if err != nil {
		t.Fatal(err)
	}
	x, err := e.Compile(p, noise{}, batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, r := range []graph.Executable{want, x} {
		if err := r.Run(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range outs {
		ref := want.Float64(v)
		got := make([]float32, len(ref))
		if err := x.Read(v, got); err != nil {
			t.Fatal(err)
		}
		var off, size float64
		for i, w := range ref {
			d := float64(got[i]) - w
			off, size = off+d*d, size+w*w
		}
		if d := math.Sqrt(off / size); !(d <= tolerance) {
			t.Errorf("%s is off by %.2g of its size, allowed %.2g", p.Info(v).Name, d, tolerance)
		}
	}
}

// attentionTolerance is what rounding probabilities to a mantissa of 10 bits
// (TF32) and of 7 (bf16) leaves.
var attentionTolerance = map[string]float64{"f32": 2e-6, "tf32": 5e-4, "bf16": 4e-3}

// TestAttention compares the kernels of every precision with float64, under
// three orders of the threads.
func TestAttention(t *testing.T) {
	for _, precision := range []string{"tf32", "bf16"} {
		for i, c := range attentionCases {
			t.Run(fmt.Sprintf("%s/%s", precision, c.name), func(t *testing.T) {
				f := openFake(t)
				f.set(setOrder, int64(i%orders))
				c.compare(t, f.open(t, Options{Precision: precision}), attentionTolerance[precision])
			})
		}
	}
}

// TestAttentionKernels checks which kernels run: tensor cores where the
// precision has them and the tiles fit.
func TestAttentionKernels(t *testing.T) {
	for _, c := range []struct {
		precision         string
		hd, shared        int
		forward, backward string
	}{
		{"f32", 64, 232448, "attention_64", "attention_dkv_64"},
		{"tf32", 64, 101376, "attention_tf32_64", "attention_dkv_tf32_64"},
		{"bf16", 64, 101376, "attention_bf16_64", "attention_dkv_bf16_64"},
		{"bf16", 20, 101376, "attention_bf16_32", "attention_dkv_bf16_32"},
		{"tf32", 128, 101376, "attention_tf32_128", "attention_dkv_128"},
		{"tf32", 128, 166912, "attention_tf32_128", "attention_dkv_tf32_128"},
		{"bf16", 128, 101376, "attention_bf16_128", "attention_dkv_bf16_128"},
		{"tf32", 256, 232448, "attention_256", "attention_dkv_256"},
		{"bf16", 256, 166912, "attention_bf16_256", "attention_dk_bf16_256"},
	} {
		e := &Engine{opt: Options{Precision: c.precision}, dev: &device{info: Device{SharedMemory: c.shared}}}
		forward, backward := e.attnKernels(attnForward, c.hd), e.attnKernels(attnKeys, c.hd)
		if forward[0].name != c.forward || backward[0].name != c.backward || backward[0].shared > c.shared {
			t.Errorf("%s, heads of %d, %d bytes of shared memory: %v and %v, want %s and %s", c.precision, c.hd, c.shared, forward, backward, c.forward, c.backward)
		}
	}
}
