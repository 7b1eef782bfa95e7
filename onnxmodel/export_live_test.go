package onnxmodel_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestExportLive exports the tiny checkpoints of every family and has
// onnx.checker accept the graphs, and ONNX Runtime compute what transformers does.
func TestExportLive(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers, onnx and onnxruntime")
	}
	heads := map[model.Task]string{model.TaskFeatures: "none", model.TaskClassification: "classification", model.TaskLM: "lm"}
	args := []string{filepath.Join("testdata", "export_judge.py")}
	external := 0
	for _, c := range []struct {
		model string
		task  model.Task
	}{
		{"bert", model.TaskClassification}, {"bert", model.TaskFeatures}, {"bert-bare", model.TaskFeatures},
		{"roberta", model.TaskClassification}, {"gpt2", model.TaskLM}, {"gpt2", model.TaskFeatures}, {"gpt2-cls", model.TaskClassification},
		{"llama", model.TaskLM}, {"llama", model.TaskFeatures}, {"mistral", model.TaskLM}, {"qwen2", model.TaskClassification},
		{"qwen3", model.TaskLM},
	} {
		m := tiny(t, c.model)
		_, g := export(t, m, model.BuildOptions{Task: c.task})
		out := t.TempDir()
		w, err := onnxmodel.Write(g, onnx.NewEdit(g), out, onnxmodel.WriteOptions{Replace: true, Limit: 45_000}) // most have external data
		if err != nil {
			t.Fatal(err)
		}
		external += len(w.Files) - 1
		out = filepath.Join(out, "model.onnx")
		args = append(args, m.Checkpoint().Dir()+":"+heads[c.task]+":"+out)
	}
	if external < 5 {
		t.Errorf("%d models have external data", external)
	}
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != len(args)-1 {
		t.Fatalf("%d models of %d were judged:\n%s", len(lines), len(args)-1, b)
	}
	for i, line := range lines {
		var head string
		var worst, largest float64
		if _, err := fmt.Sscan(line, &head, &worst, &largest); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		name := filepath.Base(strings.Split(args[i+1], ":")[0])
		t.Logf("%s, %s: ONNX Runtime differs from transformers by %.2g of %.2g", name, head, worst, largest)
		if worst > 1e-4 || largest < 0.1 {
			t.Errorf("%s, %s: differs by %g of %g", name, head, worst, largest)
		}
	}
}
