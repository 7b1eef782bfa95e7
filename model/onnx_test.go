package model

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// sineMatrix makes a (rows, cols) matrix from a seed, or its transpose.
func sineMatrix(seed, rows, cols int, turned bool) []byte {
	b := make([]byte, 4*rows*cols)
	for i := range rows {
		for j := range cols {
			at := i*cols + j
			if turned {
				at = j*rows + i
			}
			binary.LittleEndian.PutUint32(b[4*at:], math.Float32bits(float32(math.Sin(float64(seed*1000+i*cols+j)))))
		}
	}
	return b
}

func opened(t *testing.T, path string, b []byte) *formats.Checkpoint {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestRecoverNames: weights stored as they were and transposed, weights that
// differ in one element, that two tensors hold, and that two layers hold.
func TestRecoverNames(t *testing.T) {
	dir := t.TempDir()
	h := safetensors.Header{}
	var data []byte
	for i, name := range []string{"enc.0.a.weight", "enc.1.b.weight", "same1.weight", "same2.weight", "twice.weight", "near.weight", "sq.weight", "emb"} {
		seed := i
		if name == "same2.weight" {
			seed = 2
		}
		dims := []int{300, 400}
		if name == "sq.weight" {
			dims = []int{300, 300}
		}
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: name, DType: tensor.F32, Shape: dims})
		data = append(data, sineMatrix(seed, dims[0], dims[1], false)...)
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	ref := opened(t, filepath.Join(dir, "ref.safetensors"), append(h.Encode(), data...))

	e := onnx.NewGraph("g", "test", "1", 8, []onnx.Opset{{Domain: "", Version: 17}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float, "n", 400))
	add := func(name string, seed, rows, cols int, turned bool, damage int) {
		b := sineMatrix(seed, rows, cols, turned)
		dims := []int{rows, cols}
		if turned {
			dims = []int{cols, rows}
		}
		if damage > 0 {
			b[damage] ^= 1
		}
		e.AddInitializer(onnx.NewTensor(name, onnx.Float, dims, b))
		e.AddNode(&onnx.Node{Op: "MatMul", Name: "node." + name, Inputs: []string{"x", name}, Outputs: []string{name + ".out"}})
	}
	add("onnx::MatMul_0", 0, 300, 400, true, 0)
	add("onnx::MatMul_1", 1, 300, 400, false, 0)
	add("onnx::MatMul_2", 2, 300, 400, true, 0)
	add("onnx::MatMul_3", 4, 300, 400, true, 0)
	add("onnx::MatMul_4", 4, 300, 400, false, 0)
	add("onnx::MatMul_5", 5, 300, 400, true, 4*7777)
	add("onnx::MatMul_6", 6, 300, 300, true, 0)
	add("onnx::MatMul_7", 7, 300, 400, true, 0)
	out, err := e.Plan("m.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := out.Files[0].WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	c := opened(t, filepath.Join(dir, "m.onnx"), b.Bytes())
	sites, known, err := SitesOf(c)
	if err != nil || !known || len(sites) != 8 {
		t.Fatalf("%d sites, %v", len(sites), err)
	}
	got, n, err := RecoverNames(c, sites, ref)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got {
		names = append(names, s.Module)
	}
	want := []string{"enc.0.a", "enc.1.b", "node.onnx::MatMul_2", "node.onnx::MatMul_3", "node.onnx::MatMul_4", "node.onnx::MatMul_5", "sq", "node.onnx::MatMul_7"}
	if d := cmp.Diff(want, names); d != "" || n != 3 {
		t.Errorf("%d named\n%s", n, d)
	}
	if s := got[1]; s.Layer != 1 || s.Kind != "b" || s.Transposed || s.In != 300 || s.Out != 400 {
		t.Errorf("site %+v", s)
	}
	if sites[0].Module != "node.onnx::MatMul_0" {
		t.Error("the sites given have changed")
	}
}
