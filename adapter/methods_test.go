package adapter_test

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// goldenTolerance is for float64 arithmetic between float32 inputs and outputs,
// of the largest element.
const goldenTolerance = 1e-6

// methodCase is a case of testdata/gen_methods.py.
type methodCase struct {
	Method, Rank, Scaling, Init string
	Terms, Hybrid               int
	Alpha                       float64

	name string
	file *formats.Checkpoint
}

func methodCases(t *testing.T) map[string]*methodCase {
	t.Helper()
	c, err := formats.Open(filepath.Join("testdata", "methods.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	cases := map[string]*methodCase{}
	if err := json.Unmarshal([]byte(c.Metadata()["cases"]), &cases); err != nil {
		t.Fatal(err)
	}
	for name, k := range cases {
		k.name, k.file = name, c
	}
	return cases
}

// tensor returns a tensor of the case.
func (c *methodCase) tensor(t *testing.T, name string) ([]float32, []int) {
	t.Helper()
	e, ok := c.file.Lookup(c.name + "/" + name)
	if !ok {
		t.Fatalf("%s has no %s", c.name, name)
	}
	x := make([]float32, e.Elements())
	if err := c.file.ReadF32(e, 0, e.Elements(), x); err != nil {
		t.Fatal(err)
	}
	return x, e.Shape
}

// module is the case's module with its values.
func (c *methodCase) module(t *testing.T) *adapter.Module {
	t.Helper()
	_, w := c.tensor(t, "w")
	m := &adapter.Module{Site: adapter.Site{Module: "m", Kind: "m", In: w[1], Out: w[0], Weight: "w", Transposed: true, Block: adapter.OnBlocks(c.Method)},
		Settings: adapter.Settings{Method: c.Method, Terms: c.Terms, Alpha: c.Alpha, HybridRank: c.Hybrid, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero}}
	var err error
	if m.Rank, err = adapter.ParseRank(c.Rank); err != nil {
		t.Fatal(err)
	}
	if c.Scaling != "" {
		m.Scaling = adapter.Scaling(c.Scaling)
	}
	if c.Init != "" {
		m.Init = adapter.Init(c.Init)
	}
	k, err := adapter.Lookup(c.Method)
	if err != nil {
		t.Fatal(err)
	}
	if m.Specs, err = k.Params(m.Site, m.Settings); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Specs {
		x, _ := c.tensor(t, "value."+suffixOf(s.Name))
		m.Tensors = append(m.Tensors, x)
	}
	return m
}

// suffixOf is a tensor's name without its module.
func suffixOf(name string) string {
	for _, prefix := range []string{"base_model.model.m.", "base_model.shared.m.", "base_model.shared."} {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			return name[len(prefix):]
		}
	}
	return name
}

// program is the case's layer, its input being a parameter too, and the loss.
type program struct {
	b      *graph.Builder
	y      graph.Value
	frozen weights
	batch  *graph.Batch
	params []float32
}

func (c *methodCase) program(t *testing.T, m *adapter.Module) *program {
	t.Helper()
	x, xs := c.tensor(t, "x")
	w, _ := c.tensor(t, "w")
	bias, _ := c.tensor(t, "bias")
	target, _ := c.tensor(t, "target")
	rows := xs[0]
	one := make([]float32, rows*rows)
	p := &program{b: graph.NewBuilder(), frozen: weights{"one": one, "w": w, "bias": bias}, batch: &graph.Batch{Train: true, LossScale: 1, Targets: target}}
	for i := range rows {
		one[i*rows+i] = 1
		p.batch.IDs = append(p.batch.IDs, int32(i))
		p.batch.Positions = append(p.batch.Positions, 0)
		p.batch.CuSeqlens = append(p.batch.CuSeqlens, int32(i))
	}
	p.batch.CuSeqlens = append(p.batch.CuSeqlens, int32(rows))
	b := p.b
	hot := b.Embed("one", []graph.WeightID{b.Weight("one", rows, rows, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	in := b.MatMul("x", hot, b.Param("x", xs, rows, m.In), false, false, 1, graph.None)
	p.params = append(p.params, x...)
	var params []graph.Value
	for i, s := range m.Specs {
		if s.Frozen {
			p.frozen[s.Name] = m.Tensors[i]
			params = append(params, graph.None)
			continue
		}
		first := s.Shape[0]
		if len(s.Shape) == 1 {
			first = 1
		}
		params = append(params, b.Param(s.Name, s.Shape, first, s.Size()/first))
		p.params = append(p.params, m.Tensors[i]...)
	}
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		t.Fatal(err)
	}
	weight, vector := b.Weight("w", m.In, m.Out, true), b.Vector("bias", m.Out)
	if r, ok := k.(adapter.Rescaler); ok {
		p.y = r.LowerLayer(b, adapter.Layer{X: in, Dropped: in, W: weight, Bias: vector}, m.Site, m.Settings, params)
	} else {
		p.y = k.Lower(b, in, b.Linear("y", in, weight, vector, graph.ActNone, graph.None), m.Site, m.Settings, params)
	}
	b.Output(p.y)
	b.SetLoss(b.MSE(b.Select("first", p.y, graph.PickFirst)))
	if err := graph.Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	return p
}

// run returns y and the gradients of all parameters by name.
func (p *program) run(t *testing.T, rows, out int) ([]float32, map[string][]float32) {
	t.Helper()
	exe, err := reference.New().Compile(p.b.P, p.frozen, p.batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	y, grads := make([]float32, rows*out), make([]float32, p.b.P.ParamSize)
	for _, step := range []func() error{
		func() error { return exe.SetParams(p.params) }, exe.ZeroGrads,
		func() error { return exe.Run(context.Background(), p.batch) },
		func() error { return exe.Read(p.y, y) }, func() error { return exe.Grads(grads) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	named := map[string][]float32{}
	for _, q := range p.b.P.Params {
		named[q.Name] = grads[q.Offset:][:q.Size]
	}
	return y, named
}

func near(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	largest := 0.0
	for _, v := range want {
		largest = math.Max(largest, math.Abs(v))
	}
	for i, v := range got {
		if !(math.Abs(float64(v)-want[i]) <= goldenTolerance*largest) {
			t.Fatalf("%s: element %d is %v, PyTorch has %v", what, i, v, want[i])
		}
	}
}

// Layer and gradients of every method agree with PyTorch's of its formula, and so
// does the weight that a merge would write.
func TestMethodsAgainstAutograd(t *testing.T) {
	cases := methodCases(t)
	covered := map[string]bool{}
	for name, c := range cases {
		covered[c.Method] = true
		t.Run(name, func(t *testing.T) {
			m := c.module(t)
			want, shape := c.tensor(t, "y")
			y, grads := c.program(t, m).run(t, shape[0], m.Out)
			near(t, "y", y, testkit.Float64s(want))
			dx, _ := c.tensor(t, "dx")
			near(t, "gradient of x", grads["x"], testkit.Float64s(dx))
			for _, s := range m.Specs {
				if s.Frozen {
					continue
				}
				g, _ := c.tensor(t, "grad."+suffixOf(s.Name))
				near(t, "gradient of "+s.Name, grads[s.Name], testkit.Float64s(g))
			}
			c.checkMerged(t, m, want)
		})
	}
	for _, method := range adapter.Methods() {
		if !covered[method] {
			t.Errorf("no case of %s", method)
		}
	}
}

// checkMerged computes y = x W' + bias with the merged weight.
func (c *methodCase) checkMerged(t *testing.T, m *adapter.Module, want []float32) {
	t.Helper()
	if m.Block {
		return
	}
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		t.Fatal(err)
	}
	var d *adapter.Delta
	var magnitude []float64
	if r, ok := k.(adapter.Rescaler); ok {
		d, magnitude, err = r.Rescaled(m.Site, m.Settings, m.Tensors)
	} else {
		d, err = k.Delta(m.Site, m.Settings, m.Tensors)
	}
	if err != nil {
		t.Fatal(err)
	}
	x, shape := c.tensor(t, "x")
	w, _ := c.tensor(t, "w")
	bias, _ := c.tensor(t, "bias")
	sum := d.Dense()
	for i := range m.In {
		for o := range m.Out {
			sum[i*m.Out+o] += float64(w[o*m.In+i])
		}
	}
	y := make([]float32, shape[0]*m.Out)
	for o := range m.Out {
		f := 1.0
		if magnitude != nil {
			var norm float64
			for i := range m.In {
				norm += sum[i*m.Out+o] * sum[i*m.Out+o]
			}
			f = magnitude[o] / math.Sqrt(norm)
		}
		for r := range shape[0] {
			v := float64(bias[o])
			for i := range m.In {
				v += float64(x[r*m.In+i]) * f * sum[i*m.Out+o]
			}
			y[r*m.Out+o] = float32(v)
		}
	}
	near(t, "merged", y, testkit.Float64s(want))
}
