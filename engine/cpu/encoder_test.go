package cpu

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// encoder is the shape of a BERT-like model with adapters on query and value.
type encoder struct {
	hidden, inter, layers, heads, vocab int
	adapter                             string // "lora", "lsr", "sandwich" or ""
	drop                                float32
	diff                                graph.DiffOptions
}

var (
	robertaBase = encoder{hidden: 768, inter: 3072, layers: 12, heads: 12, vocab: 50265}
	miniLM      = encoder{hidden: 384, inter: 1536, layers: 6, heads: 12, vocab: 30522}
)

func (e encoder) String() string { return fmt.Sprintf("%s/drop=%v", e.adapter, e.drop) }

// noise is a weight source of seeded noise, scaled so that activations keep
// their size.
type noise struct{ seed uint64 }

// ReadRows implements graph.WeightSource.
func (n noise) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	h := fnv.New64a()
	h.Write([]byte(w.Name))
	cols := w.StoredCols()
	for i := lo; i < hi; i++ {
		r := rand.New(rand.NewPCG(h.Sum64()^n.seed, uint64(i)))
		row := dst[(i-lo)*cols:][:cols]
		for j := range row {
			row[j] = 0.035 * (2*r.Float32() - 1) // torch's N(0, 0.02²) has the same variance
			if w.In == 1 && len(w.Name) > 5 && w.Name[len(w.Name)-5:] == "gamma" {
				row[j]++
			}
		}
	}
	return nil
}

// adapted is x W + b plus the adapter's product.
func (e encoder) adapted(b *graph.Builder, name string, x graph.Value, in, out int, bias graph.WeightID) graph.Value {
	y := b.Linear(name, x, b.Weight(name, in, out, true), bias, graph.ActNone, graph.None)
	if e.adapter == "" {
		return y
	}
	x = b.Dropout(name+".drop", x, e.drop, graph.None)
	if e.adapter == "lora" {
		h := b.MatMul(name+".h", x, b.Param(name+".A", []int{8, in}, 8, in), false, true, 1, graph.None)
		return b.MatMul(name+".y", h, b.Param(name+".B", []int{out, 8}, out, 8), false, true, 2, y)
	}
	if e.adapter == "sandwich" {
		const s, r, a1 = 3, 4, 16
		par := func(suffix string, rows, cols int) graph.Value {
			return b.Param(name+suffix, []int{s, rows, cols}, s, rows*cols)
		}
		h := b.KronApply(name+".h", x, graph.KronApply{F1: par(".A1", a1, r), F2: par(".A2", in/a1, r), Terms: s, A1: a1, R1: r, A2: in / a1, R2: r, N: in, M: r * r, Alpha: 1})
		return b.KronApply(name+".y", h, graph.KronApply{F1: par(".B1", r, a1), F2: par(".B2", r, out/a1), Terms: s, A1: r, R1: a1, A2: r, R2: out / a1, N: r * r, M: out, Alpha: 2, C: y})
	}
	const s, r1, r2, a1 = 16, 2, 2, 32
	a2, b2 := in/a1, out/a1
	par := func(suffix string, shape ...int) graph.Value {
		return b.Param(name+suffix, shape, shape[0], shape[1]*shape[2])
	}
	fa := b.KronSum(name+".A", par(".A1", s, a1, r1), par(".A2", s, a2, r2), s, a1, r1, a2, r2, in, r1*r2)
	fb := b.KronSum(name+".B", par(".B1", s, r1, a1), par(".B2", s, r2, b2), s, r1, a1, r2, b2, r1*r2, out)
	h := b.MatMul(name+".h", x, fa, false, false, 1, graph.None)
	return b.MatMul(name+".y", h, fb, false, false, 2, y)
}

