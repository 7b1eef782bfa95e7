package graph

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// randomProgram draws a program of up to 30 forward operations over token
// matrices, ending in a loss, and differentiates it half of the time.
func randomProgram(t *rapid.T) *Program {
	b := NewBuilder()
	cols := rapid.SampledFrom([]int{1, 7, 16, 33}).Draw(t, "cols")
	words := b.Weight("words", 10, cols, false)
	pool := []Value{b.Embed("e", []WeightID{words}, []Stream{StreamIDs}, []int{0})}
	draw := func(name string) Value { return pool[rapid.IntRange(0, len(pool)-1).Draw(t, name)] }
	params := 0
	param := func(rows, cols int) Value {
		params++
		return b.Param(fmt.Sprint("p", params), []int{rows, cols}, rows, cols)
	}
	for i := range rapid.IntRange(1, 30).Draw(t, "ops") {
		name, x := fmt.Sprint("v", i), draw("x")
		var y Value
		switch rapid.IntRange(0, 12).Draw(t, "op") {
		case 0:
			y = b.Axpby(name, 2, x, 1, draw("z"))
		case 1:
			y = b.Activate(name, x, ActGELU)
		case 2:
			y = b.Linear(name, x, b.Weight("w", cols, cols, true), NoWeight, Act(rapid.IntRange(0, 2).Draw(t, "act")), draw("residual"))
		case 3:
			h := b.MatMul(name+".h", x, param(cols, 3), false, false, 1, None)
			y = b.MatMul(name, h, param(3, cols), false, false, 1, draw("c"))
		case 4:
			y = b.Gated(name, x, draw("up"), ActSiLU)
		case 5:
			y = b.Norm(name, x, b.Vector("g", cols), NoWeight, 1e-5, true)
		case 6:
			y = b.Dropout(name, x, 0.5, draw("residual"))
		case 7:
			y = b.Dropout(name, x, 0.5, None)
		case 8:
			y = b.ColScale(name, x, param(1, cols))
		case 9:
			wide := b.MatMul(name+".wide", x, param(cols, 2*cols), false, false, 1, None)
			y = b.Gated(name, b.View(wide, cols, cols), b.View(wide, 0, cols), ActGELU)
		case 10:
			y = b.Attention(name, x, draw("k"), x, Attention{Heads: 1, KVHeads: 1, HeadDim: cols, Scale: 1})
		case 11:
			y = b.MatMul(name, x, param(cols, cols), false, false, 1, draw("c"))
		case 12:
			// A sum whose operands are a value and columns of a wider one that
			// was itself a sum.
			w := param(cols, 2*cols)
			wide := b.MatMul(name+".wide", x, w, false, false, 1, b.MatMul(name+".c", x, w, false, false, 1, None))
			y = b.Axpby(name, 1, b.View(wide, 0, cols), 1, b.View(wide, cols, cols))
		}
		if rapid.IntRange(0, 9).Draw(t, "output") == 0 {
			b.Output(y)
		}
		pool = append(pool, y)
	}
	last := b.AddBias(pool[len(pool)-1], param(1, cols))
	b.SetLoss(b.MSE(b.MeanPool("pool", last)))
	if rapid.Bool().Draw(t, "train") {
		o := DiffOptions{Recompute: Recompute(rapid.IntRange(0, 2).Draw(t, "recompute"))}
		if err := DifferentiateWith(b.P, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := Validate(b.P); err != nil {
		t.Fatalf("%v\n%v", err, b.P)
	}
	return b.P
}

// arena runs a program's reads and writes on a picture of the arena in which
// every float carries the value that wrote it.
type arena struct {
	p     *Program
	pl    *Plan
	owner []Value
}

// cells calls f with every place of v in the arena.
func (a *arena) cells(v Value, f func(i int64)) {
	in, base := a.p.Info(v), a.p.Info(a.p.Root(v))
	for r := range int64(in.Rows.Count(a.pl.Dims)) {
		for c := range int64(in.Cols) {
			f(a.pl.Offset[v] + r*int64(base.Cols) + c)
		}
	}
}

func (a *arena) inArena(v Value) bool { return a.p.Info(a.p.Root(v)).Kind == Activation }

func (a *arena) read(v Value) error {
	var err error
	a.cells(v, func(i int64) {
		if a.owner[i] != a.p.Root(v) && err == nil {
			err = fmt.Errorf("%s at float %d belongs to %s", a.p.label(v), i, a.p.label(a.owner[i]))
		}
	})
	return err
}

// run returns the first read of a value that another has overwritten, or
// write over an operand that InPlace does not allow.
func (a *arena) run() error {
	for i, op := range a.p.Ops {
		touched := map[int64]Value{}
		reads := map[int64]int{}
		for _, v := range op.Inputs(nil) {
			if !a.inArena(v) {
				continue
			}
			if err := a.read(v); err != nil {
				return fmt.Errorf("operation %d, %s, reads: %w", i, op.Name(), err)
			}
			a.cells(v, func(i int64) { touched[i] = v; reads[i]++ })
		}
		allowed := InPlace(op, nil)
		var err error
		for j, v := range op.Outputs(nil) {
			if !a.inArena(v) {
				continue
			}
			allowed := allowed
			if _, ok := op.(*GatedGrad); ok {
				allowed = allowed[j : j+1] // dgate over gate, dup over up
			}
			a.cells(v, func(c int64) {
				if x, ok := touched[c]; ok && err == nil && (!slices.Contains(allowed, x) || a.pl.Offset[x] != a.pl.Offset[v] || reads[c] > 1) {
					err = fmt.Errorf("operation %d, %s, writes %s over its operand %s", i, op.Name(), a.p.label(v), a.p.label(x))
				}
				a.owner[c] = a.p.Root(v)
			})
		}
		if err != nil {
			return err
		}
	}
	for _, v := range append(slices.Clone(a.p.Outputs), a.p.Loss) {
		if err := a.read(v); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
	}
	return nil
}

func drawDims(t *rapid.T) Dims {
	s := rapid.IntRange(1, 4).Draw(t, "S")
	return Dims{T: s * rapid.IntRange(1, 5).Draw(t, "T/S"), S: s, R: rapid.IntRange(0, 3).Draw(t, "R")}
}

func TestPlanKeepsValuesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := randomProgram(t)
		pl := NewPlan(p, drawDims(t))
		a := &arena{p: p, pl: pl, owner: make([]Value, pl.ArenaBytes/4)}
		if err := a.run(); err != nil {
			t.Fatalf("%v\n%v", err, p)
		}
		// A smaller batch in the same places.
		small := *pl
		small.Dims = Dims{T: 1, S: 1}
		a = &arena{p: p, pl: &small, owner: make([]Value, pl.ArenaBytes/4)}
		if err := a.run(); err != nil {
			t.Fatalf("one token: %v\n%v", err, p)
		}
	})
}

