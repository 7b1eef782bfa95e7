package onnxmodel

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryExport makes every case of testdata/gen_exports.py anew, with the
// exporters that the Python has, and compares the programs with ONNX Runtime.
func TestEveryExport(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers, onnx, onnxscript and onnxruntime")
	}
	dir := t.TempDir()
	cmd := exec.Command(python, filepath.Join("testdata", "gen_exports.py"), dir)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dirs, err := filepath.Glob(filepath.Join(dir, "*", "model.onnx"))
	if err != nil || len(dirs) < 40 {
		t.Fatalf("%d exports, %v\n%s", len(dirs), err, strings.TrimSpace(string(out)))
	}
	for _, d := range dirs {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) { openExported(t, filepath.Dir(d)).check(t) })
	}
}
