package onnxmodel

import (
	"context"
	"hash/fnv"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// builder makes programs.
type builder interface {
	Build(model.BuildOptions) (*model.Built, error)
	Sites() []adapter.Site
}

// bare is a name without the module that the export wraps the model in.
func bare(name string) string {
	name = strings.TrimPrefix(name, "base_model.model.")
	for _, p := range []string{"model.bert.", "model.classifier.", "model.roberta.", "model.transformer.", "model.score.", "model.lm_head", "model.model."} {
		if strings.HasPrefix(name, p) {
			return strings.TrimPrefix(name, "model.")
		}
	}
	return name
}

// randomAdapter adapts the targets; its values depend on the bare names alone.
func randomAdapter(t testing.TB, b builder, layers string) *adapter.Adapter {
	t.Helper()
	s, err := adapter.Defaults(adapter.MethodLSR, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	target := adapter.Targets{AllLinear: true}
	if layers != "" {
		if target.Layers, err = adapter.ParseLayers(layers); err != nil {
			t.Fatal(err)
		}
	}
	a, err := adapter.New(b.Sites(), adapter.Config{Settings: s, Targets: target, Seed: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Modules {
		m := &a.Modules[i]
		for k, spec := range m.Specs {
			h := fnv.New64a()
			h.Write([]byte(bare(spec.Name)))
			x := h.Sum64()
			for j := range m.Tensors[k] {
				x = x*6364136223846793005 + 1442695040888963407
				m.Tensors[k][j] = float32(int32(x>>32)) / (1 << 31) / 8
			}
		}
	}
	return a
}

// gradients runs a training step and returns the loss and the gradient of each
// parameter by its bare name.
func gradients(t testing.TB, e graph.Engine, b *model.Built, batch graph.Batch) (float64, map[string][]float32) {
	t.Helper()
	p := b.Program
	if err := graph.Differentiate(p); err != nil {
		t.Fatal(err)
	}
	x, err := e.Compile(p, b.Weights, batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(b.Params); err != nil {
		t.Fatal(err)
	}
	if err := x.Run(context.Background(), &batch); err != nil {
		t.Fatal(err)
	}
	loss, flat := make([]float32, 1), make([]float32, p.ParamSize)
	if err := x.Read(p.Loss, loss); err != nil {
		t.Fatal(err)
	}
	if err := x.Grads(flat); err != nil {
		t.Fatal(err)
	}
	out := map[string][]float32{}
	for _, par := range p.Params {
		out[bare(par.Name)] = flat[par.Offset : par.Offset+par.Size]
	}
	return float64(loss[0]), out
}

// withLabels gives the batch what a task needs.
func withLabels(batch graph.Batch, lm bool) graph.Batch {
	if !lm {
		for s := range len(batch.CuSeqlens) - 1 {
			batch.Labels = append(batch.Labels, int32(s%2))
		}
	} else {
		for s := 1; s < len(batch.CuSeqlens); s++ {
			for r := batch.CuSeqlens[s-1]; r < batch.CuSeqlens[s]-1; r++ {
				batch.Rows, batch.Labels = append(batch.Rows, r), append(batch.Labels, batch.IDs[r+1])
			}
		}
	}
	batch.LossScale = 1 / float32(len(batch.Labels))
	return batch
}

// trainOptions is training without dropout.
func trainOptions(lm bool, a *adapter.Adapter) model.BuildOptions {
	zero := 0.0
	o := model.BuildOptions{Task: model.TaskClassification, Adapter: a, Train: true, HiddenDropout: &zero, AttentionDropout: &zero}
	if lm {
		o.Task = model.TaskLM
	}
	return o
}

// names counts operations by name.
func names(p *graph.Program) map[string]int {
	n := map[string]int{}
	for _, op := range p.Ops {
		n[op.Name()]++
	}
	return n
}

// TestGradients compares loss and gradients of every adapter tensor and of the
// head with the program of the checkpoint that was exported, and wants the same
// operations.
func TestGradients(t *testing.T) {
	for export, family := range map[string]string{
		"bert-torchscript-eager": "bert", "bert-dynamo-sdpa": "bert", "bert-dynamo-opset23": "bert", "roberta-torchscript-sdpa": "roberta",
		"gpt2-torchscript-eager": "gpt2", "gpt2-classifier-torchscript-sdpa": "gpt2-classifier", "llama-dynamo-eager": "llama",
		"llama-dynamo-opset23": "llama", "mistral-dynamo-sdpa": "mistral",
	} {
		t.Run(export, func(t *testing.T) {
			e := openExported(t, filepath.Join("testdata", "exports", export))
			m, err := Open(e.ck)
			if err != nil {
				t.Fatal(err)
			}
			c, err := formats.Open(filepath.Join("testdata", "exports", family))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ref, err := model.Open(c)
			if err != nil {
				t.Fatal(err)
			}
			batch := withLabels(e.batch, m.CausalLM())
			if family == "roberta" || family == "gpt2-classifier" {
				batch.TypeIDs = nil
			}
			got, want := stepOf(t, m, m.CausalLM(), batch), stepOf(t, ref, m.CausalLM(), batch)
			testkit.Compare(t, "loss", []float32{float32(got.loss)}, []float64{want.loss}, 1e-6, 1e-5)
			if len(got.grads) != len(want.grads) || len(got.grads) < 10 {
				t.Fatalf("%d parameters, the checkpoint's program has %d", len(got.grads), len(want.grads))
			}
			for name, w := range want.grads {
				if got.grads[name] == nil {
					t.Errorf("no parameter %s", name)
					continue
				}
				top := float64(max(slices.Max(w), -slices.Min(w)))
				testkit.Compare(t, name, got.grads[name], testkit.Float64s(w), 1e-4*top, 1e-4)
			}
			if !slices.Equal(got.layers, want.layers) {
				t.Errorf("layers begin at operations %v, the checkpoint's at %v", got.layers, want.layers)
			}
			for op, n := range want.ops {
				if got.ops[op] != n {
					t.Errorf("%d operations %s, the checkpoint's program has %d", got.ops[op], op, n)
				}
			}
		})
	}
}

type trainingStep struct {
	loss  float64
	grads map[string][]float32
	ops   map[string]int
	// layers are the operations at which layers begin.
	layers []int
}

func stepOf(t testing.TB, b builder, lm bool, batch graph.Batch) trainingStep {
	t.Helper()
	built, err := b.Build(trainOptions(lm, randomAdapter(t, b, "")))
	if err != nil {
		t.Fatal(err)
	}
	ops := names(built.Program)
	s := trainingStep{ops: ops, layers: built.Program.Layers}
	s.loss, s.grads = gradients(t, reference.New(), built, batch)
	return s
}

// TestCut runs a graph in two programs, as the cache of a frozen prefix does.
func TestCut(t *testing.T) {
	for _, export := range []string{"bert-torchscript-eager", "bert-fused", "gpt2-torchscript-eager", "llama-dynamo-opset23"} {
		t.Run(export, func(t *testing.T) {
			e := openExported(t, filepath.Join("testdata", "exports", export))
			m, err := Open(e.ck)
			if err != nil {
				t.Fatal(err)
			}
			below, err := m.Build(model.BuildOptions{Task: model.TaskFeatures, Until: 1})
			if err != nil {
				t.Fatal(err)
			}
			batch := e.batch
			batch.Inputs = runProgram(t, below, &batch, below.Hidden)
			o := trainOptions(m.CausalLM(), randomAdapter(t, m, "1"))
			whole, err := m.Build(o)
			if err != nil {
				t.Fatal(err)
			}
			o.From = 1
			above, err := m.Build(o)
			if err != nil {
				t.Fatal(err)
			}
			if len(above.Program.Ops) >= len(whole.Program.Ops) {
				t.Errorf("%d operations above the cut, %d in all", len(above.Program.Ops), len(whole.Program.Ops))
			}
			batch = withLabels(batch, m.CausalLM())
			loss, grads := gradients(t, engine(t), above, batch)
			wantLoss, want := gradients(t, engine(t), whole, batch)
			if loss != wantLoss {
				t.Errorf("loss %v above the cut, %v in all", loss, wantLoss)
			}
			for name, g := range want {
				if !slices.Equal(g, grads[name]) {
					t.Errorf("the gradient of %s differs", name)
				}
			}
		})
	}
}
