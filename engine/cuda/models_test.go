package cuda

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// shape is a model with LSR adapters on query and value, or with LoRA.
type shape struct {
	name                                         string
	hidden, inter, layers, heads, kvHeads, vocab int
	causal                                       bool // a Llama-like decoder with a language model's loss; else BERT-like with two classes
	drop                                         float32
	lora                                         bool
}

var (
	tinyBERT    = shape{name: "bert", hidden: 32, inter: 64, layers: 2, heads: 4, kvHeads: 4, vocab: 61, drop: 0.1}
	tinyLlama   = shape{name: "llama", hidden: 32, inter: 80, layers: 2, heads: 4, kvHeads: 2, vocab: 67, causal: true}
	robertaBase = shape{name: "roberta-base", hidden: 768, inter: 3072, layers: 12, heads: 12, kvHeads: 12, vocab: 50265, drop: 0.1}
	gpt2Size    = shape{name: "gpt2-size", hidden: 768, inter: 2048, layers: 12, heads: 12, kvHeads: 12, vocab: 50257, causal: true}
	llama1B     = shape{name: "llama-1b", hidden: 2048, inter: 8192, layers: 16, heads: 32, kvHeads: 8, vocab: 128256, causal: true}
)

// noise is a weight source of seeded noise, scaled so that activations keep
// their size.
type noise struct{ scale float32 }

// ReadRows implements graph.WeightSource.
func (n noise) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	h := fnv.New64a()
	h.Write([]byte(w.Name))
	cols := w.StoredCols()
	for i := lo; i < hi; i++ {
		r := rand.New(rand.NewPCG(h.Sum64(), uint64(i)))
		row := dst[(i-lo)*cols:][:cols]
		for j := range row {
			row[j] = n.scale * (2*r.Float32() - 1)
			if strings.HasSuffix(w.Name, "gamma") {
				row[j]++
			}
		}
	}
	return nil
}

// maker builds the program of a shape.
type maker struct {
	*graph.Builder
	shape
}

func (m maker) linear(name string, x graph.Value, out int, act graph.Act, residual graph.Value) graph.Value {
	bias := graph.NoWeight
	if !m.causal {
		bias = m.Vector(name+".bias", out)
	}
	in := m.P.Info(x).Cols
	return m.Linear(name, x, m.Weight(name, in, out, true), bias, act, residual)
}

// adapted adds 2·x A B, A and B sums of 8 Kronecker products of rank 2·2, or
// matrices of rank 4.
func (m maker) adapted(name string, x graph.Value, out int) graph.Value {
	y := m.linear(name, x, out, graph.ActNone, graph.None)
	in := m.P.Info(x).Cols
	par := func(suffix string, rows, cols int) graph.Value {
		return m.Param(name+suffix, []int{rows, cols}, rows, cols)
	}
	x = m.Dropout(name+".drop", x, m.drop, graph.None)
	if m.lora {
		h := m.MatMul(name+".h", x, par(".A", in, 4), false, false, 1, graph.None)
		return m.MatMul(name+".y", h, par(".B", 4, out), false, false, 2, y)
	}
	const s, r1, r2, a1 = 8, 2, 2, 8
	a2, b2 := in/a1, out/a1
	fa := m.KronSum(name+".A", par(".A1", s, a1*r1), par(".A2", s, a2*r2), s, a1, r1, a2, r2, in, r1*r2)
	fb := m.KronSum(name+".B", par(".B1", s, r1*a1), par(".B2", s, r2*b2), s, r1, a1, r2, b2, r1*r2, out)
	h := m.MatMul(name+".h", x, fa, false, false, 1, graph.None)
	return m.MatMul(name+".y", h, fb, false, false, 2, y)
}

func (m maker) norm(name string, x graph.Value) graph.Value {
	beta := graph.NoWeight
	if !m.causal {
		beta = m.Vector(name+".beta", m.hidden)
	}
	return m.Norm(name, x, m.Vector(name+".gamma", m.hidden), beta, 1e-5, m.causal)
}

// heads is attention over x, for the rows of pick.
func (m maker) attend(name string, x graph.Value, pick graph.Pick, freq []float32) graph.Value {
	hd := m.hidden / m.heads
	q, k := m.adapted(name+"q", m.Select(name+"rows", x, pick), m.hidden), m.linear(name+"k", x, m.kvHeads*hd, graph.ActNone, graph.None)
	v := m.adapted(name+"v", x, m.kvHeads*hd)
	if m.causal {
		q = m.Rope(name+"rq", q, graph.Rope{Heads: m.heads, HeadDim: hd, Freq: freq, Scale: 1, Pick: pick})
		k = m.Rope(name+"rk", k, graph.Rope{Heads: m.kvHeads, HeadDim: hd, Freq: freq, Scale: 1})
	}
	return m.Attention(name+"attention", q, k, v, graph.Attention{Heads: m.heads, KVHeads: m.kvHeads, HeadDim: hd, Scale: 0.125, Causal: m.causal, DropP: m.drop, QueryPick: pick})
}

