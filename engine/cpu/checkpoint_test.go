package cpu

import (
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestCheckpointLayers checks that computing layers again gives the bits of
// keeping their values, in less memory, and that nothing is computed again that
// gradients do not read.
func TestCheckpointLayers(t *testing.T) {
	for _, method := range []string{"lora", "lsr"} {
		e := encoder{hidden: 64, inter: 256, layers: 6, heads: 4, vocab: 50, adapter: method, drop: 0.1}
		b := newBatch(e.vocab, 9, 30, 17)
		var want []float32
		var arena int64
		for n := range 4 {
			e.diff.CheckpointLayers = n
			p := e.program(t)
			x := compile(t, Options{Threads: 2}, p, noise{}, b.Dims()).(*executable)
			if err := x.Run(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			grads := make([]float32, p.ParamSize)
			if err := x.Grads(grads); err != nil {
				t.Fatal(err)
			}
			ops := map[string]int{}
			for _, op := range p.Ops[p.Forward:] {
				ops[op.Name()]++
			}
			if n == 0 {
				want, arena = grads, x.plan.ArenaBytes
				if ops["attention"] != 0 {
					t.Errorf("%s: %d attentions in the backward pass of a program that keeps everything", method, ops["attention"])
				}
				continue
			}
			testkit.EqualBits(t, method, grads, want)
			again := (e.layers - 1) / n * n // layers below the last group
			// query, key, value, output and up; down is of no use to its own layer.
			if ops["attention"] != again || ops["linear"] > 6*again || ops["linear"] < 5*again {
				t.Errorf("%s, groups of %d: %d attentions and %d products computed again, want %d and at most %d", method, n, ops["attention"], ops["linear"], again, 6*again)
			}
			if n == 1 && x.plan.ArenaBytes > arena*2/3 {
				t.Errorf("%s: activations take %d bytes, %d without checkpoints", method, x.plan.ArenaBytes, arena)
			}
		}
	}
}