func TestPlanAligns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := randomProgram(t)
		pl := NewPlan(p, drawDims(t))
		for v := 1; v < len(p.Values); v++ {
			off := pl.Offset[v]
			switch kind := p.Values[v].Kind; {
			case kind == Activation && off >= 0:
				if off*4%Alignment != 0 {
					t.Errorf("%s at byte %d", p.label(Value(v)), off*4)
				}
			case kind == ViewValue:
				if base := pl.Offset[p.Values[v].Base]; base >= 0 && off != base+int64(p.Values[v].Col) {
					t.Errorf("view %s at %d, base at %d", p.label(Value(v)), off, base)
				}
			case kind == ParamValue || kind == ParamGrad:
				if off != -1 {
					t.Errorf("%s has a place in the arena", p.label(Value(v)))
				}
			}
		}
		if pl.ArenaBytes < pl.LiveBytes || pl.PeakBytes != pl.ArenaBytes+pl.ParamBytes {
			t.Errorf("%+v", pl)
		}
	})
}

// chain is x -> act -> act -> ... -> loss.
func chain(n int) *Program {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 16, false)}, []Stream{StreamIDs}, []int{0})
	for i := range n {
		x = b.Activate(fmt.Sprint("a", i), x, ActTanh)
	}
	b.SetLoss(b.MSE(b.MeanPool("m", x)))
	return b.P
}

func TestPlanWorksInPlace(t *testing.T) {
	// One block of T x 16 for the chain and then the pooled row; the loss goes
	// where the chain was.
	d := Dims{T: 8, S: 1}
	want := int64(8*16+16) * 4
	if got := NewPlan(chain(20), d).ArenaBytes; got != want {
		t.Errorf("a chain of 20 activations takes %d bytes, want %d", got, want)
	}
}

// A low-rank product that is added to a fused matrix is computed in its place,
// although the result is read through views.
func TestPlanWorksInPlaceUnderViews(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 16, false)}, []Stream{StreamIDs}, []int{0})
	y := b.Linear("y", x, b.Weight("w", 16, 32, true), NoWeight, ActNone, None)
	z := b.MatMul("z", x, b.Param("p", []int{16, 32}, 16, 32), false, false, 1, y)
	b.SetLoss(b.MSE(b.MeanPool("m", b.Gated("g", b.View(z, 0, 16), b.View(z, 16, 16), ActSiLU))))
	if pl := NewPlan(b.P, Dims{T: 8, S: 1}); pl.Offset[y] != pl.Offset[z] {
		t.Errorf("y at %d, y + x p at %d", pl.Offset[y], pl.Offset[z])
	}
}