// layer is one post-norm transformer layer that computes the picked rows.
func (e encoder) layer(b *graph.Builder, name string, x graph.Value, pick graph.Pick) graph.Value {
	bias := func(part string, n int) graph.WeightID { return b.Vector(name+part+".bias", n) }
	norm := func(part string, x graph.Value) graph.Value {
		return b.Norm(name+part, x, b.Vector(name+part+".gamma", e.hidden), bias(part, e.hidden), 1e-5, false)
	}
	rows := b.Select(name+"rows", x, pick)
	q := e.adapted(b, name+"q", rows, e.hidden, e.hidden, bias("q", e.hidden))
	k := b.Linear(name+"k", x, b.Weight(name+"k", e.hidden, e.hidden, true), bias("k", e.hidden), graph.ActNone, graph.None)
	v := e.adapted(b, name+"v", x, e.hidden, e.hidden, bias("v", e.hidden))
	y := b.Attention(name+"attention", q, k, v, graph.Attention{Heads: e.heads, KVHeads: e.heads, HeadDim: e.hidden / e.heads,
		Scale: 0.125, DropP: e.drop, QueryPick: pick})
	linear := func(part string, x graph.Value, in, out int, act graph.Act, residual graph.Value) graph.Value {
		fused := residual
		if e.drop > 0 {
			fused = graph.None
		}
		y := b.Linear(name+part, x, b.Weight(name+part, in, out, true), bias(part, out), act, fused)
		if e.drop > 0 && residual != graph.None {
			y = b.Dropout(name+part+".drop", y, e.drop, residual)
		}
		return y
	}
	x = norm("norm1", linear("o", y, e.hidden, e.hidden, graph.ActNone, rows))
	h := linear("up", x, e.hidden, e.inter, graph.ActGELU, graph.None)
	return norm("norm2", linear("down", h, e.inter, e.hidden, graph.ActNone, x))
}

// program is the model with a trained classification head, or, without an
// adapter, its forward pass with the loss.
func (e encoder) program(t testing.TB) *graph.Program {
	b := graph.NewBuilder()
	x := b.Embed("embeddings", []graph.WeightID{b.Weight("words", e.vocab, e.hidden, false), b.Weight("positions", 514, e.hidden, false)},
		[]graph.Stream{graph.StreamIDs, graph.StreamPositions}, []int{0, 2})
	x = b.Norm("norm", x, b.Vector("norm.gamma", e.hidden), b.Vector("norm.bias", e.hidden), 1e-5, false)
	x = b.Dropout("drop", x, e.drop, graph.None)
	for l := range e.layers {
		pick := graph.PickAll
		if l == e.layers-1 {
			pick = graph.PickFirst
		}
		b.BeginLayer()
		x = e.layer(b, fmt.Sprintf("%d.", l), x, pick)
	}
	dense := func(name string, x graph.Value, out int) graph.Value {
		in := b.P.Info(x).Cols
		y := b.MatMul(name, x, b.Param(name+".weight", []int{out, in}, out, in), false, true, 1, graph.None)
		return b.AddBias(y, b.Param(name+".bias", []int{out}, 1, out))
	}
	x = b.Activate("tanh", dense("dense", b.Dropout("drop1", x, e.drop, graph.None), e.hidden), graph.ActTanh)
	logits := dense("out", b.Dropout("drop2", x, e.drop, graph.None), 2)
	b.Output(logits)
	b.SetLoss(b.CrossEntropy(logits))
	if e.adapter != "" {
		if err := graph.DifferentiateWith(b.P, e.diff); err != nil {
			t.Fatal(err)
		}
	}
	return b.P
}

// start returns seeded parameters.
func start(p *graph.Program) []float32 {
	r := rand.New(rand.NewPCG(7, 7))
	w := make([]float32, p.ParamSize)
	for i := range w {
		w[i] = 0.035 * (2*r.Float32() - 1)
	}
	return w
}

// newBatch packs sequences of the given lengths.
func newBatch(vocab int, lens ...int) *graph.Batch {
	r := rand.New(rand.NewPCG(1, uint64(len(lens))))
	b := &graph.Batch{CuSeqlens: []int32{0}, LossScale: 1 / float32(len(lens)), Train: true, Seed: 3}
	for _, n := range lens {
		for p := range n {
			b.IDs = append(b.IDs, int32(r.IntN(vocab)))
			b.Positions = append(b.Positions, int32(p))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
		b.Labels = append(b.Labels, int32(r.IntN(2)))
	}
	return b
}

func compile(t testing.TB, o Options, p *graph.Program, w graph.WeightSource, d graph.Dims) graph.Executable {
	t.Helper()
	x, err := open(o)(t).Compile(p, w, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := x.SetParams(start(p)); err != nil {
		t.Fatal(err)
	}
	return x
}
