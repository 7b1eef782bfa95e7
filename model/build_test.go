package model

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// modules makes an adapter of LoRAs on the sites whose module ends in one of
// the suffixes.
func modules(t *testing.T, m *Model, suffixes ...string) *adapter.Adapter {
	t.Helper()
	a := &adapter.Adapter{}
	settings, err := adapter.Defaults(adapter.MethodLoRA, adapter.InitPaper)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := adapter.Lookup(adapter.MethodLoRA)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range m.Sites() {
		if !slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(s.Module, x) }) {
			continue
		}
		specs, err := kind.Params(s, settings)
		if err != nil {
			t.Fatal(err)
		}
		tensors, err := kind.Init(s, settings, adapter.Source{Seed: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Modules = append(a.Modules, adapter.Module{Site: s, Settings: settings, Specs: specs, Tensors: tensors})
	}
	if len(a.Modules) == 0 {
		t.Fatalf("no site ends in %v", suffixes)
	}
	return a
}

// linears counts the linear operations by their number of rows.
func linears(p *graph.Program) map[graph.RowsKind]int {
	n := map[graph.RowsKind]int{}
	for _, op := range p.Ops[:p.Forward] {
		if l, ok := op.(*graph.Linear); ok {
			n[p.Info(l.Y).Rows.Kind]++
		}
	}
	return n
}

// TestLastLayerComputesOnlyTheRowsThatAreRead: of two layers of a BERT, the
// second computes key and value for all tokens, the rest for the first token.
func TestLastLayerComputesOnlyTheRowsThatAreRead(t *testing.T) {
	for _, c := range []struct {
		name string
		o    BuildOptions
		want map[graph.RowsKind]int
	}{
		{"bert", BuildOptions{Task: TaskClassification}, map[graph.RowsKind]int{graph.Tokens: 8, graph.Seqs: 4 + 1}},
		{"bert", BuildOptions{Task: TaskClassification, Pool: PoolMean}, map[graph.RowsKind]int{graph.Tokens: 12}},
		{"bert-bare", BuildOptions{Task: TaskClassification}, map[graph.RowsKind]int{graph.Tokens: 12}}, // no pooler: the mean
		{"bert", BuildOptions{Task: TaskFeatures}, map[graph.RowsKind]int{graph.Tokens: 12}},
		{"roberta", BuildOptions{Task: TaskRegression, FreezeHead: true}, map[graph.RowsKind]int{graph.Tokens: 8, graph.Seqs: 4 + 2}},
		{"qwen2", BuildOptions{Task: TaskClassification}, map[graph.RowsKind]int{graph.Tokens: 9, graph.Seqs: 5}},
		{"llama", BuildOptions{Task: TaskLM, Loss: true}, map[graph.RowsKind]int{graph.Tokens: 10, graph.Picked: 4}},
		{"llama", BuildOptions{Task: TaskLM}, map[graph.RowsKind]int{graph.Tokens: 15}},
		{"llama", BuildOptions{Task: TaskLM, LogitsRows: graph.PickLast}, map[graph.RowsKind]int{graph.Tokens: 9, graph.Seqs: 6}},
		{"gpt2", BuildOptions{Task: TaskLM, Loss: true}, map[graph.RowsKind]int{graph.Tokens: 5, graph.Picked: 3}},
	} {
		b := build(t, openModel(t, filepath.Join("testdata", c.name)), c.o)
		if got := linears(b.Program); len(got) != len(c.want) || got[graph.Tokens] != c.want[graph.Tokens] || got[graph.Seqs] != c.want[graph.Seqs] || got[graph.Picked] != c.want[graph.Picked] {
			t.Errorf("%s, %v: linear operations by rows %v, want %v", c.name, c.o.Task, got, c.want)
		}
		if err := graph.Validate(b.Program); err != nil {
			t.Error(err)
		}
	}
}

