package reference

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// tensor is an array of a golden file.
type tensor struct {
	Shape []int
	Data  []float64
}

func (a tensor) rows() int { return len(a.Data) / a.cols() }
func (a tensor) cols() int { return a.Shape[len(a.Shape)-1] }

// golden is what testdata/gen_ops.py recorded of PyTorch.
func golden(t *testing.T) map[string]map[string]tensor {
	b, err := os.ReadFile("testdata/ops.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases map[string]map[string]tensor }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

// bench runs operations on golden arrays.
type bench struct {
	*testing.T
	*graph.Builder
	c       map[string]tensor
	params  []float64
	weights memory
	batch   graph.Batch
}

// memory is a WeightSource.
type memory map[string][]float32

func (m memory) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	copy(dst, m[w.Name][lo*w.StoredCols():hi*w.StoredCols()])
	return nil
}

func newBench(t *testing.T, c map[string]tensor) *bench {
	if c == nil {
		t.Fatal("the golden file lacks this case")
	}
	b := &bench{T: t, Builder: graph.NewBuilder(), c: c, weights: memory{}}
	b.batch = graph.Batch{CuSeqlens: []int32{0, 5, 6, 14}, LossScale: 0.25}
	for s := range 3 {
		for i := range b.batch.CuSeqlens[s+1] - b.batch.CuSeqlens[s] {
			b.batch.IDs, b.batch.Positions = append(b.batch.IDs, int32(len(b.batch.IDs))), append(b.batch.Positions, i)
		}
	}
	return b
}

// arg is the golden array as a fixed matrix.
func (b *bench) arg(name string) graph.Value {
	a := b.c[name]
	b.params = append(b.params, a.Data...)
	return b.Param(name, a.Shape, a.rows(), a.cols())
}

// tokens is the golden array with one row per token.
func (b *bench) tokens(name string) graph.Value {
	n := len(b.batch.IDs)
	eye := make([]float32, n*n)
	for i := range n {
		eye[i*n+i] = 1
	}
	b.weights["eye"] = eye
	e := b.Embed("eye", []graph.WeightID{b.Builder.Weight("eye", n, n, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	return b.MatMul(name, e, b.arg(name), false, false, 1, graph.None)
}

// weight is the golden array as a frozen tensor.
func (b *bench) weight(name string, in, out int, transposed bool) graph.WeightID {
	for _, x := range b.c[name].Data {
		b.weights[name] = append(b.weights[name], float32(x))
	}
	return b.Builder.Weight(name, in, out, transposed)
}

// like is a new value with the shape of v.
func (b *bench) like(v graph.Value) graph.Value {
	in := *b.P.Info(v)
	return b.P.NewValue(graph.Info{Name: "new", Rows: in.Rows, Cols: in.Cols})
}

func (b *bench) emit(ops ...graph.Op) {
	b.P.Ops = append(b.P.Ops, ops...)
	b.P.Forward = len(b.P.Ops)
}

// run executes the program and returns its state.
func (b *bench) run() *Executable {
	b.Helper()
	x, err := New().Load(b.P, b.weights)
	if err != nil {
		b.Fatal(err)
	}
	x.SetParamsFloat64(b.params)
	if err := x.Run(context.Background(), &b.batch); err != nil {
		b.Fatal(err)
	}
	return x
}

// check compares numbers with a golden array to 1e-12.
func (b *bench) check(name string, got []float64) {
	b.Helper()
	want := b.c[name].Data
	if len(got) != len(want) || len(want) == 0 {
		b.Fatalf("%s: %d numbers, want %d", name, len(got), len(want))
	}
	for i := range got {
		if !(math.Abs(got[i]-want[i]) <= 1e-12*(1+math.Abs(want[i]))) {
			b.Fatalf("%s: number %d is %v, PyTorch has %v", name, i, got[i], want[i])
		}
	}
}

func TestActivationsAgreeWithPyTorch(t *testing.T) {
	cases := golden(t)
	for _, act := range []graph.Act{graph.ActGELU, graph.ActGELUTanh, graph.ActReLU, graph.ActSiLU, graph.ActTanh} {
		b := newBench(t, cases["activate/"+act.String()])
		x, dy := b.arg("x"), b.arg("dy")
		y, dx := b.Activate("y", x, act), b.like(x)
		b.emit(&graph.ActivateGrad{X: x, DY: dy, Act: act, DX: dx})
		r := b.run()
		b.check("y", r.Float64(y))
		b.check("dx", r.Float64(dx))
	}
}

func TestNormsAgreeWithPyTorch(t *testing.T) {
	cases := golden(t)
	for _, rms := range []bool{false, true} {
		b := newBench(t, cases[map[bool]string{false: "norm/layer", true: "norm/rms"}[rms]])
		x, dy, beta := b.arg("x"), b.arg("dy"), graph.NoWeight
		gamma := b.weight("gamma", 1, 9, false)
		if !rms {
			beta = b.weight("beta", 1, 9, false)
		}
		y, dx := b.like(x), b.like(x)
		stats := b.P.NewValue(graph.Info{Name: "stats", Rows: graph.FixedRows(4), Cols: 2})
		b.emit(&graph.Norm{X: x, Gamma: gamma, Beta: beta, Eps: 0x1p-16, RMS: rms, Stats: stats, Y: y},
			&graph.NormGrad{X: x, Stats: stats, DY: dy, Gamma: gamma, RMS: rms, DX: dx})
		r := b.run()
		b.check("y", r.Float64(y))
		b.check("dx", r.Float64(dx))
	}
}

func TestAttentionAgreesWithPyTorch(t *testing.T) {
	cases := golden(t)
	for name, op := range map[string]graph.Attention{"full": {}, "causal": {Causal: true}, "window": {Causal: true, Window: 3}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, cases["attention/"+name])
			op.Heads, op.KVHeads, op.HeadDim, op.Scale = 4, 2, 3, 0.5
			op.Q, op.K, op.V = b.tokens("q"), b.tokens("k"), b.tokens("v")
			dy := b.tokens("dy")
			op.Y = b.like(op.Q)
			op.LSE = b.P.NewValue(graph.Info{Name: "lse", Rows: graph.PerToken, Cols: 4})
			g := &graph.AttentionGrad{Fwd: &op, DY: dy, DQ: b.like(op.Q), DK: b.like(op.K), DV: b.like(op.V)}
			b.emit(&op, g)
			r := b.run()
			b.check("y", r.Float64(op.Y))
			b.check("dq", r.Float64(g.DQ))
			b.check("dk", r.Float64(g.DK))
			b.check("dv", r.Float64(g.DV))
		})
	}
}

func TestRopeAgreesWithTransformers(t *testing.T) {
	b := newBench(t, golden(t)["rope"])
	op := graph.Rope{Heads: 2, HeadDim: 6, Freq: []float32{1, 0.25, 0.0625}}
	y := b.Rope("y", b.tokens("x"), op)
	op.Inverse = true
	dx := b.Rope("dx", b.tokens("dy"), op)
	r := b.run()
	b.check("y", r.Float64(y))
	b.check("dx", r.Float64(dx))
}

func TestLossesAgreeWithPyTorch(t *testing.T) {
	cases := golden(t)
	for _, name := range []string{"cross_entropy", "lm_loss", "mse", "bce"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, cases[name])
			for _, l := range b.c["labels"].Data {
				b.batch.Labels = append(b.batch.Labels, int32(l))
			}
			for _, l := range b.c["target"].Data {
				b.batch.Targets = append(b.batch.Targets, float32(l))
			}
			x := b.arg("x")
			switch name {
			case "cross_entropy":
				b.SetLoss(b.CrossEntropy(x))
			case "lm_loss":
				b.SetLoss(b.LMLoss(x, b.weight("w", 6, 5, true), b.weight("bias", 1, 5, false)))
			case "mse":
				b.SetLoss(b.MSE(x))
			case "bce":
				b.SetLoss(b.BCE(x))
			}
			if err := graph.Differentiate(b.P); err != nil {
				t.Fatal(err)
			}
			r := b.run()
			b.check("loss", r.Float64(b.P.Loss))
			b.check("dx", r.GradsFloat64())
		})
	}
}

