package onnx

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// externalTensor is the message of a float tensor of two elements in a file.
func externalTensor(name, location string) []byte {
	b := appendVarint(appendVarint(nil, 1, 2), 2, int64(Float))
	return appendExternal(appendBytes(b, 8, name), location, 8, 8)
}

// everywhere is a model with external data at each place that can have them.
func everywhere() []byte {
	at := func(place string) []byte { return externalTensor(place, place+".bin") }
	attribute := func(num int, body []byte) []byte { return appendBytes(appendBytes(nil, 1, "value"), num, body) }
	node := func(attributes ...[]byte) []byte {
		b := appendBytes(appendBytes(nil, 2, "y"), 4, "Constant")
		for _, a := range attributes {
			b = appendBytes(b, 5, a)
		}
		return b
	}
	sparse := func(place string) []byte { return appendBytes(appendBytes(nil, 1, at(place+"v")), 2, at(place+"i")) }
	sub := appendBytes(appendBytes(appendBytes(nil, 2, "sub"), graphInitializer, at("sub")), graphNode, node(attribute(5, at("inner"))))
	graph := appendBytes(appendBytes(nil, 2, "g"), graphInitializer, at("top"))
	graph = appendBytes(graph, 15, sparse("s"))
	graph = appendBytes(graph, graphNode, node(attribute(5, at("t")), attribute(10, at("ts")), attribute(6, sub), attribute(22, sparse("as"))))
	function := appendBytes(appendBytes(nil, 1, "f"), 7, node(attribute(5, at("function"))))
	training := appendBytes(nil, 1, appendBytes(nil, graphInitializer, at("training")))
	return appendBytes(appendBytes(appendBytes(appendVarint(nil, 1, 8), 7, graph), 20, training), 25, function)
}

// locations lists where a model's external data are, without what Read checks.
func locations(b []byte) []string {
	var list []string
	for s := b; ; {
		i := bytes.Index(s, []byte("location\x12"))
		if i < 0 {
			slices.Sort(list)
			return list
		}
		s = s[i+len("location\x12"):]
		list = append(list, string(s[1:1+s[0]]))
	}
}

// TestRelocate: new names for external data wherever they may be, and back, which
// gives the old bytes; of every model of the shared data too.
func TestRelocate(t *testing.T) {
	models := map[string][]byte{"everywhere": everywhere()}
	for _, path := range sharedModels(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		models[path] = b
	}
	external := 0
	for path, b := range models {
		names, back := map[string]string{}, map[string]string{}
		old := locations(b)
		for i, n := range old {
			x := strings.Repeat("long", 40+i) + "/" + filepath.Base(n)
			names[n], back[x] = x, n
			external++
		}
		m := &Model{Path: path, Size: int64(len(b)), src: &source{r: bytes.NewReader(b), size: int64(len(b))}}
		out, err := m.Relocate("x.onnx", names)
		if err != nil || out.Name != "x.onnx" {
			t.Fatalf("%s: %q, %v", path, out.Name, err)
		}
		moved := write(t, out)
		if len(old) > 0 && len(moved) < len(b)+len(old) {
			t.Errorf("%s: %d bytes become %d", path, len(b), len(moved))
		}
		m.Size, m.src = int64(len(moved)), &source{r: bytes.NewReader(moved), size: int64(len(moved))}
		if out, err = m.Relocate("x.onnx", back); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if got := write(t, out); !bytes.Equal(got, b) {
			t.Errorf("%s: other bytes when the names are the old ones again: %q", path, locations(got))
		}
	}
	want := []string{"asi.bin", "asv.bin", "function.bin", "inner.bin", "si.bin", "sub.bin", "sv.bin", "t.bin", "top.bin", "training.bin", "ts.bin"}
	if got := locations(models["everywhere"]); !slices.Equal(got, want) || external < len(want)+3 {
		t.Errorf("%d locations, of which %q", external, got)
	}
	m := read(t, linearModel(t, plainLinear))
	out, err := m.Relocate("x.onnx", map[string]string{"a": "b"})
	if err != nil || out.Size != m.Size || len(out.Chunks) != 1 {
		t.Errorf("without external data: %d of %d bytes in %d chunks, %v", out.Size, m.Size, len(out.Chunks), err)
	}
}
