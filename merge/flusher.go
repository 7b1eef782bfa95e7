package merge

import (
	"errors"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// flushBytes is how much is written between two syncs.
const flushBytes = 128 << 20

// flusher syncs files while more is computed, so that little is left to the end. It is
// not enough to have the system write: a disk, or the host of a virtual one, has
// a cache that only a sync empties, and emptying one of gigabytes takes seconds.
type flusher struct {
	written chan written
	done    chan error
}

// written is a number of bytes of a file.
type written struct {
	h atomicfile.Handle
	n int64
}

func newFlusher() *flusher {
	f := &flusher{written: make(chan written, 1024), done: make(chan error, 1)}
	go func() { f.done <- f.run() }()
	return f
}

// add notes that bytes have been written. It does not wait: when the flusher is far
// behind, they are left to the end.
func (f *flusher) add(h atomicfile.Handle, n int64) {
	select {
	case f.written <- written{h, n}:
	default:
	}
}

func (f *flusher) run() (err error) {
	var n int64
	var files []atomicfile.Handle
	for w := range f.written {
		if n += w.n; len(files) == 0 || files[len(files)-1] != w.h {
			files = append(files, w.h)
		}
		if n < flushBytes || len(f.written) > 0 {
			continue
		}
		// An error is told to the first who asks, so it must not be lost here.
		for _, h := range files {
			err = errors.Join(err, h.Sync())
		}
		n, files = 0, files[:0]
	}
	return err
}

// end returns the first errors of syncing. It leaves to the end of the merge what has not been begun.
func (f *flusher) end() error {
	close(f.written)
	return <-f.done
}
