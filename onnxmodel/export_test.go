package onnxmodel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// tiny is one of model's test checkpoints.
func tiny(t *testing.T, name string) *model.Model {
	t.Helper()
	c, err := formats.Open(filepath.Join(testkit.RepoRoot(t), "model", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	m, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// export builds a program and writes it as a graph.
func export(t *testing.T, m *model.Model, o model.BuildOptions) (*model.Built, *onnx.Model) {
	t.Helper()
	o.FreezeHead = true
	b, err := m.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	x := onnxmodel.ExportOptions{Name: "test", Checkpoint: m.Checkpoint(), Weights: b.Weights, HeadInput: b.Hidden, Logits: b.Logits}
	if b.Logits == graph.None {
		x.Hidden = b.Hidden
	}
	g, err := onnxmodel.Export(b.Program, x)
	if err != nil {
		t.Fatal(err)
	}
	return b, g
}

// sequences are token ids of several lengths, one longer than mistral's window.
var sequences = [][]int32{{5, 9, 11, 4, 7}, {8}, {3, 20, 21, 22, 6, 12, 14, 3, 9}}

// packed is a batch of sequences without padding.
func packed(rows [][]int32, types bool) *graph.Batch {
	b := &graph.Batch{CuSeqlens: []int32{0}}
	for _, r := range rows {
		for i := range r {
			b.Positions = append(b.Positions, int32(i))
			if types {
				b.TypeIDs = append(b.TypeIDs, int32(i%2))
			}
		}
		b.IDs = append(b.IDs, r...)
		if !types {
			b.TypeIDs = make([]int32, len(b.IDs))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
	}
	return b
}

// runReference runs a program in float64.
func runReference(t *testing.T, b *model.Built, v graph.Value, batch *graph.Batch) []float32 {
	t.Helper()
	exe, err := reference.New().Compile(b.Program, b.Weights, batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	in := b.Program.Info(v)
	out := make([]float32, in.Rows.Count(batch.Dims())*in.Cols)
	for _, f := range []func() error{
		func() error { return exe.SetParams(b.Params) },
		func() error { return exe.Run(context.Background(), batch) },
		func() error { return exe.Read(v, out) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// padded are the inputs of a graph for sequences, with padding at the end or at
// the front.
func padded(rows [][]int32, front bool) map[string]array {
	n := 0
	for _, r := range rows {
		n = max(n, len(r))
	}
	in := map[string]array{}
	for _, name := range []string{onnxmodel.InputIDs, onnxmodel.InputMask, onnxmodel.InputTypes} {
		a := array{[]int{len(rows), n}, make([]float64, len(rows)*n)}
		for i, r := range rows {
			at := i * n
			if front {
				at += n - len(r)
			}
			for j, id := range r {
				a.data[at+j] = map[string]float64{onnxmodel.InputIDs: float64(id), onnxmodel.InputMask: 1, onnxmodel.InputTypes: float64(j % 2)}[name]
			}
		}
		in[name] = a
	}
	return in
}

// unpadded are the rows of a padded result that stand for tokens.
func unpadded(y array, rows [][]int32, front bool) []float32 {
	var out []float32
	per := len(y.data) / len(rows)
	for i, r := range rows {
		part := y.data[i*per : (i+1)*per]
		if len(y.dims) == 3 {
			w := y.dims[2]
			if front {
				part = part[(y.dims[1]-len(r))*w:]
			}
			part = part[:len(r)*w]
		}
		for _, v := range part {
			out = append(out, float32(v))
		}
	}
	return out
}

// TestExport compares graphs of every family and head with the float64 engine,
// with padding on either side.
func TestExport(t *testing.T) {
	for _, c := range []struct {
		model string
		o     model.BuildOptions
	}{
		{"bert", model.BuildOptions{Task: model.TaskClassification}},
		{"bert", model.BuildOptions{Task: model.TaskFeatures}},
		{"bert", model.BuildOptions{Task: model.TaskRegression, Pool: model.PoolMean}},
		{"bert-bare", model.BuildOptions{Task: model.TaskFeatures}},
		{"roberta", model.BuildOptions{Task: model.TaskClassification}},
		{"gpt2", model.BuildOptions{Task: model.TaskLM}},
		{"gpt2-cls", model.BuildOptions{Task: model.TaskClassification}},
		{"llama", model.BuildOptions{Task: model.TaskLM}},
		{"llama", model.BuildOptions{Task: model.TaskFeatures}},
		{"mistral", model.BuildOptions{Task: model.TaskLM}},
		{"qwen2", model.BuildOptions{Task: model.TaskClassification}},
		{"qwen3", model.BuildOptions{Task: model.TaskLM}},
		{"qwen3", model.BuildOptions{Task: model.TaskFeatures}},
		{"qwen2", model.BuildOptions{Task: model.TaskRegression, NumLabels: 3}},
	} {
		t.Run(fmt.Sprintf("%s-%v", c.model, c.o.Task), func(t *testing.T) {
			m := tiny(t, c.model)
			b, g := export(t, m, c.o)
			of, name := b.Logits, onnxmodel.OutLogits
			if of == graph.None {
				of, name = b.Hidden, onnxmodel.OutHidden
			}
			want := testkit.Float64s(runReference(t, b, of, packed(sequences, m.Config().TypeVocabSize > 1)))
			for _, front := range []bool{false, true} {
				got := evaluate(t, g, padded(sequences, front))[name]
				testkit.Compare(t, fmt.Sprintf("padding at the front: %v", front), unpadded(got, sequences, front), want, 2e-6, 2e-6)
			}
		})
	}
}

// TestExportWeights: the initializers are the checkpoint's tensors, names,
// types, shapes and bytes, and no weight is there twice.
func TestExportWeights(t *testing.T) {
	for name, o := range map[string]model.BuildOptions{"gpt2": {Task: model.TaskLM}, "bert": {Task: model.TaskClassification}} {
		m := tiny(t, name)
		_, g := export(t, m, o)
		found := 0
		for _, u := range m.Checkpoint().Tensors() {
			x := g.Graph.Initializer(u.Name)
			if x == nil {
				continue
			}
			found++
			want, err := m.Checkpoint().Bytes(u)
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.Data(x)
			if err != nil || !bytes.Equal(got, want) || fmt.Sprint(x.Dims) != fmt.Sprint(u.Shape) {
				t.Errorf("%s: %v, bytes are the same: %v, %v", u.Name, x.Dims, bytes.Equal(got, want), err)
			}
		}
		if found < 20 {
			t.Errorf("%s: %d weights found", name, found)
		}
		for i := range g.Graph.Initializers {
			x := &g.Graph.Initializers[i]
			if _, ok := m.Checkpoint().Lookup(x.Name); !ok && !strings.HasPrefix(x.Name, "/constant/") {
				t.Errorf("initializer %s is not of the checkpoint", x.Name)
			}
		}
		sites := map[string]bool{}
		for _, s := range m.Sites() {
			sites[s.Module] = true
		}
		for _, l := range g.Linears() {
			if !sites[l.Module] {
				t.Errorf("the graph's layer %s is none of the model's", l.Module)
			}
			delete(sites, l.Module)
		}
		if len(sites) > 0 {
			t.Errorf("%s: the graph lacks the layers %v", name, sites)
		}
	}
}

// TestExportRefuses: programs with operations of adapters name them.
func TestExportRefuses(t *testing.T) {
	b := graph.NewBuilder()
	x := b.Embed("e", []graph.WeightID{b.Weight("word", 4, 2, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	y := b.MatMul("delta", x, b.Param("p", []int{2, 2}, 2, 2), false, false, 1, graph.None)
	b.Output(y)
	_, err := onnxmodel.Export(b.P, onnxmodel.ExportOptions{Hidden: y, Weights: ones{}})
	if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "matmul") {
		t.Errorf("a matrix product with a parameter: %v", err)
	}
	_, err = onnxmodel.Export(b.P, onnxmodel.ExportOptions{Hidden: y})
	if !errors.Is(err, formats.ErrNotFound) || !strings.Contains(err.Error(), "word") {
		t.Errorf("a missing weight: %v", err)
	}
}

// ones is a source of weights that are all 1.
type ones struct{}

func (ones) ReadRows(_ *graph.Weight, _, _ int, dst []float32) error {
	for i := range dst {
		dst[i] = 1
	}
	return nil
}

// TestExportLong writes a graph that is over the limit: the weights move to a
// file beside it, and the graph computes the same.
func TestExportLong(t *testing.T) {
	m := tiny(t, "bert")
	b, g := export(t, m, model.BuildOptions{Task: model.TaskClassification})
	out := filepath.Join(t.TempDir(), "out")
	w, err := onnxmodel.Write(g, onnx.NewEdit(g), out, onnxmodel.WriteOptions{Limit: 30_000})
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Files) != 2 || len(w.Notes) != 1 || !strings.Contains(w.Notes[0], "model.onnx.data") {
		t.Errorf("files %q, notes %q", w.Files, w.Notes)
	}
	again, err := onnx.Open(filepath.Join(out, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Size > 30_000 {
		t.Errorf("%d bytes are over the limit", again.Size)
	}
	want := testkit.Float64s(runReference(t, b, b.Logits, packed(sequences, true)))
	got := evaluate(t, again, padded(sequences, false))[onnxmodel.OutLogits]
	testkit.Compare(t, "logits", unpadded(got, sequences, false), want, 2e-6, 2e-6)

	// As a file, with a name for its data that is not taken.
	out = filepath.Join(t.TempDir(), "m.onnx")
	if err := os.WriteFile(out+".data", []byte("another's"), 0o666); err != nil {
		t.Fatal(err)
	}
	w, err = onnxmodel.Write(g, onnx.NewEdit(g), out, onnxmodel.WriteOptions{Limit: 30_000})
	if err != nil || !slices.Equal(w.Files, []string{"m.onnx", "m.onnx.1.data"}) || !strings.HasSuffix(w.Notes[0], "in m.onnx.1.data") {
		t.Fatalf("%+v, %v", w, err)
	}
	got = evaluate(t, open(t, out), padded(sequences, false))[onnxmodel.OutLogits]
	testkit.Compare(t, "logits of the file", unpadded(got, sequences, false), want, 2e-6, 2e-6)
}
