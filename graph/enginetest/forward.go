package enginetest

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// opCase builds a program around one operation. Forward cases return its
// result, from which a loss and so the gradient operations follow; cases of
// hand-made operations return None.
type opCase struct {
	name  string
	lens  []int
	rows  int // see newMaker
	eval  bool
	build func(m *maker) graph.Value
}

// The batches of the cases: odd lengths, single tokens, one sequence.
var (
	ragged = []int{5, 1, 3}
	single = []int{1}
	longer = []int{70, 1, 33}
)

// inputCases read activations that come with the batch. They differ per token,
// and one operation reads them twice, beside a parameter.
func inputCases() []opCase {
	var cs []opCase
	for _, lens := range [][]int{ragged, single, longer} {
		cs = append(cs, opCase{name: fmt.Sprintf("input/%v", lens), lens: lens, rows: -1, build: func(m *maker) graph.Value {
			m.batch.Inputs = m.normal(7*len(m.batch.IDs), 1)
			x := m.Input("x", 7)
			return m.Gated("y", x, m.AddBias(x, m.fixed(1, 7)), graph.ActSiLU)
		}})
	}
	return cs
}

// forwardCases are the operations that models use.
func forwardCases() []opCase {
	var cs []opCase
	add := func(name string, lens []int, build func(m *maker) graph.Value) {
		cs = append(cs, opCase{name: name, lens: lens, rows: -1, build: build})
	}
	add("embed", ragged, func(m *maker) graph.Value {
		t := len(m.batch.IDs)
		e := m.Embed("e", []graph.WeightID{m.weight("words", t, 7, false), m.weight("types", 2, 7, false), m.weight("positions", t+2, 7, false)},
			[]graph.Stream{graph.StreamIDs, graph.StreamTypes, graph.StreamPositions}, []int{0, 0, 2})
		return m.AddBias(e, m.fixed(1, 7))
	})
	for _, act := range acts {
		add("linear/"+act.String(), ragged, func(m *maker) graph.Value {
			residual := m.c(graph.PerToken, 9)
			return m.Linear("y", m.tokens(6), m.weight("w", 6, 9, true), m.vector("b", 9, 0), act, residual)
		})
		add("activate/"+act.String(), ragged, func(m *maker) graph.Value { return m.Activate("y", m.tokens(7), act) })
		add("gated/"+act.String(), ragged, func(m *maker) graph.Value { return m.Gated("y", m.tokens(7), m.tokens(7), act) })
	}
	add("linear/adapted", ragged, func(m *maker) graph.Value {
		// Its result, residual and all, is what the parameter's gradient reads.
		x := m.tokens(6)
		h := m.Linear("h", x, m.weight("w", 6, 6, true), graph.NoWeight, graph.ActGELU, m.c(graph.PerToken, 6))
		return m.MatMul("y", h, m.fixed(6, 4), false, false, 1, graph.None)
	})
	add("linear/wide", longer, func(m *maker) graph.Value {
		return m.Linear("y", m.tokens(83), m.weight("w", 83, 101, false), graph.NoWeight, graph.ActGELU, m.c(graph.PerToken, 101))
	})
	add("linear/row", single, func(m *maker) graph.Value {
		return m.Linear("y", m.in(graph.PerSeq, 5), m.weight("w", 5, 3, true), m.vector("b", 3, 0), graph.ActTanh, graph.None)
	})
	for _, k := range []struct {
		inner, cols int
		lens        []int
	}{{6, 4, ragged}, {64, 8, longer}, {8, 65, longer}, {1, 1, single}, {35, 130, longer}} {
		size := fmt.Sprintf("%dx%d", k.inner, k.cols)
		add("matmul/"+size, k.lens, func(m *maker) graph.Value {
			return m.MatMul("y", m.tokens(k.inner), m.fixed(k.inner, k.cols), false, false, 0.7, m.c(graph.PerToken, k.cols))
		})
		add("matmul/tb/"+size, k.lens, func(m *maker) graph.Value {
			return m.MatMul("y", m.tokens(k.inner), m.fixed(k.cols, k.inner), false, true, 1, m.c(graph.PerToken, k.cols))
		})
		add("matmul/fixed/ta/"+size, k.lens, func(m *maker) graph.Value {
			return m.MatMul("y", m.fixed(k.inner, 3), m.fixed(k.inner, k.cols), true, false, -1, m.c(graph.FixedRows(3), k.cols))
		})
		add("matmul/fixed/ta/tb/"+size, k.lens, func(m *maker) graph.Value {
			return m.MatMul("y", m.fixed(k.inner, 3), m.fixed(k.cols, k.inner), true, true, 1, m.c(graph.FixedRows(3), k.cols))
		})
	}
	add("add_bias", ragged, func(m *maker) graph.Value { return m.AddBias(m.tokens(7), m.fixed(1, 7)) })
	add("axpby", ragged, func(m *maker) graph.Value { return m.Axpby("y", 0.5, m.tokens(7), -2, m.tokens(7)) })
	add("axpby/one", ragged, func(m *maker) graph.Value { return m.Axpby("y", -1, m.tokens(7), 0, graph.None) })
	add("axpby/params", single, func(m *maker) graph.Value { return m.Axpby("y", 1, m.fixed(2, 3), 2, m.fixed(2, 3)) })
	add("add/twice", ragged, func(m *maker) graph.Value { x := m.tokens(5); return m.Add("y", x, x) })
	add("axpby/twice", ragged, func(m *maker) graph.Value { x := m.tokens(5); return m.Axpby("y", 0.5, x, -2, x) })
	add("col_scale", ragged, func(m *maker) graph.Value { return m.ColScale("y", m.tokens(7), m.fixed(1, 7)) })
	add("col_scale/bias", ragged, func(m *maker) graph.Value {
		return m.ColScaleBias("y", m.tokens(7), m.fixed(1, 7), m.vector("b", 7, 1))
	})
	add("col_scale/params", single, func(m *maker) graph.Value { return m.ColScale("y", m.fixed(3, 7), m.fixed(1, 7)) })
	for _, rms := range []bool{false, true} {
		kind := map[bool]string{false: "layer", true: "rms"}[rms]
		add("norm/"+kind, ragged, func(m *maker) graph.Value {
			return m.Norm("y", m.tokens(11), m.vector("g", 11, 1), m.vector("b", 11, 0), 1e-5, rms)
		})
		add("norm/bare/"+kind, longer, func(m *maker) graph.Value {
			return m.Norm("y", m.tokens(64), m.vector("g", 64, 1), graph.NoWeight, 1e-3, rms)
		})
	}
	add("norm/heads", ragged, func(m *maker) graph.Value {
		return m.HeadNorm("y", m.tokens(21), m.vector("g", 7, 1), 1e-5, 3)
	})
	add("select/first", ragged, func(m *maker) graph.Value { return m.Select("y", m.tokens(7), graph.PickFirst) })
	add("select/last", ragged, func(m *maker) graph.Value { return m.Select("y", m.tokens(7), graph.PickLast) })
	add("select/rows", ragged, func(m *maker) graph.Value { return m.Select("y", m.tokens(7), graph.PickRows) })
	add("mean_pool", ragged, func(m *maker) graph.Value { return m.MeanPool("y", m.tokens(7)) })
	none := opCase{name: "select/no rows", lens: ragged, build: func(m *maker) graph.Value { return m.Select("y", m.tokens(7), graph.PickRows) }}
	cs = append(cs, none)
	cs = append(cs, dropoutCases()...)
	cs = append(cs, ropeCases()...)
	cs = append(cs, attentionCases()...)
	cs = append(cs, kronCases()...)
	cs = append(cs, blockCases()...)
	return append(cs, lossCases()...)
}

