package merge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// onnxWeight is a weight of the models here, and how the graph reads it.
type onnxWeight struct {
	name       string
	dtype      tensor.DType
	dims       []int
	transposed bool // Wᵀ is stored: read through Transpose or Gemm's transB
}

// Odd sizes, all dtypes that can be merged into, both orientations.
var onnxWeights = []onnxWeight{
	{"onnx::MatMul_7", tensor.F32, []int{13, 17}, false},
	{"b.weight", tensor.F16, []int{13, 17}, true},
	{"c.weight", tensor.BF16, []int{13, 17}, true},
	{"d.weight", tensor.F64, []int{17, 13}, false},
}

// writeONNX writes a model with the weights; the largest go to external data
// where limit is not 0.
func writeONNX(t *testing.T, path string, limit int64, more func(e *onnx.Edit)) {
	t.Helper()
	e := onnx.NewGraph("g", "test", "1", 10, []onnx.Opset{{Domain: "", Version: 21}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float, "n", 13))
	r := rand.New(rand.NewPCG(1, 2))
	for i, w := range onnxWeights {
		data := spec{w.name, w.dtype, w.dims, 1}.fill(r)
		e.AddInitializer(onnx.NewTensor(w.name, onnx.DataTypeOf(w.dtype), w.dims, data))
		y, in := fmt.Sprintf("y%d", i), w.name
		switch i {
		case 1:
			e.AddNode(&onnx.Node{Op: "Gemm", Name: "gemm", Inputs: []string{"x", in}, Outputs: []string{y}, Attributes: []onnx.Attribute{onnx.IntAttr("transB", 1)}})
			continue
		case 2:
			e.AddNode(&onnx.Node{Op: "Transpose", Inputs: []string{in}, Outputs: []string{"ct"}})
			in = "ct"
		}
		e.AddNode(&onnx.Node{Op: "MatMul", Name: fmt.Sprintf("/enc/layer.%d/dense/MatMul", i), Inputs: []string{"x", in}, Outputs: []string{y}})
	}
	e.AddInitializer(onnx.NewTensor("ints", onnx.Int4, []int{5}, []byte{1, 2, 3}))
	if more != nil {
		more(e)
	}
	out, err := e.Plan(filepath.Base(path), limit)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out.Files {
		var b bytes.Buffer
		if _, err := out.Files[i].WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), out.Files[i].Name), b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// onnxUpdates makes an update for every weight, in its orientation as a site.
func onnxUpdates() []Update {
	r := rand.New(rand.NewPCG(3, 4))
	var list []Update
	for _, w := range onnxWeights {
		s := adapter.Site{Module: w.name, Weight: w.name, In: w.dims[0], Out: w.dims[1], Transposed: w.transposed}
		if w.transposed {
			s.In, s.Out = s.Out, s.In
		}
		d := &adapter.Delta{In: s.In, Out: s.Out, Scale: 0.5, R: 2, A: make([]float64, 2*s.In), B: make([]float64, 2*s.Out)}
		for _, x := range [][]float64{d.A, d.B} {
			for i := range x {
				x[i] = r.NormFloat64()
			}
		}
		list = append(list, FromDelta(adapter.NamedDelta{Site: s, Delta: d}))
	}
	return list
}

func TestMergeONNX(t *testing.T) {
	for name, limit := range map[string]int64{"internal": 0, "external": 2800} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "base", "m.onnx")
			if err := os.Mkdir(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			writeONNX(t, path, limit, nil)
			base := open(t, path)
			updates := onnxUpdates()
			p, err := NewPlan(base, []Source{{Name: "a", Weight: 2, Updates: updates}}, Options{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out")
			rep, err := p.Run(context.Background(), out, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Tensors) != 4 || rep.Copied != 1 || len(rep.Added) != 0 {
				t.Errorf("report %+v", rep)
			}
			merged := open(t, filepath.Join(out, "m.onnx"))
			if limit > 0 && len(merged.Files()) != 2 {
				t.Errorf("%d files", len(merged.Files()))
			}
			for _, u := range updates {
				checkMerged(t, base, merged, u, 2)
			}
			checkRest(t, base, merged)
		})
	}
}

