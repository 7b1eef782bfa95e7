package train

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// counted is an engine that counts the tokens that pass through a program.
type counted struct {
	graph.Engine
	program *graph.Program
	tokens  *int
}

type countedExe struct {
	graph.Executable
	tokens *int
}

func (e counted) Compile(p *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	x, err := e.Engine.Compile(p, w, d)
	if p == e.program && err == nil {
		return countedExe{x, e.tokens}, nil
	}
	return x, err
}

func (x countedExe) Run(ctx context.Context, b *graph.Batch) error {
	*x.tokens += len(b.IDs)
	return x.Executable.Run(ctx, b)
}

// upper is a small model with an adapter in the second of its two layers.
type upper struct {
	name  string
	kind  task.Kind
	model *model.Model
	a     *adapter.Adapter
	build model.BuildOptions
	limit int64 // of CachePrefix
}

func uppers(t *testing.T) []upper {
	t.Helper()
	zero := 0.0
	o := model.BuildOptions{ResetHead: true, HiddenDropout: &zero, AttentionDropout: &zero}
	var out []upper
	for _, u := range []upper{{name: "bert", kind: task.Classification}, {name: "llama", kind: task.LM}} {
		u.model, u.build = openModel(t, "model", "testdata", u.name), o
		u.a = adapterIn(t, u.model, 1, 1)
		out = append(out, u)
	}
	return out
}