// TestPickedRowsEqualAllRows: logits of picked tokens are the same rows of all
// logits.
func TestPickedRowsEqualAllRows(t *testing.T) {
	for _, name := range []string{"llama", "mistral", "gpt2"} {
		g := openGolden(t, filepath.Join("testdata", name))
		a := g.adapter(t)
		logits := func(pick graph.Pick) []float32 {
			b := build(t, g.model, BuildOptions{Task: TaskLM, Adapter: a, LogitsRows: pick})
			return run(t, load(t, reference.New(), b, &g.batch), b.Program, &g.batch, b.Logits)
		}
		all, vocab := logits(graph.PickAll), g.model.Config().VocabSize
		var last, rows []float32
		for _, end := range g.batch.CuSeqlens[1:] {
			last = append(last, all[(int(end)-1)*vocab:int(end)*vocab]...)
		}
		for _, r := range g.batch.Rows {
			rows = append(rows, all[int(r)*vocab:(int(r)+1)*vocab]...)
		}
		near(t, name+": last tokens", logits(graph.PickLast), last, 1e-6)
		near(t, name+": picked tokens", logits(graph.PickRows), rows, 1e-6)
	}
}

func TestBuildRefuses(t *testing.T) {
	bert, llama := openModel(t, filepath.Join("testdata", "bert")), openModel(t, filepath.Join("testdata", "llama"))
	other := modules(t, bert, "layer.0.attention.self.query")
	other.Modules[0].In = 48
	unknown := modules(t, llama, "layers.0.mlp.up_proj")
	long := modules(t, bert, "layer.0.attention.self.query")
	long.Modules[0].Tensors[0] = long.Modules[0].Tensors[0][1:]
	bad := 1.5
	for _, c := range []struct {
		what  string
		model *Model
		o     BuildOptions
		words string
	}{
		{"a language model of an encoder", bert, BuildOptions{Task: TaskLM}, "not a causal language model"},
		{"a loss of features", bert, BuildOptions{Task: TaskFeatures, Train: true}, "no loss"},
		{"a module of another model", bert, BuildOptions{Adapter: unknown}, "no such linear layer"},
		{"a module of another size", bert, BuildOptions{Adapter: other}, "(48, 24)"},
		{"a tensor of another size", bert, BuildOptions{Adapter: long}, "elements"},
		{"an adapted head that is trained", bert, BuildOptions{Task: TaskClassification, Adapter: modules(t, bert, "classifier")}, "trained whole"},
		{"an adapted pooler that is left out", bert, BuildOptions{Task: TaskClassification, Pool: PoolMean, Adapter: modules(t, bert, "pooler.dense")}, "does not compute it"},
		{"another number of labels", bert, BuildOptions{Task: TaskClassification, NumLabels: 2}, "[3 24]"},
		{"less than no labels", bert, BuildOptions{Task: TaskClassification, NumLabels: -1}, "-1"},
		{"a dropout above 1", bert, BuildOptions{Task: TaskClassification, Train: true, HiddenDropout: &bad}, "1.5"},
		{"an adapter's head of another shape", bert, BuildOptions{Task: TaskClassification, NumLabels: 3,
			Adapter: &adapter.Adapter{Head: []adapter.Tensor{{Name: "classifier.weight", Shape: []int{2, 24}, Data: make([]float32, 48)}}}}, "classifier.weight"},
	} {
		if _, err := c.model.Build(c.o); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error %v, want one with %q", c.what, err, c.words)
		}
	}
}

