package enginetest

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// program is a small whole model with adapters and a loss.
type program struct {
	name  string
	build func(m *maker)
	// label gives a batch its labels or targets.
	label func(m *maker)
}

const (
	hidden = 24
	heads  = 4
	inter  = 40
	vocab  = 53
)

// programs are the whole models.
func programs() []program {
	return []program{
		{name: "encoder", build: encoder, label: func(m *maker) { m.labels(len(m.batch.CuSeqlens)-1, 3) }},
		{name: "decoder", build: decoder, label: func(m *maker) { m.labels(len(m.batch.Rows), vocab) }},
		{name: "fused attention", build: fused, label: func(m *maker) { m.targets(2*(len(m.batch.CuSeqlens)-1), true) }},
	}
}

// setup builds and differentiates the program. The second batch is larger
// than the first, for which the program is compiled; the third has only one
// token.
func (pr program) setup(t testing.TB, o graph.DiffOptions) setup {
	m := newMaker(pr.name, []int{9, 1, 14, 6}, -1)
	pr.build(m)
	if err := graph.DifferentiateWith(m.P, o); err != nil {
		t.Fatal(err)
	}
	s := setup{program: m.P, weights: m.data, params: m.params()}
	for i, lens := range [][]int{{9, 1, 14, 6}, {20, 33, 2, 5, 7}, {1}} {
		m.batch = newBatch(m.rng, lens, -1)
		m.batch.Train, m.batch.Step = true, uint64(i)
		for t := range m.batch.IDs {
			m.batch.IDs[t] = int32(m.rng.IntN(vocab))
		}
		pr.label(m)
		s.batches = append(s.batches, m.batch)
	}
	return s
}

// adapt adds an adapter's product to y = x W: LoRA, or LSR with its factors
// materialised or applied in place.
func (m *maker) adapt(kind, name string, x, y graph.Value, drop float32) graph.Value {
	in, out := m.P.Info(x).Cols, m.P.Info(y).Cols
	par := func(suffix string, rows, cols int) graph.Value {
		m.sigma[name+suffix] = 0.3
		return m.Param(name+suffix, []int{rows, cols}, rows, cols)
	}
	x = m.Dropout(name+".drop", x, drop, graph.None)
	if kind == "lora" {
		h := m.MatMul(name+".h", x, par(".A", in, 3), false, false, 1, graph.None)
		return m.MatMul(name+".y", h, par(".B", 3, out), false, false, 0.5, y)
	}
	// a1·a2 is larger than in, b1·b2 than out: both are cut.
	const s, r1, r2 = 2, 2, 2
	a2, b2 := 5, 4
	a1, b1 := (in+a2-1)/a2, (out+b2-1)/b2
	fa1, fa2 := par(".A1", s, a1*r1), par(".A2", s, a2*r2)
	fb1, fb2 := par(".B1", s, r1*b1), par(".B2", s, r2*b2)
	if kind == "thin" {
		a := m.KronSum(name+".A", fa1, fa2, s, a1, r1, a2, r2, in, r1*r2)
		b := m.KronSum(name+".B", fb1, fb2, s, r1, b1, r2, b2, r1*r2, out)
		h := m.MatMul(name+".h", x, a, false, false, 1, graph.None)
		return m.MatMul(name+".y", h, b, false, false, 0.5, y)
	}
	h := m.KronApply(name+".h", x, graph.KronApply{F1: fa1, F2: fa2, Terms: s, A1: a1, R1: r1, A2: a2, R2: r2, N: in, M: r1 * r2, Alpha: 1})
	return m.KronApply(name+".y", h, graph.KronApply{F1: fb1, F2: fb2, Terms: s, A1: r1, R1: b1, A2: r2, R2: b2, N: r1 * r2, M: out, Alpha: 0.5, C: y})
}

// site is a frozen linear layer with an adapter, or without when kind is "".
func (m *maker) site(kind, name string, x graph.Value, out int, act graph.Act, residual graph.Value, drop float32) graph.Value {
	in := m.P.Info(x).Cols
	w, b := m.weight(name, in, out, true), m.vector(name+".bias", out, 0)
	for i := range m.data[name] {
		m.data[name][i] *= 0.6
	}
	if kind == "" {
		return m.Linear(name, x, w, b, act, residual)
	}
	y := m.adapt(kind, name, x, m.Linear(name, x, w, b, graph.ActNone, residual), drop)
	if act != graph.ActNone {
		y = m.Activate(name+".act", y, act)
	}
	return y
}

