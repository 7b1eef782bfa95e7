package train

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

func cpuEngine(t testing.TB, threads int) graph.Engine {
	t.Helper()
	e, err := cpu.New(cpu.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestThreadsAndInterruptionsDoNotMatter trains on the CPU engine with one
// thread, with three, and with three after an interruption at one.
func TestThreadsAndInterruptionsDoNotMatter(t *testing.T) {
	for _, kind := range []task.Kind{task.Classification, task.Regression, task.LM} {
		dir := t.TempDir()
		on := func(threads int) Job {
			j := job(t, kind, 0.2)
			j.Engine = cpuEngine(t, threads)
			return j
		}
		one, three, cut := options(filepath.Join(dir, "one")), options(filepath.Join(dir, "three")), options(filepath.Join(dir, "cut"))
		runJob(t, on(1), one)
		runJob(t, on(3), three)
		interruptAfter(t, on(1), cut, 5)
		cut.Resume = true
		runJob(t, on(3), cut)
		want := adapterBytes(t, one.Dir)
		if got := adapterBytes(t, three.Dir); got != want {
			t.Errorf("%s: with three threads the adapter differs by %v", kind, distance(got, want))
		}
		if got := adapterBytes(t, cut.Dir); got != want {
			t.Errorf("%s: after an interruption the adapter differs by %v", kind, distance(got, want))
		}
	}
}

// TestEnginesAgree compares twelve steps on the CPU with the reference engine.
func TestEnginesAgree(t *testing.T) {
	losses := func(e graph.Engine) (out []float64) {
		j := job(t, task.Classification, 0.2)
		if e != nil {
			j.Engine = e
		}
		o := options(filepath.Join(t.TempDir(), "run"))
		o.Event = func(e Event) {
			if e.Type == EventStep {
				out = append(out, e.Loss)
			}
		}
		tr, err := New(j, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want, got := losses(nil), losses(cpuEngine(t, 2))
	for i := range want {
		// AdamW divides by the gradient's size, so that rounding errors of tiny
		// gradients grow; after twelve steps they are still far below 1e-4.
		if math.Abs(got[i]-want[i]) > 1e-4 {
			t.Errorf("step %d: loss %v, the reference has %v", i+1, got[i], want[i])
		}
	}
}
