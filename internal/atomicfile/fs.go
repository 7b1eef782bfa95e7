// Package atomicfile makes outputs that appear whole or not at all.
//
// A file or a directory is written under a temporary name beside its final
// one, flushed to disk, and renamed. A crash at any moment leaves the old
// state, and a temporary that the next run recognises and removes.
package atomicfile

import (
	"io"
	"os"
)

// FS are the operations on files that this package uses. Tests replace it to
// fail or to stop at any one of them.
type FS interface {
	OpenFile(name string, flag int, perm os.FileMode) (Handle, error)
	Mkdir(name string, perm os.FileMode) error
	Rename(from, to string) error
	// Exchange swaps two paths in one step, or fails with
	// errors.ErrUnsupported where the system cannot.
	Exchange(a, b string) error
	RemoveAll(name string) error
	SyncDir(name string) error
}

// Handle is an open file.
type Handle interface {
	io.Writer
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Chmod(mode os.FileMode) error
	Fd() uintptr
	Name() string
}

// OS is the real file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm os.FileMode) (Handle, error) {
	return os.OpenFile(name, flag, perm)
}
func (osFS) Mkdir(name string, perm os.FileMode) error { return os.Mkdir(name, perm) }
func (osFS) Rename(from, to string) error              { return os.Rename(from, to) }
func (osFS) RemoveAll(name string) error               { return os.RemoveAll(name) }
func (osFS) Exchange(a, b string) error                { return exchange(a, b) }

// SyncDir flushes a directory's entries. File systems that cannot (some
// network ones) say EINVAL or ENOTSUP, which is not a failure.
func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !unsupportedSync(err) {
		return err
	}
	return nil
}
