package graph

import (
	"slices"
	"strings"
	"testing"
)

// testModel is two layers x = norm(x + act(x W)) with LoRA on the second, and a
// loss on the mean.
func testModel(drop float32) (*Builder, []Value) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 8, false)}, []Stream{StreamIDs}, []int{0})
	var norms []Value
	for _, l := range []string{"0", "1"} {
		y := b.Linear("linear"+l, x, b.Weight("w"+l, 8, 8, true), b.Vector("b"+l, 8), ActNone, None)
		if l == "1" {
			h := b.MatMul("h", b.Dropout("drop", x, drop, None), b.Param("A", []int{8, 2}, 8, 2), false, false, 1, None)
			y = b.MatMul("lora", h, b.Param("B", []int{2, 8}, 2, 8), false, false, 2, y)
		}
		x = b.Norm("norm"+l, b.Add("sum"+l, b.Activate("act"+l, y, ActGELU), x), b.Vector("g"+l, 8), NoWeight, 1e-5, false)
		norms = append(norms, x)
	}
	b.SetLoss(b.MSE(b.MeanPool("mean", x)))
	return b, norms
}

// count returns the number of operations of each name.
func count(ops []Op) map[string]int {
	n := map[string]int{}
	for _, op := range ops {
		n[op.Name()]++
	}
	return n
}

func TestDifferentiatePrunes(t *testing.T) {
	b, _ := testModel(0)
	p := b.P
	if err := Differentiate(p); err != nil {
		t.Fatal(err)
	}
	if err := Validate(p); err != nil {
		t.Fatal(err)
	}
	got := count(p.Ops[p.Forward:])
	// Of layer 1: its norm, activation and LoRA's products; the residual passes
	// the gradient on without an operation, and x, below the adapter, has
	// none, so neither linear layer is run backward.
	want := map[string]int{"mse_grad": 1, "mean_pool_grad": 1, "norm_grad": 1, "activate_grad": 1, "matmul": 3}
	for name, n := range got {
		if want[name] != n {
			t.Errorf("%d operations %s, want %d\n%v", n, name, want[name], p)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range p.Weights {
		if p.Weights[i].Backward {
			t.Errorf("%s is marked for a backward product", p.Weights[i].Name)
		}
	}
	var stats []bool
	for _, op := range p.Ops[:p.Forward] {
		if n, ok := op.(*Norm); ok {
			stats = append(stats, n.Stats != None)
		}
	}
	if !slices.Equal(stats, []bool{false, true}) {
		t.Errorf("norms keep statistics: %v, want only the second", stats)
	}
}

// Two adapted layers: the backward pass goes through the upper linear layer.
func TestDifferentiateSumsWithAddends(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 8, false)}, []Stream{StreamIDs}, []int{0})
	x = b.AddBias(x, b.Param("bias", []int{8}, 1, 8))
	q := b.Linear("q", x, b.Weight("q", 8, 8, true), NoWeight, ActNone, None)
	k := b.Linear("k", x, b.Weight("k", 8, 8, true), NoWeight, ActNone, None)
	y := b.Linear("o", b.Gated("g", q, k, ActSiLU), b.Weight("o", 8, 8, true), NoWeight, ActNone, x)
	b.SetLoss(b.MSE(b.MeanPool("mean", y)))
	if err := Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	got := count(b.P.Ops[b.P.Forward:])
	if got["linear_grad"] != 3 || got["axpby"] != 0 {
		t.Errorf("want three linear_grad and no separate sum:\n%v", b.P)
	}
	with := 0
	for _, op := range b.P.Ops[b.P.Forward:] {
		if g, ok := op.(*LinearGrad); ok && g.C != None {
			with++
		}
	}
	if with != 2 {
		t.Errorf("%d of the linear_grad have an addend, want 2:\n%v", with, b.P)
	}
	for _, w := range []string{"q", "k", "o"} {
		i := slices.IndexFunc(b.P.Weights, func(x Weight) bool { return x.Name == w })
		if !b.P.Weights[i].Backward {
			t.Errorf("%s is not marked for a backward product", w)
		}
	}
}

