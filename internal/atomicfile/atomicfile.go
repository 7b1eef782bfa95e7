// Package atomicfile makes files and directories that appear whole or not at
// all.
//
// Everything is written to a hidden sibling of the final path, synced, renamed
// and the parent directory synced, so that a crash at any point leaves the old
// state or the new one. The sibling is called
// ".<name>.lsrsurgeon-<pid>-<host><random>"; those left by processes that died on
// this host are removed when the same name is written the next time.
//
// All changes of the file system go through FS, so that tests can make
// each single one fail.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrExists is wrapped when an output exists and may not be replaced.
var ErrExists = errors.New("output exists")

// LateError is what failed when an output had its name already: a sync of the
// directory around it, or the removal of what it replaced.
type LateError struct{ Err error }

func (e *LateError) Error() string { return e.Err.Error() }
func (e *LateError) Unwrap() error { return e.Err }

func late(err error) error {
	if err == nil {
		return nil
	}
	return &LateError{err}
}

// WriteFile writes final through write, whole or not at all; an existing file
// is replaced only when everything is on disk.
func WriteFile(final string, perm os.FileMode, write func(io.Writer) error) error {
	return WriteFileFS(OS, final, perm, write)
}

// WriteFileFS is WriteFile on a given file system.
func WriteFileFS(fsys FS, final string, perm os.FileMode, write func(io.Writer) error) error {
	f, err := CreateFS(fsys, final, perm)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	return f.Commit()
}

// File is a file in the making. Write appends; WriteAt may be used by several
// goroutines at once.
type File struct {
	Handle
	fs          FS
	temp, final string
	parents     []string // made by CreateFS, deepest first
	done        bool
}

// CreateFS starts a file that takes the place of final on Commit. It gets the
// permissions of the file that it replaces, else perm. Missing parents are made,
// and removed again by Abort.
func CreateFS(fsys FS, final string, perm os.FileMode) (*File, error) {
	final = filepath.Clean(final)
	st, err := os.Lstat(final)
	if err == nil && st.IsDir() {
		return nil, fmt.Errorf("%s is a directory, not a file", final)
	}
	parents, err := makeParents(fsys, final)
	if err != nil {
		return nil, err
	}
	Sweep(fsys, final)
	temp := tempName(final)
	h, err := fsys.Create(temp, perm)
	if err != nil {
		removeParents(fsys, parents)
		return nil, err
	}
	f := &File{Handle: h, fs: fsys, temp: temp, final: final, parents: parents}
	if st != nil && st.Mode().IsRegular() {
		if err := h.Chmod(st.Mode().Perm()); err != nil {
			f.Abort()
			return nil, err
		}
	}
	return f, nil
}

// Commit syncs the file, closes it and gives it its name. After an error
// nothing is left of it and what had the name before is untouched; only an error in
// the sync of the parent directory comes after the renaming.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("%s: %w", f.final, fs.ErrClosed)
	}
	if err := f.Sync(); err != nil {
		f.Abort()
		return err
	}
	f.done = true
	err := f.Close()
	if err == nil {
		err = f.fs.Rename(f.temp, f.final)
	}
	if err != nil {
		err = errors.Join(err, f.fs.Remove(f.temp))
		removeParents(f.fs, f.parents)
		return err
	}
	return late(syncParents(f.fs, f.final, f.parents))
}

// Abort removes what was written. It does nothing after Commit or a
// second time, so that it can be deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.Close()           // the file is thrown away,
	_ = f.fs.Remove(f.temp) // and Sweep tries again
	removeParents(f.fs, f.parents)
}
