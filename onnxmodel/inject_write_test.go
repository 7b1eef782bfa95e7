package onnxmodel_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestWrite: external data stay external, in a directory of their own or shared
// with the base model.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	m := layers(t, filepath.Join(dir, "whole.onnx"), 8, 17)
	plan, err := onnx.NewEdit(m).Plan("m.onnx", 1000)
	if err == nil {
		t.Fatalf("%d files of a model without large weights", len(plan.Files))
	}
	base := tiny(t, "bert")
	_, g := export(t, base, model.BuildOptions{Task: model.TaskClassification})
	src := filepath.Join(dir, "src")
	if _, err := onnxmodel.Write(g, onnx.NewEdit(g), src, onnxmodel.WriteOptions{Limit: 30_000, Carry: []string{filepath.Join(base.Checkpoint().Dir(), "config.json")}}); err != nil {
		t.Fatal(err)
	}
	x := open(t, filepath.Join(src, "model.onnx"))
	sites, _ := model.ONNXSites(x)
	set, err := adapter.Defaults("lsr", adapter.InitPaper)
	if err != nil {
		t.Fatal(err)
	}
	a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{Modules: []string{"query", "value"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in, err := onnxmodel.Inject(x, a, onnxmodel.InjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	w, err := onnxmodel.Write(x, in.Edit, out, onnxmodel.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.Files, []string{"model.onnx.data", "model.onnx"}) && !slices.Equal(w.Files, []string{"model.onnx", "model.onnx.data"}) {
		t.Errorf("files %q", w.Files)
	}
	inputs := padded(sequences, false)
	want := merged(t, x, a, inputs)[onnxmodel.OutLogits]
	for _, path := range []string{filepath.Join(out, "model.onnx"), filepath.Join(src, "beside.onnx"), filepath.Join(dir, "alone.onnx")} {
		if filepath.Dir(path) != out {
			w, err := onnxmodel.Write(x, in.Edit, path, onnxmodel.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Dir(path) == dir && !slices.Equal(w.Files, []string{"alone.onnx", "alone.onnx.data"}) {
				t.Errorf("files %q", w.Files)
			}
		}
		got := evaluate(t, open(t, path), inputs)[onnxmodel.OutLogits]
		testkit.Compare(t, path, float32s(got.data), want.data, 1e-5, 1e-5)
	}
	if _, err := onnxmodel.Write(x, in.Edit, filepath.Join(dir, "alone.onnx"), onnxmodel.WriteOptions{}); !errors.Is(err, atomicfile.ErrExists) {
		t.Errorf("over an existing model with data: %v", err)
	}
	if _, err := onnxmodel.Write(x, in.Edit, out, onnxmodel.WriteOptions{}); !errors.Is(err, atomicfile.ErrExists) {
		t.Errorf("over an existing directory: %v", err)
	}
	if _, err := onnxmodel.Write(x, in.Edit, filepath.Join(src, "beside.onnx"), onnxmodel.WriteOptions{}); !errors.Is(err, atomicfile.ErrExists) {
		t.Errorf("over an existing file: %v", err)
	}
}

// TestWriteFaults makes every file operation fail: the output is whole or not
// there.
func TestWriteFaults(t *testing.T) {
	m := layers(t, filepath.Join(t.TempDir(), "m.onnx"), 8, 17)
	in, err := onnxmodel.Inject(m, adapted(t, m, "lora", 0), onnxmodel.InjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := open(t, withData(t, t.TempDir(), 1))
	for _, name := range []string{"out.onnx", "out", "data.onnx"} {
		for n := 1; ; n++ {
			f := &atomicfile.Faults{Under: atomicfile.OS, FailAt: n}
			out := filepath.Join(t.TempDir(), name)
			m, e := m, in.Edit
			if name == "data.onnx" {
				m, e = data, onnx.NewEdit(data)
			}
			_, err := onnxmodel.Write(m, e, out, onnxmodel.WriteOptions{FS: f})
			if f.Failed() == "" {
				if err != nil || n < 4 {
					t.Errorf("%s: %v after %d operations", name, err, n)
				}
				break
			}
			if err == nil {
				t.Errorf("%s: operation %d (%s): no error", name, n, f.Failed())
			}
			if _, serr := os.Lstat(out); serr == nil {
				if name == "out" {
					out = filepath.Join(out, "m.onnx")
				}
				open(t, out)
			}
		}
	}
}