var acts = []graph.Act{graph.ActNone, graph.ActGELU, graph.ActGELUTanh, graph.ActReLU, graph.ActSiLU, graph.ActTanh}

func dropoutCases() []opCase {
	build := func(m *maker) graph.Value { return m.Dropout("y", m.tokens(7), 0.3, m.c(graph.PerToken, 7)) }
	adapter := func(m *maker) graph.Value {
		// The dropped input of a low-rank product: recomputed in the backward
		// pass, since x has another reader.
		x := m.Activate("x", m.tokens(7), graph.ActSiLU)
		h := m.MatMul("h", m.Dropout("d", x, 0.4, graph.None), m.fixed(7, 2), false, false, 1, graph.None)
		return m.MatMul("y", h, m.fixed(2, 7), false, false, 0.5, x)
	}
	return []opCase{
		{name: "dropout", lens: longer, rows: -1, build: build},
		{name: "dropout/eval", lens: ragged, rows: -1, eval: true, build: build},
		{name: "dropout/adapter", lens: ragged, rows: -1, build: adapter},
		{name: "dropout/rows", lens: ragged, rows: -1, build: func(m *maker) graph.Value { return m.Dropout("y", m.in(graph.PerSeq, 5), 0.5, graph.None) }},
	}
}

func ropeCases() []opCase {
	var cs []opCase
	freq := []float32{1, 0.3, 0.01}
	for _, r := range []struct {
		name string
		op   graph.Rope
	}{
		{"halves", graph.Rope{Heads: 2, HeadDim: 6, Freq: freq}},
		{"interleaved", graph.Rope{Heads: 2, HeadDim: 6, Freq: freq, Interleaved: true}},
		{"partial", graph.Rope{Heads: 3, HeadDim: 10, Freq: freq, Scale: 1.25}},
		{"partial interleaved", graph.Rope{Heads: 3, HeadDim: 7, Freq: freq, Interleaved: true}},
		{"last", graph.Rope{Heads: 2, HeadDim: 6, Freq: freq, Pick: graph.PickLast}},
		{"rows", graph.Rope{Heads: 2, HeadDim: 6, Freq: freq, Pick: graph.PickRows}},
	} {
		cs = append(cs, opCase{name: "rope/" + r.name, lens: ragged, rows: -1, build: func(m *maker) graph.Value {
			x := m.tokens(r.op.Heads * r.op.HeadDim)
			return m.Rope("y", m.Select("s", x, r.op.Pick), r.op)
		}})
	}
	return cs
}

