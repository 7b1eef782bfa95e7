package kernel_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

func TestPoolRunsEveryJobOnce(t *testing.T) {
	for _, threads := range []int{0, 1, 2, 5} {
		p := kernel.NewPool(threads)
		if p.Threads() != max(threads, 1) {
			t.Errorf("NewPool(%d) has %d threads", threads, p.Threads())
		}
		for round := range 300 {
			jobs := round % 37
			done := make([]atomic.Int32, jobs)
			busy := make([]atomic.Int32, max(threads, 1))
			p.Run(jobs, func(worker, job int) {
				if busy[worker].Add(1) != 1 {
					t.Errorf("worker %d runs two jobs at once", worker)
				}
				done[job].Add(1)
				busy[worker].Add(-1)
			})
			for j := range done {
				if n := done[j].Load(); n != 1 {
					t.Fatalf("%d threads, %d jobs: job %d ran %d times", threads, jobs, j, n)
				}
			}
			if round%100 == 99 {
				time.Sleep(2 * time.Millisecond) // long enough for the workers to fall asleep
			}
		}
		p.Close()
	}
}

func TestPoolWaitsForSlowJobs(t *testing.T) {
	p := kernel.NewPool(3)
	defer p.Close()
	for range 5 {
		var done atomic.Int32
		p.Run(3, func(_, job int) {
			time.Sleep(time.Duration(job) * 3 * time.Millisecond)
			done.Add(1)
		})
		if done.Load() != 3 {
			t.Fatalf("Run returned after %d of 3 jobs", done.Load())
		}
	}
}

func TestPoolCloseEndsWorkers(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 10 {
		p := kernel.NewPool(4)
		p.Run(8, func(_, _ int) {})
		p.Close()
		p.Close()
	}
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after closing all pools", before, runtime.NumGoroutine())
}

func TestNilPool(t *testing.T) {
	var p *kernel.Pool
	n := 0
	p.Run(4, func(worker, job int) { n += 1 + worker })
	if n != 4 || p.Threads() != 1 {
		t.Errorf("nil pool ran %d jobs with %d threads", n, p.Threads())
	}
	p.Close()
}

func TestAlloc(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 1000, 70000, 600000, 3 << 20} {
		s := kernel.Alloc(n)
		if len(s) != n {
			t.Fatalf("Alloc(%d) has %d elements", n, len(s))
		}
		if n == 0 {
			continue
		}
		if a := uintptr(unsafe.Pointer(&s[0])); a%64 != 0 {
			t.Errorf("Alloc(%d) is at %#x, not a multiple of 64", n, a)
		}
		for i, v := range s {
			if v != 0 {
				t.Fatalf("Alloc(%d): element %d is %v", n, i, v)
			}
			s[i] = 1
		}
		kernel.Free(s)
	}
	kernel.Free(nil)
	kernel.Free(make([]float32, 3))
}
