package onnx

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestLinears: one layer (3, 2) as exporters write it.
func TestLinears(t *testing.T) {
	plain := func(name string, dims ...int) func(*Edit) {
		return func(e *Edit) { e.AddInitializer(NewTensor(name, Float, dims, make([]byte, 24))) }
	}
	quantised := func(name string, dims ...int) func(*Edit) {
		return func(e *Edit) { e.AddInitializer(NewTensor(name, Int8, dims, make([]byte, 6))) }
	}
	bias := func(name string) func(*Edit) {
		return func(e *Edit) { e.AddInitializer(NewTensor(name, Float, []int{2}, f32(1, 2))) }
	}
	node := func(n Node, in ...string) func(*Edit) {
		n.Inputs = in
		return func(e *Edit) { e.AddNode(&n) }
	}
	out := func(s ...string) []string { return s }
	scopes := []KV{{"pkg.torch.onnx.name_scopes", "['', 'enc', 'enc.layer.0.query', 'linear']"}}
	cases := map[string]struct {
		parts []func(*Edit)
		want  []Linear
	}{
		"torch's path": {
			[]func(*Edit){plain("onnx::MatMul_1", 3, 2), node(Node{Op: "MatMul", Name: "/enc/layer.0/query/MatMul_1", Outputs: out("y")}, "x", "onnx::MatMul_1")},
			[]Linear{{Module: "enc.layer.0.query", Weight: "onnx::MatMul_1", In: 3, Out: 2}}},
		"bias names it": {
			[]func(*Edit){plain("onnx::MatMul_1", 3, 2), bias("bert.q.bias"), node(Node{Op: "MatMul", Name: "MatMul_8", Outputs: out("h")}, "x", "onnx::MatMul_1"), node(Node{Op: "Add", Outputs: out("y")}, "bert.q.bias", "h")},
			[]Linear{{Module: "bert.q", Weight: "onnx::MatMul_1", In: 3, Out: 2, Bias: "bert.q.bias"}}},
		"gemm, weight names it": {
			[]func(*Edit){plain("fc.weight", 2, 3), bias("c"), node(Node{Op: "Gemm", Outputs: out("y"), Attributes: []Attribute{IntAttr("transB", 1)}}, "x", "fc.weight", "c")},
			[]Linear{{Module: "fc", Weight: "fc.weight", In: 3, Out: 2, Transposed: true, Bias: "c"}}},
		"through transpose, cast, identity": {
			[]func(*Edit){plain("val_3", 2, 3), node(Node{Op: "Identity", Outputs: out("a")}, "val_3"), node(Node{Op: "Transpose", Outputs: out("b"), Attributes: []Attribute{IntsAttr("perm", 1, 0)}}, "a"), node(Node{Op: "Cast", Outputs: out("c")}, "b"), node(Node{Op: "MatMul", Name: "node_linear", Outputs: out("y"), Metadata: scopes}, "x", "c")},
			[]Linear{{Node: 3, Module: "enc.layer.0.query", Weight: "val_3", In: 3, Out: 2, Transposed: true}}},
		"constant node": {
			[]func(*Edit){node(Node{Op: "Constant", Outputs: out("w"), Attributes: []Attribute{TensorAttr("value", NewTensor("", Float, []int{3, 2}, make([]byte, 24)))}}), node(Node{Op: "MatMul", Outputs: out("y")}, "x", "w")},
			[]Linear{{Node: 1, Module: "w", Weight: "w", In: 3, Out: 2}}},
		"alpha": {
			[]func(*Edit){plain("w", 3, 2), node(Node{Op: "Gemm", Outputs: out("y"), Attributes: []Attribute{FloatAttr("alpha", 0.5)}}, "x", "w")},
			[]Linear{{Module: "w", Weight: "w", In: 3, Out: 2, Problem: "scaled by alpha"}}},
		"dequantised": {
			[]func(*Edit){quantised("q.weight_quantized", 3, 2), bias("s"), node(Node{Op: "DequantizeLinear", Outputs: out("w")}, "q.weight_quantized", "s"), node(Node{Op: "MatMul", Outputs: out("y")}, "x", "w")},
			[]Linear{{Node: 1, Module: "q", Weight: "q.weight_quantized", In: 3, Out: 2, Problem: "quantised (DequantizeLinear)"}}},
		"integer product, bias behind scaling": {
			[]func(*Edit){quantised("q.weight_quantized", 3, 2), bias("q.bias"), node(Node{Op: "MatMulInteger", Outputs: out("h")}, "x", "q.weight_quantized"), node(Node{Op: "Cast", Outputs: out("f")}, "h"), node(Node{Op: "Mul", Outputs: out("m")}, "f", "x"), node(Node{Op: "Add", Outputs: out("y")}, "m", "q.bias")},
			[]Linear{{Module: "q", Weight: "q.weight_quantized", In: 3, Out: 2, Bias: "q.bias", Problem: "quantised (MatMulInteger)"}}},
		"four bits": {
			[]func(*Edit){quantised("fc.weight_Q4", 2, 3), bias("s"), node(Node{Op: "MatMulNBits", Domain: "com.microsoft", Outputs: out("y"), Attributes: []Attribute{IntAttr("K", 3), IntAttr("N", 2), IntAttr("bits", 4)}}, "x", "fc.weight_Q4", "s")},
			[]Linear{{Module: "fc", Weight: "fc.weight_Q4", In: 3, Out: 2, Transposed: true, Problem: "quantised (MatMulNBits)"}}},
		"two uses": {
			[]func(*Edit){plain("w.weight", 3, 2), node(Node{Op: "MatMul", Name: "/a/MatMul", Outputs: out("y")}, "x", "w.weight"), node(Node{Op: "MatMul", Name: "/b/MatMul", Outputs: out("z")}, "x", "w.weight")},
			[]Linear{{Module: "a", Weight: "w.weight", In: 3, Out: 2, Shared: []int{1}}, {Node: 1, Module: "b", Weight: "w.weight", In: 3, Out: 2, Shared: []int{0}}}},
		"no weight": {
			[]func(*Edit){node(Node{Op: "MatMul", Outputs: out("y")}, "x", "x")}, nil},
		"weight on the left": {
			[]func(*Edit){plain("w", 3, 2), node(Node{Op: "MatMul", Outputs: out("y")}, "w", "x")}, nil},
		"not a matrix": {
			[]func(*Edit){plain("w", 1, 3, 2), node(Node{Op: "MatMul", Outputs: out("y")}, "x", "w")}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := read(t, linearModel(t, func(e *Edit) {
				for _, f := range c.parts {
					f(e)
				}
			}))
			if d := cmp.Diff(c.want, m.Linears(), cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestLinearsGPT2: a model of ONNX Runtime's optimizer, with queries, keys and
// values in one weight of its Attention.
func TestLinearsGPT2(t *testing.T) {
	m, err := Open(testkit.Shared(t, "data", "onnx", "tiny-random-gpt2-fp32", "past.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var got []string
	for _, l := range m.Linears() {
		got = append(got, l.Module)
	}
	want := []string{"lm_head"}
	for _, i := range []string{"0", "1", "2", "3", "4"} {
		for _, s := range []string{"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"} {
			want = append(want, "transformer.h."+i+"."+s)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
