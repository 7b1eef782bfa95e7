package onnxmodel_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestExportImport: a graph that was written here is read as the program that
// it was made of: its layers have the checkpoint's names, and it gives its
// logits.
func TestExportImport(t *testing.T) {
	for name, task := range map[string]model.Task{
		"bert": model.TaskClassification, "roberta": model.TaskClassification, "gpt2": model.TaskLM, "gpt2-cls": model.TaskClassification,
		"llama": model.TaskLM, "mistral": model.TaskLM, "qwen2": model.TaskClassification,
	} {
		t.Run(name, func(t *testing.T) {
			m := tiny(t, name)
			b, g := export(t, m, model.BuildOptions{Task: task})
			path := filepath.Join(t.TempDir(), "m.onnx")
			if _, err := onnxmodel.Write(g, onnx.NewEdit(g), path, onnxmodel.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			c, err := formats.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			again, err := onnxmodel.Open(c)
			if err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, s := range m.Sites() {
				if task == model.TaskLM || s.Module != "lm_head" {
					want = append(want, s.Module)
				}
			}
			for _, s := range again.Sites() {
				got = append(got, s.Module)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) {
				t.Errorf("layers %q became %q", want, got)
			}
			x, err := again.Build(model.BuildOptions{Task: task, FreezeHead: true, NumLabels: b.NumLabels})
			if err != nil {
				t.Fatal(err)
			}
			batch := packed(sequences, m.Config().TypeVocabSize > 1)
			testkit.Compare(t, "logits", runReference(t, x, x.Logits, batch), testkit.Float64s(runReference(t, b, b.Logits, batch)), 1e-6, 1e-6)
		})
	}
}
