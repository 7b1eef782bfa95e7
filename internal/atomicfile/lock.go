package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrLocked is wrapped when another process is writing the same output.
var ErrLocked = errors.New("another process is writing this output")

const lockSuffix = ".lsrsurgeon-lock"

// Lock keeps others from writing one output: the system's lock of the file
// ".<name>.lsrsurgeon-lock" beside it. It ends with the process, so a lock file
// that a killed process left behind is no obstacle.
type Lock struct {
	f       *os.File
	path    string
	parents []string // made by NewLock, deepest first
}

// NewLock locks final, or fails at once with an error wrapping ErrLocked. Missing
// parents are made, and removed again by Unlock if nothing has come into them.
func NewLock(final string) (_ *Lock, err error) {
	parents, err := makeParents(OS, filepath.Clean(final))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeParents(OS, parents)
		}
	}()
	dir, base := filepath.Split(filepath.Clean(final))
	path := filepath.Join(dir, "."+base+lockSuffix)
	for range 100 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		ok, err := tryLock(f)
		if err == nil && !ok {
			err = lockedBy(f, final)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// Its last owner may have removed the file between the two calls.
		st, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		now, err := os.Lstat(path)
		if err == nil && os.SameFile(st, now) {
			l := &Lock{f, path, parents}
			if err := l.sign(); err != nil {
				l.Unlock()
				return nil, err
			}
			return l, nil
		}
		f.Close() // only its lock mattered
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: %w", final, ErrLocked)
}

// sign writes the owner into the file, for messages.
func (l *Lock) sign() error {
	host, _ := os.Hostname() // without a name the number has to do
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintf(l.f, "process %d on %s\n", os.Getpid(), host)
	return err
}

func lockedBy(f *os.File, final string) error {
	b := make([]byte, 256)
	n, _ := f.ReadAt(b, 0) // an empty file says nothing of its owner
	owner := strings.Join(strings.Fields(string(b[:n])), " ")
	if owner == "" {
		return fmt.Errorf("%s: %w", final, ErrLocked)
	}
	return fmt.Errorf("%s: %w: %s", final, ErrLocked, owner)
}

// Unlock removes the lock file and lets go of the lock; a second call does
// nothing.
func (l *Lock) Unlock() {
	if l == nil || l.f == nil {
		return
	}
	_ = os.Remove(l.path) // a file that stays is no obstacle
	_ = l.f.Close()       // nothing in it matters
	l.f = nil
	removeParents(OS, l.parents)
}
