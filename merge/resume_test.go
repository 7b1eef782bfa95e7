package merge

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// TestResume kills a merge at every operation and goes on: the bytes and the
// report are those of a run that was left alone, and work that was noted is not done
// again.
func TestResume(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	good := filepath.Join(t.TempDir(), "good")
	o := Options{Reversible: true, Manifest: madeBy, Rounding: Stochastic, Seed: 3}
	wantReport := mustMerge(t, base, sources(1e-3), o, good)
	want := tree(t, good)
	resumed, skipped, faults := 0, 0, 0
	for _, workers := range []int{1, 3} {
		for n := 1; ; n += workers {
			o.SaveEvery, o.Workers, o.Resume = 1, workers, false
			f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: true}
			o.FS = f
			out := filepath.Join(t.TempDir(), "out")
			p := mustPlan(t, base, sources(1e-3), o)
			if _, err := p.Run(context.Background(), out, nil); err == nil && f.Failed() == "" {
				break
			}
			faults++
			what := fmt.Sprintf("%d workers, operation %d (%s)", workers, n, f.Failed())
			o.FS, o.Resume, o.Workers, o.Replace = fast, true, 2, true // it may be there already
			p = mustPlan(t, base, sources(1e-3), o)
			first := int64(-1)
			rep, err := p.Run(context.Background(), out, func(done, total int64) {
				if first < 0 {
					first = done
				}
			})
			o.Replace = false
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if first > 60*24*4 { // more than any one job
				resumed++
			}
			if first < 0 {
				skipped++
			}
			sameTree(t, what, tree(t, out), want)
			if !reflect.DeepEqual(rep, wantReport) {
				t.Errorf("%s: report %+v, want %+v", what, rep.Total, wantReport.Total)
			}
			if es := tree(t, filepath.Dir(out)); len(es) != len(want) {
				t.Errorf("%s: left over: %d files, want %d", what, len(es), len(want))
			}
		}
	}
	t.Logf("%d faults; %d runs went on, %d more had all tensors", faults, resumed, skipped)
	if resumed < 30 || skipped < 5 {
		t.Errorf("only %d of %d runs went on, %d had all tensors", resumed, faults, skipped)
	}
}

// TestResumeOther: a merge of something else does not go on with it.
func TestResumeOther(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	fresh := filepath.Join(t.TempDir(), "fresh")
	mustMerge(t, base, sources(2e-3), Options{Manifest: madeBy}, fresh)
	out := filepath.Join(t.TempDir(), "out")
	f := &atomicfile.Faults{Under: fast, FailAt: 60, Crash: true}
	p := mustPlan(t, base, sources(1e-3), Options{SaveEvery: 1, FS: f, Manifest: madeBy})
	if _, err := p.Run(context.Background(), out, nil); err == nil {
		t.Fatal("no fault")
	}
	mustMerge(t, base, sources(2e-3), Options{SaveEvery: 1, Resume: true, Manifest: madeBy}, out)
	sameTree(t, "another merge", tree(t, out), tree(t, fresh))
}

// TestInterruptedStays: a merge that is interrupted keeps what it has noted; one
// that fails does not.
func TestInterruptedStays(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	good := filepath.Join(t.TempDir(), "good")
	mustMerge(t, base, sources(1e-3), Options{}, good)
	root := t.TempDir()
	out := filepath.Join(root, "out")
	ctx, cancel := context.WithCancel(context.Background())
	p := mustPlan(t, base, sources(1e-3), Options{SaveEvery: 1, Workers: 1})
	jobs := 0
	if _, err := p.Run(ctx, out, func(done, total int64) {
		if jobs++; jobs == 5 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	first := int64(0)
	p = mustPlan(t, base, sources(1e-3), Options{SaveEvery: 1, Workers: 1, Resume: true})
	if _, err := p.Run(context.Background(), out, func(done, total int64) {
		if first == 0 {
			first = done
		}
	}); err != nil {
		t.Fatal(err)
	}
	sameTree(t, "resumed", tree(t, out), tree(t, good))
	if first < 1000 {
		t.Errorf("it began at %d bytes", first)
	}
	if es := tree(t, root); len(es) != len(tree(t, good)) {
		t.Errorf("left over: %v", es)
	}
}
