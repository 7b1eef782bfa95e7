package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrShared: a file to be changed in place is a link, or has other names.
var ErrShared = errors.New("the file is a link or has other names: it is not written through")

// FS is every change that this package makes to a file system.
type FS interface {
	// Create makes a file for writing; an existing one is an error.
	Create(name string, perm os.FileMode) (Handle, error)
	// OpenWrite opens an existing file for writing, links not followed.
	OpenWrite(name string) (Handle, error)
	// Open opens a file for reading.
	Open(name string) (Source, error)
	Mkdir(name string, perm os.FileMode) error
	// Rename replaces an existing file.
	Rename(from, to string) error
	// RenameNew fails with an error wrapping fs.ErrExist when to exists.
	RenameNew(from, to string) error
	// Exchange swaps two names in one step, or fails with an error wrapping
	// errors.ErrUnsupported and changes nothing.
	Exchange(a, b string) error
	Chmod(name string, mode os.FileMode) error
	Remove(name string) error
	RemoveAll(name string) error
	// SyncPath brings a closed file or a directory to disk.
	SyncPath(name string) error
}

// Handle is a file open for writing.
type Handle interface {
	io.Writer
	io.WriterAt
	io.ReaderAt
	// CopyAt copies n bytes of src from offset from to offset to of the
	// file, inside the kernel where it can: without passing through this process, and
	// sharing the blocks on file systems that do. Several goroutines may call it.
	CopyAt(src *os.File, from, to, n int64) error
	Truncate(size int64) error
	Chmod(mode os.FileMode) error
	Sync() error
	Close() error
	Name() string
}

// Source is a file open for reading.
type Source interface {
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	// File is what CopyAt takes.
	File() *os.File
	// WillNeed asks the system to read a range ahead, without waiting for it. It is advice.
	WillNeed(off, n int64)
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) Create(name string, perm os.FileMode) (Handle, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	return &handle{f}, nil
}

// OpenWrite refuses anything but a regular file that has this one name: a
// change would show under the other names too.
func (osFS) OpenWrite(name string) (Handle, error) {
	st, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || links(st) > 1 {
		return nil, fmt.Errorf("%s: %w", name, ErrShared)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(st, now) {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, ErrShared), err, f.Close())
	}
	return &handle{f}, nil
}

func (osFS) Open(name string) (Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return source{f}, nil
}

func (osFS) Mkdir(name string, perm os.FileMode) error { return os.Mkdir(name, perm) }
func (osFS) Rename(from, to string) error              { return os.Rename(from, to) }
func (osFS) RenameNew(from, to string) error           { return renameNew(from, to) }
func (osFS) Exchange(a, b string) error                { return exchange(a, b) }
func (osFS) Chmod(name string, m os.FileMode) error    { return os.Chmod(name, m) }
func (osFS) Remove(name string) error                  { return os.Remove(name) }
func (osFS) RemoveAll(name string) error               { return os.RemoveAll(name) }

// SyncPath tolerates file systems without fsync.
func (osFS) SyncPath(name string) error {
	f, err := openForSync(name)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	return tolerate(f.Sync())
}

type source struct{ f *os.File }

func (s source) ReadAt(b []byte, off int64) (int, error) { return s.f.ReadAt(b, off) }
func (s source) Close() error                            { return s.f.Close() }
func (s source) Stat() (os.FileInfo, error)              { return s.f.Stat() }
func (s source) File() *os.File                          { return s.f }
func (s source) WillNeed(off, n int64)                   { willNeed(s.f, off, n) }

type handle struct{ *os.File }

func (h *handle) Sync() error { return tolerate(h.File.Sync()) }

func (h *handle) CopyAt(src *os.File, from, to, n int64) error {
	done, err := copyRange(h.File, src, from, to, n)
	if err != nil || done == n {
		return err
	}
	return copyBytes(h.File, src, from+done, to+done, n-done)
}

// copyBytes is the portable way, through a buffer.
func copyBytes(dst io.WriterAt, src io.ReaderAt, from, to, n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		if _, err := src.ReadAt(b, from); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if _, err := dst.WriteAt(b, to); err != nil {
			return err
		}
		from, to, n = from+int64(len(b)), to+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// renameIfAbsent is RenameNew for systems without such a call. Between the
// check and the renaming another process may make to; a directory is not lost
// even then, since renaming onto one that is not empty fails.
func renameIfAbsent(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, to)
}
