package onnxmodel_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// Connections around blocks are part of the exported graph.
func TestExportConnections(t *testing.T) {
	for dir, base := range map[string]string{"lor2c": "roberta", "lor2c_span": "roberta", "sharelor2c": "roberta", "lor2c_llama": "llama", "lor2c_gpt2": "gpt2"} {
		t.Run(dir, func(t *testing.T) {
			m := tiny(t, base)
			a, err := adapter.Load(filepath.Join(testkit.RepoRoot(t), "model", "testdata", "blocks", dir), m.Sites())
			if err != nil {
				t.Fatal(err)
			}
			o := model.BuildOptions{Task: model.TaskClassification, Adapter: a, FreezeHead: true}
			if base != "roberta" {
				o.Task = model.TaskLM
			}
			b, err := m.Build(o)
			if err != nil {
				t.Fatal(err)
			}
			x := onnxmodel.ExportOptions{Name: "test", Checkpoint: m.Checkpoint(), Weights: b.Weights, Params: b.Params, HeadInput: b.Hidden, Logits: b.Logits}
			g, err := onnxmodel.Export(b.Program, x)
			if err != nil {
				t.Fatal(err)
			}
			want := testkit.Float64s(runReference(t, b, b.Logits, packed(sequences, m.Config().TypeVocabSize > 1)))
			for _, front := range []bool{false, true} {
				got := evaluate(t, g, padded(sequences, front))[onnxmodel.OutLogits]
				testkit.Compare(t, fmt.Sprintf("padding at the front: %v", front), unpadded(got, sequences, front), want, 2e-6, 2e-6)
			}
			x.Params = x.Params[1:]
			if _, err := onnxmodel.Export(b.Program, x); err == nil {
				t.Error("a program was exported with too few parameters")
			}
		})
	}
}

// A product of two values has no form.
func TestExportRefusesProducts(t *testing.T) {
	b := graph.NewBuilder()
	x := b.Embed("x", []graph.WeightID{b.Weight("table", 4, 3, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	p := b.Param("p", []int{3, 3}, 3, 3)
	y := b.MatMul("y", x, b.Axpby("q", 2, p, 0, graph.None), false, false, 1, graph.None)
	b.Output(y)
	if _, err := onnxmodel.Export(b.P, onnxmodel.ExportOptions{Weights: ones{}, Params: make([]float32, 9), Hidden: y}); err == nil {
		t.Error("no error")
	}
}

// A trained head stands for the checkpoint's.
func TestExportHead(t *testing.T) {
	m := tiny(t, "bert")
	var head []adapter.Tensor
	for _, name := range []string{"classifier.weight", "classifier.bias"} {
		x, ok := m.Checkpoint().Lookup(name)
		if !ok {
			t.Fatalf("the checkpoint has no %s", name)
		}
		head = append(head, adapter.Tensor{Name: name, Shape: x.Shape, Data: float32s(number(size(x.Shape), 0.7))})
	}
	build := func(a *adapter.Adapter) *model.Built {
		b, err := m.Build(model.BuildOptions{Task: model.TaskClassification, Adapter: a, FreezeHead: true})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := build(&adapter.Adapter{Head: head})
	g, err := onnxmodel.Export(b.Program, onnxmodel.ExportOptions{Checkpoint: m.Checkpoint(), Weights: b.Weights, Head: head, HeadInput: b.Hidden, Logits: b.Logits})
	if err != nil {
		t.Fatal(err)
	}
	got := evaluate(t, g, padded(sequences, false))[onnxmodel.OutLogits]
	want := runReference(t, b, b.Logits, packed(sequences, true))
	testkit.Compare(t, "logits", unpadded(got, sequences, false), testkit.Float64s(want), 2e-6, 2e-6)
	old := build(nil)
	if d := runReference(t, old, old.Logits, packed(sequences, true))[0] - want[0]; d*d < 1e-4 {
		t.Errorf("the trained head changes a logit by %g", d)
	}
}