func TestKronAgreesWithPyTorch(t *testing.T) {
	b := newBench(t, golden(t)["kron"])
	const s, a1, r1, a2, r2, n, m = 3, 3, 2, 4, 2, 11, 4
	f1, f2, x, dy := b.arg("f1"), b.arg("f2"), b.arg("x"), b.arg("dy")
	k := b.KronSum("k", f1, f2, s, a1, r1, a2, r2, n, m)
	op := graph.KronApply{F1: f1, F2: f2, Terms: s, A1: a1, R1: r1, A2: a2, R2: r2, N: n, M: m, Alpha: 0.5}
	y := b.KronApply("y", x, op)
	op.Trans = true
	dx := b.KronApply("dx", dy, op)
	df1, df2 := b.like(f1), b.like(f2)
	b.emit(&graph.KronApplyGrad{X: x, F1: f1, F2: f2, DY: dy, Terms: s, A1: a1, R1: r1, A2: a2, R2: r2, N: n, M: m, Alpha: 0.5, DF1: df1, DF2: df2})
	// The same through the matrix: dK = 0.5 xᵀ dy.
	dk := b.MatMul("dk", x, dy, true, false, 0.5, graph.None)
	ef1, ef2 := b.like(f1), b.like(f2)
	b.emit(&graph.KronSumGrad{F1: f1, F2: f2, DY: dk, Terms: s, A1: a1, R1: r1, A2: a2, R2: r2, DF1: ef1, DF2: ef2})
	r := b.run()
	b.check("k", r.Float64(k))
	b.check("y", r.Float64(y))
	b.check("dx", r.Float64(dx))
	for _, d := range []graph.Value{df1, ef1} {
		b.check("df1", r.Float64(d))
	}
	for _, d := range []graph.Value{df2, ef2} {
		b.check("df2", r.Float64(d))
	}
}

