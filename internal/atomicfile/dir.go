package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Dir is a directory in the making.
type Dir struct {
	fs          FS
	temp, final string
	replace     bool
	parents     []string // made by NewDir, deepest first
	mode        os.FileMode
	lock        *Lock
	old         string // where Publish put what had the name
	resumed     bool
	prepared    bool
	published   bool
	done        bool
}

// NewDir starts a directory that appears as final on Commit. An existing final is
// an error wrapping ErrExists, or with replace the one that Commit swaps out: its
// permissions are kept. Missing parents are made, and removed again by Abort. Until
// Commit or Abort nobody else can start the same one (ErrLocked).
func NewDir(final string, replace bool) (*Dir, error) { return NewDirFS(OS, final, replace) }

// NewDirFS is NewDir on a given file system.
func NewDirFS(fsys FS, final string, replace bool) (*Dir, error) {
	return ResumeDirFS(fsys, final, replace, nil)
}

// NewDirLocked is NewDir for who holds the lock of final already (NewLock), and
// keeps it after Commit or Abort.
func NewDirLocked(final string, replace bool) (*Dir, error) {
	return newDir(OS, final, replace, true, nil)
}

// ResumeDirFS is NewDirFS, but continues with the directory of a process that died
// while it made the same final, if there is one that accept takes. What it holds is
// the caller's to judge; the others are removed.
func ResumeDirFS(fsys FS, final string, replace bool, accept func(temp string) bool) (*Dir, error) {
	return newDir(fsys, final, replace, false, accept)
}

func newDir(fsys FS, final string, replace, locked bool, accept func(temp string) bool) (_ *Dir, err error) {
	final = filepath.Clean(final)
	d := &Dir{fs: fsys, final: final, replace: replace, mode: 0o777}
	if err := d.check(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.lock.Unlock()
			removeParents(d.fs, d.parents)
		}
	}()
	if d.parents, err = makeParents(d.fs, d.final); err != nil {
		return nil, err
	}
	if !locked {
		if d.lock, err = NewLock(final); err != nil {
			return nil, err
		}
	}
	d.temp = tempName(final)
	keep := ""
	if accept != nil {
		for _, name := range abandoned(final, true) {
			if keep == "" && !strings.HasSuffix(name, oldSuffix) && accept(filepath.Join(filepath.Dir(final), name)) {
				keep = name
			}
		}
	}
	sweep(fsys, final, true, keep)
	if keep == "" {
		return d, fsys.Mkdir(d.temp, 0o777)
	}
	d.resumed = true
	return d, fsys.RenameNew(filepath.Join(filepath.Dir(final), keep), d.temp)
}

