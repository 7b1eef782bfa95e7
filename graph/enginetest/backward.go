package enginetest

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// backwardCases are the operations of backward passes, made by hand so that
// each is compared alone: results into views, with addends, in place where
// the operand dies, and added to parameter gradients.
func backwardCases() []opCase {
	var cs []opCase
	add := func(name string, lens []int, build func(m *maker)) {
		cs = append(cs, opCase{name: name, lens: lens, rows: -1, build: func(m *maker) graph.Value { build(m); return graph.None }})
	}
	tok := graph.PerToken
	for _, s := range [][2]int{{6, 9}, {83, 101}} {
		add(fmt.Sprintf("linear_grad/%dx%d", s[0], s[1]), longer, func(m *maker) {
			w := m.weight("w", s[0], s[1], true)
			m.P.Weight(w).Backward = true
			m.emit(&graph.LinearGrad{DY: m.in(tok, s[1]), W: w, C: m.c(tok, s[0]), DX: m.out(tok, s[0])})
		})
	}
	add("linear/pre", ragged, func(m *maker) {
		w := m.weight("w", 7, 9, false)
		m.P.Weight(w).Forward = true
		m.emit(&graph.Linear{X: m.in(tok, 7), W: w, Bias: m.vector("b", 9, 0), Act: graph.ActGELU, Residual: m.c(tok, 9), Pre: m.out(tok, 9), Y: m.out(tok, 9)})
	})
	for _, lens := range [][]int{ragged, longer} {
		size := fmt.Sprint(len(lens), "x", lens[0])
		add("matmul/weight gradient/"+size, lens, func(m *maker) {
			m.emit(&graph.MatMul{A: m.in(tok, 33), B: m.in(tok, 4), TransA: true, Alpha: 0.5, Y: m.grad(33, 4)})
		})
		add("matmul/ta/"+size, lens, func(m *maker) {
			m.emit(&graph.MatMul{A: m.in(tok, 5), B: m.in(tok, 66), TransA: true, Alpha: 2, C: m.c(graph.FixedRows(5), 66), Y: m.out(graph.FixedRows(5), 66)})
		})
		add("matmul/result/"+size, lens, func(m *maker) {
			m.emit(&graph.MatMul{A: m.in(tok, 8), B: m.fixed(13, 8), TransB: true, Alpha: 1, C: m.c(tok, 13), Y: m.out(tok, 13)})
		})
		add("col_sum/"+size, lens, func(m *maker) {
			m.emit(&graph.ColSum{X: m.in(tok, 9), Alpha: -0.5, C: m.c(graph.FixedRows(1), 9), Y: m.out(graph.FixedRows(1), 9)})
			m.emit(&graph.ColSum{X: m.in(tok, 9), Alpha: 2, Y: m.grad(1, 9)})
		})
		add("col_dot/"+size, lens, func(m *maker) {
			m.emit(&graph.ColDot{A: m.in(tok, 9), B: m.in(tok, 9), C: m.c(graph.FixedRows(1), 9), Y: m.out(graph.FixedRows(1), 9)})
			m.emit(&graph.ColDot{A: m.in(tok, 9), B: m.in(tok, 9), Y: m.grad(1, 9)})
		})
	}
	add("axpby/gradient", ragged, func(m *maker) {
		m.emit(&graph.Axpby{A: m.in(graph.FixedRows(3), 5), B: m.in(graph.FixedRows(3), 5), Alpha: 0.5, Beta: 3, Y: m.grad(3, 5)})
		m.emit(&graph.Axpby{A: m.in(tok, 5), Alpha: -3, Y: m.out(tok, 5)})
		m.emit(&graph.Axpby{A: m.in(tok, 5), B: m.in(tok, 5), Alpha: 1, Beta: 1, Y: m.out(tok, 5)})
	})
	add("col_scale/result", ragged, func(m *maker) {
		m.emit(&graph.ColScale{X: m.in(tok, 9), S: m.fixed(1, 9), Y: m.out(tok, 9)})
	})
	for _, act := range acts {
		add("activate_grad/"+act.String(), ragged, func(m *maker) {
			m.emit(&graph.ActivateGrad{X: m.in(tok, 9), DY: m.in(tok, 9), Act: act, C: m.c(tok, 9), DX: m.out(tok, 9)})
		})
		add("gated_grad/"+act.String(), ragged, func(m *maker) {
			m.emit(&graph.GatedGrad{Gate: m.in(tok, 9), Up: m.in(tok, 9), DY: m.in(tok, 9), Act: act, DGate: m.out(tok, 9), DUp: m.out(tok, 9)})
		})
	}
	add("gated_grad/half", ragged, func(m *maker) {
		m.emit(&graph.GatedGrad{Gate: m.in(tok, 9), Up: m.in(tok, 9), DY: m.in(tok, 9), Act: graph.ActSiLU, DGate: m.out(tok, 9)})
		m.emit(&graph.GatedGrad{Gate: m.in(tok, 9), Up: m.in(tok, 9), DY: m.in(tok, 9), Act: graph.ActSiLU, DUp: m.out(tok, 9)})
	})
	for _, rms := range []bool{false, true} {
		add(fmt.Sprint("norm_grad/rms=", rms), ragged, func(m *maker) {
			x, gamma := m.in(tok, 17), m.vector("g", 17, 1)
			stats := m.P.NewValue(graph.Info{Name: "stats", Rows: tok, Cols: 2})
			m.emit(&graph.Norm{X: x, Gamma: gamma, Eps: 1e-5, RMS: rms, Stats: stats, Y: m.out(tok, 17)})
			m.emit(&graph.NormGrad{X: x, Stats: stats, DY: m.in(tok, 17), Gamma: gamma, RMS: rms, C: m.c(tok, 17), DX: m.out(tok, 17)})
		})
	}
	for _, rms := range []bool{false, true} {
		add(fmt.Sprint("norm_grad/heads/rms=", rms), ragged, func(m *maker) {
			x, gamma := m.in(tok, 21), m.vector("g", 7, 1)
			stats := m.P.NewValue(graph.Info{Name: "stats", Rows: tok, Cols: 6})
			m.emit(&graph.Norm{X: x, Gamma: gamma, Beta: m.vector("b", 7, 0), Eps: 1e-5, RMS: rms, Heads: 3, Stats: stats, Y: m.out(tok, 21)})
			m.emit(&graph.NormGrad{X: x, Stats: stats, DY: m.in(tok, 21), Gamma: gamma, RMS: rms, Heads: 3, C: m.c(tok, 21), DX: m.out(tok, 21)})
		})
	}
	add("dropout_grad", longer, func(m *maker) {
		m.emit(&graph.DropoutGrad{DY: m.in(tok, 9), P: 0.25, Site: 17, C: m.c(tok, 9), DX: m.out(tok, 9)})
	})
	add("rope/inverse", ragged, func(m *maker) {
		m.emit(&graph.Rope{X: m.in(tok, 12), Heads: 2, HeadDim: 6, Freq: []float32{1, 0.1}, Scale: 1.5, Inverse: true, Y: m.out(tok, 12)})
	})
	for _, pick := range []graph.Pick{graph.PickFirst, graph.PickLast, graph.PickRows} {
		add("select_grad/"+pick.String(), ragged, func(m *maker) {
			m.emit(&graph.SelectGrad{DY: m.in(pick.Rows(), 9), Pick: pick, C: m.c(tok, 9), DX: m.out(tok, 9)})
		})
	}
	add("mean_pool_grad", ragged, func(m *maker) {
		m.emit(&graph.MeanPoolGrad{DY: m.in(graph.PerSeq, 9), C: m.c(tok, 9), DX: m.out(tok, 9)})
	})
	return append(append(cs, backwardMore()...), blockBackwardCases()...)
}

