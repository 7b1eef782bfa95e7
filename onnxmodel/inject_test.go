package onnxmodel_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// number makes distinct values of about the given size.
func number(n int, size float64) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = size * math.Sin(float64(3*i+n))
	}
	return x
}

func raw(t *testing.T, d onnx.DataType, x []float64) []byte {
	t.Helper()
	b := make([]byte, len(x)*d.Bits()/8)
	if err := tensor.EncodeF64(b, x, d.DType()); err != nil {
		t.Fatal(err)
	}
	return b
}

// layers writes a graph with every way in which a weight is multiplied by:
// MatMul and Gemm, plain and transposed, through a Transpose and a Cast, one
// that is called twice, one that is shared, and one that is the last node.
func layers(t *testing.T, path string, ir, opset int64) *onnx.Model {
	t.Helper()
	e := onnx.NewGraph("layers", "test", "1", ir, []onnx.Opset{{Version: opset}})
	weight := func(name string, d onnx.DataType, dims ...int) {
		e.AddInitializer(onnx.NewTensor(name, d, dims, raw(t, d, number(size(dims), 0.5))))
	}
	weight("a.weight", onnx.Float, 6, 5)
	weight("b.weight", onnx.Float, 4, 5)
	weight("b.bias", onnx.Float, 4)
	weight("c.weight", onnx.Float16, 6, 4)
	weight("d.weight", onnx.Float, 6, 6)
	weight("e.weight", onnx.Float, 6, 3)
	node := func(name, op string, in []string, out string, attrs ...onnx.Attribute) {
		e.AddNode(&onnx.Node{Name: name, Op: op, Inputs: in, Outputs: []string{out}, Attributes: attrs})
	}
	node("/a/MatMul", "MatMul", []string{"x", "a.weight"}, "ya")
	node("/b/Gemm", "Gemm", []string{"ya", "b.weight", "b.bias"}, "yb", onnx.IntAttr("transB", 1))
	node("/c/Cast", "Cast", []string{"c.weight"}, "cw", onnx.IntAttr("to", 1))
	node("/c/Transpose", "Transpose", []string{"cw"}, "ct", onnx.IntsAttr("perm", 1, 0))
	node("/c/MatMul", "MatMul", []string{"yb", "ct"}, "yc")
	node("/d/MatMul", "MatMul", []string{"yc", "d.weight"}, "yd")
	node("/d/MatMul_1", "MatMul", []string{"yd", "d.weight"}, "yd2")
	node("/sum", "Add", []string{"yd2", "yc"}, "ys")
	node("/e/MatMul", "MatMul", []string{"ys", "e.weight"}, "y")
	e.AddInput(onnx.TensorInfo("x", onnx.Float, "rows", 6))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float, "rows", 3))
	e.AddOutput(onnx.TensorInfo("ya", onnx.Float, "rows", 5))
	e.AddMetadata("kept", "yes")
	if err := os.WriteFile(path, encoded(t, e), 0o666); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func open(t *testing.T, path string) *onnx.Model {
	t.Helper()
	m, err := onnx.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// encoded is the file that an edit makes.
func encoded(t *testing.T, e *onnx.Edit) []byte {
	t.Helper()
	plan, err := e.Plan("m.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := plan.Files[0].WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// written is the model that an edit makes, in memory.
func written(t *testing.T, e *onnx.Edit) *onnx.Model {
	t.Helper()
	b := encoded(t, e)
	m, err := onnx.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// adapted makes an adapter with an update other than 0 for the layers of a
// graph.
func adapted(t *testing.T, m *onnx.Model, method string, terms int) *adapter.Adapter {
	t.Helper()
	sites, left := model.ONNXSites(m)
	if len(left) > 0 {
		t.Fatalf("left out: %q", left)
	}
	set, err := adapter.Defaults(method, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	if terms > 0 {
		set.Terms = terms
	}
	set.Alpha = 3
	a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{Regex: ".*"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Modules {
		for j := range a.Modules[i].Tensors {
			x := a.Modules[i].Tensors[j]
			for k, v := range number(len(x), 0.4) {
				x[k] = float32(v) + float32(i)/16
			}
		}
	}
	return a
}

// merged is the graph's weights with the updates added: what to override to
// get the outputs that an adapter must give.
func merged(t *testing.T, m *onnx.Model, a *adapter.Adapter, inputs map[string]array) map[string]array {
	t.Helper()
	base := evaluate(t, m, inputs)
	over := map[string]array{}
	for k, v := range inputs {
		over[k] = v
	}
	deltas, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deltas {
		w := base[d.Site.Weight]
		x := d.Dense()
		if d.Site.Transposed {
			x = d.Transpose().Dense()
		}
		sum := array{w.dims, slices.Clone(w.data)}
		for i, v := range x {
			sum.data[i] += v
		}
		over[d.Site.Weight] = sum
	}
	return evaluate(t, m, over)
}

func float32s(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// rewritten writes an injected graph and opens it.
func rewritten(t *testing.T, m *onnx.Model, in *onnxmodel.Injected) *onnx.Model {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.onnx")
	if _, err := onnxmodel.Write(m, in.Edit, out, onnxmodel.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	return open(t, out)
}

// TestInject: every kind, placement and form computes x (W + ΔW) in every layer
// of the graph.
func TestInject(t *testing.T) {
	x := map[string]array{"x": {[]int{4, 6}, number(24, 1)}}
	for _, c := range []struct {
		method string
		terms  int
		o      onnxmodel.InjectOptions
		form   onnxmodel.Form
	}{
		{"lora", 0, onnxmodel.InjectOptions{}, onnxmodel.FormThin},
		{"lora", 0, onnxmodel.InjectOptions{As: onnxmodel.AsInputs}, onnxmodel.FormThin},
		{"lsr", 3, onnxmodel.InjectOptions{}, onnxmodel.FormThin},
		{"lsr", 3, onnxmodel.InjectOptions{As: onnxmodel.AsInputs}, onnxmodel.FormThin},
		{"lsr", 3, onnxmodel.InjectOptions{Form: onnxmodel.FormKronecker}, onnxmodel.FormKronecker},
		{"krona", 2, onnxmodel.InjectOptions{}, onnxmodel.FormKronecker},
		{"kadaptation", 2, onnxmodel.InjectOptions{}, onnxmodel.FormKronecker}, // pads 5 to 6
	} {
		t.Run(fmt.Sprint(c.method, c.o), func(t *testing.T) {
			m := layers(t, filepath.Join(t.TempDir(), "m.onnx"), 8, 17)
			a := adapted(t, m, c.method, c.terms)
			in, err := onnxmodel.Inject(m, a, c.o)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range in.Modules {
				if r.Form != c.form || r.Type != onnx.Float || r.Uses != map[bool]int{true: 2, false: 1}[r.Module == "d"] || r.Rounding > 1e-7 {
					t.Errorf("%+v", r)
				}
			}
			got := rewritten(t, m, in)
			kept(t, m, got, in)
			inputs := x
			if c.o.As == onnxmodel.AsInputs {
				base, none := evaluate(t, m, x), evaluate(t, got, x)
				if !slices.Equal(base["y"].data, none["y"].data) {
					t.Error("without an adapter the outputs differ from the base's")
				}
				inputs = map[string]array{"x": x["x"]}
				for _, p := range in.Adapter.Parameters {
					v := array{p.Dims, make([]float64, size(p.Dims))}
					if err := tensor.DecodeF64(v.data, p.Data, tensor.F32); err != nil {
						t.Fatal(err)
					}
					inputs[p.Name] = v
				}
			}
			want, have := merged(t, m, a, x), evaluate(t, got, inputs)
			for _, y := range []string{"y", "ya"} {
				testkit.Compare(t, y, float32s(have[y].data), want[y].data, 3e-5, 1e-6)
			}
			if d := math.Abs(want["y"].data[0] - evaluate(t, m, x)["y"].data[0]); d < 1e-3 {
				t.Errorf("the update changes the output by %g", d)
			}
		})
	}
}

// kept makes sure that all of the base is in the output, byte for byte, but for
// the nodes whose outputs have another name.
func kept(t *testing.T, base, got *onnx.Model, in *onnxmodel.Injected) {
	t.Helper()
	bytesOf := func(m *onnx.Model, s onnx.Span) string {
		b, err := m.Bytes(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for i := range base.Graph.Initializers {
		x := &base.Graph.Initializers[i]
		if y := got.Graph.Initializer(x.Name); y == nil || bytesOf(base, x.Record) != bytesOf(got, y.Record) {
			t.Errorf("initializer %s has changed", x.Name)
		}
	}
	nodes := map[string]string{}
	for i := range got.Graph.Nodes {
		nodes[got.Graph.Nodes[i].Name] = bytesOf(got, got.Graph.Nodes[i].Record)
	}
	changed := 0
	for i := range base.Graph.Nodes {
		n := &base.Graph.Nodes[i]
		if nodes[n.Name] != bytesOf(base, n.Record) {
			changed++
		}
	}
	uses := 0
	for _, m := range in.Modules {
		uses += m.Uses
	}
	if changed != uses || len(got.Graph.Nodes) != len(base.Graph.Nodes)+in.Nodes || len(got.Graph.Inputs) != len(base.Graph.Inputs)+in.Inputs {
		t.Errorf("%d nodes have changed for %d uses; %d nodes, %d inputs", changed, uses, len(got.Graph.Nodes), len(got.Graph.Inputs))
	}
	if len(got.Metadata) != 1 || got.Metadata[0].Value != "yes" || got.IRVersion != base.IRVersion {
		t.Errorf("metadata %v, IR %d", got.Metadata, got.IRVersion)
	}
	seen := map[string]bool{}
	for i := range got.Graph.Inputs {
		seen[got.Graph.Inputs[i].Name] = true
	}
	for i := range got.Graph.Initializers {
		seen[got.Graph.Initializers[i].Name] = true
	}
	for i := range got.Graph.Nodes { // the specification asks for this order
		n := &got.Graph.Nodes[i]
		for _, v := range n.Inputs {
			if !seen[v] {
				t.Errorf("node %s stands before what makes %s", n.Name, v)
			}
		}
		for _, v := range n.Outputs {
			seen[v] = true
		}
	}
}

// TestInjectHead replaces an initializer of a trained head, or makes it an
// optional input.
func TestInjectHead(t *testing.T) {
	m := layers(t, filepath.Join(t.TempDir(), "m.onnx"), 8, 17)
	a := adapted(t, m, "lora", 0)
	a.Modules = a.Modules[:1]
	head := adapter.Tensor{Name: "b.bias", Shape: []int{4}, Data: []float32{1, 2, 3, 4}}
	a.Head = []adapter.Tensor{head}
	for _, as := range []onnxmodel.Placement{onnxmodel.AsNodes, onnxmodel.AsInputs} {
		in, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{As: as})
		if err != nil {
			t.Fatal(err)
		}
		g := rewritten(t, m, in)
		b, err := g.Data(g.Graph.Initializer("b.bias"))
		if err != nil {
			t.Fatal(err)
		}
		isNew := bytes.Equal(b, raw(t, onnx.Float, []float64{1, 2, 3, 4}))
		isInput := slices.ContainsFunc(g.Graph.Inputs, func(v onnx.ValueInfo) bool { return v.Name == "b.bias" })
		if isNew == isInput || isInput != (as == onnxmodel.AsInputs) || len(in.Head) != 1 {
			t.Errorf("%s: new values %v, an input %v", as, isNew, isInput)
		}
		if isInput {
			if p := in.Adapter.Parameters[2]; p.Name != "b.bias" || !bytes.Equal(p.Data, raw(t, onnx.Float, []float64{1, 2, 3, 4})) {
				t.Errorf("%+v", p)
			}
		}
	}
	for _, bad := range []adapter.Tensor{{Name: "other", Shape: []int{4}, Data: head.Data}, {Name: "b.bias", Shape: []int{2, 2}, Data: head.Data}} {
		a.Head = []adapter.Tensor{bad}
		if _, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{}); !errors.Is(err, adapter.ErrMismatch) || !strings.Contains(err.Error(), bad.Name) {
			t.Errorf("%v", err)
		}
	}
}

func TestInjectRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.onnx")
	for _, c := range []struct {
		what      string
		ir, opset int64
		method    string
		o         onnxmodel.InjectOptions
		change    func(*adapter.Adapter)
		err       error
	}{
		{"operator set 6", 8, 6, "lora", onnxmodel.InjectOptions{}, nil, formats.ErrUnsupported},
		{"IR version 3", 3, 9, "lora", onnxmodel.InjectOptions{As: onnxmodel.AsInputs}, nil, formats.ErrUnsupported},
		{"operator set 11", 8, 9, "kadaptation", onnxmodel.InjectOptions{}, nil, formats.ErrUnsupported},
		{"full rank", 8, 17, "krona", onnxmodel.InjectOptions{Form: onnxmodel.FormThin}, nil, adapter.ErrMismatch},
		{"no kronecker form", 8, 17, "lora", onnxmodel.InjectOptions{Form: onnxmodel.FormKronecker}, nil, adapter.ErrMismatch},
		{"two matrices", 8, 17, "lsr", onnxmodel.InjectOptions{As: onnxmodel.AsInputs, Form: onnxmodel.FormKronecker}, nil, formats.ErrUnsupported},
		{"full rank", 8, 17, "kadaptation", onnxmodel.InjectOptions{As: onnxmodel.AsInputs, Form: onnxmodel.FormThin}, nil, adapter.ErrMismatch},
		{"no layer", 8, 17, "lora", onnxmodel.InjectOptions{}, func(a *adapter.Adapter) { a.Modules[0].Weight = "gone" }, adapter.ErrMismatch},
		{"two modules", 8, 17, "lora", onnxmodel.InjectOptions{}, func(a *adapter.Adapter) { a.Modules = append(a.Modules, a.Modules[0]) }, adapter.ErrMismatch},
		{"(7, 5)", 8, 17, "lora", onnxmodel.InjectOptions{}, func(a *adapter.Adapter) { a.Modules[0].In = 7; a.Modules[0].Tensors[0] = make([]float32, 56) }, adapter.ErrMismatch},
		{"lora_B", 8, 17, "lora", onnxmodel.InjectOptions{}, func(a *adapter.Adapter) { a.Modules[0].Tensors[1][3] = float32(math.NaN()) }, nil},
	} {
		m := layers(t, path, c.ir, c.opset)
		a := adapted(t, m, c.method, 2*map[bool]int{true: 0, false: 1}[c.method == "lora"])
		if c.change != nil {
			c.change(a)
		}
		_, err := onnxmodel.Inject(m, a, c.o)
		if err == nil || !strings.Contains(err.Error(), c.what) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// An adapter is there already.
	m := layers(t, path, 8, 17)
	a := adapted(t, m, "lora", 0)
	in, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{As: onnxmodel.AsInputs})
	if err != nil {
		t.Fatal(err)
	}
	again := rewritten(t, m, in)
	if _, err := onnxmodel.Inject(again, a, onnxmodel.InjectOptions{As: onnxmodel.AsInputs}); !errors.Is(err, adapter.ErrMismatch) || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
}

// TestInjectFused: a product inside of a fused operator has no result to add
// to.
func TestInjectFused(t *testing.T) {
	e := onnx.NewGraph("fused", "test", "1", 8, []onnx.Opset{{Version: 17}, {Domain: "com.microsoft", Version: 1}})
	e.AddInitializer(onnx.NewTensor("qkv.weight", onnx.Float, []int{4, 12}, raw(t, onnx.Float, number(48, 1))))
	e.AddInitializer(onnx.NewTensor("qkv.bias", onnx.Float, []int{12}, raw(t, onnx.Float, number(12, 1))))
	e.AddNode(&onnx.Node{Name: "att", Op: "Attention", Domain: "com.microsoft", Inputs: []string{"x", "qkv.weight", "qkv.bias"}, Outputs: []string{"y"}, Attributes: []onnx.Attribute{onnx.IntAttr("num_heads", 2)}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float, 1, "s", 4))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float, 1, "s", 4))
	m := written(t, e)
	if _, err := onnxmodel.Inject(m, adapted(t, m, "lora", 0), onnxmodel.InjectOptions{}); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), `"att" is Attention`) {
		t.Errorf("%v", err)
	}
}

// TestInjectHalf: a layer that computes in float16 gets tensors of float16, and
// the report says what rounding cost; values beyond its range are refused.
func TestInjectHalf(t *testing.T) {
	e := onnx.NewGraph("half", "test", "1", 8, []onnx.Opset{{Version: 17}})
	e.AddInitializer(onnx.NewTensor("a.weight", onnx.Float16, []int{4, 3}, raw(t, onnx.Float16, number(12, 1))))
	e.AddNode(&onnx.Node{Name: "/a/MatMul", Op: "MatMul", Inputs: []string{"x", "a.weight"}, Outputs: []string{"y"}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float16, "rows", 4))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float16, "rows", 3))
	m := written(t, e)
	a := adapted(t, m, "lora", 0)
	in, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{As: onnxmodel.AsInputs})
	if err != nil {
		t.Fatal(err)
	}
	if r := in.Modules[0]; r.Type != onnx.Float16 || r.Rounding < 1e-5 || r.Rounding > 0x1p-11 {
		t.Errorf("%+v", r)
	}
	for _, p := range in.Adapter.Parameters {
		if p.Type != onnx.Float16 {
			t.Errorf("parameter %s is %v", p.Name, p.Type)
		}
	}
	x := map[string]array{"x": {[]int{2, 4}, number(8, 1)}}
	nodes, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Compare(t, "y", float32s(evaluate(t, rewritten(t, m, nodes), x)["y"].data), merged(t, m, a, x)["y"].data, 2e-3, 1e-3)
	a.Modules[0].Tensors[1][0] = 1e6
	if _, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{}); err == nil || !strings.Contains(err.Error(), "beyond the range of FLOAT16") {
		t.Errorf("%v", err)
	}
}
