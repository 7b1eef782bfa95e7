package onnxmodel_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestInjectShared puts fresh adapters into every model of the shared data that
// has a linear layer, as nodes and as inputs, and reads the results. With
// Python, onnx.checker must say the same of base and result, and ONNX Runtime
// give the same outputs, for an update of zero.
func TestInjectShared(t *testing.T) {
	dir := t.TempDir()
	var list strings.Builder
	models, injected, fused, old := 0, 0, 0, 0
	err := filepath.WalkDir(testkit.Shared(t, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".onnx" {
			return err
		}
		m, err := onnx.Open(path)
		if errors.Is(err, onnx.ErrMalformed) || errors.Is(err, onnx.ErrUnsupported) {
			return nil // formats/onnx tests what is refused
		}
		if err != nil {
			return err
		}
		defer m.Close()
		sites, _ := model.ONNXSites(m)
		if len(sites) == 0 {
			return nil
		}
		models++
		for _, c := range []struct {
			method string
			as     onnxmodel.Placement
			form   onnxmodel.Form
		}{{"lora", onnxmodel.AsNodes, ""}, {"lora", onnxmodel.AsInputs, ""}, {"lsr", onnxmodel.AsNodes, onnxmodel.FormKronecker}} {
			set, err := adapter.Defaults(c.method, adapter.InitZero)
			if err != nil {
				return err
			}
			a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{Regex: ".*"}}, nil)
			if err != nil {
				return err
			}
			in, err := onnxmodel.Inject(m, a, onnxmodel.InjectOptions{As: c.as, Form: c.form})
			switch {
			case err != nil && strings.Contains(err.Error(), "nothing can be added"):
				fused++
				continue
			case errors.Is(err, formats.ErrUnsupported):
				old++
				continue
			case err != nil:
				return fmt.Errorf("%s: %w", path, err)
			}
			injected++
			out := filepath.Join(dir, fmt.Sprint(injected))
			if _, err := onnxmodel.Write(m, in.Edit, out, onnxmodel.WriteOptions{}); err != nil {
				return err
			}
			out = filepath.Join(out, filepath.Base(path))
			open(t, out)
			fmt.Fprintf(&list, "%s\t%s\n", path, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d models with linear layers, %d results, %d fused, %d too old or not float", models, injected, fused, old)
	if models < 14 || injected < 2*models {
		t.Errorf("%d results of %d models", injected, models)
	}
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Log("LSRSURGEON_PYTHON does not name a Python that has onnx and onnxruntime: the results were not run")
		return
	}
	file := filepath.Join(dir, "list")
	if err := os.WriteFile(file, []byte(list.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, filepath.Join(testkit.RepoRoot(t), "formats", "onnx", "testdata", "judge.py"), file, "1e-5")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	done := ""
	for line := range strings.Lines(string(out)) {
		if bad, ok := strings.CutPrefix(line, "BAD\t"); ok {
			t.Error(bad)
		}
		if strings.HasPrefix(line, "DONE\t") {
			done = line
		}
	}
	var pairs, checked, ran int
	if _, err := fmt.Sscanf(done, "DONE\t%d\t%d\t%d", &pairs, &checked, &ran); err != nil || pairs != injected || checked < pairs/2 || ran < pairs/2 {
		t.Errorf("%q, %v", done, err)
	}
	t.Logf("%d results, %d valid, %d run", pairs, checked, ran)
}
