package cpu

import (
	"context"
	"math"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
)

// part is the batch of one sequence of b.
func part(b *graph.Batch, s int) *graph.Batch {
	lo, hi := b.CuSeqlens[s], b.CuSeqlens[s+1]
	return &graph.Batch{CuSeqlens: []int32{0, hi - lo}, IDs: b.IDs[lo:hi], Positions: b.Positions[lo:hi], Labels: b.Labels[s : s+1], LossScale: 1}
}

// TestSequencesDoNotDependOnTheirBatch compares the logits of each sequence of
// a batch with those of the sequence alone, bit for bit: what a cache of hidden
// states stands on. The sizes are no multiples of vector registers.
func TestSequencesDoNotDependOnTheirBatch(t *testing.T) {
	e := encoder{hidden: 76, inter: 107, layers: 2, heads: 4, vocab: 50}
	for _, o := range []Options{{Threads: 2}, {Threads: 2, BaseDType: "int8"}, {Threads: 2, BaseDType: "bf16"}, {Threads: 2, Precision: "bf16"}} {
		kerneltest.ForEach(t, func(t *testing.T) {
			p := e.program(t)
			b := newBatch(e.vocab, 9, 1, 140, 33, 17)
			whole := compile(t, o, p, noise{}, b.Dims())
			run := func(x graph.Executable, b *graph.Batch) []float32 {
				if err := x.Run(context.Background(), b); err != nil {
					t.Fatal(err)
				}
				y := make([]float32, 2*b.Dims().S)
				if err := x.Read(p.Outputs[0], y); err != nil {
					t.Fatal(err)
				}
				return y
			}
			want := run(whole, b)
			for s := range b.Dims().S {
				alone := part(b, s)
				for i, y := range run(compile(t, o, p, noise{}, alone.Dims()), alone) {
					if math.Float32bits(y) != math.Float32bits(want[2*s+i]) {
						t.Errorf("%+v: logit %d of sequence %d is %v alone and %v in the batch", o, i, s, y, want[2*s+i])
					}
				}
			}
		})
	}
}