func attentionCases() []opCase {
	var cs []opCase
	for _, a := range []struct {
		name string
		lens []int
		op   graph.Attention
	}{
		{"plain", ragged, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 4}},
		{"one token", single, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 3}},
		{"causal", ragged, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 5, Causal: true}},
		{"grouped causal", ragged, graph.Attention{Heads: 6, KVHeads: 2, HeadDim: 4, Causal: true}},
		{"one kv head", ragged, graph.Attention{Heads: 3, KVHeads: 1, HeadDim: 4}},
		{"window", ragged, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 4, Causal: true, Window: 2}},
		{"window both sides", ragged, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 4, Window: 2}},
		{"first", ragged, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 4, QueryPick: graph.PickFirst}},
		{"last", ragged, graph.Attention{Heads: 4, KVHeads: 2, HeadDim: 4, Causal: true, QueryPick: graph.PickLast}},
		{"last window", ragged, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 4, Causal: true, Window: 3, QueryPick: graph.PickLast}},
		{"dropout", ragged, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 4, DropP: 0.3}},
		{"dropout first", ragged, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 4, DropP: 0.3, QueryPick: graph.PickFirst}},
		{"long", []int{150, 2, 65}, graph.Attention{Heads: 2, KVHeads: 1, HeadDim: 16}},
		{"long causal", []int{131, 64}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 32, Causal: true}},
		{"long window", []int{140}, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 8, Causal: true, Window: 66}},
		{"long dropout", []int{133, 7}, graph.Attention{Heads: 1, KVHeads: 1, HeadDim: 8, Causal: true, DropP: 0.1}},
	} {
		cs = append(cs, opCase{name: "attention/" + a.name, lens: a.lens, rows: -1, build: func(m *maker) graph.Value {
			a.op.Scale = 0.4
			kv := a.op.KVHeads * a.op.HeadDim
			q := m.Select("q", m.tokens(a.op.Heads*a.op.HeadDim), a.op.QueryPick)
			return m.Attention("y", q, m.tokens(kv), m.tokens(kv), a.op)
		}})
	}
	return append(cs, opCase{name: "attention/shared input", lens: ragged, rows: -1, build: func(m *maker) graph.Value {
		x := m.tokens(8)
		return m.Attention("y", x, x, x, graph.Attention{Heads: 2, KVHeads: 2, HeadDim: 4, Scale: 0.5})
	}})
}

