package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestONNXLive merges PEFT adapters into models that torch exports, one of them
// with a weight shared by an embedding and the adapted layer, and compares ONNX
// Runtime's outputs with PEFT's.
func TestONNXLive(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers, peft, onnx and onnxruntime")
	}
	dir := t.TempDir()
	judge := func(what string) string {
		t.Helper()
		cmd := exec.Command(python, filepath.Join("testdata", "onnx_judge.py"), what, dir)
		cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, stderr.Bytes())
		}
		return string(out)
	}
	judge("make")
	for _, name := range []string{"bert", "tied"} {
		var out, err bytes.Buffer
		args := []string{"merge", filepath.Join(dir, "lora_"+name), "--model", filepath.Join(dir, name+".onnx"), "-o", filepath.Join(dir, "merged_"+name+".onnx")}
		if code := run(args, strings.NewReader(""), &out, &err); code != 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, err.String())
		}
	}
	lines := 0
	for line := range strings.Lines(judge("check")) {
		var name string
		var merged, base float64
		if _, err := fmt.Sscan(line, &name, &merged, &base); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines++
		t.Logf("%s: merged differs by %.2g, the base by %.2g", name, merged, base)
		if merged > 1e-4 || base < 1e-2 {
			t.Errorf("%s: merged differs by %g, the base by %g", name, merged, base)
		}
	}
	if lines != 2 {
		t.Errorf("%d models were judged", lines)
	}
}
