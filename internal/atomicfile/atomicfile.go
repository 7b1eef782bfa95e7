package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrExists is wrapped when an output exists and may not be replaced.
var ErrExists = errors.New("output exists")

// marker is part of every temporary name: .<final name>.lsrsurgeon-<pid>-<random>.
const marker = ".lsrsurgeon-"

func tempName(final string) string {
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on supported systems
	}
	return filepath.Join(filepath.Dir(final), fmt.Sprintf(".%s%s%d-%s", filepath.Base(final), marker, os.Getpid(), hex.EncodeToString(b[:])))
}

// Sweep removes temporaries of final that processes which no longer run left
// behind.
func Sweep(fsys FS, final string) {
	dir, prefix := filepath.Dir(final), "."+filepath.Base(final)+marker
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		pid, _, _ := strings.Cut(rest, "-")
		n, err := strconv.Atoi(pid)
		if err == nil && n != os.Getpid() && !alive(n) {
			_ = fsys.RemoveAll(filepath.Join(dir, e.Name())) // another run tries again
		}
	}
}

// File is a file being written.
type File struct {
	Handle
	fs    FS
	final string
	done  bool
}

// Create starts a file that Commit puts in place of final, replacing what is
// there.
func Create(final string, perm os.FileMode) (*File, error) { return CreateFS(OS, final, perm) }

// CreateFS is Create on a given file system.
func CreateFS(fsys FS, final string, perm os.FileMode) (*File, error) {
	final = filepath.Clean(final)
	Sweep(fsys, final)
	h, err := fsys.OpenFile(tempName(final), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	return &File{Handle: h, fs: fsys, final: final}, nil
}

// Commit flushes the file and renames it into place. On an error the old
// state is left and the temporary removed.
func (f *File) Commit() error {
	if f.done {
		return errors.New("atomicfile: file is finished")
	}
	f.done = true
	err := f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = f.fs.Rename(f.Name(), f.final)
	}
	if err != nil {
		return errors.Join(err, f.fs.RemoveAll(f.Name()))
	}
	return f.fs.SyncDir(filepath.Dir(f.final))
}

// Abort removes the temporary. After Commit it does nothing.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.Close()                // the file is thrown away
	_ = f.fs.RemoveAll(f.Name()) // and Sweep tries again
}

// WriteFile writes a file whole or not at all.
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

// Dir is a directory being written.
type Dir struct {
	fs      FS
	path    string
	final   string
	replace bool
	done    bool
}

// NewDir starts a directory that Commit puts at final. Without replace, an
// existing final is an error wrapping ErrExists, at once and again at Commit.
func NewDir(final string, replace bool) (*Dir, error) { return NewDirFS(OS, final, replace) }

// NewDirFS is NewDir on a given file system.
func NewDirFS(fsys FS, final string, replace bool) (*Dir, error) {
	final = filepath.Clean(final)
	if _, err := os.Lstat(final); err == nil && !replace {
		return nil, fmt.Errorf("%w: %s", ErrExists, final)
	}
	Sweep(fsys, final)
	d := &Dir{fs: fsys, path: tempName(final), final: final, replace: replace}
	if err := fsys.Mkdir(d.path, 0o777); err != nil {
		return nil, err
	}
	return d, nil
}

// Path is the temporary directory to write into.
func (d *Dir) Path() string { return d.path }

// Create makes a file inside the directory. The caller syncs and closes it.
func (d *Dir) Create(name string, perm os.FileMode) (Handle, error) {
	return d.fs.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// WriteFile writes one file inside the directory and flushes it.
func (d *Dir) WriteFile(name string, perm os.FileMode, write func(io.Writer) error) error {
	f, err := d.Create(name, perm)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// Commit flushes the directory and puts it in place. An old directory is
// exchanged in one step where the system can, else moved aside first; it is
// removed afterwards.
func (d *Dir) Commit() error {
	if d.done {
		return errors.New("atomicfile: directory is finished")
	}
	if err := d.fs.SyncDir(d.path); err != nil {
		d.Abort()
		return err
	}
	parent := filepath.Dir(d.final)
	_, err := os.Lstat(d.final)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = d.fs.Rename(d.path, d.final)
	case err == nil && !d.replace:
		err = fmt.Errorf("%w: %s", ErrExists, d.final)
	case err == nil:
		err = d.swap(parent)
	}
	if err != nil {
		d.Abort()
		return err
	}
	d.done = true
	return d.fs.SyncDir(parent)
}

// swap replaces the old directory.
func (d *Dir) swap(parent string) error {
	err := d.fs.Exchange(d.path, d.final)
	if err == nil {
		if err := d.fs.SyncDir(parent); err != nil {
			return err
		}
		_ = d.fs.RemoveAll(d.path) // the old output; Sweep tries again
		return nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	old := tempName(d.final)
	if err := d.fs.Rename(d.final, old); err != nil {
		return err
	}
	if err := d.fs.Rename(d.path, d.final); err != nil {
		return errors.Join(err, d.fs.Rename(old, d.final))
	}
	_ = d.fs.RemoveAll(old) // Sweep tries again
	return nil
}

// Abort removes the temporary. After Commit it does nothing.
func (d *Dir) Abort() {
	if d.done {
		return
	}
	d.done = true
	_ = d.fs.RemoveAll(d.path) // Sweep tries again
}
