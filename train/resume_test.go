package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

func TestInterruptedAtEachStepEndsTheSame(t *testing.T) {
	whole := options(filepath.Join(t.TempDir(), "whole"))
	wantResult := runJob(t, job(t, task.Classification, 0.2), whole)
	want := adapterBytes(t, whole.Dir)
	if wantResult.Steps != 12 {
		t.Fatalf("%d steps", wantResult.Steps)
	}
	wantLog := stepLines(t, whole.Dir)

	// Every run stops after two more steps than the one before it resumed at.
	o := options(filepath.Join(t.TempDir(), "parts"))
	for rounds := 0; ; rounds++ {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		o.Event = func(e Event) {
			if e.Type == EventStep {
				if n++; n == 2 {
					cancel()
				}
			}
		}
		o.Resume = true
		tr, err := New(job(t, task.Classification, 0.2), o)
		if err != nil {
			t.Fatal(err)
		}
		res, err := tr.Run(ctx)
		cancel()
		if err == nil {
			if rounds < 5 || res.BestStep != wantResult.BestStep || !slices.Equal(res.Metrics, wantResult.Metrics) {
				t.Errorf("after %d rounds: %+v, want %+v", rounds, res, wantResult)
			}
			break
		}
		if !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
		if got := names(t, o.Dir); !slices.Equal(got, []string{MetricsFile, StateFile}) {
			t.Fatalf("files of an interrupted run: %q", got)
		}
	}
	if got := adapterBytes(t, o.Dir); got != want {
		t.Errorf("the adapter differs by %v", distance(got, want))
	}
	if got := stepLines(t, o.Dir); !slices.Equal(got, wantLog) {
		t.Errorf("log\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantLog, "\n"))
	}
}

// stepLines are the events of metrics.jsonl without what the clock decides.
func stepLines(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, MetricsFile))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range bytes.Lines(b) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		delete(m, "tokens_per_second")
		delete(m, "eta_seconds")
		s, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(s))
	}
	return out
}

// TestCancelledEvaluationIsRepeated interrupts inside of an evaluation.
func TestCancelledEvaluationIsRepeated(t *testing.T) {
	whole := options(filepath.Join(t.TempDir(), "whole"))
	want := runJob(t, job(t, task.Classification, 0.2), whole)

	o := options(filepath.Join(t.TempDir(), "cut"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.Event = func(e Event) {
		if e.Type == EventStep && e.Step == 4 { // the last of the first epoch
			cancel()
		}
	}
	tr, err := New(job(t, task.Classification, 0.2), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Run(ctx); !errors.Is(err, ErrInterrupted) {
		t.Fatalf("got %v", err)
	}
	evals := 0
	o.Resume = true
	o.Event = func(e Event) {
		if e.Type == EventEval {
			evals++
		}
	}
	res := runJob(t, job(t, task.Classification, 0.2), o)
	if evals != 3 || res.BestStep != want.BestStep || adapterBytes(t, o.Dir) != adapterBytes(t, whole.Dir) {
		t.Errorf("%d evaluations, %+v, want %+v", evals, res, want)
	}
}

func TestResumeOfAFinishedRun(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "run"))
	first := runJob(t, job(t, task.Classification, 0), o)
	want := adapterBytes(t, o.Dir)
	o.Resume = true
	res := runJob(t, job(t, task.Classification, 0), o)
	if !res.Complete || res.Steps != first.Steps || res.BestStep != first.BestStep || !slices.Equal(res.Metrics, first.Metrics) || adapterBytes(t, o.Dir) != want {
		t.Errorf("got %+v, want %+v", res, first)
	}
	sum, err := ReadSummary(o.Dir)
	if err != nil || sum.Task != "classification" || !slices.Equal(sum.Labels, []string{"0", "1"}) || sum.Steps != first.Steps || sum.Config["lr"] != "0.05" {
		t.Errorf("summary %+v, %v", sum, err)
	}
	if _, err := ReadSummary(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("summary of an empty directory: %v", err)
	}
}

func TestResumeWithOtherOptionsNamesThem(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "run"))
	interruptAfter(t, job(t, task.Classification, 0), o, 3)
	o.Resume = true
	for name, change := range map[string]func(*Options, *Job){
		`lr was "0.05" and is "0.04"`:   func(o *Options, _ *Job) { o.LR = 0.04 },
		`seed was "3" and is "4"`:       func(o *Options, _ *Job) { o.Seed = 4 },
		`batch size was "8" and is "9"`: func(o *Options, _ *Job) { o.Batch.Size = 9 },
		`training data was`:             func(_ *Options, j *Job) { _, j.Data, _ = data(t, task.Classification, 61, task.Train) },
		`starting parameters was`:       func(_ *Options, j *Job) { j.Train.Params[3]++ },
		`program was`:                   func(_ *Options, j *Job) { j.Train = net(task.Classification, 2, 0.3, true) },
		`base was "" and is "abc"`:      func(o *Options, _ *Job) { o.Identity = map[string]string{"base": "abc"} },
	} {
		p, j := o, job(t, task.Classification, 0)
		change(&p, &j)
		tr, err := New(j, p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tr.Run(context.Background())
		if !errors.Is(err, ErrStateMismatch) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), StateFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	runJob(t, job(t, task.Classification, 0), o)
}

// interruptAfter runs until a step and checks that it was interrupted there.
func interruptAfter(t *testing.T, j Job, o Options, step int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.Event = func(e Event) {
		if e.Type == EventStep && e.Step == step {
			cancel()
		}
	}
	tr, err := New(j, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Run(ctx); !errors.Is(err, ErrInterrupted) {
		t.Fatalf("got %v", err)
	}
}

func TestDamagedStateIsRefused(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "run"))
	interruptAfter(t, job(t, task.Classification, 0), o, 5)
	path := filepath.Join(o.Dir, StateFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := job(t, task.Classification, 0).Train.Program.ParamSize
	if s, err := readState(path, n); err != nil || s.Step != 5 {
		t.Fatalf("the undamaged state: %v", err)
	}
	c, err := formats.Open(path) // another reader of safetensors
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := c.Lookup("moment2"); !ok || len(p.Shape) != 1 || p.Shape[0] != n {
		t.Errorf("the second moment is %+v", p)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, bit := range []byte{0x10, 1 << (i % 8), 1 << (i / 8 % 8)} {
			bad := slices.Clone(good)
			bad[i] ^= bit
			if err := os.WriteFile(path, bad, 0o666); err != nil {
				t.Fatal(err)
			}
			if _, err := readState(path, n); err == nil {
				t.Fatalf("flipped bits %#x in byte %d of %d are not noticed", bit, i, len(good))
			}
		}
		if i%13 != 0 {
			continue
		}
		if err := os.WriteFile(path, good[:i], 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := readState(path, n); err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("a file of %d bytes: %v", i, err)
		}
	}
}

func TestExistingOutput(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	o := options(dir)
	for _, resume := range []bool{false, true} {
		o.Resume = resume
		tr, err := New(job(t, task.Classification, 0), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Run(context.Background()); !errors.Is(err, ErrExists) {
			t.Errorf("resume %v: %v", resume, err)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"notes.txt"}) {
		t.Errorf("files %q", got)
	}
	o.Resume, o.Replace = false, true
	interruptAfter(t, job(t, task.Classification, 0), o, 2)
	if res := runJob(t, job(t, task.Classification, 0), o); res.Steps != 12 {
		t.Errorf("got %+v", res)
	}
	if got := names(t, dir); !slices.Contains(got, "notes.txt") || slices.Contains(got, StateFile) {
		t.Errorf("files %q", got)
	}
}