func TestHead(t *testing.T) {
	m := openModel(t, filepath.Join("testdata", "bert"))
	stored := make([]float32, 72)
	x, _ := m.Checkpoint().Lookup("classifier.weight")
	if err := m.Checkpoint().ReadF32(x, 0, 72, stored); err != nil {
		t.Fatal(err)
	}
	head := func(b *Built, name string) []float32 {
		t.Helper()
		for _, h := range b.Head {
			if h.Name == name {
				return h.Data
			}
		}
		t.Fatalf("no head tensor %s", name)
		return nil
	}
	b := build(t, m, BuildOptions{Task: TaskClassification})
	if b.NumLabels != 3 || !b.HeadTrained || !slices.Equal(head(b, "classifier.weight"), stored) || !slices.Equal(b.Params[:72], stored) {
		t.Errorf("the head of %d labels (trained %v) is not the checkpoint's", b.NumLabels, b.HeadTrained)
	}
	for _, p := range b.Program.Params {
		if want := p.Name == "base_model.model.classifier.bias"; p.NoDecay != want {
			t.Errorf("%s is free of weight decay = %v, want %v", p.Name, p.NoDecay, want)
		}
	}
	b = build(t, m, BuildOptions{Task: TaskClassification, FreezeHead: true})
	if b.Program.ParamSize != 0 || b.Weights != m.Weights() || b.HeadTrained {
		t.Errorf("a frozen head of the checkpoint left %d parameters", b.Program.ParamSize)
	}
	drawn := build(t, m, BuildOptions{Task: TaskClassification, ResetHead: true, NumLabels: 500, Seed: 7})
	again := build(t, m, BuildOptions{Task: TaskClassification, ResetHead: true, NumLabels: 500, Seed: 7, FreezeHead: true})
	other := build(t, m, BuildOptions{Task: TaskClassification, ResetHead: true, NumLabels: 500, Seed: 8})
	w := head(drawn, "classifier.weight")
	if !slices.Equal(w, head(again, "classifier.weight")) || slices.Equal(w, head(other, "classifier.weight")) {
		t.Error("a drawn head does not depend on the seed alone")
	}
	var sum float64
	for _, v := range w {
		sum += float64(v) * float64(v)
	}
	// Five standard deviations of the standard deviation's estimate.
	n := float64(len(w))
	if sd := math.Sqrt(sum / n); math.Abs(sd/m.Config().InitializerRange-1) > 5/math.Sqrt(2*n) {
		t.Errorf("a drawn head has standard deviation %v, want %v", sd, m.Config().InitializerRange)
	}
	if slices.ContainsFunc(head(drawn, "classifier.bias"), func(x float32) bool { return x != 0 }) {
		t.Error("a drawn head's bias is not 0")
	}
	// Trained or frozen, the same head computes the same.
	g := openGolden(t, filepath.Join("testdata", "bert"))
	logits := func(b *Built) []float32 {
		return run(t, load(t, reference.New(), b, &g.batch), b.Program, &g.batch, b.Logits)
	}
	near(t, "logits of a frozen head", logits(again), logits(drawn), 1e-6)
	near(t, "logits of the checkpoint's frozen head", logits(b), logits(build(t, m, BuildOptions{Task: TaskClassification})), 1e-6)
}

func TestLabelsDefault(t *testing.T) {
	bare := openModel(t, filepath.Join("testdata", "bert-bare"))
	if n := build(t, bare, BuildOptions{Task: TaskClassification}).NumLabels; n != 2 {
		t.Errorf("%d labels without head, config.json says 2", n)
	}
	if n := build(t, bare, BuildOptions{Task: TaskRegression}).NumLabels; n != 1 {
		t.Errorf("%d targets by default, want 1", n)
	}
	a := &adapter.Adapter{Head: []adapter.Tensor{
		{Name: "classifier.weight", Shape: []int{5, 24}, Data: make([]float32, 120)}, {Name: "classifier.bias", Shape: []int{5}, Data: []float32{1, 2, 3, 4, 5}}}}
	b := build(t, bare, BuildOptions{Task: TaskClassification, Adapter: a})
	if b.NumLabels != 5 || b.Params[len(b.Params)-1] != 5 {
		t.Errorf("%d labels with an adapter's head of 5", b.NumLabels)
	}
}

// TestAdapterDropoutStandsBeforeTheUpdate: only in training, and on the input
// of the adapter, not of the frozen layer.
func TestAdapterDropoutStandsBeforeTheUpdate(t *testing.T) {
	m := openModel(t, filepath.Join("testdata", "qwen2"))
	a := modules(t, m, "layers.0.self_attn.q_proj")
	a.Modules[0].Dropout = 0.25
	for train, want := range map[bool]int{true: 1, false: 0} {
		b := build(t, m, BuildOptions{Task: TaskClassification, Adapter: a, Train: train})
		if got := dropoutSites(b.Program); got != want {
			t.Errorf("train %v: %d dropout sites, want %d", train, got, want)
		}
		if !train {
			continue
		}
		for _, op := range b.Program.Ops {
			if l, ok := op.(*graph.Linear); ok && strings.HasSuffix(b.Program.Info(l.X).Name, "dropout") {
				t.Errorf("%s reads dropped values", b.Program.Info(l.Y).Name)
			}
		}
	}
}

func TestDropoutOptions(t *testing.T) {
	zero, half := 0.0, 0.5
	for _, c := range []struct {
		name string
		o    BuildOptions
		want int
	}{
		{"bert", BuildOptions{}, 8},
		{"bert", BuildOptions{HiddenDropout: &zero}, 2},
		{"bert", BuildOptions{AttentionDropout: &zero}, 6},
		{"qwen2", BuildOptions{AttentionDropout: &half}, 2},
		{"qwen2", BuildOptions{HiddenDropout: &half}, 0}, // Llamas have no hidden dropout
	} {
		c.o.Task, c.o.Train = TaskClassification, true
		if got := dropoutSites(build(t, openModel(t, filepath.Join("testdata", c.name)), c.o).Program); got != c.want {
			t.Errorf("%s: %d dropout sites, want %d", c.name, got, c.want)
		}
	}
}

