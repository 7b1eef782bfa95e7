package graph

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestValidateRefuses(t *testing.T) {
	tokens := func(p *Program, cols int) Value {
		return p.NewValue(Info{Name: "new", Rows: PerToken, Cols: cols})
	}
	for _, c := range []struct {
		name   string
		change func(b *Builder, x Value)
		want   string
	}{
		{"nothing wrong", func(b *Builder, x Value) {}, ""},
		{"read before written", func(b *Builder, x Value) {
			b.Activate("a", tokens(b.P, 4), ActTanh)
		}, "reads new before it is written"},
		{"part of a base unwritten", func(b *Builder, x Value) {
			base := tokens(b.P, 8)
			b.P.Ops = append(b.P.Ops, &Axpby{A: x, Alpha: 1, Y: b.View(base, 0, 4)})
			b.Activate("a", base, ActTanh)
		}, "before it is written"},
		{"beginning of a base unwritten", func(b *Builder, x Value) {
			base := tokens(b.P, 8)
			b.P.Ops = append(b.P.Ops, &Axpby{A: x, Alpha: 1, Y: b.View(base, 4, 4)})
			b.Activate("a", base, ActTanh)
		}, "before it is written"},
		{"written twice", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Axpby{A: x, Alpha: 1, Y: x})
		}, "a second time"},
		{"view written twice", func(b *Builder, x Value) {
			base := tokens(b.P, 8)
			b.P.Ops = append(b.P.Ops, &Axpby{A: x, Alpha: 1, Y: b.View(base, 0, 4)}, &Axpby{A: x, Alpha: 1, Y: b.View(base, 3, 4)})
		}, "a second time"},
		{"parameter written", func(b *Builder, x Value) {
			p := b.Param("p", []int{4}, 1, 4)
			b.P.Ops = append(b.P.Ops, &ColSum{X: x, Alpha: 1, Y: p})
		}, "writes the parameter p"},
		{"gradient from an operation that cannot add", func(b *Builder, x Value) {
			p := b.Param("p", []int{2, 4}, 2, 4)
			b.P.Ops = append(b.P.Ops, &Activate{X: p, Y: b.P.GradOf(0)})
		}, "cannot add to dp"},
		{"gradient read", func(b *Builder, x Value) {
			b.Param("p", []int{2, 4}, 2, 4)
			b.Activate("a", b.P.GradOf(0), ActTanh)
		}, "reads the parameter gradient dp"},
		{"shapes", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Activate{X: x, Y: tokens(b.P, 5)})
		}, "x is (T, 4), want (T, 5)"},
		{"matmul", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &MatMul{A: x, B: b.Param("p", []int{5, 2}, 5, 2), Alpha: 1, Y: tokens(b.P, 2)})
		}, "inner sizes are 4 and 5"},
		{"operand missing", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &MatMul{A: x, Alpha: 1, Y: tokens(b.P, 2)})
		}, "missing"},
		{"weight missing", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Linear{X: x, Y: tokens(b.P, 2)})
		}, "a weight is missing"},
		{"bias length", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Linear{X: x, W: b.Weight("w", 4, 2, false), Bias: b.Vector("bias", 3), Y: tokens(b.P, 2)})
		}, "bias is (1, 3), want a vector of 2"},
		{"attention heads", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Attention{Q: x, K: x, V: x, Heads: 2, KVHeads: 1, HeadDim: 2, Y: tokens(b.P, 4)})
		}, "x is (T, 4), want (T, 2)"},
		{"rows", func(b *Builder, x Value) {
			b.P.Ops = append(b.P.Ops, &Select{X: x, Pick: PickFirst, Y: b.P.NewValue(Info{Name: "y", Rows: PerPick, Cols: 4})})
		}, "y is (R, 4), want (S, 4)"},
		{"view beyond its base", func(b *Builder, x Value) {
			b.P.NewValue(Info{Name: "v", Kind: ViewValue, Rows: PerToken, Base: x, Col: 3, Cols: 2})
		}, "view v (T, 2 at column 3) does not lie in x (T, 4)"},
		{"output never written", func(b *Builder, x Value) { b.Output(tokens(b.P, 1)) }, "output new is never written"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder()
			x := b.Embed("x", []WeightID{b.Weight("words", 10, 4, false)}, []Stream{StreamIDs}, []int{0})
			c.change(b, x)
			err := Validate(b.P)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBatchValidate(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("x", []WeightID{b.Weight("words", 10, 4, false), b.Weight("types", 2, 4, false), b.Weight("positions", 5, 4, false)},
		[]Stream{StreamIDs, StreamTypes, StreamPositions}, []int{0, 0, 2})
	b.CrossEntropy(b.Select("first", x, PickFirst))
	b.Input("i", 3)
	good := func() *Batch {
		return &Batch{CuSeqlens: []int32{0, 3, 5}, IDs: []int32{0, 9, 1, 2, 3}, Positions: []int32{0, 1, 2, 0, 1}, Rows: []int32{0, 4}, Labels: []int32{3, -1}, Inputs: make([]float32, 15)}
	}
	for _, c := range []struct {
		name   string
		change func(b *Batch)
		want   string
	}{
		{"nothing wrong", func(b *Batch) {}, ""},
		{"no sequence", func(b *Batch) { b.CuSeqlens = []int32{0} }, "end with 5"},
		{"tokens left over", func(b *Batch) { b.CuSeqlens = []int32{0, 3, 4} }, "end with 5"},
		{"empty sequence", func(b *Batch) { b.CuSeqlens = []int32{0, 3, 3, 5} }, "sequence 1 is empty"},
		{"id", func(b *Batch) { b.IDs[1] = 10 }, "token 1: index 10 into words, which has 10 rows"},
		{"negative id", func(b *Batch) { b.IDs[1] = -1 }, "index -1"},
		{"position with its offset", func(b *Batch) { b.Positions[2] = 3 }, "index 5 into positions"},
		{"positions missing", func(b *Batch) { b.Positions = nil }, "0 indices into positions for 5 tokens"},
		{"types", func(b *Batch) { b.TypeIDs = []int32{0, 0, 2, 0, 0} }, "index 2 into types"},
		{"rows", func(b *Batch) { b.Rows = []int32{4, 0} }, "must ascend"},
		{"row beyond", func(b *Batch) { b.Rows = []int32{5} }, "must ascend within 5 tokens"},
		{"label", func(b *Batch) { b.Labels[0] = 4 }, "label 4 of row 0, but there are 4 classes"},
		{"labels missing", func(b *Batch) { b.Labels = nil }, "0 labels for 2 rows"},
		{"inputs", func(b *Batch) { b.Inputs = b.Inputs[1:] }, "14 input values for 5 tokens of 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			batch := good()
			c.change(batch)
			err := batch.Validate(b.P)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDump(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("x", []WeightID{b.Weight("words", 10, 4, false)}, []Stream{StreamIDs}, []int{0})
	x = b.AddBias(x, b.Param("p", []int{4}, 1, 4))
	q := b.Linear("q", x, b.Weight("wq", 4, 4, true), NoWeight, ActTanh, None)
	b.SetLoss(b.MSE(b.MeanPool("mean", q)))
	b.Output(q)
	if err := Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimLeft(`
12 values, 10 operations (5 forward), 2 weights, 1 parameters of 4 elements
param   p [4] at 0
    0   %1:x(T,4) = embed(tables=words, streams=[ids], offsets=[0])
    1   %3:x+b(T,4) = add_bias(x=%1:x(T,4), bias=%2:p(1,4))
    2   %10:q.pre(T,4), %4:q(T,4) = linear(x=%3:x+b(T,4), w=wq, act=tanh)
    3   %5:mean(S,4) = mean_pool(x=%4:q(T,4))
    4   %6:loss(1,1) = mse(pred=%5:mean(S,4))
backward of %6:loss(1,1)
    5   %7:dmean(S,4) = mse_grad(pred=%5:mean(S,4))
    6   %8:dq(T,4) = mean_pool_grad(dy=%7:dmean(S,4))
    7   %9:dq(T,4) = activate_grad(x=%10:q.pre(T,4), dy=%8:dq(T,4), act=tanh)
    8   %11:dx+b(T,4) = linear_grad(dy=%9:dq(T,4), w=wq)
    9   %12:dp(1,4) = col_sum(x=%11:dx+b(T,4), alpha=1)
output  %4:q(T,4)
`, "\n")
	if got := b.P.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	broken := errors.New("broken")
	if err := b.P.Dump(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("got error %v, want that of the writer", err)
	}
	var buf bytes.Buffer
	if err := b.P.Dump(&buf); err != nil || buf.String() != want {
		t.Errorf("Dump differs from String, error %v", err)
	}
}

// failing is a writer that fails.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
