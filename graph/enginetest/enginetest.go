// Package enginetest is the conformance suite of engines: every operation and
// small whole programs, forward and backward, compared with the float64
// interpreter of graph/reference.
//
// [Run] is the suite, [RunInput] the part of engines that take activations
// from the host. [Identical] checks that engines that differ only in
// their number of threads agree bit for bit. [FiniteDifferences] checks
// differentiation and the reference's own gradients against the loss. A new
// operation needs a case here; a test of this package fails until it has one.
package enginetest

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// Tolerance bounds the difference from the reference, as a share of the largest
// magnitude in the tensor. The zero value stands for [Float32].
type Tolerance struct {
	Op      float64 // results of single operations
	Program float64 // losses, gradients and updates of whole programs
}

// Float32 is for engines that compute in float32: sums of up to 200 products
// keep 2^-24·sqrt(200) of their magnitude; functions and a few operations in
// sequence get the rest.
var Float32 = Tolerance{Op: 1e-5, Program: 5e-5}

// Open opens the engine under test.
type Open func(t testing.TB) graph.Engine

// Run runs the whole suite on the engine that open returns.
func Run(t *testing.T, open Open, tol Tolerance) { run(t, open, tol, variants) }

// RunViews is [Run] with every operand a view and every gradient added to, not
// also without: for further settings of an engine that Run has tested.
func RunViews(t *testing.T, open Open, tol Tolerance) { run(t, open, tol, variants[len(variants)-1:]) }

func run(t *testing.T, open Open, tol Tolerance, variants []variant) {
	if tol == (Tolerance{}) {
		tol = Float32
	}
	t.Run("op", func(t *testing.T) {
		e := open(t)
		for _, c := range forwardCases() {
			for _, v := range variants {
				t.Run(c.name+v.suffix, func(t *testing.T) { compareForward(t, e, c, v, tol) })
			}
		}
		for _, c := range backwardCases() {
			for _, v := range variants {
				t.Run(c.name+v.suffix, func(t *testing.T) { compareOp(t, e, c.make(v).finish(), tol.Op) })
			}
		}
	})
	t.Run("program", func(t *testing.T) {
		e := open(t)
		for _, pr := range programs() {
			t.Run(pr.name, func(t *testing.T) { compareTraining(t, e, pr, tol.Program) })
		}
	})
	t.Run("contract", func(t *testing.T) { contract(t, open(t)) })
}

// RunInput checks [graph.Input], the operation of engines that take
// activations from the host; [Run] leaves it to them.
func RunInput(t *testing.T, open Open, tol Tolerance) {
	if tol == (Tolerance{}) {
		tol = Float32
	}
	e := open(t)
	for _, c := range inputCases() {
		for _, v := range variants {
			t.Run(c.name+v.suffix, func(t *testing.T) { compareForward(t, e, c, v, tol) })
		}
	}
}

// variant says how the operands of a case lie in memory.
type variant struct {
	suffix        string
	views, addend bool
}

var variants = []variant{{"", false, false}, {"/addend", false, true}, {"/views", true, true}}

func (c opCase) make(v variant) *maker { return c.maker(v, nil) }

// maker builds the program of c; after gets its result.
func (c opCase) maker(v variant, after func(m *maker, y graph.Value)) *maker {
	m := newMaker(c.name, c.lens, c.rows)
	m.views, m.addend = v.views, v.addend
	m.batch.Train = !c.eval
	y := c.build(m)
	if after != nil {
		after(m, y)
	}
	return m
}

// setup is a program with all its data.
type setup struct {
	program *graph.Program
	weights graph.WeightSource
	params  []float32
	batches []*graph.Batch
}

// finish fixes the parameters and makes a second batch that differs in the
// dropout step.
func (m *maker) finish() setup {
	next := *m.batch
	next.Step++
	return setup{program: m.P, weights: m.data, params: m.params(), batches: []*graph.Batch{m.batch, &next}}
}

// forward is the program that computes only the result of c.
func (c opCase) forward(v variant) setup {
	return c.maker(v, func(m *maker, y graph.Value) { m.result(y) }).finish()
}

// training is the program that differentiates a loss on the result of c.
func (c opCase) training(t testing.TB, v variant, o graph.DiffOptions) setup {
	m := c.maker(v, func(m *maker, y graph.Value) {
		if op := m.P.Ops[len(m.P.Ops)-1]; m.P.Info(y).Name == "loss" && op.Outputs(nil)[0] == y {
			m.SetLoss(y)
			return
		}
		m.loss(y)
	})
	if err := graph.DifferentiateWith(m.P, o); err != nil {
		t.Fatal(err)
	}
	return m.finish()
}

func compareForward(t *testing.T, e graph.Engine, c opCase, v variant, tol Tolerance) {
	compareOp(t, e, c.forward(v), tol.Op)
	compareOp(t, e, c.training(t, v, graph.DiffOptions{}), tol.Program)
}

