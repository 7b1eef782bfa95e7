package model

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// referenceTolerance is for the float64 reference engine against float64
// PyTorch: what remains is the float32 in which the goldens are written and in
// which transformers computes RMS norms and rotary angles.
const referenceTolerance = 3e-6

// cpuTolerance is for float32 throughout, of the largest element.
const cpuTolerance = 2e-5

// golden is one case of testdata/gen_models.py.
type golden struct {
	model *Model
	file  *formats.Checkpoint
	meta  facts
	batch graph.Batch
}

// facts are what the generator recorded.
type facts struct {
	Model      string // directory, where it is not the golden's
	Task, Pool string
	Adapters   map[string]struct {
		Method        string
		R1, R2, Terms int
		Alpha         float64
	}
	Seed, Step uint64
	Versions   map[string]string
}

// engines are compared with the goldens.
var engines = []struct {
	name      string
	engine    graph.Engine
	tolerance float64
}{
	{"reference", reference.New(), referenceTolerance},
	{"cpu", cpuEngine(), cpuTolerance},
}

func cpuEngine() graph.Engine {
	e, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		panic(err)
	}
	return e
}

func openModel(t testing.TB, path string) *Model {
	t.Helper()
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	m, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// cases lists the directories that gen_models.py wrote.
func cases(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*", "golden.safetensors"))
	if err != nil || len(files) < 8 {
		t.Fatalf("%d goldens in testdata, want at least 8 (%v)", len(files), err)
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	sort.Strings(names)
	return names
}

func openGolden(t testing.TB, dir string) *golden {
	t.Helper()
	c, err := formats.Open(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	g := &golden{file: c}
	if err := json.Unmarshal([]byte(c.Metadata()["golden"]), &g.meta); err != nil {
		t.Fatal(err)
	}
	if g.meta.Model == "" {
		g.meta.Model = filepath.Join(dir, "model.safetensors")
	}
	g.model = openModel(t, g.meta.Model)
	g.batch = graph.Batch{IDs: g.ints(t, "ids"), CuSeqlens: g.ints(t, "cu_seqlens"), TypeIDs: g.ints(t, "types"),
		Rows: g.ints(t, "rows"), Labels: g.ints(t, "labels"), Targets: g.floats(t, "targets")}
	for s := 1; s < len(g.batch.CuSeqlens); s++ {
		for p := range g.batch.CuSeqlens[s] - g.batch.CuSeqlens[s-1] {
			g.batch.Positions = append(g.batch.Positions, p)
		}
	}
	g.batch.LossScale = 1 / float32(max(len(g.batch.Labels), len(g.batch.Targets)))
	return g
}

// floats reads a tensor of the golden file, nil where it is absent.
func (g *golden) floats(t testing.TB, name string) []float32 {
	t.Helper()
	x, ok := g.file.Lookup(name)
	if !ok {
		return nil
	}
	out := make([]float32, x.Elements())
	if err := g.file.ReadF32(x, 0, x.Elements(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// ints reads an I32 tensor.
func (g *golden) ints(t testing.TB, name string) []int32 {
	t.Helper()
	x, ok := g.file.Lookup(name)
	if !ok {
		return nil
	}
	b, err := g.file.Bytes(x)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]int32, x.Elements())
	for i := range out {
		out[i] = int32(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return out
}

// adapter makes the modules whose tensors the golden file holds.
func (g *golden) adapter(t testing.TB) *adapter.Adapter {
	t.Helper()
	a := &adapter.Adapter{}
	for _, s := range g.model.Sites() {
		meta, ok := g.meta.Adapters[s.Module]
		if !ok {
			continue
		}
		settings := adapter.Settings{Method: meta.Method, Rank: adapter.Rank{R1: meta.R1, R2: meta.R2}, Terms: max(meta.Terms, 1),
			Alpha: meta.Alpha, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero}
		kind, err := adapter.Lookup(meta.Method)
		if err != nil {
			t.Fatal(err)
		}
		specs, err := kind.Params(s, settings)
		if err != nil {
			t.Fatal(err)
		}
		mod := adapter.Module{Site: s, Settings: settings, Specs: specs}
		for _, p := range specs {
			x, ok := g.file.Lookup("param." + p.Name)
			if !ok || fmt.Sprint(x.Shape) != fmt.Sprint(p.Shape) {
				t.Fatalf("golden of %s has shape %v, the kind wants %v", p.Name, x.Shape, p.Shape)
			}
			mod.Tensors = append(mod.Tensors, g.floats(t, "param."+p.Name))
		}
		a.Modules = append(a.Modules, mod)
	}
	if len(a.Modules) != len(g.meta.Adapters) {
		t.Fatalf("sites for %d of the golden's modules %v", len(a.Modules), g.meta.Adapters)
	}
	return a
}

// withHead gives a the head that the checkpoint lacks.
func (g *golden) withHead(t testing.TB, a *adapter.Adapter) *adapter.Adapter {
	t.Helper()
	for _, x := range g.file.Tensors() {
		for _, name := range []string{"classifier.weight", "classifier.bias"} {
			if x.Name == "param."+filePrefix+name && !g.model.has(name) {
				a.Head = append(a.Head, adapter.Tensor{Name: name, Shape: x.Shape, Data: g.floats(t, x.Name)})
			}
		}
	}
	return a
}

func (g *golden) task(t testing.TB) (Task, Pool) {
	t.Helper()
	pools := map[string]Pool{"": PoolDefault, "mean": PoolMean}
	tasks := map[string]Task{"classification": TaskClassification, "regression": TaskRegression, "lm": TaskLM}
	task, ok := tasks[g.meta.Task]
	pool, ok2 := pools[g.meta.Pool]
	if !ok || !ok2 {
		t.Fatalf("golden of task %q and pool %q", g.meta.Task, g.meta.Pool)
	}
	return task, pool
}

// load compiles a program with its initial parameters.
func load(t testing.TB, e graph.Engine, b *Built, batch *graph.Batch) graph.Executable {
	t.Helper()
	x, err := e.Compile(b.Program, b.Weights, batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	if err := x.SetParams(b.Params); err != nil {
		t.Fatal(err)
	}
	return x
}

// run runs a batch and reads a value.
func run(t testing.TB, x graph.Executable, p *graph.Program, batch *graph.Batch, v graph.Value) []float32 {
	t.Helper()
	if err := x.Run(context.Background(), batch); err != nil {
		t.Fatal(err)
	}
	in := p.Info(v)
	out := make([]float32, in.Rows.Count(batch.Dims())*in.Cols)
	if err := x.Read(v, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// near fails unless got is want within tol of the largest element of want.
func near(t testing.TB, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s: the golden is empty", what)
	}
	var top float64
	for _, w := range want {
		top = max(top, math.Abs(float64(w)))
	}
	testkit.Compare(t, what, got, testkit.Float64s(want), tol*max(top, 1e-3), tol)
}

func build(t testing.TB, m *Model, o BuildOptions) *Built {
	t.Helper()
	b, err := m.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGoldens compares hidden states, logits, losses and all gradients with
// transformers and PyTorch's autograd.
func TestGoldens(t *testing.T) {
	for _, name := range cases(t) {
		for _, e := range engines {
			t.Run(name+"/"+e.name, func(t *testing.T) {
				g := openGolden(t, filepath.Join("testdata", name))
				if err := g.model.CheckAccounting(); err != nil {
					t.Error(err)
				}
				compareGolden(t, g, e.engine, e.tolerance)
			})
		}
	}
}

func compareGolden(t *testing.T, g *golden, e graph.Engine, tol float64) {
	task, pool := g.task(t)
	a := g.withHead(t, g.adapter(t))

	// Pooler and output layer are above the hidden states.
	features := &adapter.Adapter{}
	var outside []adapter.Module
	for _, m := range a.Modules {
		if m.Layer >= 0 {
			features.Modules = append(features.Modules, m)
		} else {
			outside = append(outside, m)
		}
	}
	b := build(t, g.model, BuildOptions{Task: TaskFeatures, Adapter: features})
	x := load(t, e, b, &g.batch)
	near(t, "hidden states", run(t, x, b.Program, &g.batch, b.Hidden), g.floats(t, "hidden"), tol)
	for _, m := range outside {
		if _, err := g.model.Build(BuildOptions{Task: TaskFeatures, Adapter: a}); err == nil {
			t.Errorf("features were built with an adapter on %s, which they do not compute", m.Site.Module)
		}
	}

	b = build(t, g.model, BuildOptions{Task: task, Adapter: a, Pool: pool})
	x = load(t, e, b, &g.batch)
	near(t, "logits", run(t, x, b.Program, &g.batch, b.Logits), g.floats(t, "logits"), tol)

	zero := 0.0
	b = build(t, g.model, BuildOptions{Task: task, Adapter: a, Pool: pool, Train: true, HiddenDropout: &zero, AttentionDropout: &zero})
	step(t, g, e, b, g.batch, "", tol)

	dropped := build(t, g.model, BuildOptions{Task: task, Adapter: a, Pool: pool, Train: true})
	if got, want := dropoutSites(dropped.Program), int(g.ints(t, "dropout.sites")[0]); got != want {
		t.Fatalf("%d dropout sites, transformers has %d", got, want)
	}
	batch := g.batch
	batch.Train = true
	if len(g.floats(t, "dropout.loss")) > 0 {
		batch.Seed, batch.Step = g.meta.Seed, g.meta.Step
		step(t, g, e, dropped, batch, "dropout.", tol)
	}
}

// step compares loss and gradients of one step.
func step(t *testing.T, g *golden, e graph.Engine, b *Built, batch graph.Batch, prefix string, tol float64) {
	t.Helper()
	if err := graph.Differentiate(b.Program); err != nil {
		t.Fatal(err)
	}
	if names := b.Program.Untrained(); len(names) > 0 {
		t.Errorf("parameters without gradient: %v", names)
	}
	x := load(t, e, b, &batch)
	near(t, prefix+"loss", run(t, x, b.Program, &batch, b.Program.Loss), g.floats(t, prefix+"loss"), tol)
	grads := make([]float32, b.Program.ParamSize)
	if err := x.Grads(grads); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range b.Program.Params {
		seen[p.Name] = true
		near(t, prefix+"gradient of "+p.Name, grads[p.Offset:p.Offset+p.Size], g.floats(t, prefix+"grad."+p.Name), tol)
	}
	for _, x := range g.file.Tensors() {
		if name, ok := strings.CutPrefix(x.Name, "param."); ok && !seen[name] {
			t.Errorf("golden parameter %s is not in the program", name)
		}
	}
}

func dropoutSites(p *graph.Program) int {
	n := 0
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Dropout:
			n++
		case *graph.Attention:
			if o.DropP > 0 {
				n++
			}
		}
	}
	return n
}

// TestGoldenVersions keeps the goldens' origin readable.
func TestGoldenVersions(t *testing.T) {
	for _, name := range cases(t) {
		g := openGolden(t, filepath.Join("testdata", name))
		for _, lib := range []string{"torch", "transformers", "safetensors"} {
			if g.meta.Versions[lib] == "" {
				t.Errorf("%s does not record the version of %s", name, lib)
			}
		}
	}
	if _, err := os.Stat(filepath.Join("testdata", "gen_models.py")); err != nil {
		t.Error(err)
	}
}
