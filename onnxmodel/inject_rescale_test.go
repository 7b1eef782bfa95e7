package onnxmodel_test

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// rescaling turns an adapter's modules into those of a method that rescales
// them, with magnitudes around 1.
func rescaling(t *testing.T, a *adapter.Adapter, method string) {
	t.Helper()
	k, err := adapter.Lookup(method)
	if err != nil {
		t.Fatal(err)
	}
	a.Method = method
	for i := range a.Modules {
		m := &a.Modules[i]
		m.Method = method
		if m.Specs, err = k.Params(m.Site, m.Settings); err != nil {
			t.Fatal(err)
		}
		mag := make([]float32, m.Out)
		for j := range mag {
			mag[j] = 1 + float32(j)/8
		}
		m.Tensors = append(slices.Clone(m.Tensors), mag)
	}
}

// TestInjectDoRA: layers compute x W' + bias with W'_j = m_j (W + ΔW)_j/‖(W + ΔW)_j‖.
func TestInjectDoRA(t *testing.T) {
	x := map[string]array{"x": {[]int{4, 6}, number(24, 1)}}
	for method, inner := range map[string]string{adapter.MethodDoRA: "lora", adapter.MethodLSRDoRA: "lsr"} {
		m := layers(t, filepath.Join(t.TempDir(), "m.onnx"), 8, 17)
		a := adapted(t, m, inner, map[string]int{"lsr": 3}[inner])
		rescaling(t, a, method)
		in, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := rewritten(t, m, in)
		kept(t, m, got, in)
		over := map[string]array{"x": x["x"]}
		base := evaluate(t, m, x)
		for i := range a.Modules {
			mod := &a.Modules[i]
			over[mod.Weight] = rescaledWeight(t, mod, base[mod.Weight])
		}
		want, have := evaluate(t, m, over), evaluate(t, got, x)
		for _, y := range []string{"ya", "y"} {
			testkit.Compare(t, method+" "+y, float32s(have[y].data), want[y].data, 1e-5, 1e-5)
		}
		for _, o := range []onnxmodel.InjectOptions{{As: onnxmodel.AsInputs}, {Form: onnxmodel.FormKronecker}} {
			if _, err := onnxmodel.Inject(m, a, o); !errors.Is(err, adapter.ErrMismatch) || !strings.Contains(err.Error(), "rescales") {
				t.Errorf("%v: %v", o, err)
			}
		}
	}
}

// rescaledWeight is W' as the graph stores W.
func rescaledWeight(t *testing.T, m *adapter.Module, w array) array {
	t.Helper()
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		t.Fatal(err)
	}
	d, mag, err := k.(adapter.Rescaler).Rescaled(m.Site, m.Settings, m.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	delta := d.Dense()
	at := func(i, j int) int {
		if m.Transposed {
			return j*m.In + i
		}
		return i*m.Out + j
	}
	out := array{w.dims, make([]float64, len(w.data))}
	for j := range m.Out {
		norm := 0.0
		for i := range m.In {
			v := w.data[at(i, j)] + delta[i*m.Out+j]
			norm += v * v
		}
		for i := range m.In {
			out.data[at(i, j)] = mag[j] * (w.data[at(i, j)] + delta[i*m.Out+j]) / math.Sqrt(norm)
		}
	}
	return out
}

// TestInjectDoRABias: a Gemm that scales its bias cannot be rescaled.
func TestInjectDoRABias(t *testing.T) {
	e := onnx.NewGraph("beta", "test", "1", 8, []onnx.Opset{{Version: 17}})
	e.AddInitializer(onnx.NewTensor("a.weight", onnx.Float, []int{4, 3}, raw(t, onnx.Float, number(12, 1))))
	e.AddInitializer(onnx.NewTensor("a.bias", onnx.Float, []int{3}, raw(t, onnx.Float, number(3, 1))))
	e.AddNode(&onnx.Node{Name: "/a/Gemm", Op: "Gemm", Inputs: []string{"x", "a.weight", "a.bias"}, Outputs: []string{"y"}, Attributes: []onnx.Attribute{onnx.FloatAttr("beta", 2)}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float, "rows", 4))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float, "rows", 3))
	m := written(t, e)
	a := adapted(t, m, "lora", 0)
	rescaling(t, a, adapter.MethodDoRA)
	if _, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{}); err == nil || !strings.Contains(err.Error(), "scales its bias") {
		t.Errorf("%v", err)
	}
}
