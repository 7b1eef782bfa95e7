package onnxmodel_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestInjectExportsLive puts adapters into the graphs of several exporters and
// operator sets, and wants ONNX Runtime to give the outputs of the merged model.
func TestInjectExportsLive(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has onnx and onnxruntime")
	}
	paths, err := filepath.Glob(filepath.Join("testdata", "exports", "*", "model.onnx"))
	if err != nil || len(paths) < 8 {
		t.Fatalf("%d exports, %v", len(paths), err)
	}
	dir := t.TempDir()
	args := []string{filepath.Join("testdata", "pairs_judge.py")}
	for _, path := range paths {
		ck, err := formats.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, path)
		sites, _ := model.ONNXSites(m)
		for _, o := range []onnxmodel.InjectOptions{{}, {Form: onnxmodel.FormKronecker}} {
			a := startled(t, sites)
			in, err := onnxmodel.Inject(m, a, o)
			if err != nil {
				if strings.Contains(path, "fused") && strings.Contains(err.Error(), "nothing can be added") {
					continue
				}
				t.Fatalf("%s: %v", path, err)
			}
			nodes, sum := filepath.Join(dir, fmt.Sprint(len(args), ".onnx")), filepath.Join(dir, fmt.Sprint(len(args), "m.onnx"))
			if _, err := onnxmodel.Write(m, in.Edit, nodes, onnxmodel.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			src, err := merge.FromAdapter(a, 1)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := merge.NewPlan(ck, []merge.Source{src}, merge.Options{})
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if _, err := plan.Run(context.Background(), sum, nil); err != nil {
				t.Fatal(err)
			}
			args = append(args, path+":"+sum+":"+nodes)
		}
		if err := ck.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(args)-1 || len(lines) < 16 {
		t.Fatalf("%d graphs of %d were judged", len(lines), len(args)-1)
	}
	for i, line := range lines {
		name := filepath.Base(filepath.Dir(strings.Split(args[i+1], ":")[0]))
		if line == "-" && name == "llama-dynamo-opset23" {
			t.Logf("%s: ONNX Runtime does not run the base", name)
			continue
		}
		var apart, changed, largest float64
		if _, err := fmt.Sscan(line, &apart, &changed, &largest); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		t.Logf("%s: differs from the merged model by %.2g, the base by %.2g", name, apart, changed)
		if apart > 1e-4 || changed < 100*apart {
			t.Errorf("%s: differs from the merged model by %g, the base by %g, of %g", name, apart, changed, largest)
		}
	}
}

// startled is an LSR adapter with an update that is seen in the outputs.
func startled(t *testing.T, sites []adapter.Site) *adapter.Adapter {
	t.Helper()
	set, err := adapter.Defaults("lsr", adapter.InitPaper)
	if err != nil {
		t.Fatal(err)
	}
	a, err := adapter.New(sites, adapter.Config{Settings: set, Targets: adapter.Targets{Regex: ".*"}, Seed: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