// pair is a program compiled by the engine under test and by the reference.
type pair struct {
	setup
	got  graph.Executable
	want *reference.Executable
}

func compile(t testing.TB, e graph.Engine, s setup, max graph.Dims) pair {
	t.Helper()
	want, err := reference.New().Load(s.program, s.weights)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Compile(s.program, s.weights, max)
	if err != nil {
		t.Fatalf("compile: %v\n%v", err, s.program)
	}
	t.Cleanup(func() {
		if err := got.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, x := range []graph.Executable{got, want} {
		if err := x.SetParams(s.params); err != nil {
			t.Fatal(err)
		}
	}
	return pair{setup: s, got: got, want: want}
}

// compareOp runs both batches of s and compares outputs and loss after each,
// gradients, which must have added up, at the end.
func compareOp(t *testing.T, e graph.Engine, s setup, tol float64) {
	t.Helper()
	p := compile(t, e, s, s.batches[0].Dims())
	for _, b := range s.batches {
		p.run(t, b)
		p.compareOutputs(t, tol)
	}
	p.compareGrads(t, tol)
}

// run runs one batch on both.
func (p pair) run(t testing.TB, b *graph.Batch) {
	t.Helper()
	if err := p.want.Run(context.Background(), b); err != nil {
		t.Fatalf("reference: %v\n%v", err, p.program)
	}
	if err := p.got.Run(context.Background(), b); err != nil {
		t.Fatalf("run: %v\n%v", err, p.program)
	}
}

func (p pair) compareOutputs(t testing.TB, tol float64) {
	t.Helper()
	outs := p.program.Outputs
	if p.program.Loss != graph.None {
		outs = append(outs[:len(outs):len(outs)], p.program.Loss)
	}
	for _, v := range outs {
		want := p.want.Float64(v)
		got := make([]float32, len(want))
		if err := p.got.Read(v, got); err != nil {
			t.Fatalf("read %s: %v", p.program.Info(v).Name, err)
		}
		if err := near(got, want, tol); err != nil {
			t.Errorf("%s: %v\n%v", p.program.Info(v).Name, err, p.program)
		}
	}
}

func (p pair) compareGrads(t testing.TB, tol float64) {
	t.Helper()
	p.compareParams(t, "gradient", p.got.Grads, p.want.GradsFloat64(), tol)
}

// compareParams compares a flat buffer parameter by parameter.
func (p pair) compareParams(t testing.TB, what string, read func([]float32) error, want []float64, tol float64) {
	t.Helper()
	got := make([]float32, p.program.ParamSize)
	if err := read(got); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, par := range p.program.Params {
		if err := near(got[par.Offset:par.Offset+par.Size], want[par.Offset:par.Offset+par.Size], tol); err != nil {
			t.Errorf("%s of %s: %v\n%v", what, par.Name, err, p.program)
			return
		}
	}
}

// near compares got with want, allowing tol of the largest magnitude in want.
func near(got []float32, want []float64, tol float64) error {
	largest := 0.0
	for _, w := range want {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return fmt.Errorf("the reference has %v", w)
		}
		largest = max(largest, math.Abs(w))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= tol*largest+1e-30) {
			return fmt.Errorf("element %d is %v, want %v: off by %.3g of the largest magnitude %.4g, allowed %.3g", i, got[i], w, d/largest, largest, tol)
		}
	}
	return nil
}

// Identical checks that engines give the same bits on whole programs: the
// same engine with different numbers of threads, say.
func Identical(t *testing.T, opens ...Open) {
	for _, pr := range programs() {
		t.Run(pr.name, func(t *testing.T) {
			s := pr.setup(t, graph.DiffOptions{})
			var first []float32
			for i, open := range opens {
				all := trace(t, open(t), s)
				if i == 0 {
					first = all
				}
				for j := range all {
					if math.Float32bits(all[j]) != math.Float32bits(first[j]) {
						t.Fatalf("engine %d: number %d of losses, gradients and parameters is %v, with engine 0 %v", i, j, all[j], first[j])
					}
				}
			}
		})
	}
}

// trace trains for a few steps and returns every loss, gradient and parameter
// on the way.
func trace(t testing.TB, e graph.Engine, s setup) []float32 {
	t.Helper()
	x, err := e.Compile(s.program, s.weights, s.batches[0].Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []float32
	buf, loss := make([]float32, s.program.ParamSize), make([]float32, 1)
	check(x.SetParams(s.params))
	for step := range 2 {
		for _, b := range s.batches {
			check(x.Run(context.Background(), b))
			check(x.Read(s.program.Loss, loss))
			all = append(all, loss...)
		}
		check(x.Grads(buf))
		all = append(all, buf...)
		norm, err := x.Step(stepOptions(step + 1))
		check(err)
		check(x.Params(buf))
		all = append(append(all, buf...), float32(norm))
	}
	return all
}