func TestReadParams(t *testing.T) {
	m := openModel(t, filepath.Join("testdata", "bert-bare"))
	a := modules(t, m, "attention.self.query")
	// A tensor that both modules share.
	shared := adapter.ParamSpec{Name: "base_model.model.shared", Shape: []int{2, 3}, Shared: true}
	values := make([]float32, 6)
	for i := range a.Modules {
		a.Modules[i].Specs = append(slices.Clone(a.Modules[i].Specs), shared)
		a.Modules[i].Tensors = append(slices.Clone(a.Modules[i].Tensors), values)
	}
	b := build(t, m, BuildOptions{Task: TaskClassification, Adapter: a})
	flat := slices.Clone(b.Params)
	for i := range flat {
		flat[i] += float32(i)
	}
	ReadParams(b.Program, flat, a)
	for _, p := range b.Program.Params {
		want := flat[p.Offset : p.Offset+p.Size]
		found := 0
		for _, mod := range a.Modules {
			for i, s := range mod.Specs {
				if s.Name == p.Name {
					found++
					if !slices.Equal(mod.Tensors[i], want) {
						t.Errorf("%s was not copied", p.Name)
					}
				}
			}
		}
		for _, h := range a.Head {
			if filePrefix+h.Name == p.Name {
				found++
				if !slices.Equal(h.Data, want) || !slices.Equal(h.Shape, p.Shape) {
					t.Errorf("head %s was not copied", p.Name)
				}
			}
		}
		if want := map[bool]int{true: 2, false: 1}[p.Name == shared.Name]; found != want {
			t.Errorf("%s is in %d places, want %d", p.Name, found, want)
		}
	}
	if &a.Modules[0].Tensors[2][0] != &a.Modules[1].Tensors[2][0] {
		t.Error("a shared tensor became two")
	}
	// What was read back is what the next program starts with.
	if again := build(t, m, BuildOptions{Task: TaskClassification, Adapter: a}); !slices.Equal(again.Params, flat) {
		t.Error("a program built from the values that were read back starts with others")
	}
}

// TestCutPrograms checks which cuts are refused, and that a program below a cut
// and one above it share nothing.
func TestCutPrograms(t *testing.T) {
	m := openModel(t, filepath.Join("testdata", "bert"))
	for _, c := range []struct {
		o    BuildOptions
		want string // part of the error
	}{
		{BuildOptions{Task: TaskFeatures, Until: 2}, "a model of 2 layers: want layers from 1 to 1"},
		{BuildOptions{Task: TaskFeatures, From: 2}, "want layers from 1 to 1"},
		{BuildOptions{Task: TaskFeatures, From: -1}, "want layers from 1 to 1"},
		{BuildOptions{Task: TaskFeatures, From: 1, Until: 1}, "begins below"},
		{BuildOptions{Task: TaskClassification, Until: 1}, "hidden states alone"},
		{BuildOptions{Task: TaskFeatures, Until: 1, Pool: PoolMean}, "hidden states alone"},
		{BuildOptions{Task: TaskFeatures, From: 1, Adapter: modules(t, m, "query")}, "outside of the layers of the program"},
		{BuildOptions{Task: TaskFeatures, Until: 1, Adapter: modules(t, m, "query")}, "outside of the layers of the program"},
	} {
		if _, err := m.Build(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.o, err, c.want)
		}
	}
	weights := map[string]bool{}
	for _, o := range []BuildOptions{{Task: TaskFeatures, Until: 1}, {Task: TaskFeatures, From: 1}} {
		b, err := m.Build(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := graph.Validate(b.Program); err != nil {
			t.Fatal(err)
		}
		for i := range b.Program.Weights {
			w := &b.Program.Weights[i]
			if weights[w.Name] {
				t.Errorf("both programs read %s", w.Name)
			}
			weights[w.Name] = true
		}
	}
	whole, err := m.Build(BuildOptions{Task: TaskFeatures})
	if err != nil {
		t.Fatal(err)
	}
	if len(weights) != len(whole.Program.Weights) {
		t.Errorf("%d tensors in the parts, %d in the whole", len(weights), len(whole.Program.Weights))
	}
}