// check looks at what is there under the name.
func (d *Dir) check() error {
	st, err := os.Lstat(d.final)
	switch {
	case err == nil && !st.IsDir():
		return fmt.Errorf("%w and is not a directory: %s", ErrExists, d.final)
	case err == nil && !d.replace:
		return fmt.Errorf("%w: %s", ErrExists, d.final)
	case err == nil:
		d.mode = st.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

// Resumed says that the directory is that of a process that died.
func (d *Dir) Resumed() bool { return d.resumed }

// Path is the temporary directory. Files may be made in it by any means.
func (d *Dir) Path() string { return d.temp }

// Create makes a file in the directory, and the directories above it.
func (d *Dir) Create(rel string, perm os.FileMode) (Handle, error) {
	path := filepath.Join(d.temp, rel)
	if err := d.mkdirs(filepath.Dir(rel)); err != nil {
		return nil, err
	}
	return d.fs.Create(path, perm)
}

// Open opens a file of the directory that is there already, for writing.
func (d *Dir) Open(rel string) (Handle, error) { return d.fs.OpenWrite(filepath.Join(d.temp, rel)) }

// Remove removes a file of the directory, or a directory with all in it.
func (d *Dir) Remove(rel string) error { return d.fs.RemoveAll(filepath.Join(d.temp, rel)) }

func (d *Dir) mkdirs(rel string) error {
	if rel == "." {
		return nil
	}
	if err := d.mkdirs(filepath.Dir(rel)); err != nil {
		return err
	}
	if err := d.fs.Mkdir(filepath.Join(d.temp, rel), 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// WriteFile writes one file in the directory.
func (d *Dir) WriteFile(rel string, perm os.FileMode, write func(io.Writer) error) error {
	f, err := d.Create(rel, perm)
	if err != nil {
		return err
	}
	err = write(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// Commit syncs every file and directory and gives the directory its name.
//
// Where the system can exchange two names at once (Linux), a directory that is
// replaced is whole under the name at every moment. Elsewhere it is renamed away
// first and back if the second renaming fails; should the process die between
// the two, the next writer of the same name puts it back.
//
// After an error the old directory has its name and nothing is left of the new
// one, except when only the last sync or the removal of the old one failed.
func (d *Dir) Commit() error {
	if err := d.Publish(); err != nil {
		d.Abort()
		return err
	}
	return d.Settle()
}

// Prepare syncs every file and directory, so that only the renaming is left to do.
func (d *Dir) Prepare() error {
	if d.done || d.published {
		return fmt.Errorf("%s: %w", d.final, fs.ErrClosed)
	}
	if d.prepared {
		return nil
	}
	err := d.sync()
	d.prepared = err == nil
	return err
}

// Publish is the first half of Commit, for outputs that belong together: the
// directory has its name, but until Settle, Abort takes it back.
func (d *Dir) Publish() error {
	if err := d.Prepare(); err != nil {
		return err
	}
	old, err := d.swap()
	if err != nil {
		return err
	}
	d.old, d.published = old, true
	return nil
}

// Settle is the second half of Commit: the renaming is brought to disk, and what
// was replaced is removed. Its errors are [LateError]s.
func (d *Dir) Settle() error {
	if d.done || !d.published {
		return fmt.Errorf("%s: %w", d.final, fs.ErrClosed)
	}
	d.done = true
	defer d.lock.Unlock()
	if err := syncParents(d.fs, d.final, d.parents); err != nil {
		return late(err)
	}
	if d.old != "" {
		return late(d.fs.RemoveAll(d.old))
	}
	return nil
}

// sync goes through the tree, directories after their contents.
func (d *Dir) sync() error {
	if d.mode != 0o777 {
		if err := d.fs.Chmod(d.temp, d.mode); err != nil {
			return err
		}
	}
	var dirs []string
	err := filepath.WalkDir(d.temp, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			dirs = append(dirs, path)
		case e.Type().IsRegular():
			return d.fs.SyncPath(path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = d.fs.SyncPath(dirs[i])
	}
	return err
}

// swap gives the new directory its name and returns where the old one is now.
func (d *Dir) swap() (old string, err error) {
	_, err = os.Lstat(d.final)
	if !d.replace || errors.Is(err, fs.ErrNotExist) {
		err = d.fs.RenameNew(d.temp, d.final)
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: %s", ErrExists, d.final)
		}
		return "", err
	}
	err = d.fs.Exchange(d.temp, d.final)
	if err == nil {
		return d.temp, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return "", err
	}
	old = tempName(d.final) + oldSuffix
	if err := d.fs.Rename(d.final, old); err != nil {
		return "", err
	}
	if err := d.fs.Rename(d.temp, d.final); err != nil {
		return "", errors.Join(err, d.fs.Rename(old, d.final))
	}
	return old, nil
}

// unswap takes back what swap did.
func (d *Dir) unswap() error {
	if d.old == d.temp {
		return d.fs.Exchange(d.temp, d.final)
	}
	if err := d.fs.Rename(d.final, d.temp); err != nil || d.old == "" {
		return err
	}
	return d.fs.Rename(d.old, d.final)
}

// Leave ends the work without removing what was written, for ResumeDirFS.
func (d *Dir) Leave() {
	if !d.done {
		d.done = true
		d.lock.Unlock()
	}
}

// Abort removes what was written, and gives what was replaced by Publish its name
// back; it does nothing after Commit, Settle or a second time.
func (d *Dir) Abort() {
	if d.done {
		return
	}
	d.done = true
	if !d.published || d.unswap() == nil { // else the new one stays under the name, and the old one for Sweep
		_ = d.fs.RemoveAll(d.temp) // Sweep tries again
	}
	d.lock.Unlock()
	removeParents(d.fs, d.parents)
}
