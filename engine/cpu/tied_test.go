package cpu

import (
	"errors"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// tied is a language model of one matrix: its words are its embeddings, unless own.
func tied(t *testing.T, grads, own bool) *graph.Program {
	t.Helper()
	const vocab, hidden = 53, 20
	name := "words"
	if own {
		name = "other"
	}
	b := graph.NewBuilder()
	x := b.Embed("x", []graph.WeightID{b.Weight("words", vocab, hidden, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	y := b.MatMul("y", x, b.Param("m", []int{hidden, hidden}, hidden, hidden), false, false, 1, x)
	b.Output(y)
	b.SetLoss(b.LMLoss(y, b.Weight(name, hidden, vocab, true), graph.NoWeight))
	if grads {
		if err := graph.Differentiate(b.P); err != nil {
			t.Fatal(err)
		}
	}
	return b.P
}

// A table that is the matrix of the logits too takes no memory of its own, in the program
// that trains and in one that only evaluates, and holds the same numbers.
func TestTiedTablesAreNotKeptTwice(t *testing.T) {
	d := graph.Dims{T: 8, S: 2, MaxLen: 4}
	batch := newBatch(53, 4, 4)
	batch.Labels = []int32{1, 2, 3, -1, 4, 5, 6, -1}
	embedded := func(x graph.Executable, p *graph.Program) []float32 {
		y := make([]float32, 8*20)
		if err := errors.Join(x.SetParams(make([]float32, p.ParamSize)), x.Run(t.Context(), batch), x.Read(p.Outputs[0], y)); err != nil {
			t.Fatal(err)
		}
		return y
	}
	for _, dtype := range []string{"f32", "bf16", "int8"} {
		e := open(Options{BaseDType: dtype})(t).(*engine)
		alone := tied(t, false, false)
		first, err := e.Compile(alone, noise{}, d)
		if err != nil {
			t.Fatal(err)
		}
		want := embedded(first, alone)
		p, free := tied(t, true, false), tied(t, true, true)
		estimate, estimateFree := graph.SizeOf(e, p, d).Weights, graph.SizeOf(e, free, d).Weights
		x, err := e.Compile(p, noise{}, d)
		if err != nil {
			t.Fatal(err)
		}
		if got := embedded(x, p); !slices.Equal(got, want) {
			t.Errorf("%s: rows of a tied table differ", dtype)
		}
		eval, err := e.Compile(alone, noise{}, d)
		if err != nil {
			t.Fatal(err)
		}
		shared := func(x graph.Executable) bool {
			return slices.ContainsFunc(x.(*executable).weights, func(w [numUses]*storedWeight) bool {
				return w[gathered] != nil && w[gathered].packed != nil
			})
		}
		if want := dtype == "f32"; shared(x) != want || (estimate < estimateFree) != want {
			t.Errorf("%s: tied %v, estimates %d and %d bytes", dtype, shared(x), estimate, estimateFree)
		}
		if dtype == "f32" && !shared(eval) {
			t.Error("an evaluation beside the training has a table of its own")
		}
		if got := embedded(eval, alone); !slices.Equal(got, want) {
			t.Errorf("%s: rows of an evaluation differ", dtype)
		}
		if err := x.Close(); err != nil { // the evaluation keeps what both have
			t.Fatal(err)
		}
		if got := embedded(eval, alone); !slices.Equal(got, want) {
			t.Errorf("%s: rows of an evaluation differ after the training was closed", dtype)
		}
		if err := errors.Join(eval.Close(), first.Close()); err != nil || len(e.cache) != 0 {
			t.Errorf("%s: %d weights are left (%v)", dtype, len(e.cache), err)
		}
	}
}
