package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// TestGraphsLive puts adapters into graphs, those that torch exports and those
// written here, as nodes of either form, as inputs, and merged, and wants ONNX
// Runtime to give our logits of base and adapter.
func TestGraphsLive(t *testing.T) {
	py := python(t)
	judge := func(t *testing.T, args ...string) {
		t.Helper()
		cmd := exec.Command(py, append([]string{filepath.Join("testdata", "graph_judge.py")}, args...)...)
		cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	tiny := filepath.Join(testkit.RepoRoot(t), "model", "testdata")
	for _, c := range []struct {
		name, base, class, targets string
		task                       model.Task
	}{
		{"minilm", miniLM(t), "AutoModelForSequenceClassification", "query,value", model.TaskClassification},
		{"gpt2", filepath.Join(tiny, "gpt2"), "AutoModelForCausalLM", "c_attn,c_fc", model.TaskLM},
		{"llama", filepath.Join(tiny, "llama"), "AutoModelForCausalLM", "q_proj,v_proj,down_proj", model.TaskLM},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := func(n string) string { return filepath.Join(dir, n) }
			mustRun(t, "inject", c.base, "-o", p("start"), "--init", "paper", "--target", c.targets)
			run := p("start")
			if c.task == model.TaskClassification { // with a head
				run = p("run")
				trainAway(t, p("start"), run)
			}
			judge(t, "export", c.base, c.class, p("torch.onnx"))
			mustRun(t, "merge", run, "-o", p("merged"), "--dtype", "f32", "--quiet") // the tiny Llama is bf16
			graphs := []string{}
			for name, args := range map[string][]string{
				"merged":          {"convert", p("merged"), "--to", "onnx"},
				"nodes":           {"convert", run, "--to", "onnx"},
				"kronecker":       {"convert", run, "--to", "onnx", "--form", "kronecker"},
				"inputs":          {"convert", run, "--to", "onnx", "--as", "inputs"},
				"torch-nodes":     {"convert", run, "--to", "onnx", "--model", p("torch.onnx"), "--names-from", c.base},
				"torch-kronecker": {"convert", run, "--to", "onnx", "--model", p("torch.onnx"), "--names-from", c.base, "--form", "kronecker"},
				"torch-inputs":    {"convert", run, "--to", "onnx", "--model", p("torch.onnx"), "--names-from", c.base, "--as", "inputs"},
			} {
				mustRun(t, append(args, "-o", p(name+".onnx"))...)
				g := name + ":" + p(name+".onnx")
				if name == "inputs" || name == "torch-inputs" {
					to := []string{"convert", run, "--to", "onnx-adapter", "-o", p(name + ".onnx_adapter")}
					if name == "torch-inputs" {
						to = append(to, "--model", p("torch.onnx"), "--names-from", c.base)
					}
					mustRun(t, to...)
					graphs = append(graphs, name+"-without:"+p(name+".onnx"))
					g += ":" + p(name+".onnx_adapter")
				}
				graphs = append(graphs, g)
			}
			ids := [][]int32{{5, 9, 11, 4, 7, 3, 20}, {8}, {3, 21, 22, 6}}
			b, err := json.Marshal(ids)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p("ids.json"), b, 0o666); err != nil {
				t.Fatal(err)
			}
			judge(t, append([]string{"run", p("ids.json"), p("out.json")}, graphs...)...)
			var got map[string][][]float64
			if err := json.Unmarshal(readAll(t, p("out.json")), &got); err != nil {
				t.Fatal(err)
			}
			with, without := ourLogits(t, c.base, run, c.task, ids, true), ourLogits(t, c.base, run, c.task, ids, false)
			if d := furthest(with, without); d < 1e-3 {
				t.Errorf("the adapter changes the outputs by %g", d)
			}
			for name, y := range got {
				want := with
				switch name {
				case "inputs-without":
					want = without
				case "torch-inputs-without":
					if c.task == model.TaskClassification {
						continue // torch's head is random
					}
					want = without
				}
				d := furthest(y, want)
				t.Logf("%s: ONNX Runtime differs by %.2g", name, d)
				if d > 1e-4 || math.IsNaN(d) {
					t.Errorf("%s: ONNX Runtime differs by %g", name, d)
				}
			}
			if len(got) != 9 {
				t.Errorf("%d graphs were judged", len(got))
			}
		})
	}
}

// trainAway trains an adapter and a head for a few steps.
func trainAway(t *testing.T, ad, out string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "train.jsonl")
	var lines []byte
	for i := range 16 {
		lines = fmt.Appendf(lines, `{"text": "sentence number %d", "label": "%s"}`+"\n", i, []string{"no", "yes"}[i%2])
	}
	if err := os.WriteFile(data, lines, 0o666); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "train", ad, "-o", out, "--task", "classification", "--data", data, "--text-column", "text", "--steps", "4", "--batch-size", "8", "--quiet")
}

// ourLogits runs base and adapter, or the base with the adapter's head if modules
// is false, or the base alone if ad is "", on the CPU engine: the logits of each
// sequence.
func ourLogits(t *testing.T, base, ad string, task model.Task, ids [][]int32, modules bool) [][]float64 {
	t.Helper()
	ck, err := formats.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	m, err := model.Open(ck)
	if err != nil {
		t.Fatal(err)
	}
	o := model.BuildOptions{Task: task}
	if ad != "" {
		if o.Adapter, err = adapter.Load(ad, m.Sites()); err != nil {
			t.Fatal(err)
		}
		if !modules {
			o.Adapter.Modules = nil
		}
	}
	b, err := m.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]float64
	for _, s := range ids {
		batch := &graph.Batch{CuSeqlens: []int32{0, int32(len(s))}, IDs: s}
		for i := range s {
			batch.Positions = append(batch.Positions, int32(i))
		}
		exe, err := e.Compile(b.Program, b.Weights, batch.Dims())
		if err != nil {
			t.Fatal(err)
		}
		defer exe.Close()
		in := b.Program.Info(b.Logits)
		out := make([]float32, in.Rows.Count(batch.Dims())*in.Cols)
		for _, f := range []func() error{
			func() error { return exe.SetParams(b.Params) }, func() error { return exe.Run(context.Background(), batch) }, func() error { return exe.Read(b.Logits, out) },
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		rows = append(rows, testkit.Float64s(out))
	}
	return rows
}
