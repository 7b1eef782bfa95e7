package model

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// logitsOf reads what testdata/gen_peft.py wrote beside an adapter.
func logitsOf(t testing.TB, dir string) []float32 {
	t.Helper()
	c, err := formats.Open(filepath.Join(dir, "logits.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, lib := range []string{"torch", "peft"} {
		if c.Metadata()[lib] == "" {
			t.Errorf("%s does not record the version of %s", dir, lib)
		}
	}
	x, ok := c.Lookup("logits")
	if !ok {
		t.Fatalf("%s has no logits", dir)
	}
	out := make([]float32, x.Elements())
	if err := c.ReadF32(x, 0, x.Elements(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// logits of a model with an adapter, or with nil alone, for its golden's batch.
func logits(t testing.TB, g *golden, e graph.Engine, a *adapter.Adapter) []float32 {
	t.Helper()
	task, _ := g.task(t)
	b := build(t, g.model, BuildOptions{Task: task, Adapter: a})
	return run(t, load(t, e, b, &g.batch), b.Program, &g.batch, b.Logits)
}

// Adapters that PEFT saved, and connections around blocks, give the logits that
// PyTorch computes with them.
func TestPEFTLogits(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join("testdata", "*", "*", "adapter_config.json"))
	if err != nil || len(dirs) < 15 {
		t.Fatalf("%d adapters in testdata, want at least 15 (%v)", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		for _, e := range engines {
			t.Run(filepath.Base(dir)+"/"+e.name, func(t *testing.T) {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var config struct {
					Base string `json:"base_model_name_or_path"`
				}
				if err := json.Unmarshal(b, &config); err != nil {
					t.Fatal(err)
				}
				g := openGolden(t, filepath.Join("testdata", config.Base))
				a, err := adapter.Load(dir, g.model.Sites())
				if err != nil {
					t.Fatal(err)
				}
				got := logits(t, g, e.engine, a)
				near(t, "logits", got, logitsOf(t, dir), cpuTolerance)
				if base := logits(t, g, e.engine, nil); fmt.Sprint(base) == fmt.Sprint(got) {
					t.Error("the adapter has no effect")
				}
			})
		}
	}
}

// method is an adapter to try: settings on a tiny checkpoint.
type method struct {
	name, base string
	config     adapter.Config
}

// methods lists every method, with its variants, on checkpoints of three families.
func methods(t testing.TB) []method {
	t.Helper()
	targets := map[string][]string{"roberta": {"query", "value", "intermediate.dense"}, "gpt2": {"c_attn", "mlp.c_proj"}, "llama": {"q_proj", "down_proj"}}
	var all []method
	add := func(name string, change func(*adapter.Config)) {
		for base, modules := range targets {
			s, err := adapter.Defaults(name, adapter.InitZero)
			if err != nil {
				t.Fatal(err)
			}
			c := adapter.Config{Settings: s, Targets: adapter.Targets{Modules: modules}, Seed: 3}
			if adapter.OnBlocks(name) {
				c.Targets = adapter.Targets{AllLinear: true}
			}
			if name == adapter.MethodKAdaptation {
				c.Targets.Modules, c.Terms = modules[:1], 4
			}
			label := name
			if change != nil {
				change(&c)
				label = fmt.Sprintf("%s %v %d", name, c.Init, c.HybridRank)
			}
			all = append(all, method{label, base, c})
		}
	}
	for _, name := range adapter.Methods() {
		add(name, nil)
	}
	add(adapter.MethodGraLoRA, func(c *adapter.Config) { c.HybridRank, c.Terms = 3, 4 })
	add(adapter.MethodLoRA, func(c *adapter.Config) { c.Init, c.Rank.R1, c.Scaling = adapter.InitPiSSA, 3, adapter.ScaleRSLoRA })
	add(adapter.MethodLoRA, func(c *adapter.Config) { c.Init, c.Rank.R1 = adapter.InitOLoRA, 4 })
	return all
}

// trained makes the adapter and moves all that is trained away from its start.
func (m *method) trained(t testing.TB, g *golden) *adapter.Adapter {
	t.Helper()
	a, err := adapter.New(g.model.Sites(), m.config, &decompose.Reader{Checkpoint: g.model.Checkpoint()})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for _, mod := range a.Modules {
		for i, s := range mod.Specs {
			for j := range mod.Tensors[i] {
				if !s.Frozen {
					mod.Tensors[i][j] += float32(rng.NormFloat64() / 8)
				}
			}
		}
	}
	return a
}

// A new adapter leaves the logits as they are: DoRA up to the rounding of
// m/‖W‖, PiSSA and OLoRA up to that of x A B - x A B.
func TestNewAdaptersChangeNothing(t *testing.T) {
	for _, m := range methods(t) {
		g := openGolden(t, filepath.Join("testdata", m.base))
		a, err := adapter.New(g.model.Sites(), m.config, &decompose.Reader{Checkpoint: g.model.Checkpoint()})
		if err != nil {
			t.Fatalf("%s on %s: %v", m.name, m.base, err)
		}
		near(t, m.name+" on "+m.base, logits(t, g, engines[1].engine, a), logits(t, g, engines[1].engine, nil), cpuTolerance)
	}
}

// Training step of every method: the CPU engine's loss and gradients are those of
// the reference engine, with dropout on.
func TestMethodsTrain(t *testing.T) {
	for _, m := range methods(t) {
		t.Run(m.name+"/"+m.base, func(t *testing.T) {
			g := openGolden(t, filepath.Join("testdata", m.base))
			m.config.Dropout = 0.2
			a := m.trained(t, g)
			task, _ := g.task(t)
			b := build(t, g.model, BuildOptions{Task: task, Adapter: a, Train: true})
			if err := graph.Differentiate(b.Program); err != nil {
				t.Fatal(err)
			}
			if n := b.Program.Untrained(); len(n) > 0 {
				t.Errorf("parameters without gradient: %v", n)
			}
			batch := g.batch
			batch.Train, batch.Seed, batch.Step = true, 7, 2
			var losses, grads [2][]float32
			for i, e := range engines {
				x := load(t, e.engine, b, &batch)
				losses[i] = run(t, x, b.Program, &batch, b.Program.Loss)
				grads[i] = make([]float32, b.Program.ParamSize)
				if err := x.Grads(grads[i]); err != nil {
					t.Fatal(err)
				}
			}
			near(t, "loss", losses[1], losses[0], cpuTolerance)
			near(t, "gradients", grads[1], grads[0], cpuTolerance)
		})
	}
}

// The programs that train and evaluate one adapter share their frozen weights,
// also where the adapter brings some along.
func TestProgramsShareWeights(t *testing.T) {
	for _, m := range methods(t) {
		g := openGolden(t, filepath.Join("testdata", m.base))
		a := m.trained(t, g)
		task, _ := g.task(t)
		train := build(t, g.model, BuildOptions{Task: task, Adapter: a, Train: true})
		eval := build(t, g.model, BuildOptions{Task: task, Adapter: a})
		if train.Weights != eval.Weights {
			t.Errorf("%s on %s: two sources", m.name, m.base)
		}
		if other := build(t, g.model, BuildOptions{Task: task, Adapter: m.trained(t, g)}); m.config.Init == adapter.InitPiSSA && other.Weights == eval.Weights {
			t.Error("two adapters share their frozen tensors")
		}
	}
}

// Every adapter comes back from its directory as it was.
func TestMethodsRoundTrip(t *testing.T) {
	for _, m := range methods(t) {
		g := openGolden(t, filepath.Join("testdata", m.base))
		a := m.trained(t, g)
		dir := filepath.Join(t.TempDir(), "a")
		if err := a.Save(dir, false); err != nil {
			t.Fatalf("%s on %s: %v", m.name, m.base, err)
		}
		back, err := adapter.Load(dir, g.model.Sites())
		if err != nil {
			t.Fatalf("%s on %s: %v", m.name, m.base, err)
		}
		if back.Init != a.Init || len(back.Modules) != len(a.Modules) {
			t.Errorf("%s on %s: %v of %d modules, was %v of %d", m.name, m.base, back.Init, len(back.Modules), a.Init, len(a.Modules))
		}
		for i, mod := range a.Modules {
			b := back.Modules[i]
			if b.Module != mod.Module || b.Scale() != mod.Scale() || b.Init != mod.Init || fmt.Sprint(b.Tensors) != fmt.Sprint(mod.Tensors) {
				t.Errorf("%s on %s: %s differs", m.name, m.base, mod.Module)
			}
		}
	}
}

// PEFT loads what is written for it without a warning and computes the same
// logits.
func TestExportsInPEFT(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has torch, transformers and peft")
	}
	type export struct {
		name, dir string
		want      []float32
	}
	var all []export
	exported := map[string]bool{}
	args := []string{filepath.Join("testdata", "gen_peft.py"), "logits"}
	for _, m := range methods(t) {
		form := adapter.FormLoRA
		switch m.config.Method {
		case adapter.MethodKronA, adapter.MethodKAdaptation, adapter.MethodLoR2C, adapter.MethodShareLoR2C:
			continue // of full rank, or no update of a weight
		case adapter.MethodGraLoRA:
			if m.config.HybridRank == 0 {
				form = adapter.FormGraLoRA
			}
		}
		exported[m.config.Method] = true
		path := filepath.Join("testdata", m.base)
		g := openGolden(t, path)
		a := m.trained(t, g)
		dir := filepath.Join(t.TempDir(), "peft")
		if err := adapter.ExportPEFT(a, dir, adapter.ExportOptions{Form: form}); err != nil {
			t.Fatal(err)
		}
		all = append(all, export{m.name + " on " + m.base, dir, logits(t, g, engines[1].engine, a)})
		args = append(args, path, dir)
	}
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range all {
		near(t, e.name, e.want, logitsOf(t, e.dir), cpuTolerance)
	}
	if len(exported) < 6 {
		t.Errorf("exported %v", exported)
	}
}
