package train

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// contents are the files of a directory by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, n := range names(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		m[n] = string(b)
	}
	return m
}

// oldRun is a finished run with a note beside its files.
func oldRun(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "run")
	runJob(t, job(t, task.Classification, 0), options(dir))
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir, contents(t, dir)
}

// replacing are options of a run that differs from the old one and replaces it.
func replacing(dir string) Options {
	o := options(dir)
	o.Replace, o.Seed = true, 99
	return o
}

// TestFailedReplacementLeavesTheOldRun: whatever ends a new run before its state is
// saved leaves the old one whole, and nothing beside it.
func TestFailedReplacementLeavesTheOldRun(t *testing.T) {
	dir, want := oldRun(t)
	fails := map[string]func(*Job){
		"the first loss is NaN": func(j *Job) { j.Engine, j.EvalData = broken{reference.New(), 0}, nil },
		"a later loss is NaN":   func(j *Job) { j.Engine, j.EvalData = broken{reference.New(), 6}, nil },
		"the engine refuses":    func(j *Job) { j.Engine = refusing{} },
		"the adapter cannot be saved": func(j *Job) {
			j.EvalData = nil
			j.Save = func(string, []float32) error { return errors.New("no space") }
		},
	}
	for _, name := range slices.Sorted(maps.Keys(fails)) {
		j := job(t, task.Classification, 0)
		fails[name](&j)
		tr, err := New(j, replacing(dir))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Run(context.Background()); err == nil {
			t.Fatalf("%s: no error", name)
		}
		if got := contents(t, dir); !maps.Equal(got, want) {
			t.Errorf("%s: the old run has become %q", name, slices.Sorted(maps.Keys(got)))
		}
		if got := names(t, filepath.Dir(dir)); !slices.Equal(got, []string{"run"}) {
			t.Errorf("%s: beside it: %q", name, got)
		}
	}
}

// refusing is an engine without memory.
type refusing struct{ graph.Engine }

func (refusing) Compile(*graph.Program, graph.WeightSource, graph.Dims) (graph.Executable, error) {
	return nil, errors.New("no memory")
}

// TestReplacement: the old run is there until the new state is, then the new one
// alone, as if trained into an empty directory, also through a link.
func TestReplacement(t *testing.T) {
	fresh := replacing(filepath.Join(t.TempDir(), "fresh"))
	runJob(t, job(t, task.Classification, 0), fresh)
	for _, linked := range []bool{false, true} {
		dir, old := oldRun(t)
		o := replacing(dir)
		if linked {
			o.Dir = filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, o.Dir); err != nil {
				t.Skipf("no links here: %v", err)
			}
		}
		saved := false
		o.Event = func(e Event) {
			saved = saved || e.Type == EventSaved
			got := contents(t, dir)
			if !saved && e.Type != EventDone && !maps.Equal(got, old) {
				t.Errorf("at %s %d the old run is %q", e.Type, e.Step, slices.Sorted(maps.Keys(got)))
			}
			if _, ok := got[StateFile]; saved && e.Type != EventDone && (!ok || got[RunFile] != "") {
				t.Errorf("at %s %d after a save: %q", e.Type, e.Step, slices.Sorted(maps.Keys(got)))
			}
		}
		runJob(t, job(t, task.Classification, 0), o)
		if !saved {
			t.Error("no state was saved on the way")
		}
		if adapterBytes(t, dir) != adapterBytes(t, fresh.Dir) {
			t.Error("another adapter than in an empty directory")
		}
		if got, want := strings.Join(stepLines(t, dir), "\n"), strings.Join(stepLines(t, fresh.Dir), "\n"); got != want {
			t.Errorf("log\n%s\nwant\n%s", got, want)
		}
		if got := contents(t, dir); got["notes.txt"] != "mine" || len(got) != len(names(t, fresh.Dir))+1 {
			t.Errorf("files %q", slices.Sorted(maps.Keys(got)))
		}
	}
}

// TestInterruptedReplacementResumes: an interruption saves the new state in place of
// the old run.
func TestInterruptedReplacementResumes(t *testing.T) {
	dir, _ := oldRun(t)
	o := replacing(dir)
	interruptAfter(t, job(t, task.Classification, 0), o, 2)
	if got := names(t, dir); !slices.Equal(got, []string{MetricsFile, "notes.txt", StateFile}) {
		t.Errorf("files %q", got)
	}
	o.Replace, o.Resume = false, true
	runJob(t, job(t, task.Classification, 0), o)
	fresh := replacing(filepath.Join(t.TempDir(), "fresh"))
	runJob(t, job(t, task.Classification, 0), fresh)
	if adapterBytes(t, dir) != adapterBytes(t, fresh.Dir) {
		t.Error("another adapter than in an empty directory")
	}
}
