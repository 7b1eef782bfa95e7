package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// makeParents makes the missing directories above final and lists them, deepest
// first. After an error none of them is left.
func makeParents(fsys FS, final string) (made []string, err error) {
	var missing []string
	for p := filepath.Dir(final); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || filepath.Dir(p) == p {
			break
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := fsys.Mkdir(missing[i], 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			removeParents(fsys, made)
			return nil, err
		}
		made = append([]string{missing[i]}, made...)
	}
	return made, nil
}

// removeParents removes what makeParents made, unless something is in it.
func removeParents(fsys FS, made []string) {
	for _, p := range made {
		if fsys.Remove(p) != nil { // no longer empty: someone else's by now
			return
		}
	}
}

// syncParents brings the name final to disk, and the names of the directories that
// makeParents made, each by a sync of its own parent.
func syncParents(fsys FS, final string, made []string) error {
	for _, p := range append([]string{filepath.Dir(final)}, made...) {
		if err := fsys.SyncPath(p); err != nil {
			return err
		}
	}
	if n := len(made); n > 0 {
		return fsys.SyncPath(filepath.Dir(made[n-1]))
	}
	return nil
}