// checkMerged compares with the sum in float64, rounded once.
func checkMerged(t *testing.T, base, merged *formats.Checkpoint, u Update, weight float64) {
	t.Helper()
	b, _ := base.Lookup(u.Site.Weight)
	m, ok := merged.Lookup(u.Site.Weight)
	if !ok {
		t.Fatalf("%s is gone", u.Site.Weight)
	}
	d, err := u.Delta()
	if err != nil {
		t.Fatal(err)
	}
	if u.Site.Transposed {
		d = d.Transpose()
	}
	w := make([]float64, b.Elements())
	if err := base.ReadF64(b, 0, b.Elements(), w); err != nil {
		t.Fatal(err)
	}
	for i, x := range d.Dense() {
		w[i] += weight * x
	}
	want := make([]byte, b.Bytes)
	if err := tensor.EncodeF64(want, w, b.DType); err != nil {
		t.Fatal(err)
	}
	got, err := merged.Bytes(m)
	if err != nil {
		t.Fatal(err)
	}
	if b.DType == tensor.F64 { // the reference itself has rounded more than once
		x := make([]float64, len(w))
		if err := tensor.DecodeF64(x, got, tensor.F64); err != nil {
			t.Fatal(err)
		}
		for i := range x {
			if diff := x[i] - w[i]; diff > 1e-14 || diff < -1e-14 {
				t.Fatalf("%s: element %d is %v, want %v", b.Name, i, x[i], w[i])
			}
		}
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: bytes differ from W + ΔW in %v", b.Name, b.DType)
	}
}

// checkRest compares every byte outside of the merged weights.
func checkRest(t *testing.T, base, merged *formats.Checkpoint) {
	t.Helper()
	for i, f := range base.Files() {
		a, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(merged.Files()[i].Path)
		if err != nil {
			t.Fatal(err)
		}
		if len(a) != len(b) {
			t.Fatalf("%s: %d bytes, merged %d", f.Path, len(a), len(b))
		}
		for _, w := range onnxWeights {
			if x, _ := base.Lookup(w.name); x.File == i {
				clear(a[x.Offset : x.Offset+x.Bytes])
				clear(b[x.Offset : x.Offset+x.Bytes])
			}
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: bytes outside of the merged weights changed", f.Path)
		}
	}
}

func TestMergeONNXToFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.onnx")
	writeONNX(t, path, 0, nil)
	base := open(t, path)
	p, err := NewPlan(base, []Source{{Name: "a", Weight: 1, Updates: onnxUpdates()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(context.Background(), filepath.Join(dir, "out.safetensors"), nil); err == nil || !strings.Contains(err.Error(), "onnx format") {
		t.Errorf("into a .safetensors file: %v", err)
	}
	out := filepath.Join(dir, "out.onnx")
	if _, err := p.Run(context.Background(), out, nil); err != nil {
		t.Fatal(err)
	}
	checkRest(t, base, open(t, out))
}

// TestMergeONNXRefused: what cannot be merged is refused by the plan, with the
// names of what stands in the way.
func TestMergeONNXRefused(t *testing.T) {
	node := func(n *onnx.Node) func(*onnx.Edit) { return func(e *onnx.Edit) { e.AddNode(n) } }
	cases := map[string]struct {
		more func(*onnx.Edit)
		o    Options
		want string
	}{
		"dtype":     {nil, Options{DType: tensor.BF16}, "leave out the dtype"},
		"shards":    {nil, Options{MaxShardSize: 1}, "leave out the shard size"},
		"undo":      {nil, Options{Reversible: true}, "keep the base"},
		"shared":    {node(&onnx.Node{Op: "Gather", Name: "embed", Inputs: []string{"c.weight", "x"}, Outputs: []string{"z"}}), Options{}, `tensor c.weight is shared by node "embed" (Gather) and, through other nodes, by layer enc.layer.2.dense`},
		"both ways": {node(&onnx.Node{Op: "Gemm", Name: "t", Inputs: []string{"x", "d.weight"}, Outputs: []string{"z"}, Attributes: []onnx.Attribute{onnx.IntAttr("transB", 1)}}), Options{}, "another layer transposed"},
		"alpha":     {node(&onnx.Node{Op: "Gemm", Name: "t", Inputs: []string{"x", "d.weight"}, Outputs: []string{"z"}, Attributes: []onnx.Attribute{onnx.FloatAttr("alpha", 2)}}), Options{}, "scaled by alpha"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.onnx")
			writeONNX(t, path, 0, c.more)
			_, err := NewPlan(open(t, path), []Source{{Name: "a", Weight: 1, Updates: onnxUpdates()}}, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("head", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "m.onnx")
		writeONNX(t, path, 0, nil)
		_, err := NewPlan(open(t, path), []Source{{Name: "a", Weight: 1, Head: []adapter.Tensor{{Name: "classifier.weight", Shape: []int{1}, Data: []float32{1}}}}}, Options{})
		if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "cannot be added to a graph") {
			t.Error(err)
		}
	})
}

// TestMergeONNXShared: a weight that an embedding reads too stays as it is, and
// the adapted layer reads a new one.
func TestMergeONNXShared(t *testing.T) {
	for name, limit := range map[string]int64{"internal": 0, "external": 2800} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "base", "m.onnx")
			if err := os.Mkdir(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			writeONNX(t, path, limit, func(e *onnx.Edit) {
				e.AddNode(&onnx.Node{Op: "Gather", Name: "embed", Inputs: []string{"d.weight", "x"}, Outputs: []string{"z"}})
				e.AddOutput(onnx.TensorInfo("d.weight", onnx.Double, 17, 13))
			})
			base := open(t, path)
			updates := onnxUpdates()
			out := filepath.Join(dir, "out")
			rep := mustMerge(t, base, []Source{{Name: "a", Weight: 2, Updates: updates}}, Options{}, out)
			if len(rep.Tensors) != 4 || rep.Copied != 2 || len(rep.Added) != 1 || rep.Added[0] != "d.weight.merged" || len(rep.Untied) != 2 {
				t.Errorf("report %+v", rep)
			}
			merged := open(t, filepath.Join(out, "m.onnx"))
			for _, u := range updates[:3] {
				checkMerged(t, base, merged, u, 2)
			}
			if !bytes.Equal(tensorBytes(t, merged, "d.weight"), tensorBytes(t, base, "d.weight")) {
				t.Error("the shared weight has changed")
			}
			if !bytes.Equal(tensorBytes(t, merged, "ints"), tensorBytes(t, base, "ints")) {
				t.Error("another tensor has changed")
			}
			w, want := values(t, merged, "d.weight.merged"), values(t, base, "d.weight")
			d, err := updates[3].Delta()
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range d.Dense() {
				if diff := w[i] - want[i] - 2*x; diff > 1e-14 || diff < -1e-14 {
					t.Fatalf("element %d is %v, want %v", i, w[i], want[i]+2*x)
				}
			}
			m, err := onnx.Open(filepath.Join(out, "m.onnx"))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for i := range m.Graph.Nodes {
				n := &m.Graph.Nodes[i]
				if n.Name == "/enc/layer.3/dense/MatMul" && n.Inputs[1] != "d.weight.merged" || n.Name == "embed" && n.Inputs[0] != "d.weight" {
					t.Errorf("%s reads %q", n.Name, n.Inputs)
				}
			}
		})
	}
}

// TestMergeONNXFaults makes every file operation fail: the output is whole or
// not there.
func TestMergeONNXFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.onnx")
	writeONNX(t, path, 2800, nil)
	base := open(t, path)
	src := []Source{{Name: "a", Weight: 1, Updates: onnxUpdates()}}
	good := filepath.Join(t.TempDir(), "good")
	mustMerge(t, base, src, Options{}, good)
	want := tree(t, good)
	for n := 1; ; n++ {
		f := &atomicfile.Faults{Under: atomicfile.OS, FailAt: n}
		out := filepath.Join(t.TempDir(), "out")
		p, err := NewPlan(base, src, Options{Workers: 1, FS: f})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Run(context.Background(), out, nil)
		if f.Failed() == "" {
			if err != nil || n < 10 {
				t.Errorf("%v after %d operations", err, n)
			}
			return
		}
		if err == nil {
			t.Errorf("operation %d (%s): no error", n, f.Failed())
		}
		if _, serr := os.Lstat(out); serr == nil {
			sameTree(t, f.Failed(), tree(t, out), want)
		}
	}
}