func kronCases() []opCase {
	var cs []opCase
	for _, k := range []struct {
		name                        string
		terms, a1, r1, a2, r2, n, m int
	}{
		{"exact", 2, 3, 2, 4, 2, 12, 4},
		{"cut rows", 3, 3, 2, 4, 1, 11, 2},
		{"cut both", 1, 2, 3, 4, 3, 7, 8},
		{"wide", 4, 2, 8, 2, 9, 4, 70},
		{"tall", 2, 9, 2, 8, 3, 71, 6},
	} {
		f := func(m *maker) (f1, f2 graph.Value) {
			return m.fixed(k.terms, k.a1*k.r1), m.fixed(k.terms, k.a2*k.r2)
		}
		cs = append(cs, opCase{name: "kron_sum/" + k.name, lens: ragged, rows: -1, build: func(m *maker) graph.Value {
			f1, f2 := f(m)
			return m.KronSum("y", f1, f2, k.terms, k.a1, k.r1, k.a2, k.r2, k.n, k.m)
		}})
		for _, trans := range []bool{false, true} {
			in, out := k.n, k.m
			if trans {
				in, out = out, in
			}
			cs = append(cs, opCase{name: fmt.Sprintf("kron_apply/%s/trans=%v", k.name, trans), lens: ragged, rows: -1, build: func(m *maker) graph.Value {
				f1, f2 := f(m)
				op := graph.KronApply{F1: f1, F2: f2, Terms: k.terms, A1: k.a1, R1: k.r1, A2: k.a2, R2: k.r2, N: k.n, M: k.m, Trans: trans, Alpha: 0.6}
				op.C = m.c(graph.PerToken, out)
				return m.KronApply("y", m.tokens(in), op)
			}})
		}
	}
	return append(cs,
		opCase{name: "row_outer", lens: ragged, rows: -1, build: func(m *maker) graph.Value { return m.RowOuter("y", m.tokens(3), m.tokens(4)) }},
		opCase{name: "row_outer/params", lens: ragged, rows: -1, build: func(m *maker) graph.Value { return m.RowOuter("y", m.fixed(4, 3), m.fixed(4, 5)) }},
		opCase{name: "kron_sum/activations", lens: ragged, rows: -1, build: func(m *maker) graph.Value {
			return m.KronSum("y", m.fixedAct(2, 6), m.fixedAct(2, 4), 2, 3, 2, 2, 2, 6, 4)
		}},
		opCase{name: "col_norm", lens: ragged, rows: -1, build: func(m *maker) graph.Value {
			// A constant for the gradient, so another path carries one.
			n := m.ColNorm("n", m.weight("w", 6, 5, true), graph.ColNorm{A: m.fixedAct(6, 2), B: m.fixedAct(2, 5), Alpha: 0.5})
			return m.ColScale("y", m.tokens(5), n)
		}},
		opCase{name: "col_norm/inverse of transposes", lens: ragged, rows: -1, build: func(m *maker) graph.Value {
			n := m.ColNorm("n", m.weight("w", 33, 70, false), graph.ColNorm{A: m.fixed(3, 33), TransA: true, B: m.fixed(70, 3), TransB: true, Alpha: -0.4, Inverse: true})
			return m.ColScaleBias("y", m.tokens(70), n, m.vector("b", 70, 0))
		}},
	)
}

// blockCases are products with block-diagonal matrices.
func blockCases() []opCase {
	var cs []opCase
	for _, k := range []struct {
		name         string
		blocks, a, b int
	}{{"one", 1, 5, 3}, {"two", 2, 3, 4}, {"three", 3, 2, 3}, {"four", 4, 19, 24}} {
		for _, trans := range []bool{false, true} {
			for _, shuffle := range []bool{false, true} {
				in, out := k.blocks*k.a, k.blocks*k.b
				if trans {
					in, out = out, in
				}
				cs = append(cs, opCase{name: fmt.Sprintf("block_matmul/%s/trans=%v/shuffle=%v", k.name, trans, shuffle), lens: ragged, rows: -1, build: func(m *maker) graph.Value {
					w := m.fixed(k.blocks, k.a*k.b)
					return m.BlockMatMul("y", m.tokens(in), w, graph.BlockMatMul{Blocks: k.blocks, Trans: trans, Shuffle: shuffle, Alpha: 0.7, C: m.c(graph.PerToken, out)})
				}})
			}
		}
	}
	return cs
}

func lossCases() []opCase {
	var cs []opCase
	add := func(name string, rows int, build func(m *maker) graph.Value) {
		cs = append(cs, opCase{name: name, lens: ragged, rows: rows, build: build})
	}
	add("cross_entropy", -1, func(m *maker) graph.Value {
		m.labels(len(ragged), 5)
		return m.CrossEntropy(m.in(graph.PerSeq, 5))
	})
	add("mse", -1, func(m *maker) graph.Value {
		m.targets(len(ragged)*2, false)
		return m.MSE(m.in(graph.PerSeq, 2))
	})
	add("bce", -1, func(m *maker) graph.Value {
		m.targets(len(ragged)*3, true)
		return m.BCE(m.in(graph.PerSeq, 3))
	})
	for _, c := range []struct {
		name      string
		rows      int
		in, vocab int
		bias      bool
	}{{"lm_loss", -1, 7, 11, false}, {"lm_loss/bias", -1, 12, 301, true}, {"lm_loss/one row", 1, 7, 5, true}, {"lm_loss/no rows", 0, 7, 5, false}} {
		add(c.name, c.rows, func(m *maker) graph.Value {
			m.labels(len(m.batch.Rows), c.vocab)
			bias := graph.NoWeight
			if c.bias {
				bias = m.vector("b", c.vocab, 0)
			}
			return m.LMLoss(m.in(graph.PerPick, c.in), m.weight("w", c.in, c.vocab, true), bias)
		})
	}
	return cs
}
