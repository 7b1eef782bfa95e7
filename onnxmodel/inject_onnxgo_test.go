package onnxmodel_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestONNXGo has onnx-go decode and run a graph with adapters in it, as far as
// its operators reach: products of two dimensions, Add, Mul and Relu. It has
// neither products of three dimensions nor Erf or LayerNormalization, so that
// transformers and the kronecker form are out of its reach.
func TestONNXGo(t *testing.T) {
	if os.Getenv("LSRSURGEON_ONNXGO") == "" {
		t.Skip("set LSRSURGEON_ONNXGO to build testdata/onnxgo, whose modules come from the network")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "onnxgo")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "onnxgo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e := onnx.NewGraph("mlp", "test", "1", 8, []onnx.Opset{{Version: 13}})
	node := func(name, op string, in []string, out string) {
		e.AddNode(&onnx.Node{Name: name, Op: op, Inputs: in, Outputs: []string{out}})
	}
	e.AddInitializer(onnx.NewTensor("a.weight", onnx.Float, []int{6, 8}, raw(t, onnx.Float, number(48, 0.5))))
	e.AddInitializer(onnx.NewTensor("a.bias", onnx.Float, []int{4, 8}, raw(t, onnx.Float, number(32, 0.5))))
	e.AddInitializer(onnx.NewTensor("b.weight", onnx.Float, []int{8, 3}, raw(t, onnx.Float, number(24, 0.5))))
	node("/a/MatMul", "MatMul", []string{"x", "a.weight"}, "ya")
	node("/a/Add", "Add", []string{"ya", "a.bias"}, "yb")
	node("/Relu", "Relu", []string{"yb"}, "yr")
	node("/b/MatMul", "MatMul", []string{"yr", "b.weight"}, "y")
	e.AddInput(onnx.TensorInfo("x", onnx.Float, 4, 6))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float, 4, 3))
	m := written(t, e)
	x := map[string]array{"x": {[]int{4, 6}, number(24, 1)}}
	in, err := json.Marshal(x["x"].data)
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"lora", "lsr"} {
		a := adapted(t, m, method, 0)
		if method == "lsr" {
			a = adapted(t, m, method, 2)
		}
		g, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, method+".onnx")
		if _, err := onnxmodel.Write(m, g.Edit, path, onnxmodel.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		run := exec.Command(program, path, "4", "6")
		run.Stdin = bytes.NewReader(in)
		var stderr bytes.Buffer
		run.Stderr = &stderr
		out, err := run.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr.Bytes())
		}
		var got []float32
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		testkit.Compare(t, method, got, merged(t, m, a, x)["y"].data, 2e-5, 2e-5)
	}
}
