package train

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// TestCheckpointsGiveTheSameLosses trains with every activation kept, with
// checkpoints asked for, and under a limit that leaves no other way.
func TestCheckpointsGiveTheSameLosses(t *testing.T) {
	for _, u := range uppers(t) {
		u.a = adapterIn(t, u.model, 0, 1)
		run := func(e graph.Engine, groups int) ([]uint64, Estimate) {
			j, _ := u.job(t, 2, false)
			if e != nil {
				j.Engine = e
			}
			o := options(filepath.Join(t.TempDir(), "run"))
			o.LR, o.CheckpointLayers = 2e-3, groups
			tr, err := New(j, o)
			if err != nil {
				t.Fatal(err)
			}
			j, _ = u.job(t, 2, false)
			if e != nil {
				j.Engine = e
			}
			return numbers(t, j, o), tr.Estimate()
		}
		want, kept := run(nil, 0)
		got, asked := run(nil, 1)
		if !slices.Equal(got, want) {
			t.Errorf("%s: losses or gradient norms differ with checkpoints", u.name)
		}
		if kept.Checkpoint != 0 || asked.Checkpoint != 1 || asked.PlanBytes >= kept.PlanBytes {
			t.Errorf("%s: checkpoints %d and %d, planned bytes %d and %d", u.name, kept.Checkpoint, asked.Checkpoint, kept.PlanBytes, asked.PlanBytes)
		}
		if u.kind == task.LM {
			continue // its logits take most of the memory
		}
		got, forced := run(tight(t, u), 0)
		if !slices.Equal(got, want) || forced.Checkpoint != 1 {
			t.Errorf("%s: under a limit: checkpoints %d, same losses: %v", u.name, forced.Checkpoint, slices.Equal(got, want))
		}
	}
}

// tight is an engine whose memory holds the training of u with checkpoints
// alone.
func tight(t *testing.T, u upper) graph.Engine {
	t.Helper()
	program := func(groups int) (*graph.Program, graph.Dims) {
		j, _ := u.job(t, 2, false)
		o := options(t.TempDir())
		o.CheckpointLayers = groups
		tr, err := New(j, o)
		if err != nil {
			t.Fatal(err)
		}
		return tr.job.Train.Program, maxDims(tr.dims)
	}
	plain, d := program(0)
	again, _ := program(1)
	for limit := int64(64 << 20); limit > 1<<10; limit -= limit / 64 {
		e, err := cpu.New(cpu.Options{Threads: 2, MemoryLimit: limit})
		if err != nil {
			t.Fatal(err)
		}
		f := e.(graph.Fitter)
		if f.Fits(plain, d) != nil {
			if err := f.Fits(again, d); err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	t.Fatal("the program takes no memory")
	return nil
}