// backwardMore continues: attention, Kronecker operations, losses.
func backwardMore() []opCase {
	var cs []opCase
	add := func(name string, lens []int, build func(m *maker)) {
		cs = append(cs, opCase{name: name, lens: lens, rows: -1, build: func(m *maker) graph.Value { build(m); return graph.None }})
	}
	tok := graph.PerToken
	for need := 1; need < 8; need++ {
		add(fmt.Sprintf("attention_grad/needs %03b", need), []int{9, 1, 20}, func(m *maker) {
			fwd := &graph.Attention{Q: m.in(tok, 16), K: m.in(tok, 8), V: m.in(tok, 8), Heads: 4, KVHeads: 2, HeadDim: 4, Scale: 0.5, Causal: true}
			fwd.LSE = m.P.NewValue(graph.Info{Name: "lse", Rows: tok, Cols: 4})
			fwd.Y = m.out(tok, 16)
			m.emit(fwd)
			g := &graph.AttentionGrad{Fwd: fwd, DY: m.in(tok, 16)}
			for i, d := range []*graph.Value{&g.DQ, &g.DK, &g.DV} {
				if need>>i&1 == 1 {
					*d = m.out(tok, []int{16, 8, 8}[i])
				}
			}
			m.emit(g)
		})
	}
	add("kron_sum_grad", ragged, func(m *maker) {
		m.emit(&graph.KronSumGrad{F1: m.fixed(2, 6), F2: m.fixed(2, 8), DY: m.in(graph.FixedRows(11), 4), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2, DF1: m.grad(2, 6), DF2: m.grad(2, 8)})
		m.emit(&graph.KronSumGrad{F1: m.fixed(2, 6), F2: m.fixed(2, 8), DY: m.in(graph.FixedRows(12), 4), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2, DF1: m.out(graph.FixedRows(2), 6)})
		m.emit(&graph.KronSumGrad{F1: m.fixed(2, 6), F2: m.fixed(2, 8), DY: m.in(graph.FixedRows(12), 4), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2, DF2: m.grad(2, 8)})
	})
	for _, trans := range []bool{false, true} {
		in, out := 11, 4
		if trans {
			in, out = out, in
		}
		add(fmt.Sprint("kron_apply_grad/trans=", trans), longer, func(m *maker) {
			m.emit(&graph.KronApplyGrad{X: m.in(tok, in), F1: m.fixed(2, 6), F2: m.fixed(2, 8), DY: m.in(tok, out), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2,
				N: 11, M: 4, Trans: trans, Alpha: 0.7, DF1: m.grad(2, 6), DF2: m.grad(2, 8)})
			m.emit(&graph.KronApplyGrad{X: m.in(tok, in), F1: m.fixed(2, 6), F2: m.fixed(2, 8), DY: m.in(tok, out), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2,
				N: 11, M: 4, Trans: trans, Alpha: 1, DF2: m.out(graph.FixedRows(2), 8)})
		})
		add(fmt.Sprint("kron_apply/result/trans=", trans), ragged, func(m *maker) {
			m.emit(&graph.KronApply{X: m.in(tok, in), F1: m.fixed(2, 6), F2: m.fixed(2, 8), Terms: 2, A1: 3, R1: 2, A2: 4, R2: 2,
				N: 11, M: 4, Trans: trans, Alpha: 0.7, C: m.c(tok, out), Y: m.out(tok, out)})
		})
	}
	add("row_outer_grad", ragged, func(m *maker) {
		rows := graph.FixedRows(6)
		m.emit(&graph.RowOuterGrad{U: m.in(tok, 3), V: m.in(tok, 4), DY: m.in(tok, 12), DU: m.out(tok, 3), DV: m.out(tok, 4)})
		m.emit(&graph.RowOuterGrad{U: m.in(rows, 3), V: m.in(rows, 4), DY: m.in(rows, 12), DU: m.grad(6, 3), DV: m.grad(6, 4)})
		m.emit(&graph.RowOuterGrad{U: m.in(rows, 3), V: m.in(rows, 4), DY: m.in(rows, 12), DV: m.grad(6, 4)})
	})
	add("cross_entropy_grad", ragged, func(m *maker) {
		x := m.in(graph.PerSeq, 6)
		m.labels(len(ragged), 6)
		m.CrossEntropy(x)
		m.emit(&graph.CrossEntropyGrad{Logits: x, DLogits: m.out(graph.PerSeq, 6)})
	})
	add("mse_grad", ragged, func(m *maker) {
		x := m.in(graph.PerSeq, 2)
		m.targets(len(ragged)*2, false)
		m.MSE(x)
		m.emit(&graph.MSEGrad{Pred: x, DPred: m.out(graph.PerSeq, 2)})
	})
	add("bce_grad", ragged, func(m *maker) {
		x := m.in(graph.PerSeq, 3)
		m.targets(len(ragged)*3, true)
		m.BCE(x)
		m.emit(&graph.BCEGrad{Logits: x, DLogits: m.out(graph.PerSeq, 3)})
	})
	return cs
}

