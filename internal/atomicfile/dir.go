package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is a directory in the making.
type Dir struct {
	fs          FS
	temp, final string
	replace     bool
	parents     []string // made by NewDir, deepest first
	done        bool
}

// NewDir starts a directory that appears as final on Commit. An existing final is
// an error wrapping ErrExists, or with replace the one that Commit swaps out.
// Missing parents are made, and removed again by Abort.
func NewDir(final string, replace bool) (*Dir, error) { return NewDirFS(OS, final, replace) }

// NewDirFS is NewDir on a given file system.
func NewDirFS(fsys FS, final string, replace bool) (*Dir, error) {
	final = filepath.Clean(final)
	st, err := os.Lstat(final)
	switch {
	case err == nil && !st.IsDir():
		return nil, fmt.Errorf("%w and is not a directory: %s", ErrExists, final)
	case err == nil && !replace:
		return nil, fmt.Errorf("%w: %s", ErrExists, final)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	d := &Dir{fs: fsys, final: final, replace: replace}
	if err := d.makeParents(); err != nil {
		d.removeParents()
		return nil, err
	}
	Sweep(fsys, final)
	d.temp = tempName(final)
	if err := fsys.Mkdir(d.temp, 0o777); err != nil {
		d.removeParents()
		return nil, err
	}
	return d, nil
}

func (d *Dir) makeParents() error {
	var missing []string
	for p := filepath.Dir(d.final); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || filepath.Dir(p) == p {
			break
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := d.fs.Mkdir(missing[i], 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		d.parents = append([]string{missing[i]}, d.parents...)
	}
	return nil
}

func (d *Dir) removeParents() {
	for _, p := range d.parents {
		if d.fs.Remove(p) != nil { // no longer empty: someone else's by now
			return
		}
	}
}

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
	if d.done {
		return fmt.Errorf("%s: %w", d.final, fs.ErrClosed)
	}
	if err := d.sync(); err != nil {
		d.Abort()
		return err
	}
	old, err := d.swap()
	if err != nil {
		d.Abort()
		return err
	}
	d.done = true
	// Parents made by NewDir must be on disk too, each by a sync of its own parent.
	for _, p := range append([]string{filepath.Dir(d.final)}, d.parents...) {
		if err := d.fs.SyncPath(p); err != nil {
			return err
		}
	}
	if n := len(d.parents); n > 0 {
		if err := d.fs.SyncPath(filepath.Dir(d.parents[n-1])); err != nil {
			return err
		}
	}
	if old != "" {
		return d.fs.RemoveAll(old)
	}
	return nil
}

// sync goes through the tree, directories after their contents.
func (d *Dir) sync() error {
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

// Abort removes what was written; it does nothing after Commit or a second
// time.
func (d *Dir) Abort() {
	if d.done {
		return
	}
	d.done = true
	_ = d.fs.RemoveAll(d.temp) // Sweep tries again
	d.removeParents()
}