func (m *maker) layerNorm(name string, x graph.Value, rms bool) graph.Value {
	beta := graph.NoWeight
	if !rms {
		beta = m.vector(name+".beta", hidden, 0)
	}
	return m.Norm(name, x, m.vector(name+".gamma", hidden, 1), beta, 1e-5, rms)
}

// encoder is BERT-like: norms after residuals, dropout everywhere, a head on
// the first token that trains; only the rows it reads run in the last layer.
func encoder(m *maker) {
	x := m.Embed("embeddings", []graph.WeightID{m.weight("words", vocab, hidden, false), m.weight("types", 2, hidden, false), m.weight("positions", 64, hidden, false)},
		[]graph.Stream{graph.StreamIDs, graph.StreamTypes, graph.StreamPositions}, []int{0, 0, 2})
	x = m.Dropout("embeddings.drop", m.layerNorm("embeddings.norm", x, false), 0.1, graph.None)
	for l := range 2 {
		name := fmt.Sprintf("layer.%d.", l)
		rows, pick := x, graph.PickAll
		if l == 1 {
			rows, pick = m.Select("first", x, graph.PickFirst), graph.PickFirst
		}
		q := m.site("thin", name+"query", rows, hidden, graph.ActNone, graph.None, 0.1)
		k := m.site("", name+"key", x, hidden, graph.ActNone, graph.None, 0)
		v := m.site([]string{"lora", "sandwich"}[l], name+"value", x, hidden, graph.ActNone, graph.None, 0.1)
		a := m.Attention(name+"attention", q, k, v, graph.Attention{Heads: heads, KVHeads: heads, HeadDim: hidden / heads, Scale: 0.4, QueryPick: pick, DropP: 0.1})
		a = m.site("", name+"output", a, hidden, graph.ActNone, graph.None, 0)
		x1 := m.layerNorm(name+"norm1", m.Dropout(name+"drop1", a, 0.1, rows), false)
		h := m.site([]string{"", "lora"}[l], name+"up", x1, inter, graph.ActGELU, graph.None, 0)
		h = m.site([]string{"lora", ""}[l], name+"down", h, hidden, graph.ActNone, graph.None, 0)
		x = m.layerNorm(name+"norm2", m.Dropout(name+"drop2", h, 0.1, x1), false)
	}
	m.sigma["pooler.weight"], m.sigma["classifier.weight"] = 0.2, 0.2
	p := m.MatMul("pooler", x, m.Param("pooler.weight", []int{hidden, hidden}, hidden, hidden), false, true, 1, graph.None)
	p = m.Activate("pooled", m.AddBias(p, m.Param("pooler.bias", []int{hidden}, 1, hidden)), graph.ActTanh)
	logits := m.MatMul("logits", p, m.Param("classifier.weight", []int{3, hidden}, 3, hidden), false, true, 1, graph.None)
	logits = m.AddBias(logits, m.Param("classifier.bias", []int{3}, 1, 3))
	m.P.Params[len(m.P.Params)-1].NoDecay = true
	m.P.Params[0].LRScale = 4
	m.Output(logits)
	m.SetLoss(m.CrossEntropy(logits))
}

// decoder is Llama-like: norms before, rotary positions, grouped queries with
// a window, gated products, the output layer in one with the loss. The lowest
// layer is frozen, and one adapter's factors are shared by two sites.
func decoder(m *maker) {
	words := m.weight("words", vocab, hidden, false)
	x := m.Embed("words", []graph.WeightID{words}, []graph.Stream{graph.StreamIDs}, []int{0})
	rope := graph.Rope{Heads: heads, HeadDim: hidden / heads, Freq: []float32{1, 0.2, 0.04}}
	for l := range 3 {
		name := fmt.Sprintf("layers.%d.", l)
		kind := func(k string) string {
			if l == 0 {
				return ""
			}
			return k
		}
		n := m.layerNorm(name+"norm1", x, true)
		q := m.site(kind("sandwich"), name+"q", n, hidden, graph.ActNone, graph.None, 0)
		if l == 1 { // as Qwen3
			q = m.HeadNorm(name+"q_norm", q, m.vector(name+"q_norm.gamma", hidden/heads, 1), 1e-5, heads)
		}
		q = m.Rope(name+"q_rope", q, rope)
		kv := rope
		kv.Heads = 2
		k := m.Rope(name+"k_rope", m.site(kind("lora"), name+"k", n, hidden/2, graph.ActNone, graph.None, 0), kv)
		v := m.site(kind("thin"), name+"v", n, hidden/2, graph.ActNone, graph.None, 0.2)
		a := m.Attention(name+"attention", q, k, v, graph.Attention{Heads: heads, KVHeads: 2, HeadDim: hidden / heads, Scale: 0.4, Causal: true, Window: 4})
		x = m.site("", name+"o", a, hidden, graph.ActNone, x, 0)
		n = m.layerNorm(name+"norm2", x, true)
		gate := m.site(kind("lora"), name+"gate", n, inter, graph.ActNone, graph.None, 0)
		up := m.site(kind("lora"), name+"up", n, inter, graph.ActNone, graph.None, 0)
		down := m.Gated(name+"gated", gate, up, graph.ActSiLU)
		y := m.site(kind("lora"), name+"down", down, hidden, graph.ActNone, x, 0)
		if l == 2 {
			y = m.adapt("lora", "layers.1.shared", n, y, 0)
		} else if l == 1 {
			y = m.adapt("lora", "layers.1.shared", x, y, 0)
		}
		x = y
	}
	x = m.layerNorm("norm", m.Select("picked", x, graph.PickRows), true)
	m.SetLoss(m.LMLoss(x, m.Weight("words", hidden, vocab, true), graph.NoWeight))
}

