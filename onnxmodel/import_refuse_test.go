package onnxmodel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// edited opens a committed export after a change.
func edited(t testing.TB, export string, change func(g *onnx.Model, e *onnx.Edit)) *formats.Checkpoint {
	t.Helper()
	g, err := onnx.Open(filepath.Join("testdata", "exports", export, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	e := onnx.NewEdit(g)
	change(g, e)
	out, err := e.Plan("model.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := out.Files[0].WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nodeOf is the first node of an operator.
func nodeOf(t testing.TB, g *onnx.Model, op string) (int, onnx.Node) {
	t.Helper()
	for i, n := range g.Graph.Nodes {
		if n.Op == op {
			return i, n
		}
	}
	t.Fatalf("no node %s", op)
	return 0, onnx.Node{}
}

// TestRefusals wants one error that names node and operator for what has no
// operation.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, export, want string
		change             func(t *testing.T, g *onnx.Model, e *onnx.Edit)
	}{
		{"operator", "bert-torchscript-eager", "Celu: the operator is not known here", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "Erf")
			n.Op = "Celu"
			e.ReplaceNode(i, n.Encode())
		}},
		{"missing inputs", "bert-torchscript-eager", "the number and ranks that the operator asks for", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "Gemm")
			n.Op, n.Inputs = "Expand", n.Inputs[:1]
			e.ReplaceNode(i, n.Encode())
		}},
		{"domain", "bert-fused", "com.microsoft.GatedRelativePositionBias", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "BiasGelu")
			n.Op = "GatedRelativePositionBias"
			e.ReplaceNode(i, n.Encode())
		}},
		{"activation", "bert-torchscript-eager", "erf", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "Erf") // erf(x) instead of erf(x/√2)
			div := g.Graph.Nodes[i-1]
			if div.Op != "Div" {
				t.Fatalf("%s before Erf", div.Op)
			}
			n.Inputs = []string{div.Inputs[0]}
			e.ReplaceNode(i, n.Encode())
		}},
		{"softmax", "bert-torchscript-eager", "Softmax: a softmax over axis", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "Softmax")
			n.Attributes = []onnx.Attribute{onnx.IntAttr("axis", 1)}
			e.ReplaceNode(i, n.Encode())
		}},
		{"attention bias", "bert-torchscript-eager", "an attention bias has no operation", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			i, n := nodeOf(t, g, "Softmax")
			bias := binary.LittleEndian.AppendUint32(nil, math.Float32bits(-0.5))
			e.AddInitializer(onnx.NewTensor("half", onnx.Float, []int{1}, bias))
			e.InsertNodes(i, &onnx.Node{Name: "alibi", Op: "Add", Inputs: []string{n.Inputs[0], "half"}, Outputs: []string{"biased"}})
			n.Inputs = []string{"biased"}
			e.ReplaceNode(i, n.Encode())
		}},
		{"token", "bert-torchscript-eager", "token 2 of each sequence", func(t *testing.T, g *onnx.Model, e *onnx.Edit) {
			for i, n := range g.Graph.Nodes {
				if n.Op == "Gather" && strings.Contains(n.Name, "pooler") {
					e.AddInitializer(onnx.NewTensor("two", onnx.Int64, nil, binary.LittleEndian.AppendUint64(nil, 2)))
					n.Inputs = []string{n.Inputs[0], "two"}
					e.ReplaceNode(i, n.Encode())
					return
				}
			}
			t.Fatal("no Gather of the pooler")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ck := edited(t, c.export, func(g *onnx.Model, e *onnx.Edit) { c.change(t, g, e) })
			_, err := Open(ck)
			if err == nil || !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "node ") {
				t.Errorf("error %v, want an unsupported one with %q and its node", err, c.want)
			}
		})
	}
}

// TestUnusedNodes: what no output needs may have no rule.
func TestUnusedNodes(t *testing.T) {
	ck := edited(t, "bert-torchscript-eager", func(g *onnx.Model, e *onnx.Edit) {
		_, n := nodeOf(t, g, "Erf")
		e.AddNode(&onnx.Node{Name: "aside", Op: "Celu", Inputs: n.Inputs, Outputs: []string{"aside"}})
	})
	if _, err := Open(ck); err != nil {
		t.Error(err)
	}
}

// TestFarWindow: a window that the probe cannot see bounds the sequences.
func TestFarWindow(t *testing.T) {
	for _, size := range []int64{4, 1000} {
		ck := edited(t, "mistral-dynamo-sdpa", func(g *onnx.Model, e *onnx.Edit) {
			changed := 0
			for i := range g.Graph.Initializers {
				x := &g.Graph.Initializers[i]
				if x.Type != onnx.Int64 || x.Elements() != 1 {
					continue
				}
				raw, err := g.Data(x)
				if err != nil {
					t.Fatal(err)
				}
				if v := int64(binary.LittleEndian.Uint64(raw)); v == 4 && readBy(g, x.Name, "Sub") || v == -4 && readBy(g, x.Name, "Add") {
					sign := v / 4
					e.ReplaceInitializer(i, onnx.NewTensor(x.Name, onnx.Int64, x.Dims, binary.LittleEndian.AppendUint64(nil, uint64(sign*size))))
					changed++
				}
			}
			if changed == 0 {
				t.Fatal("no window in the graph")
			}
		})
		m, err := Open(ck)
		if err != nil {
			t.Fatal(err)
		}
		window := map[int64]int{4: 4}[size]
		for _, x := range m.terms {
			if x.op == opAttention && (x.window != window || !x.causal) {
				t.Errorf("window %d of the graph: causal %v, window %d", size, x.causal, x.window)
			}
		}
		if limit := m.Config().MaxLength; size == 1000 && limit != 1000 {
			t.Errorf("sequences of up to %d tokens", limit)
		}
	}
}

// readBy says whether a node of an operator reads a value.
func readBy(g *onnx.Model, name, op string) bool {
	for _, n := range g.Graph.Nodes {
		if n.Op == op && slices.Contains(n.Inputs, name) {
			return true
		}
	}
	return false
}

func TestMaskKinds(t *testing.T) {
	c := &nodeCall{im: &importer{tokens: 7}, n: &onnx.Node{Name: "mask", Op: "Softmax"}}
	for _, window := range []int{0, 1, 3, 6} {
		causal, w, err := c.maskKind(causalMask(7, window))
		if err != nil || !causal || w != window {
			t.Errorf("window %d: causal %v, window %d, %v", window, causal, w, err)
		}
	}
	all := causalMask(7, 0)
	for i := range all {
		all[i] = true
	}
	if causal, w, err := c.maskKind(all); causal || w != 0 || err != nil {
		t.Errorf("a mask that hides nothing: %v, %d, %v", causal, w, err)
	}
	prefix := causalMask(7, 0)
	prefix[2] = true // the first query sees the third key
	if _, _, err := c.maskKind(prefix); err == nil {
		t.Error("a mask of a prefix passes as causal")
	}
}
