package onnxmodel

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var everyExport = flag.Bool("every", false, "have TestEveryExport make all cases, not all of the TorchScript exporter's and a few of the dynamo exporter's, which takes ten times as long for one")

// TestEveryExport makes the cases of testdata/gen_exports.py anew, with the
// exporters that the Python has, and compares the programs with ONNX Runtime. Of
// the dynamo exporter's cases those that are in no committed file stand for the
// others, unless -every is given.
func TestEveryExport(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers, onnx, onnxscript and onnxruntime")
	}
	dir := t.TempDir()
	args, want := []string{filepath.Join("testdata", "gen_exports.py"), dir}, 42
	if !*everyExport {
		args, want = append(args, "--sample"), 25
	}
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dirs, err := filepath.Glob(filepath.Join(dir, "*", "model.onnx"))
	if err != nil || len(dirs) != want {
		t.Fatalf("%d exports of %d, %v\n%s", len(dirs), want, err, strings.TrimSpace(string(out)))
	}
	for _, d := range dirs {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) { openExported(t, filepath.Dir(d)).check(t) })
	}
}