// fused is GPT-2-like: query, key and value are columns of one product, so
// that their gradients are columns of one matrix; the mean of the tokens is
// read by a head with binary targets. Its adapter is a sum of Kronecker
// products whose second factors are outer products, with scaled columns.
func fused(m *maker) {
	x := m.Embed("words", []graph.WeightID{m.weight("words", vocab, hidden, false), m.weight("positions", 64, hidden, false)},
		[]graph.Stream{graph.StreamIDs, graph.StreamPositions}, []int{0, 0})
	for l := range 2 {
		name := fmt.Sprintf("h.%d.", l)
		n := m.layerNorm(name+"norm1", x, false)
		qkv := m.site("lora", name+"c_attn", n, 3*hidden, graph.ActNone, graph.None, 0.1)
		q, k, v := m.View(qkv, 0, hidden), m.View(qkv, hidden, hidden), m.View(qkv, 2*hidden, hidden)
		a := m.Attention(name+"attention", q, k, v, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: hidden / 2, Scale: 0.3, Causal: true, DropP: 0.1})
		x = m.Dropout(name+"drop1", m.site("", name+"c_proj", a, hidden, graph.ActNone, graph.None, 0), 0.1, x)
		n = m.layerNorm(name+"norm2", x, false)
		h := m.site("", name+"c_fc", n, inter, graph.ActGELUTanh, graph.None, 0)
		y := m.site("", name+"mlp.c_proj", h, hidden, graph.ActNone, graph.None, 0)
		y = m.outerAdapter(name, h, y)
		x = m.Dropout(name+"drop2", y, 0.1, x)
	}
	p := m.MeanPool("mean", m.layerNorm("norm", x, false))
	m.sigma["score.weight"] = 0.3
	m.SetLoss(m.BCE(m.MatMul("score", p, m.Param("score.weight", []int{2, hidden}, 2, hidden), false, true, 1, graph.None)))
}

// outerAdapter adds x Σ_k A_k ⊗ (u_k v_kᵀ), columns scaled relative to the norms
// of the adapted weight, to y.
func (m *maker) outerAdapter(name string, x, y graph.Value) graph.Value {
	const terms = 2
	in, out := m.P.Info(x).Cols, m.P.Info(y).Cols // 40 = 4·10, 24 = 4·6
	par := func(suffix string, rows, cols int, sigma float64) graph.Value {
		m.sigma[name+suffix] = sigma
		return m.Param(name+suffix, []int{rows, cols}, rows, cols)
	}
	f2 := m.RowOuter(name+"uv", par("u", terms, in/4, 0.4), par("v", terms, out/4, 0.4))
	d := m.KronApply(name+"delta", x, graph.KronApply{F1: par("a", terms, 16, 0.4), F2: f2, Terms: terms, A1: 4, R1: 4, A2: in / 4, R2: out / 4, N: in, M: out, Alpha: 0.5})
	norms := m.ColNorm(name+"norms", m.weight(name+"mlp.c_proj", in, out, true), graph.ColNorm{A: par("na", in, 2, 0.2), B: par("nb", 2, out, 0.2), Alpha: 0.5})
	return m.Axpby(name+"adapted", 1, y, 0.1, m.ColScale(name+"scaled", m.ColScale(name+"magnitude", d, norms), par("m", 1, out, 1)))
}