func TestRecomputation(t *testing.T) {
	for _, c := range []struct {
		r               Recompute
		drop, norm, act int
		description     string
	}{
		{RecomputeRows, 1, 1, 0, "dropout and the norm it reads"},
		{RecomputeNone, 0, 0, 0, "nothing"},
	} {
		// An adapter below makes layer 0 take part.
		b, norms := testModel(0.5)
		first := b.P.Ops[0].(*Embed).Y
		bias := b.Param("low", []int{8}, 1, 8)
		sum := b.P.NewValue(Info{Name: "low", Rows: PerToken, Cols: 8})
		for _, op := range b.P.Ops[1:] {
			switch o := op.(type) {
			case *Linear:
				if o.X == first {
					o.X = sum
				}
			case *Axpby:
				if o.B == first {
					o.B = sum
				}
			}
		}
		b.P.Ops = slices.Insert(b.P.Ops, 1, Op(&AddBias{X: first, Bias: bias, Y: sum}))
		b.P.Forward++
		if err := DifferentiateWith(b.P, DiffOptions{Recompute: c.r}); err != nil {
			t.Fatal(err)
		}
		got := count(b.P.Ops[b.P.Forward:])
		if got["dropout"] != c.drop || got["norm"] != c.norm || got["activate"] != c.act {
			t.Errorf("recomputed %v, want %s\n%v", got, c.description, b.P)
		}
		// The forward norm's result is read by the backward pass only when it
		// is not computed again.
		for _, op := range b.P.Ops[b.P.Forward:] {
			if slices.Contains(op.Inputs(nil), norms[0]) && c.r == RecomputeRows {
				t.Errorf("%s still reads the first norm", b.P.OpString(op))
			}
		}
	}
}

func TestRecomputingActivationsTakesLessMemory(t *testing.T) {
	peak := func(r Recompute) int64 {
		b := NewBuilder()
		x := b.Embed("e", []WeightID{b.Weight("words", 10, 8, false)}, []Stream{StreamIDs}, []int{0})
		x = b.AddBias(x, b.Param("bias", []int{8}, 1, 8))
		for _, l := range []string{"a", "b", "c", "d"} {
			h := b.Linear(l+"up", x, b.Weight(l+"up", 8, 32, true), NoWeight, ActGELU, None)
			y := b.Linear(l+"down", h, b.Weight(l+"down", 32, 8, true), NoWeight, ActNone, x)
			r := b.MatMul(l+"h", h, b.Param(l+"A", []int{32, 1}, 32, 1), false, false, 1, None)
			x = b.Norm(l+"norm", b.MatMul(l, r, b.Param(l+"B", []int{1, 8}, 1, 8), false, false, 1, y), b.Vector("g", 8), NoWeight, 1e-5, false)
			x = b.AddBias(x, b.Param(l+"bias", []int{8}, 1, 8))
		}
		b.SetLoss(b.MSE(b.MeanPool("mean", x)))
		if err := DifferentiateWith(b.P, DiffOptions{Recompute: r}); err != nil {
			t.Fatal(err)
		}
		return NewPlan(b.P, Dims{T: 64, S: 2}).ArenaBytes
	}
	none, rows, acts := peak(RecomputeNone), peak(RecomputeRows), peak(RecomputeActs)
	if !(acts < rows && rows <= none) {
		t.Errorf("arena: %d bytes keeping all, %d repeating rows, %d repeating activations", none, rows, acts)
	}
	// The four results of the wide activation are what is saved, but for the
	// one that is recomputed at the time.
	if saved := none - acts; saved < 3*64*32*4 {
		t.Errorf("repeating activations saves %d bytes, want at least three of them", saved)
	}
}