func TestAdamWAgreesWithPyTorch(t *testing.T) {
	b := newBench(t, golden(t)["adamw"])
	b.c["start"] = tensor{Shape: []int{1, 6}, Data: b.c["start"].Data}
	b.Activate("y", b.arg("start"), graph.ActNone)
	r := b.run()
	o := graph.AdamW{LR: 0x1p-6, Beta1: 0.875, Beta2: 0.96875, Eps: 0x1p-10, WeightDecay: 0.125, ClipNorm: 2}
	var norms, after []float64
	for step := range 4 {
		copy(r.grads, b.c["grads"].Data[6*step:])
		o.T = step + 1
		norm, err := r.Step(o)
		if err != nil {
			t.Fatal(err)
		}
		norms, after = append(norms, norm), append(after, r.params...)
	}
	b.check("norms", norms)
	b.check("after", after)
	b.check("m", r.m)
	b.check("v", r.v)
}

func TestParameterSettings(t *testing.T) {
	// One step with every gradient alike: NoDecay leaves out the decay, and
	// LRScale scales both parts of the update.
	b := graph.NewBuilder()
	for i := range 3 {
		b.Activate("y", b.Param(fmt.Sprint("p", i), []int{1, 1}, 1, 1), graph.ActNone)
	}
	b.P.Params[1].NoDecay = true
	b.P.Params[2].LRScale = 2
	r, err := New().Load(b.P, memory{})
	if err != nil {
		t.Fatal(err)
	}
	r.SetParamsFloat64([]float64{1, 1, 1})
	copy(r.grads, []float64{1, 1, 1})
	if _, err := r.Step(graph.AdamW{LR: 0.25, Beta1: 0.5, Beta2: 0.5, WeightDecay: 0.5, T: 1}); err != nil {
		t.Fatal(err)
	}
	// m/(1-β1) = 1 and v/(1-β2) = 1, so the update is lr.
	for i, want := range []float64{1 - 0.25*0.5 - 0.25, 1 - 0.25, 1 - 0.5*0.5 - 0.5} {
		if r.params[i] != want {
			t.Errorf("parameter %d is %v, want %v", i, r.params[i], want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	b := newBench(t, golden(t)["rope"])
	b.Activate("y", b.tokens("x"), graph.ActTanh)
	b.P.Ops = b.P.Ops[1:]
	if _, err := New().Load(b.P, b.weights); err == nil || !strings.Contains(err.Error(), "before it is written") {
		t.Errorf("a program that reads what nobody wrote: %v", err)
	}
}