// blockBackwardCases are products with block-diagonal matrices.
func blockBackwardCases() []opCase {
	var cs []opCase
	add := func(name string, lens []int, build func(m *maker)) {
		cs = append(cs, opCase{name: name, lens: lens, rows: -1, build: func(m *maker) graph.Value { build(m); return graph.None }})
	}
	tok := graph.PerToken
	for _, trans := range []bool{false, true} {
		in, out := 6, 8
		if trans {
			in, out = out, in
		}
		add(fmt.Sprint("block_matmul_grad/trans=", trans), longer, func(m *maker) {
			m.emit(&graph.BlockMatMulGrad{X: m.in(tok, in), DY: m.in(tok, out), Blocks: 2, Trans: trans, Shuffle: true, Alpha: 0.7, DW: m.grad(2, 12)})
			m.emit(&graph.BlockMatMulGrad{X: m.in(tok, in), DY: m.in(tok, out), Blocks: 2, Trans: trans, Alpha: 0.7, DW: m.out(graph.FixedRows(2), 12)})
		})
		add(fmt.Sprint("block_matmul/result/trans=", trans), ragged, func(m *maker) {
			m.emit(&graph.BlockMatMul{X: m.in(tok, in), W: m.fixed(2, 12), Blocks: 2, Trans: trans, Shuffle: true, Alpha: 0.7, C: m.c(tok, out), Y: m.out(tok, out)})
		})
	}
	return cs
}