func TestViewGradientsShareOneMatrix(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 4, false)}, []Stream{StreamIDs}, []int{0})
	qkv := b.MatMul("qkv", x, b.Param("w", []int{4, 12}, 4, 12), false, false, 1, None)
	a := b.Attention("a", b.View(qkv, 0, 4), b.View(qkv, 4, 4), b.View(qkv, 8, 4), Attention{Heads: 1, KVHeads: 1, HeadDim: 4, Scale: 1})
	// A second reader of the value's columns: its sum must land in the view.
	b.SetLoss(b.MSE(b.MeanPool("mean", b.Add("sum", a, b.View(qkv, 8, 4)))))
	if err := Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	if err := Validate(b.P); err != nil {
		t.Fatalf("%v\n%v", err, b.P)
	}
	var base []Value
	for _, op := range b.P.Ops[b.P.Forward:] {
		for _, y := range op.Outputs(nil) {
			if in := b.P.Info(y); in.Kind == ViewValue && !slices.Contains(base, in.Base) {
				base = append(base, in.Base)
			}
		}
	}
	if len(base) != 1 || b.P.Info(base[0]).Cols != 12 {
		t.Errorf("gradients of the views lie in %v:\n%v", base, b.P)
	}
}

func TestDifferentiateRefuses(t *testing.T) {
	embed := func(b *Builder, cols int) Value {
		return b.Embed("e", []WeightID{b.Weight("words", 10, cols, false)}, []Stream{StreamIDs}, []int{0})
	}
	trained := func(b *Builder, cols int) Value { return b.AddBias(embed(b, cols), b.Param("p", []int{cols}, 1, cols)) }
	finish := func(b *Builder, x Value) { b.SetLoss(b.MSE(b.MeanPool("mean", x))) }
	for _, c := range []struct {
		name  string
		build func(b *Builder)
		want  string
	}{
		{"no loss", func(b *Builder) { trained(b, 4) }, "no loss"},
		{"loss is not a loss", func(b *Builder) { b.SetLoss(b.MeanPool("mean", trained(b, 1))) }, "not the result of a loss operation"},
		{"nothing to train", func(b *Builder) { finish(b, embed(b, 4)) }, "no parameter influences"},
		{"gap between views", func(b *Builder) {
			x := trained(b, 6)
			finish(b, b.Add("s", b.View(x, 0, 2), b.View(x, 4, 2)))
		}, "do not tile"},
		{"overlapping views", func(b *Builder) {
			x := trained(b, 6)
			finish(b, b.Add("s", b.View(x, 0, 4), b.View(x, 2, 4)))
		}, "do not tile"},
		{"views stop early", func(b *Builder) {
			x := trained(b, 6)
			finish(b, b.Add("s", b.View(x, 0, 2), b.View(x, 2, 2)))
		}, "reads 4 of 6 columns"},
		{"views and whole", func(b *Builder) {
			x := trained(b, 4)
			y := b.Gated("g", b.View(x, 0, 2), b.View(x, 2, 2), ActSiLU)
			finish(b, b.MatMul("m", y, b.Param("w", []int{2, 4}, 2, 4), false, false, 1, x))
		}, "whole and through views"},
		{"operation without a rule", func(b *Builder) {
			x := trained(b, 4)
			y := b.P.NewValue(Info{Name: "y", Rows: FixedRows(1), Cols: 4})
			b.add(&ColSum{X: x, Alpha: 1, Y: y}, y)
			finish(b, b.AddBias(embed(b, 4), y))
		}, "col_sum has no gradient rule"},
		{"twice", func(b *Builder) {
			finish(b, trained(b, 4))
			if err := Differentiate(b.P); err != nil {
				panic(err)
			}
		}, "already has a backward pass"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NewBuilder()
			c.build(b)
			if err := Differentiate(b.P); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestUntrained(t *testing.T) {
	b, _ := testModel(0)
	b.AddBias(b.P.Ops[0].(*Embed).Y, b.Param("lost", []int{8}, 1, 8))
	if err := Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	if got := b.P.Untrained(); !slices.Equal(got, []string{"lost"}) {
		t.Errorf("untrained: %v", got)
	}
}
