package kernel

import (
	"runtime"
	"sync/atomic"
)

const (
	workerSpins = 20000   // polls for the next task before a worker sleeps, 10 to 50 µs
	callerSpins = 1 << 14 // polls for the last job before the caller sleeps
)

// Pool runs jobs on a fixed set of goroutines; the caller is worker 0. Workers
// poll for a short while after a task before they block, which saves the
// wake-up (a futex call, 5 to 50 µs) when the next product follows at once, as
// it does in training.
type Pool struct {
	n    int
	cur  atomic.Pointer[task]
	wake []chan struct{}
	idle []atomic.Bool // worker i sleeps on wake[i]
	done chan struct{} // the caller sleeps here for the last job
}

type task struct {
	fn      func(worker, job int)
	jobs    int64
	next    atomic.Int64
	left    atomic.Int64 // jobs not finished
	waiting atomic.Bool  // the caller sleeps on Pool.done
	quit    bool
}

// NewPool starts a pool of n threads, the caller included; n below 1 counts as
// 1. It should be closed when it is no longer needed.
func NewPool(n int) *Pool {
	n = max(n, 1)
	p := &Pool{n: n, wake: make([]chan struct{}, n), idle: make([]atomic.Bool, n), done: make(chan struct{}, 1)}
	for i := 1; i < n; i++ {
		p.wake[i] = make(chan struct{}, 1)
		go p.work(i)
	}
	return p
}

// Threads is the number of workers, the caller included. A nil pool has one.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.n
}

// Run calls fn(worker, job) once for every job in [0, jobs) and returns when
// all calls have returned. worker is in [0, Threads()) and no two calls with
// the same worker run at once. Run must not be called concurrently, nor from
// inside fn. A nil pool runs everything on the caller.
func (p *Pool) Run(jobs int, fn func(worker, job int)) {
	if p == nil || p.n == 1 || jobs <= 1 {
		for j := range jobs {
			fn(0, j)
		}
		return
	}
	t := &task{fn: fn, jobs: int64(jobs)}
	t.left.Store(t.jobs)
	p.post(t)
	t.run(p, 0)
	for s := 0; t.left.Load() > 0; s++ {
		if s < callerSpins {
			continue
		}
		if s == callerSpins {
			runtime.Gosched() // fewer processors than threads: let a worker run
			continue
		}
		// A token may be left over from an earlier task, hence the loop.
		t.waiting.Store(true)
		if t.left.Load() > 0 {
			<-p.done
		}
	}
}

// Close ends the workers. The pool must be idle and is not usable afterwards.
func (p *Pool) Close() {
	if p != nil && p.n > 1 {
		p.post(&task{quit: true})
		p.n = 1
	}
}

// post makes t the current task and wakes those who sleep.
func (p *Pool) post(t *task) {
	p.cur.Store(t)
	for i := 1; i < p.n; i++ {
		if p.idle[i].Load() {
			select {
			case p.wake[i] <- struct{}{}:
			default:
			}
		}
	}
}

func (t *task) run(p *Pool, worker int) {
	for {
		j := t.next.Add(1) - 1
		if j >= t.jobs {
			return
		}
		t.fn(worker, int(j))
		if t.left.Add(-1) == 0 && t.waiting.Load() {
			select {
			case p.done <- struct{}{}:
			default:
			}
		}
	}
}

func (p *Pool) work(i int) {
	var last *task
	for {
		t := p.cur.Load()
		for s := 0; t == last && s < workerSpins; s++ {
			t = p.cur.Load()
		}
		if t == last {
			p.idle[i].Store(true)
			if p.cur.Load() == last { // else a task came in between: do not sleep
				<-p.wake[i]
			}
			p.idle[i].Store(false)
			continue
		}
		if t.quit {
			return
		}
		last = t
		t.run(p, i)
	}
}
