package cpu

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
)

// open returns an opener for enginetest.
func open(o Options) enginetest.Open {
	return func(t testing.TB) graph.Engine {
		t.Helper()
		e, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
}

func TestConformance(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		enginetest.Run(t, open(Options{Threads: 2}), enginetest.Tolerance{})
		enginetest.RunInput(t, open(Options{Threads: 2}), enginetest.Tolerance{})
	})
}

func TestThreadsGiveTheSameBits(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		enginetest.Identical(t, open(Options{Threads: 1}), open(Options{Threads: 2}), open(Options{Threads: 3}))
	})
}

// The engine passes activations on by number.
func TestActivationsAgreeWithKernels(t *testing.T) {
	for a := graph.ActNone; a <= graph.ActTanh; a++ {
		if got, want := fmt.Sprint(kernel.Act(a)), a.String(); got != want {
			t.Errorf("graph activation %d is %s, the kernels' %s", a, want, got)
		}
	}
}
