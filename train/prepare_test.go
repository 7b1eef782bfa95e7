package train

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// openModel opens a checkpoint of the repository.
func openModel(t *testing.T, elems ...string) *model.Model {
	t.Helper()
	c, err := formats.Open(filepath.Join(append([]string{testkit.RepoRoot(t)}, elems...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := model.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newAdapter(t *testing.T, m *model.Model, method string, targets ...string) *adapter.Adapter {
	t.Helper()
	s, err := adapter.Defaults(method, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	a, err := adapter.New(m.Sites(), adapter.Config{Settings: s, Targets: adapter.Targets{Modules: targets}, Seed: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestTrainedAdapterEvaluatesTheSameAfterLoading trains adapters of real
// families, loads what the run wrote and evaluates it: the metrics are those
// that the run reported.
func TestTrainedAdapterEvaluatesTheSameAfterLoading(t *testing.T) {
	for _, c := range []struct {
		name, method string
		kind         task.Kind
		model        []string
		targets      []string
		freeze       bool
	}{
		{"bert, two classes", adapter.MethodLSR, task.Classification, []string{"model", "testdata", "bert"}, []string{"query", "value"}, false},
		{"bert, one number", adapter.MethodLoRA, task.Regression, []string{"model", "testdata", "bert"}, []string{"query", "value"}, false},
		{"bert, frozen head", adapter.MethodLSR, task.Classification, []string{"model", "testdata", "bert"}, []string{"query", "value"}, true},
		{"llama", adapter.MethodLSR, task.LM, []string{"model", "testdata", "llama"}, []string{"q_proj", "v_proj"}, false},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			m := openModel(t, c.model...)
			a := newAdapter(t, m, c.method, c.targets...)
			raw := job(t, c.kind, 0)
			j, err := Prepare(m, a, raw.Spec, model.BuildOptions{ResetHead: true, FreezeHead: c.freeze})
			if err != nil {
				t.Fatal(err)
			}
			again, err := Prepare(m, a, raw.Spec, model.BuildOptions{ResetHead: true, FreezeHead: c.freeze})
			if err != nil {
				t.Fatal(err)
			}
			if programHash(j.Train.Program) != programHash(again.Train.Program) || valuesHash(j.Train.Params) != valuesHash(again.Train.Params) {
				t.Error("building the program twice gives two programs: no run could be resumed")
			}
			j.Engine, j.Data, j.EvalData, j.EvalExamples = cpuEngine(t, 2), raw.Data, raw.EvalData, raw.EvalExamples
			o := options(filepath.Join(t.TempDir(), "run"))
			o.LR, o.Metric = 2e-3, task.MetricLoss
			res := runJob(t, j, o)

			loaded, err := adapter.Load(o.Dir, m.Sites())
			if err != nil {
				t.Fatal(err)
			}
			if loaded.TaskType != taskType(c.kind) {
				t.Errorf("task type %q", loaded.TaskType)
			}
			net, err := EvalNet(m, loaded, raw.Spec, model.BuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
			// Batches of another size: only the order of sums differs.
			v, err := NewEvaluator(j.Engine, net, raw.EvalData, task.BatchOptions{Size: 5})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			out, err := v.Run(context.Background(), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := task.Score(raw.Spec, raw.EvalExamples, out)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range res.Metrics {
				if !testkit.Near(got[i].Value, want.Value, 1e-6, 1e-5) {
					t.Errorf("%s is %v, the run reported %v", want.Name, got[i].Value, want.Value)
				}
			}

			// Training left the adapter that it started from as it was.
			for _, mod := range a.Modules {
				zero := mod.Tensors[len(mod.Tensors)-1]
				for _, x := range zero {
					if x != 0 {
						t.Fatalf("%s: the starting values were changed", mod.Module)
					}
				}
			}
			if len(a.Head) != 0 {
				t.Error("the starting adapter gained a head")
			}
		})
	}
}

// TestAdaptedStories adapts the small Llama in the tree to other text with its
// own tokenizer and expects it to get better at held-out text of that kind.
func TestAdaptedStories(t *testing.T) {
	root := testkit.RepoRoot(t)
	dir := filepath.Join(root, "testdata", "stories260k")
	m := openModel(t, "testdata", "stories260k")
	spec, err := task.Lookup("lm")
	if err != nil {
		t.Fatal(err)
	}
	tok := storiesTokenizer(t, dir)
	var sets [2]*task.Dataset
	for i, file := range []string{"demo_train.txt", "demo_eval.txt"} {
		data, err := task.Read(spec, filepath.Join(dir, file), task.Train, task.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if sets[i], err = task.NewDataset(context.Background(), tok, data, task.DatasetOptions{Pack: true, MaxLength: 128, EOS: []int32{2}}); err != nil {
			t.Fatal(err)
		}
	}
	j, err := Prepare(m, newAdapter(t, m, adapter.MethodLSR, "q_proj", "v_proj", "o_proj"), spec, model.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j.Engine, j.Data, j.EvalData = cpuEngine(t, 2), sets[0], sets[1]
	o := Options{Dir: filepath.Join(t.TempDir(), "run"), Steps: 12, Batch: task.BatchOptions{Size: 4}, LR: 1e-2, Warmup: 0.1, Clip: 1, Schedule: Cosine}
	v, err := NewEvaluator(j.Engine, j.Eval, sets[1], task.BatchOptions{Size: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	before, err := v.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m0, err := task.Score(spec, nil, before)
	if err != nil {
		t.Fatal(err)
	}
	res := runJob(t, j, o)
	start, end := valueOf(m0, task.MetricPerplexity), valueOf(res.Metrics, task.MetricPerplexity)
	t.Logf("perplexity from %.2f to %.2f", start, end)
	if !(end < 0.9*start) || math.IsInf(start, 0) {
		t.Errorf("perplexity from %v to %v", start, end)
	}
}
