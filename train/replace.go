package train

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// fresh makes sure that nothing is in the way but what is to be replaced.
func (r *run) fresh() error {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if len(entries) > 0 && !r.o.Replace {
		return fmt.Errorf("%s is not empty; resume the run, replace it, or choose another directory: %w", r.o.Dir, ErrExists)
	}
	r.replaces = len(entries) > 0
	return nil
}

// publish puts the directory of the run in the place of the one that it replaces.
func (r *run) publish() error {
	if r.next == nil {
		return nil
	}
	if err := r.keepForeign(); err != nil {
		return err
	}
	// Where files are open, some systems do not rename their directory.
	err := r.log.Close()
	if r.log = nil; err != nil {
		return err
	}
	d := r.next
	r.next = nil
	if err := d.Commit(); err != nil {
		return err
	}
	r.dir = realDir(r.o.Dir)
	r.log, err = os.OpenFile(r.path(MetricsFile), os.O_APPEND|os.O_WRONLY, 0o666)
	return err
}

// manifestFile is manifest.File: what a caller adds to a run that is done.
const manifestFile = "lsrsurgeon.manifest.json"

// keepForeign gives the new directory what lies in the old one and is of no run, so
// that the notes of its owner survive. They are linked, not moved: should this
// process die now, the old directory lacks nothing.
func (r *run) keepForeign() error {
	old := realDir(r.o.Dir)
	entries, err := os.ReadDir(old)
	if err != nil {
		return err
	}
	own := []string{RunFile, StateFile, MetricsFile, savingDir, "adapter_config.json", "adapter_model.safetensors", manifestFile}
	for _, e := range entries {
		if slices.Contains(own, e.Name()) {
			continue
		}
		if err := linkTree(filepath.Join(old, e.Name()), r.path(e.Name())); err != nil {
			return fmt.Errorf("keep %s: %w", e.Name(), err)
		}
	}
	return nil
}

// linkTree makes to the same as from: files by hard links, or as copies where the
// file system has none.
func linkTree(from, to string) error {
	st, err := os.Lstat(from)
	switch {
	case err != nil:
		return err
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !st.IsDir():
		if os.Link(from, to) == nil {
			return nil
		}
		return copyFile(from, to, st.Mode().Perm())
	}
	if err := os.Mkdir(to, st.Mode().Perm()|0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := linkTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, perm os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