// An addend of which the product reads columns cannot be its accumulator.
func TestPlanSharesNoOperandReadTwice(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 32, false)}, []Stream{StreamIDs}, []int{0})
	y := b.MatMul("y", b.View(x, 0, 16), b.Param("p", []int{16, 32}, 16, 32), false, false, 1, x)
	b.Output(y)
	if pl := NewPlan(b.P, Dims{T: 8, S: 1}); pl.Offset[x] == pl.Offset[y] {
		t.Errorf("x and x[0:16] p + x both lie at %d", pl.Offset[x])
	}
}

func TestResidualIsNoAccumulatorBesidePre(t *testing.T) {
	o := &Linear{X: 1, W: 1, Residual: 2, Pre: 3, Y: 4}
	if got := InPlace(o, nil); len(got) != 0 {
		t.Errorf("with Pre the result may lie over %v", got)
	}
	o.Pre = None
	if got := InPlace(o, nil); !slices.Equal(got, []Value{2}) {
		t.Errorf("the result may lie over %v, want the residual", got)
	}
}

func TestPlanPutsGatedGradientsOverTheirOperands(t *testing.T) {
	b := NewBuilder()
	x := b.Embed("e", []WeightID{b.Weight("words", 10, 16, false)}, []Stream{StreamIDs}, []int{0})
	gate := b.MatMul("gate", x, b.Param("g", []int{16, 16}, 16, 16), false, false, 1, None)
	up := b.MatMul("up", x, b.Param("u", []int{16, 16}, 16, 16), false, false, 1, None)
	b.SetLoss(b.MSE(b.MeanPool("m", b.Gated("y", gate, up, ActSiLU))))
	if err := Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	pl := NewPlan(b.P, Dims{T: 8, S: 1})
	i := slices.IndexFunc(b.P.Ops, func(op Op) bool { return op.Name() == "gated_grad" })
	g := b.P.Ops[i].(*GatedGrad)
	if pl.Offset[g.DGate] != pl.Offset[gate] || pl.Offset[g.DUp] != pl.Offset[up] {
		t.Errorf("gate at %d and its gradient at %d, up at %d and its gradient at %d", pl.Offset[gate], pl.Offset[g.DGate], pl.Offset[up], pl.Offset[g.DUp])
	}
}

// The last operation must not write over an output that it reads.
func TestPlanKeepsOutputsOfTheLastOperation(t *testing.T) {
	p := chain(1)
	y := p.NewValue(Info{Name: "last", Rows: PerSeq, Cols: 16})
	mean := p.Ops[2].(*MeanPool).Y
	p.Ops = append(p.Ops, &Activate{X: mean, Act: ActTanh, Y: y})
	p.Outputs = []Value{mean, y}
	if pl := NewPlan(p, Dims{T: 8, S: 1}); pl.Offset[mean] == pl.Offset[y] {
		t.Errorf("both outputs lie at %d", pl.Offset[y])
	}
}

func TestPlanKeepsOutputs(t *testing.T) {
	p := chain(3)
	d := Dims{T: 8, S: 1}
	before := NewPlan(p, d).ArenaBytes
	p.Outputs = append(p.Outputs, p.Ops[1].(*Activate).Y)
	if got, want := NewPlan(p, d).ArenaBytes, before+8*16*4; got != want {
		t.Errorf("with an inner output the arena takes %d bytes, want %d", got, want)
	}
}

func TestFitBatch(t *testing.T) {
	p := chain(5)
	full := Dims{T: 320, S: 32, MaxLen: 10}
	need := func(s int) int64 { return NewPlan(p, Dims{T: 10 * s, S: s, MaxLen: 10}).PeakBytes }
	for _, s := range []int{1, 2, 17, 32} {
		fit, pl, ok := FitBatch(p, full, need(s))
		if !ok || fit.S != s || fit.T != 10*s || pl.PeakBytes != need(s) {
			t.Errorf("budget for %d sequences: %+v, %d bytes, %v", s, fit, pl.PeakBytes, ok)
		}
	}
	if fit, pl, ok := FitBatch(p, full, need(1)-1); ok || fit.S != 1 || pl.PeakBytes != need(1) {
		t.Errorf("a budget below one sequence: %+v, %d bytes, %v", fit, pl.PeakBytes, ok)
	}
	if fit, _, ok := FitBatch(p, full, 1<<40); !ok || fit != full {
		t.Errorf("a budget without limit: %+v, %v", fit, ok)
	}
}
