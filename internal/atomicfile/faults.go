package atomicfile

import (
	"errors"
	"os"
	"sync"
)

// ErrFault is what operations of a Faults fail with.
var ErrFault = errors.New("injected fault")

// Faults is an FS for tests: it counts the operations and makes one of them
// fail. With Crash it and every later one fail without effect, as if the
// process had been killed there; nothing cleans up. A failing write writes
// half of its bytes.
type Faults struct {
	Under FS
	// FailAt is the number of the operation that fails, from 1; 0 for none.
	FailAt int
	Crash  bool
	// Err is what the operation fails with, ErrFault if nil. The error of a read
	// may be io.EOF: the file has become shorter.
	Err error
	// Reads counts and fails reads too.
	Reads bool

	mu     sync.Mutex
	n      int
	failed string
}

// Count is the number of operations so far.
func (f *Faults) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Failed names the operation that was made to fail.
func (f *Faults) Failed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *Faults) op(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.n == f.FailAt {
		f.failed = name
		if f.Err != nil {
			return f.Err
		}
		return ErrFault
	}
	if f.Crash && f.FailAt > 0 && f.n > f.FailAt {
		return ErrFault
	}
	return nil
}

func (f *Faults) Create(name string, perm os.FileMode) (Handle, error) {
	if err := f.op("create"); err != nil {
		return nil, err
	}
	h, err := f.Under.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return &faultyHandle{h, f}, nil
}

func (f *Faults) OpenWrite(name string) (Handle, error) {
	if err := f.op("open"); err != nil {
		return nil, err
	}
	h, err := f.Under.OpenWrite(name)
	if err != nil {
		return nil, err
	}
	return &faultyHandle{h, f}, nil
}

func (f *Faults) Open(name string) (Source, error) {
	if f.Reads {
		if err := f.op("open to read"); err != nil {
			return nil, err
		}
	}
	s, err := f.Under.Open(name)
	if err != nil || !f.Reads {
		return s, err
	}
	return &faultySource{s, f}, nil
}

func (f *Faults) Mkdir(name string, perm os.FileMode) error {
	return f.do("mkdir", func() error { return f.Under.Mkdir(name, perm) })
}
func (f *Faults) Rename(from, to string) error {
	return f.do("rename", func() error { return f.Under.Rename(from, to) })
}
func (f *Faults) RenameNew(from, to string) error {
	return f.do("rename new", func() error { return f.Under.RenameNew(from, to) })
}
func (f *Faults) Exchange(a, b string) error {
	return f.do("exchange", func() error { return f.Under.Exchange(a, b) })
}
func (f *Faults) Chmod(name string, mode os.FileMode) error {
	return f.do("chmod path", func() error { return f.Under.Chmod(name, mode) })
}
func (f *Faults) Remove(name string) error {
	return f.do("remove", func() error { return f.Under.Remove(name) })
}
func (f *Faults) RemoveAll(name string) error {
	return f.do("remove all", func() error { return f.Under.RemoveAll(name) })
}
func (f *Faults) SyncPath(name string) error {
	return f.do("sync path", func() error { return f.Under.SyncPath(name) })
}

func (f *Faults) do(name string, act func() error) error {
	if err := f.op(name); err != nil {
		return err
	}
	return act()
}

type faultyHandle struct {
	Handle
	f *Faults
}

func (h *faultyHandle) Write(b []byte) (int, error) {
	if err := h.f.op("write"); err != nil {
		n := 0
		if !h.f.Crash {
			n, _ = h.Handle.Write(b[:len(b)/2])
		}
		return n, err
	}
	return h.Handle.Write(b)
}

func (h *faultyHandle) WriteAt(b []byte, off int64) (int, error) {
	if err := h.f.op("write at"); err != nil {
		n := 0
		if !h.f.Crash {
			n, _ = h.Handle.WriteAt(b[:len(b)/2], off)
		}
		return n, err
	}
	return h.Handle.WriteAt(b, off)
}

func (h *faultyHandle) CopyAt(src *os.File, from, to, n int64) error {
	if err := h.f.op("copy at"); err != nil {
		if !h.f.Crash {
			_ = h.Handle.CopyAt(src, from, to, n/2) // its own error adds nothing
		}
		return err
	}
	return h.Handle.CopyAt(src, from, to, n)
}

func (h *faultyHandle) Truncate(size int64) error {
	return h.f.do("truncate", func() error { return h.Handle.Truncate(size) })
}
func (h *faultyHandle) Chmod(mode os.FileMode) error {
	return h.f.do("chmod", func() error { return h.Handle.Chmod(mode) })
}
func (h *faultyHandle) Sync() error { return h.f.do("sync", h.Handle.Sync) }

// Close closes in any case, so that a test does not run out of descriptors.
func (h *faultyHandle) Close() error {
	err := h.f.op("close")
	return errors.Join(err, h.Handle.Close())
}

type faultySource struct {
	Source
	f *Faults
}

func (s *faultySource) ReadAt(b []byte, off int64) (int, error) {
	if err := s.f.op("read"); err != nil {
		n, _ := s.Source.ReadAt(b[:len(b)/2], off)
		return n, err
	}
	return s.Source.ReadAt(b, off)
}

// Unsynced is a file system for tests that leaves syncing out: what a killed
// process wrote is there all the same.
type Unsynced struct{ FS }

func (u Unsynced) Create(name string, perm os.FileMode) (Handle, error) {
	h, err := u.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return unsynced{h}, nil
}

func (u Unsynced) OpenWrite(name string) (Handle, error) {
	h, err := u.FS.OpenWrite(name)
	if err != nil {
		return nil, err
	}
	return unsynced{h}, nil
}

// SyncPath fails, as the true one does, where there is nothing.
func (Unsynced) SyncPath(name string) error {
	_, err := os.Stat(name)
	return err
}

type unsynced struct{ Handle }

func (unsynced) Sync() error { return nil }
