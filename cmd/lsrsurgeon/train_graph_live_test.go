package main

import (
	"context"
	"encoding/json"
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
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestTrainGraphLive trains adapters on graphs that torch exports, merges them,
// and wants ONNX Runtime's logits of the base to equal ours, and those of the merged graph
// ours of base and adapter.
func TestTrainGraphLive(t *testing.T) {
	py, base := python(t), miniLM(t)
	mrpc := testkit.Shared(t, "data", "tasks", "glue", "MRPC")
	lines := filepath.Join(t.TempDir(), "lines.txt")
	if err := os.WriteFile(lines, []byte(someText), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		family, exporter, target string
		task                     []string
	}{
		{"minilm", "torchscript", "query,value", []string{"--task", "mrpc", "--data", mrpc, "--limit", "48", "--max-length", "64"}},
		{"minilm", "dynamo", "all-linear", []string{"--task", "mrpc", "--data", mrpc, "--limit", "48", "--max-length", "64"}},
		{"gpt2", "torchscript", "c_attn,c_fc", []string{"--task", "lm", "--data", lines, "--max-length", "32"}},
		{"llama", "dynamo", "q_proj,v_proj,down_proj", []string{"--task", "lm", "--data", lines, "--max-length", "32"}},
	} {
		t.Run(c.family+"-"+c.exporter, func(t *testing.T) {
			dir := t.TempDir()
			p := func(n string) string { return filepath.Join(dir, n) }
			runPython(t, py, "export", c.family, c.exporter, base, p("base"))
			onnx := filepath.Join(p("base"), "model.onnx")
			mustRun(t, "inject", onnx, "-o", p("a"), "--target", c.target)
			mustRun(t, append([]string{"train", p("a"), "-o", p("run"), "--model", onnx, "--steps", "3", "--batch-size", "8", "--lr", "5e-3", "--quiet"}, c.task...)...)
			mustRun(t, append([]string{"eval", p("run"), "--quiet"}, c.task...)...)
			mustRun(t, "merge", p("run"), "-o", p("merged"), "--check", "--quiet")

			ck, err := formats.Open(onnx)
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			m, err := onnxmodel.Open(ck)
			if err != nil {
				t.Fatal(err)
			}
			ad, err := adapter.Load(p("run"), m.Sites())
			if err != nil {
				t.Fatal(err)
			}
			plain, adapted := graphLogits(t, m, nil), graphLogits(t, m, ad)
			compareLogits(t, "base", plain, ortLogits(t, py, onnx, dir))
			compareLogits(t, "merged", adapted, ortLogits(t, py, filepath.Join(p("merged"), "model.onnx"), dir))
			if moved := largest(plain, adapted); moved < 1e-3 {
				t.Errorf("training has changed the logits by %g only", moved)
			}
		})
	}
}

const someText = `Every morning the keeper of the lighthouse wrote down the height of the waves.
When the fog came in from the north he rang the bell once a minute.
Nobody in the village had ever seen the inside of the tower.
The boats that came home late were counted twice, and the lamp was lit before dusk.
A letter from the mainland took nine days, or eleven when the ferry was repaired.
On the last page of the book he had drawn a map of the rocks.
`

func runPython(t *testing.T, py string, args ...string) {
	t.Helper()
	cmd := exec.Command(py, append([]string{filepath.Join("testdata", "train_graph.py")}, args...)...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// graphBatch are a few sequences of different lengths.
func graphBatch() *graph.Batch {
	b := &graph.Batch{CuSeqlens: []int32{0}, LossScale: 1}
	for s, n := range []int{7, 1, 23, 12} {
		for i := range n {
			b.IDs = append(b.IDs, int32(1000+(s*97+i*31)%20000))
			b.TypeIDs = append(b.TypeIDs, int32(2*i/n))
			b.Positions = append(b.Positions, int32(i))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
	}
	return b
}

// graphLogits runs a graph's program on graphBatch.
func graphLogits(t *testing.T, m *onnxmodel.Model, ad *adapter.Adapter) []float32 {
	t.Helper()
	o := model.BuildOptions{Task: model.TaskClassification, Adapter: ad}
	if m.CausalLM() {
		o.Task = model.TaskLM
	}
	b, err := m.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	batch := graphBatch()
	x, err := e.Compile(b.Program, b.Weights, batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(b.Params); err != nil {
		t.Fatal(err)
	}
	if err := x.Run(context.Background(), batch); err != nil {
		t.Fatal(err)
	}
	in := b.Program.Info(b.Logits)
	out := make([]float32, in.Rows.Count(batch.Dims())*in.Cols)
	if err := x.Read(b.Logits, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// ortLogits runs a graph in ONNX Runtime on graphBatch, a sequence at a time.
func ortLogits(t *testing.T, py, onnx, dir string) []float64 {
	t.Helper()
	b := graphBatch()
	var sequences [][2][]int32
	for s := 1; s < len(b.CuSeqlens); s++ {
		lo, hi := b.CuSeqlens[s-1], b.CuSeqlens[s]
		sequences = append(sequences, [2][]int32{b.IDs[lo:hi], b.TypeIDs[lo:hi]})
	}
	in, out := filepath.Join(dir, "ids.json"), filepath.Join(dir, "logits.json")
	data, err := json.Marshal(sequences)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, data, 0o666); err != nil {
		t.Fatal(err)
	}
	runPython(t, py, "run", onnx, in, out)
	if data, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	var logits [][]float64
	if err := json.Unmarshal(data, &logits); err != nil {
		t.Fatal(err)
	}
	var flat []float64
	for _, l := range logits {
		flat = append(flat, l...)
	}
	return flat
}

func compareLogits(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	testkit.Compare(t, "logits of the "+what, got, want, 1e-4, 0)
	worst := 0.0
	for i := range got {
		worst = max(worst, math.Abs(float64(got[i])-want[i]))
	}
	t.Logf("%s: largest difference of %d logits from ONNX Runtime's %.3g", what, len(got), worst)
}

func largest(a, b []float32) float64 {
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i])-float64(b[i])))
	}
	return d
}