// adapterIn adapts attention projections of the layers from lo up to hi.
func adapterIn(t *testing.T, m *model.Model, lo, hi int) *adapter.Adapter {
	t.Helper()
	s, err := adapter.Defaults(adapter.MethodLSR, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	c := adapter.Config{Settings: s, Targets: adapter.Targets{Regex: `.*\.(query|value|q_proj|v_proj)`, Layers: adapter.Layers{{Lo: lo, Hi: hi}}}, Seed: 1}
	a, err := adapter.New(m.Sites(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// job prepares u on threads; cached says whether below the adapter runs once.
// The pointer counts the tokens that the prefix runs on.
func (u upper) job(t *testing.T, threads int, cached bool) (Job, *int) {
	t.Helper()
	raw := job(t, u.kind, 0)
	j, err := Prepare(u.model, u.a, raw.Spec, u.build)
	if err != nil {
		t.Fatal(err)
	}
	j.Data, j.EvalData, j.EvalExamples = raw.Data, raw.EvalData, raw.EvalExamples
	tokens := new(int)
	e := counted{Engine: cpuEngine(t, threads), tokens: tokens}
	if cached {
		if err := CachePrefix(&j, u.model, u.a, u.build, u.limit); err != nil {
			t.Fatal(err)
		}
		e.program = j.Prefix.Program
	}
	j.Engine = e
	return j, tokens
}

// numbers trains j and returns the bits of every loss and gradient norm.
func numbers(t *testing.T, j Job, o Options) []uint64 {
	t.Helper()
	var out []uint64
	o.Event = func(e Event) {
		if e.Type == EventStep {
			out = append(out, math.Float64bits(e.Loss), math.Float64bits(e.GradNorm))
		}
	}
	runJob(t, j, o)
	return out
}

func TestCachedPrefixGivesTheSameLosses(t *testing.T) {
	all := uppers(t)
	for i, u := range slices.Concat(all, all[1:], all[:1]) {
		whole := options(filepath.Join(t.TempDir(), "whole"))
		whole.LR, whole.Batch.Bucket = 2e-3, true
		j, _ := u.job(t, 2, false)
		want := numbers(t, j, whole)
		if len(want) != 2*12 {
			t.Fatalf("%d numbers", len(want))
		}
		dir := t.TempDir()
		u.limit = int64(i % 2) // 1: hidden states alone
		cached, _ := u.job(t, 1, true)
		width, h := cached.Prefix.Width, u.model.Config().HiddenSize
		if (width > h) != (u.limit == 0) {
			t.Errorf("%s: %d columns are kept under limit %d", u.name, width, u.limit)
		}
		once := j.Data.Tokens() + j.EvalData.Tokens()
		for _, c := range []struct {
			name     string
			threads  int
			prefix   PrefixOptions
			from, to int // tokens that run through the prefix
		}{
			{"in memory", 2, PrefixOptions{}, once, once},
			{"one thread", 1, PrefixOptions{}, once, once},
			{"on disk", 3, PrefixOptions{Dir: dir}, once, once},
			{"half in memory", 2, PrefixOptions{Limit: int64(2 * once * width)}, 3 * once / 2, 5 * once / 2},
			{"half on disk", 2, PrefixOptions{Dir: dir, Limit: int64(2 * once * width)}, 3 * once / 2, 5 * once / 2},
			{"nothing fits", 2, PrefixOptions{Limit: 1}, 3 * once, 3 * once},
		} {
			o := whole
			o.Dir, o.Prefix = filepath.Join(t.TempDir(), "run"), c.prefix
			j, tokens := u.job(t, c.threads, true)
			if got := numbers(t, j, o); !slices.Equal(got, want) {
				t.Errorf("%s, %s: losses or gradient norms differ from those without the cache", u.name, c.name)
			}
			if got := adapterBytes(t, o.Dir); got != adapterBytes(t, whole.Dir) {
				t.Errorf("%s, %s: the adapter differs by %v", u.name, c.name, distance(got, adapterBytes(t, whole.Dir)))
			}
			if *tokens < c.from || *tokens > c.to {
				t.Errorf("%s, %s: %d tokens ran through the prefix, want %d to %d", u.name, c.name, *tokens, c.from, c.to)
			}
			if got := names(t, dir); len(got) > 0 {
				t.Errorf("%s, %s: files left: %q", u.name, c.name, got)
			}
		}
	}
}

func TestResumeWithACachedPrefix(t *testing.T) {
	for _, u := range uppers(t) {
		whole, cut := options(filepath.Join(t.TempDir(), "whole")), options(filepath.Join(t.TempDir(), "cut"))
		whole.LR, cut.LR = 2e-3, 2e-3
		j, _ := u.job(t, 2, true)
		runJob(t, j, whole)
		j, _ = u.job(t, 2, true)
		interruptAfter(t, j, cut, 6)
		cut.Resume = true

		j, _ = u.job(t, 2, false)
		tr, err := New(j, cut)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Run(context.Background()); !errors.Is(err, ErrStateMismatch) || !strings.Contains(err.Error(), `cached prefix was "1 layers`) {
			t.Errorf("%s: resumed without the cache: %v", u.name, err)
		}

		j, tokens := u.job(t, 1, true)
		cut.Prefix.Dir = t.TempDir() // where the cache lies does not matter
		runJob(t, j, cut)
		if got, want := adapterBytes(t, cut.Dir), adapterBytes(t, whole.Dir); got != want {
			t.Errorf("%s: after an interruption the adapter differs by %v", u.name, distance(got, want))
		}
		if n := j.Data.Tokens() + j.EvalData.Tokens(); *tokens != n {
			t.Errorf("%s: %d tokens ran through the prefix, want %d", u.name, *tokens, n)
		}
	}
}

// TestCacheLeavesDropoutOutBelow counts the dropouts of a model that has them.
func TestCacheLeavesDropoutOutBelow(t *testing.T) {
	u := uppers(t)[0]
	half := 0.5
	u.build.HiddenDropout, u.build.AttentionDropout = &half, &half
	drops := func(p *graph.Program) (n int) {
		for _, op := range p.Ops[:p.Forward] {
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
	whole, _ := u.job(t, 1, false)
	cached, _ := u.job(t, 1, true)
	below, above, all := drops(cached.Prefix.Program), drops(cached.Train.Program), drops(whole.Train.Program)
	// The embeddings have one, a layer has three: attention and its two outputs.
	if below != 0 || above != all-4 || above < 3 {
		t.Errorf("%d dropouts below the cut and %d above, %d in the whole program", below, above, all)
	}
}

func TestPrefixNeedsFrozenLayers(t *testing.T) {
	m := openModel(t, "model", "testdata", "bert")
	for want, a := range map[string]*adapter.Adapter{
		"begins in layer 0":     adapterIn(t, m, 0, 1),
		"no module in a layer;": {},
	} {
		err := CachePrefix(&Job{}, m, a, model.BuildOptions{}, 0)
		if !errors.Is(err, ErrNoPrefix) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "upper layers") {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
	u := uppers(t)[0]
	o := options(filepath.Join(t.TempDir(), "run"))
	o.Prefix.Limit = -1
	j, _ := u.job(t, 1, true)
	if _, err := New(j, o); err == nil {
		t.Error("a negative limit: no error")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, file + ".absent"} {
		o.Prefix = PrefixOptions{Dir: dir}
		j, _ = u.job(t, 1, true)
		if _, err := New(j, o); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s as the directory: %v", dir, err)
		}
	}
	o.Prefix = PrefixOptions{}
	j, _ = u.job(t, 1, true)
	tr, err := New(j, o)
	if err != nil {
		t.Fatal(err)
	}
	if e := tr.Estimate(); e.CacheBytes != int64(4*(j.Data.Tokens()+j.EvalData.Tokens())*j.Prefix.Width) {
		t.Errorf("estimate of the cache: %d", e.CacheBytes)
	}
}
