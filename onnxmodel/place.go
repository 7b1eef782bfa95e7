package onnxmodel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// StagingDir is where a model with external data is made that [Place] then gives
// the name out: a hidden directory beside it.
func StagingDir(out string) string {
	dir, base := filepath.Split(filepath.Clean(out))
	return filepath.Join(dir, "."+base+".parts")
}

// Place moves a model with external data from its own directory on the same file
// system to out, a file name: the data files come first, named after it
// (out.data, out.1.data …) and never in the place of another file, then the model,
// which names them so, in one step. Before that step whatever had the name out is
// untouched, and after an error nothing of the new model is left. Of a model that
// is replaced, the data files named after it go too, unless another model of the
// directory refers to them.
//
// It returns the files of the output, without their directory. staged keeps what
// did not have to be moved. A nil fsys is the operating system's.
func Place(staged, out string, replace bool, fsys atomicfile.FS) (files []string, err error) {
	return place(staged, out, replace, fsys, nil)
}

// place is Place that calls before, unless it is nil, when only renaming is left to do.
func place(staged, out string, replace bool, fsys atomicfile.FS, before func() error) (files []string, err error) {
	if fsys == nil {
		fsys = atomicfile.OS
	}
	if err := absent(out, replace); err != nil {
		return nil, err
	}
	m, err := onnx.Open(staged)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	dir, base := filepath.Dir(out), filepath.Base(out)
	names, files := map[string]string{}, []string{base}
	for _, loc := range m.ExternalFiles() {
		names[loc] = freeName(dir, base, files)
		files = append(files, names[loc])
	}
	model := staged + ".placed"
	if err := relocated(fsys, m, model, base, names); err != nil {
		return nil, err
	}
	if before != nil {
		if err := before(); err != nil {
			return nil, err
		}
	}
	var moved []string
	defer func() {
		for _, path := range moved {
			err = errors.Join(err, fsys.Remove(path))
		}
	}()
	for _, loc := range m.ExternalFiles() {
		to := filepath.Join(dir, names[loc])
		if err := fsys.RenameNew(filepath.Join(filepath.Dir(staged), filepath.FromSlash(loc)), to); err != nil {
			return nil, err
		}
		moved = append(moved, to)
	}
	if err := fsys.SyncPath(dir); err != nil { // the data are on disk before the model is
		return nil, err
	}
	stale := ownData(out)
	if replace {
		err = fsys.Rename(model, out)
	} else {
		err = fsys.RenameNew(model, out)
	}
	if err != nil {
		return nil, err
	}
	moved = nil
	err = fsys.SyncPath(dir)
	for _, path := range stale {
		err = errors.Join(err, fsys.Remove(path))
	}
	if err != nil {
		err = &atomicfile.LateError{Err: err}
	}
	return files, err
}

// relocated writes a model whose data have other names to disk.
func relocated(fsys atomicfile.FS, m *onnx.Model, path, base string, names map[string]string) (err error) {
	plan, err := m.Relocate(base, names)
	if err != nil {
		return err
	}
	st, err := os.Stat(m.Path)
	if err != nil {
		return err
	}
	h, err := fsys.Create(path, st.Mode().Perm())
	if err != nil {
		return err
	}
	if err = copyOut(plan, h); err == nil {
		err = h.Sync()
	}
	return errors.Join(err, h.Close())
}

// dataName is the i-th name for a data file of the model base.
func dataName(base string, i int) string {
	if i == 0 {
		return base + ".data"
	}
	return fmt.Sprintf("%s.%d.data", base, i)
}

// freeName is the first such name that no file has.
func freeName(dir, base string, taken []string) string {
	for i := 0; ; i++ {
		name := dataName(base, i)
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) && !slices.Contains(taken, name) {
			return name
		}
	}
}

// ownData lists the data files of the model at path that are named after it and
// that no other model of the directory refers to. Where one cannot be read, there
// are none.
func ownData(path string) []string {
	m, err := onnx.Open(path)
	if err != nil {
		return nil
	}
	defer m.Close()
	var own []string
	names := m.ExternalFiles()
	for i := range len(names) + 1 {
		if n := dataName(filepath.Base(path), i); slices.Contains(names, n) {
			own = append(own, n)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".onnx" || e.Name() == filepath.Base(path) || len(own) == 0 {
			continue
		}
		other, err := onnx.Open(filepath.Join(filepath.Dir(path), e.Name()))
		if err != nil {
			return nil
		}
		used := other.ExternalFiles()
		other.Close()
		own = slices.DeleteFunc(own, func(n string) bool { return slices.Contains(used, n) })
	}
	for i := range own {
		own[i] = filepath.Join(filepath.Dir(path), own[i])
	}
	return own
}
