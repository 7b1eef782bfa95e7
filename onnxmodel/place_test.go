package onnxmodel_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// withData writes a model of one initializer "w" of 600 floats, each byte of them
// b, with its data in files beside it, and returns its path.
func withData(t *testing.T, dir string, b byte) string {
	t.Helper()
	e := onnx.NewGraph("g", "test", "1", 8, []onnx.Opset{{Version: 17}})
	e.AddInput(onnx.TensorInfo("x", onnx.Float, "batch", 2))
	e.AddOutput(onnx.TensorInfo("y", onnx.Float, "batch", 300))
	e.AddNode(&onnx.Node{Op: "MatMul", Inputs: []string{"x", "w"}, Outputs: []string{"y"}})
	e.AddInitializer(onnx.NewTensor("w", onnx.Float, []int{2, 300}, bytes.Repeat([]byte{b}, 2400)))
	plan, err := e.Plan("model.onnx", 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range plan.Files {
		var data bytes.Buffer
		if _, err := plan.Files[i].WriteTo(&data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, plan.Files[i].Name), data.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "model.onnx")
}

// weight is the byte that w of a model consists of.
func weight(t *testing.T, path string) byte {
	t.Helper()
	m := open(t, path)
	b, err := m.Data(m.Graph.Initializer("w"))
	if err != nil || len(b) != 2400 || len(bytes.Trim(b, string(b[:1]))) > 0 {
		t.Fatalf("%s: %d bytes, %v", path, len(b), err)
	}
	return b[0]
}

func listed(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestPlace: the data have the model's name, never that of a file that is there,
// and those of a model that is replaced go unless another one uses them.
func TestPlace(t *testing.T) {
	dir, stage := t.TempDir(), t.TempDir()
	out := filepath.Join(dir, "x.onnx")
	place := func(b byte, replace bool) ([]string, error) {
		return onnxmodel.Place(withData(t, filepath.Join(stage, fmt.Sprint(b)), b), out, replace, nil)
	}
	files, err := place(1, false)
	if err != nil || !slices.Equal(files, []string{"x.onnx", "x.onnx.data"}) || weight(t, out) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	if _, err := place(2, false); !errors.Is(err, atomicfile.ErrExists) || weight(t, out) != 1 {
		t.Fatalf("over an existing model: %v", err)
	}
	if _, err := place(3, true); err != nil || weight(t, out) != 3 || listed(t, dir) != "x.onnx x.onnx.1.data" {
		t.Fatalf("replaced: %s, %v", listed(t, dir), err)
	}
	shared, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other.onnx"), shared, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := place(4, true); err != nil || weight(t, out) != 4 || weight(t, filepath.Join(dir, "other.onnx")) != 3 {
		t.Fatalf("with data that another model uses: %s, %v", listed(t, dir), err)
	}
	if got := listed(t, dir); got != "other.onnx x.onnx x.onnx.1.data x.onnx.data" {
		t.Errorf("files %s", got)
	}
}

// TestPlaceFaults makes every file operation fail, as an error and as a kill: the
// old model, the new one, or none where there was none, with its data.
func TestPlaceFaults(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for _, old := range []bool{false, true} {
			n := 1
			for ; ; n++ {
				dir := t.TempDir()
				out := filepath.Join(dir, "x.onnx")
				if old {
					if _, err := onnxmodel.Place(withData(t, filepath.Join(dir, "old"), 1), out, false, nil); err != nil {
						t.Fatal(err)
					}
				}
				f := &atomicfile.Faults{Under: atomicfile.OS, FailAt: n, Crash: crash}
				staged := withData(t, filepath.Join(dir, ".x.onnx.parts"), 2)
				_, err := onnxmodel.Place(staged, out, old, f)
				if f.Failed() == "" {
					if err != nil || weight(t, out) != 2 {
						t.Errorf("without a fault: %v", err)
					}
					break
				}
				if err == nil {
					t.Errorf("operation %d (%s): no error", n, f.Failed())
				}
				if _, serr := os.Lstat(out); serr != nil {
					if old {
						t.Errorf("operation %d (%s): the old model is gone", n, f.Failed())
					}
					if got := listed(t, dir); !crash && strings.Contains(got, "x.onnx.data") {
						t.Errorf("operation %d (%s): %s is left", n, f.Failed(), got)
					}
					continue
				}
				if w := weight(t, out); w != 1 && w != 2 || w == 1 && !old {
					t.Errorf("operation %d (%s): weights %d", n, f.Failed(), w)
				}
			}
			if n < 7 {
				t.Errorf("only %d operations", n)
			}
		}
	}
}