func (m maker) layer(name string, x graph.Value, pick graph.Pick, freq []float32) graph.Value {
	if m.causal {
		x = m.linear(name+"o", m.attend(name, m.norm(name+"norm1", x), pick, freq), m.hidden, graph.ActNone, x)
		n := m.norm(name+"norm2", x)
		gated := m.Gated(name+"gated", m.linear(name+"gate", n, m.inter, graph.ActNone, graph.None), m.linear(name+"up", n, m.inter, graph.ActNone, graph.None), graph.ActSiLU)
		return m.linear(name+"down", gated, m.hidden, graph.ActNone, x)
	}
	rows := m.Select(name+"residual", x, pick)
	y := m.linear(name+"o", m.attend(name, x, pick, nil), m.hidden, graph.ActNone, graph.None)
	x = m.norm(name+"norm1", m.Dropout(name+"drop1", y, m.drop, rows))
	h := m.linear(name+"up", x, m.inter, graph.ActGELU, graph.None)
	return m.norm(name+"norm2", m.Dropout(name+"drop2", m.linear(name+"down", h, m.hidden, graph.ActNone, graph.None), m.drop, x))
}

// program is the differentiated model.
func (s shape) program(t testing.TB) *graph.Program {
	m := maker{graph.NewBuilder(), s}
	tables, streams, offsets := []graph.WeightID{m.Weight("words", s.vocab, s.hidden, false)}, []graph.Stream{graph.StreamIDs}, []int{0}
	if !s.causal {
		tables, streams, offsets = append(tables, m.Weight("positions", 514, s.hidden, false)), append(streams, graph.StreamPositions), append(offsets, 2)
	}
	var freq []float32
	for i := range s.hidden / s.heads / 2 {
		freq = append(freq, 1/float32(int(1)<<min(i, 20)))
	}
	x := m.Embed("embeddings", tables, streams, offsets)
	for l := range s.layers {
		pick := graph.PickAll
		if l == s.layers-1 && !s.causal {
			pick = graph.PickFirst
		}
		x = m.layer(fmt.Sprintf("%d.", l), x, pick, freq)
	}
	if s.causal {
		m.SetLoss(m.LMLoss(m.norm("norm", m.Select("picked", x, graph.PickRows)), m.Weight("words", s.hidden, s.vocab, true), graph.NoWeight))
	} else {
		head := m.Param("head", []int{2, s.hidden}, 2, s.hidden)
		m.SetLoss(m.CrossEntropy(m.MatMul("logits", x, head, false, true, 1, graph.None)))
	}
	if err := graph.Differentiate(m.P); err != nil {
		t.Fatal(err)
	}
	return m.P
}

// batch packs sequences of the given lengths.
func (s shape) batch(step uint64, lens ...int) *graph.Batch {
	r := rand.New(rand.NewPCG(step, uint64(len(lens))))
	b := &graph.Batch{CuSeqlens: []int32{0}, Train: true, Seed: 3, Step: step}
	for _, n := range lens {
		for p := range n {
			if s.causal && p < n-1 {
				b.Rows = append(b.Rows, int32(len(b.IDs)))
				b.Labels = append(b.Labels, int32(r.IntN(s.vocab)))
			}
			b.IDs = append(b.IDs, int32(r.IntN(s.vocab)))
			b.Positions = append(b.Positions, int32(p))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
		if !s.causal {
			b.Labels = append(b.Labels, int32(r.IntN(2)))
		}
	}
	b.LossScale = 1 / float32(len(b.Labels))
	return b
}

// start returns seeded parameters.
func start(p *graph.Program, scale float32) []float32 {
	r := rand.New(rand.NewPCG(7, 7))
	w := make([]float32, p.ParamSize)
	for i := range w {
		w[i] = scale * (2*r.Float32() - 1)
	}
	return w
}

// curve trains for some steps on an engine and returns losses and parameters.
func (s shape) curve(t testing.TB, e graph.Engine, steps int) (losses, params []float32) {
	t.Helper()
	p := s.program(t)
	x, err := e.Compile(p, noise{0.3}, graph.Dims{T: 40, S: 4, R: 40, MaxLen: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(x.SetParams(start(p, 0.3)))
	loss := make([]float32, 1)
	for i := range steps {
		// A batch that repeats, so that there is something to learn, in two
		// micro-batches of different sizes.
		check(x.Run(context.Background(), s.batch(uint64(i%2), 9, 1, 14, 6)))
		check(x.Run(context.Background(), s.batch(uint64(2+i%2), 5, 35)))
		check(x.Read(p.Loss, loss))
		losses = append(losses, loss...)
		_, err := x.Step(graph.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.98, Eps: 1e-4, WeightDecay: 0.01, ClipNorm: 1, T: i + 1})
		check(err)
	}
	params = make([]float32, p.ParamSize)
	check(x.Params(params))
	return losses, params
}
