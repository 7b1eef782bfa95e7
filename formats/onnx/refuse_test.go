package onnx

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// externalModel is a linear model whose weight (3, 2) has external data.
func externalModel(t *testing.T, location, offset, length string) []byte {
	return linearModel(t, func(e *Edit) {
		e.AddNode(&Node{Op: "MatMul", Name: "mm", Inputs: []string{"x", "w"}, Outputs: []string{"y"}})
		head := NewTensor("w", Float, []int{3, 2}, make([]byte, 24)).encodeHead()
		for _, kv := range []KV{{"location", location}, {"offset", offset}, {"length", length}} {
			if kv.Value != "" {
				head = appendBytes(head, 13, kv.encode())
			}
		}
		e.added = append(e.added, newField{num: graphInitializer, body: appendVarint(head, 14, 1)})
	})
}

func TestRefuseExternal(t *testing.T) {
	cases := []struct{ name, location, offset, length, want string }{
		{"fine", "w.bin", "4", "24", ""},
		{"in a subdirectory", "sub/w.bin", "", "", ""},
		{"no length", "w.bin", "4", "", ""},
		{"traversal", "../out.bin", "", "", "outside the model's directory"},
		{"hidden traversal", "sub/../../out.bin", "", "", "outside the model's directory"},
		{"absolute", "/etc/passwd", "", "", "outside the model's directory"},
		{"link out", "link.bin", "", "", "outside the model's directory"},
		{"directory link out", "dir/out.bin", "", "", "outside the model's directory"},
		{"missing", "none.bin", "", "", "are missing"},
		{"a directory", "sub", "", "", "not a regular file"},
		{"too short", "w.bin", "5", "24", "which has 28"},
		{"offset beyond", "w.bin", "9223372036854775807", "", "which has 28"},
		{"wrong length", "w.bin", "0", "20", "20 bytes of external data, FLOAT of shape [3 2] needs 24"},
		{"negative offset", "w.bin", "-4", "24", `external data with offset "-4"`},
		{"no number", "w.bin", "0x4", "24", `external data with offset "0x4"`},
		{"no location", "", "0", "24", "without a location"},
		{"a zero byte", "w.bin\x00", "", "", "outside the model's directory"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "m")
			if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o777); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"m/w.bin", "m/sub/w.bin", "out.bin"} {
				if err := os.WriteFile(filepath.Join(root, f), make([]byte, 28), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			for name, to := range map[string]string{"link.bin": "../out.bin", "dir": ".."} {
				if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
					t.Skipf("no symbolic links here: %v", err)
				}
			}
			path := filepath.Join(dir, "m.onnx")
			if err := os.WriteFile(path, externalModel(t, c.location, c.offset, c.length), 0o666); err != nil {
				t.Fatal(err)
			}
			m, err := Open(path)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if b, err := m.Data(m.Graph.Initializer("w")); err != nil || len(b) != 24 {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				m.Close()
				return
			}
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || e.Path != path || e.Tensor != "w" || e.Hint == "" {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestHubCache: a snapshot of the Hugging Face cache links to blobs outside of
// its directory.
func TestHubCache(t *testing.T) {
	root := t.TempDir()
	snap, blobs := filepath.Join(root, "snapshots", "abc"), filepath.Join(root, "blobs")
	for _, d := range []string{snap, blobs} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"m.onnx": externalModel(t, "w.bin", "", ""), "w.bin": make([]byte, 24)} {
		if err := os.WriteFile(filepath.Join(blobs, "sha-"+name), b, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../blobs/sha-"+name, filepath.Join(snap, name)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	m, err := Open(filepath.Join(snap, "m.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

// TestRefuseGraph: what is wrong with a graph is said with the node's name.
func TestRefuseGraph(t *testing.T) {
	node := func(op, name, in, out string) func(*Edit) {
		return func(e *Edit) {
			e.AddNode(&Node{Op: op, Name: name, Inputs: strings.Fields(in), Outputs: strings.Fields(out)})
		}
	}
	cases := map[string]struct {
		parts []func(*Edit)
		want  string
	}{
		"cycle":             {[]func(*Edit){node("Add", "a", "x q", "p"), node("Relu", "b", "p", "q"), node("Relu", "c", "x", "y")}, `node "a": it is part of a cycle`},
		"itself":            {[]func(*Edit){node("Add", "a", "x y", "y")}, `node "a": it is part of a cycle`},
		"missing":           {[]func(*Edit){node("MatMul", "a", "x w", "y")}, `node "a": its input "w" is not defined`},
		"no name":           {[]func(*Edit){node("MatMul", "", "x w", "y")}, `node "MatMul of y": its input "w"`},
		"twice":             {[]func(*Edit){node("Relu", "a", "x", "y"), node("Relu", "b", "x", "y")}, `node "b": its output "y" is defined twice`},
		"over an input":     {[]func(*Edit){node("Relu", "a", "x", "x"), node("Relu", "b", "x", "y")}, `node "a": its output "x" is defined twice`},
		"no output":         {[]func(*Edit){node("Relu", "a", "x", "z")}, `graph output "y" is not defined`},
		"two initializers":  {[]func(*Edit){plainLinear, func(e *Edit) { e.AddInitializer(NewTensor("b", Float, []int{1}, f32(1))) }}, `tensor "b": two initializers`},
		"nameless":          {[]func(*Edit){plainLinear, func(e *Edit) { e.AddInitializer(NewTensor("", Float, []int{1}, f32(1))) }}, "without a name"},
		"no operator":       {[]func(*Edit){node("", "a", "x", "y")}, "without an operator"},
		"unsorted, allowed": {[]func(*Edit){node("Relu", "a", "p", "y"), node("Relu", "b", "x", "p")}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := linearModel(t, func(e *Edit) {
				for _, f := range c.parts {
					f(e)
				}
			})
			m, err := Read(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				err = m.Check()
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				} else if order, err := m.Order(); err != nil || len(order) != 2 || order[0] != 1 {
					t.Errorf("order %v, %v", order, err)
				}
				return
			}
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestRefuseTensor: data that do not fit type and shape.
func TestRefuseTensor(t *testing.T) {
	dims := func(d ...int64) (b []byte) {
		for _, x := range d {
			b = appendVarint(b, 1, x)
		}
		return b
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	name := appendText(nil, 8, "w")
	typ := func(d DataType) []byte { return appendVarint(nil, 2, int64(d)) }
	raw := func(n int) []byte { return appendBytes(nil, fieldRaw, make([]byte, n)) }
	cases := map[string]struct {
		body []byte
		want string
	}{
		"too little":      {cat(dims(3, 2), typ(Float), name, raw(23)), "23 bytes of data, FLOAT of shape [3 2] needs 24"},
		"none":            {cat(dims(3, 2), typ(Float), name), "0 numbers of data"},
		"negative":        {cat(dims(-1), typ(Float), name, raw(4)), "dimension -1"},
		"overflow":        {cat(dims(1<<40, 1<<40), typ(Float), name, raw(4)), "more than 2^63 elements"},
		"too many bytes":  {cat(dims(1<<62), typ(Float), name, raw(4)), "too large"},
		"unknown type":    {cat(dims(1), typ(99), name, raw(4)), "unknown data type 99"},
		"no type":         {cat(dims(1), name, raw(4)), "unknown data type 0"},
		"wrong field":     {cat(dims(1), typ(Float), name, appendVarint(nil, fieldInt64, 1)), "data in field 7, FLOAT has it in field 4"},
		"too many typed":  {cat(dims(1), typ(Int64), name, appendBytes(nil, fieldInt64, []byte{1, 2})), "2 numbers of data"},
		"unended number":  {cat(dims(1), typ(Int64), name, appendBytes(nil, fieldInt64, []byte{0x80})), "does not end"},
		"strings raw":     {cat(dims(1), typ(String), name, raw(4)), "strings as raw data"},
		"strings count":   {cat(dims(2), typ(String), name, appendBytes(nil, fieldString, "a")), "1 strings for shape [2]"},
		"half a float":    {cat(dims(1), typ(Float), name, appendBytes(nil, fieldFloat, []byte{1, 2})), "no whole number"},
		"location 2":      {cat(dims(1), typ(Float), name, raw(4), appendVarint(nil, 14, 2)), "unknown data location 2"},
		"segments":        {cat(dims(1), typ(Float), name, raw(4), appendBytes(nil, 3, "")), "stored in segments"},
		"int4 too little": {cat(dims(5), typ(Int4), name, raw(2)), "2 bytes of data, INT4 of shape [5] needs 3"},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			b := appendBytes(nil, 7, appendBytes(nil, graphInitializer, c.body))
			_, err := Read(bytes.NewReader(b), int64(len(b)))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"w"`) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestRefuseFile: what is no model at all.
func TestRefuseFile(t *testing.T) {
	var deep []byte // graphs in attributes of nodes
	for range maxDepth + 2 {
		node := appendBytes(appendText(nil, 4, "If"), 5, appendBytes(nil, 6, deep))
		deep = appendBytes(nil, graphNode, node)
	}
	cases := map[string]struct{ text, want string }{
		"empty":      {"", "the file is empty"},
		"lfs":        {"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"},
		"zip":        {"PK\x03\x04aaaa", "zip archive"},
		"web page":   {"<!DOCTYPE html>", "web page"},
		"ort":        {"aaaaORTMaaaa", "ONNX Runtime's own format"},
		"no graph":   {"\x08\x08", "no graph"},
		"two graphs": {"\x3a\x00\x3a\x00", "two graphs"},
		"truncated":  {"\x3a\x05\x0a", "reaches beyond its message"},
		"group":      {"\x0b\x0c", "unknown wire type 3"},
		"field 0":    {"\x00\x00", "field number 0"},
		"deep":       {string(appendBytes(nil, 7, deep)), "graphs within graphs"},
	}
	for name, c := range cases {
		_, err := Read(strings.NewReader(c.text), int64(len(c.text)))
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrMalformed) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.onnx")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// FuzzRead: any bytes give a model or an error that says malformed or
// unsupported; a model's data can be read and an edit gives its bytes back.
func FuzzRead(f *testing.F) {
	f.Add([]byte("\x08\x08:\x00"))
	for _, dims := range [][]int{{3, 2}, {}} {
		e := NewGraph("g", "p", "1", 9, []Opset{{"", 18}, {"com.microsoft", 1}})
		e.AddInput(TensorInfo("x", Float, "n", 3))
		e.AddInitializer(NewTensor("w"+strconv.Itoa(len(dims)), BFloat16, dims, make([]byte, 2*max(1, len(dims)*3))))
		e.AddNode(&Node{Op: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}, Attributes: []Attribute{IntsAttr("i", 1, 2), TensorAttr("t", NewTensor("", Int4, []int{3}, []byte{1, 2}))}})
		out, err := e.Plan("m", 0)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(write(f, &out.Files[0]))
	}
	f.Add(appendBytes(nil, 7, appendBytes(nil, 5, []byte("\x08\x02\x10\x07\x3a\x02\x01\x02B\x01w"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		if m.Check() == nil {
			m.Linears()
		}
		err = m.EachTensor(func(x *Tensor) error {
			if x.Store == StoreExternal || x.Type == String {
				return nil
			}
			d, err := m.Data(x)
			if err == nil && int64(len(d)) != x.Bytes {
				t.Fatalf("%d bytes of %d", len(d), x.Bytes)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := NewEdit(m).Plan("m", 0)
		if err != nil || !bytes.Equal(write(t, &out.Files[0]), b) {
			t.Fatalf("an edit without changes: %v", err)
		}
	})
}
