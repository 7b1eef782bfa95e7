package onnxmodel

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// exported is a graph with what ONNX Runtime computes of it.
type exported struct {
	dir    string
	ck     *formats.Checkpoint
	golden *formats.Checkpoint
	batch  graph.Batch
}

func openExported(t testing.TB, dir string) *exported {
	t.Helper()
	e := &exported{dir: dir}
	var err error
	if e.ck, err = formats.Open(filepath.Join(dir, "model.onnx")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.ck.Close() })
	if e.golden, err = formats.Open(filepath.Join(dir, "golden.safetensors")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.golden.Close() })
	e.batch = graph.Batch{IDs: e.ints(t, "ids"), TypeIDs: e.ints(t, "types"), CuSeqlens: e.ints(t, "cu_seqlens"), LossScale: 1}
	for s := 1; s < len(e.batch.CuSeqlens); s++ {
		for p := range e.batch.CuSeqlens[s] - e.batch.CuSeqlens[s-1] {
			e.batch.Positions = append(e.batch.Positions, p)
		}
	}
	return e
}

func (e *exported) ints(t testing.TB, name string) []int32 {
	t.Helper()
	x, ok := e.golden.Lookup(name)
	if !ok {
		t.Fatalf("golden.safetensors has no %s", name)
	}
	b, err := e.golden.Bytes(x)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return out
}

func (e *exported) floats(t testing.TB, name string) []float64 {
	t.Helper()
	x, ok := e.golden.Lookup(name)
	if !ok {
		t.Fatalf("golden.safetensors has no %s", name)
	}
	out := make([]float64, x.Elements())
	if err := e.golden.ReadF64(x, 0, x.Elements(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func engine(t testing.TB) graph.Engine {
	t.Helper()
	e, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// runProgram runs a program and reads v.
func runProgram(t testing.TB, b *model.Built, batch *graph.Batch, v graph.Value) []float32 {
	t.Helper()
	x, err := engine(t).Compile(b.Program, b.Weights, batch.Dims())
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
	in := b.Program.Info(v)
	out := make([]float32, in.Rows.Count(batch.Dims())*in.Cols)
	if err := x.Read(v, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (e *exported) check(t *testing.T) {
	m, err := Open(e.ck)
	if err != nil {
		t.Fatal(err)
	}
	o, want := model.BuildOptions{Task: model.TaskClassification}, "logits"
	switch _, hidden := e.golden.Lookup("last_hidden_state"); {
	case hidden:
		o.Task, want = model.TaskFeatures, "last_hidden_state"
	case m.CausalLM():
		o.Task = model.TaskLM
	}
	b, err := m.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	v := b.Logits
	if o.Task == model.TaskFeatures {
		v = b.Hidden
	}
	testkit.Compare(t, want, runProgram(t, b, &e.batch, v), e.floats(t, want), 1e-5, 1e-4)
}

// TestLogits compares the programs of every committed export with ONNX Runtime.
func TestLogits(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join("testdata", "exports", "*", "model.onnx"))
	if err != nil || len(dirs) < 12 {
		t.Fatalf("%d exports, %v", len(dirs), err)
	}
	for _, d := range dirs {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) { openExported(t, filepath.Dir(d)).check(t) })
	}
}
