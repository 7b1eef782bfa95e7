package onnx

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t testing.TB, f *OutFile) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := f.WriteTo(&b)
	if err != nil || n != f.Size || int64(b.Len()) != n {
		t.Fatalf("%d bytes written of %d, %v", n, f.Size, err)
	}
	return b.Bytes()
}

func read(t testing.TB, b []byte) *Model {
	t.Helper()
	m, err := Read(bytes.NewReader(b), int64(len(b)))
	if err == nil {
		err = m.Check()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestUntouched: an edit without changes gives every model of the shared data
// back byte for byte; one with a change leaves all other fields as they are.
func TestUntouched(t *testing.T) {
	for _, path := range sharedModels(t) {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m := read(t, want)
		out, err := NewEdit(m).Plan("m.onnx", 0)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if got := write(t, &out.Files[0]); !bytes.Equal(got, want) || len(out.Files) != 1 {
			t.Fatalf("%s: %d bytes become %d others", path, len(want), len(got))
		}
		e := NewEdit(m)
		e.AddInitializer(NewTensor("lsrsurgeon.test", Float, []int{1}, make([]byte, 4)))
		out, err = e.Plan("m.onnx", 0)
		if err != nil {
			t.Fatal(err)
		}
		got := write(t, &out.Files[0])
		g := m.Graph.Span
		if !bytes.Contains(got, want[g.Offset:g.End()]) || !bytes.HasSuffix(got, want[g.End():]) {
			t.Fatalf("%s: bytes changed that had no part in it", path)
		}
		if read(t, got).Graph.Initializer("lsrsurgeon.test") == nil {
			t.Fatalf("%s: the new initializer is missing", path)
		}
	}
}

func f32(x ...float32) []byte {
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// linearModel is y = (x W + b) of (3, 2), with everything made by this package.
func linearModel(t testing.TB, mk func(e *Edit)) []byte {
	t.Helper()
	e := NewGraph("g", "test", "1", 8, []Opset{{"", 17}})
	e.AddInput(TensorInfo("x", Float, "batch", 3))
	e.AddOutput(TensorInfo("y", Float, "batch", 2))
	mk(e)
	out, err := e.Plan("m.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, &out.Files[0])
}

func plainLinear(e *Edit) {
	e.AddNode(&Node{Name: "/enc/layer.0/query/MatMul", Op: "MatMul", Inputs: []string{"x", "onnx::MatMul_1"}, Outputs: []string{"h"}})
	e.AddNode(&Node{Op: "Add", Inputs: []string{"b", "h"}, Outputs: []string{"y"}})
	e.AddInitializer(NewTensor("onnx::MatMul_1", Float, []int{3, 2}, f32(1, 2, 3, 4, 5, 6)))
	e.AddInitializer(NewTensor("b", Float, []int{2}, f32(7, 8)))
}

func TestMakeAndChange(t *testing.T) {
	b := linearModel(t, plainLinear)
	m := read(t, b)
	e := NewEdit(m)
	node, err := m.Bytes(m.Graph.Nodes[0].Span)
	if err != nil {
		t.Fatal(err)
	}
	node, err = RenameInputs(node, map[string]string{"x": "x2"})
	if err != nil {
		t.Fatal(err)
	}
	e.ReplaceNode(0, node)
	e.InsertNodes(0, &Node{Name: "id", Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"x2"}, Attributes: []Attribute{IntAttr("i", -3), FloatAttr("f", 0.5), IntsAttr("is", 1, -2), TextAttr("s", "é"), TensorAttr("t", NewTensor("", Int4, []int{3}, []byte{0x21, 0x03}))}})
	e.ReplaceInitializer(1, NewTensor("b", Float, []int{2}, f32(9, 10)))
	e.AddMetadata("key", "value")
	out, err := e.Plan("m.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := read(t, write(t, &out.Files[0]))
	id := &n.Graph.Nodes[0]
	if id.Op != "Identity" || id.Int("i", 0) != -3 || id.Float("f", 0) != 0.5 || id.Ints("is")[1] != -2 || id.Text("s", "") != "é" {
		t.Errorf("inserted node %+v", id)
	}
	if tn := id.Attribute("t").T; tn.Type != Int4 || tn.Elements() != 3 || tn.Bytes != 2 {
		t.Errorf("attribute %+v", tn)
	}
	if x := n.Graph.Nodes[1].Inputs[0]; x != "x2" {
		t.Errorf("renamed input is %q", x)
	}
	data, err := n.Data(n.Graph.Initializer("b"))
	if err != nil || !bytes.Equal(data, f32(9, 10)) {
		t.Errorf("bias %v, %v", data, err)
	}
	if len(n.Metadata) != 1 || n.Metadata[0] != (KV{"key", "value"}) {
		t.Errorf("metadata %v", n.Metadata)
	}
}

// TestExternalise: a model beyond the limit gets external data; what is read
// back from disk is the same.
func TestExternalise(t *testing.T) {
	big := make([]byte, 8000)
	for i := range big {
		big[i] = byte(i * 7)
	}
	b := linearModel(t, func(e *Edit) {
		plainLinear(e)
		e.AddInitializer(NewTensor("old", Uint8, []int{8000}, big))
	})
	e := NewEdit(read(t, b))
	e.AddInitializer(NewTensorFrom("new", Uint8, []int{4000}, bytes.NewReader(big), 100))
	e.AddInitializer(NewTensor("newer", Uint8, []int{2000}, big[:2000]))
	out, err := e.Plan("m.onnx", 2800)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Files) != 2 || len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "2 tensors are in m.onnx.data") || out.Files[0].Size > 2800 {
		t.Fatalf("%d files, notes %q, %d bytes", len(out.Files), out.Notes, out.Files[0].Size)
	}
	dir := t.TempDir()
	for i := range out.Files {
		if err := os.WriteFile(filepath.Join(dir, out.Files[i].Name), write(t, &out.Files[i]), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(filepath.Join(dir, "m.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for name, want := range map[string][]byte{"old": big, "new": big[100:4100], "newer": big[:2000], "b": f32(7, 8)} {
		got, err := m.Data(m.Graph.Initializer(name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := e.Plan("m.onnx", 50); err == nil || !strings.Contains(err.Error(), "even with external data") {
		t.Errorf("50 bytes: %v", err)
	}
}
