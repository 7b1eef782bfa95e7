package onnxmodel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// WriteOptions are options of Write.
type WriteOptions struct {
	Replace bool // an existing output
	// Limit is the length from which the model file's largest tensors become
	// external data; 0 means protobuf's 2 GiB.
	Limit int64
	// Carry lists files to be copied into the output's directory: a tokenizer,
	// config.json.
	Carry []string
	// Finish is called with a directory that holds everything but has not got
	// its name yet.
	Finish func(dir string) error
	// Before, which may be nil, is called when all is on disk, before the output
	// gets its name. After an error nothing is left.
	Before func() error
	// FS is the file system to write to; nil means the operating system's.
	FS atomicfile.FS
}

// Written says what Write made.
type Written struct {
	Files []string
	Bytes int64
	Notes []string
}

// Write writes an edited model, whole or not at all. out ending in .onnx is a
// file; else it is a directory that gets the model under its old name ("model.onnx"
// where it has none), its external data, those that the edit made, and what
// is to be carried.
//
// External data stay external: beside a file they are named after it, see [Place].
// A file in the directory of the base model shares the base's data.
func Write(m *onnx.Model, e *onnx.Edit, out string, o WriteOptions) (*Written, error) {
	if o.FS == nil {
		o.FS = atomicfile.OS
	}
	file := strings.EqualFold(filepath.Ext(out), ".onnx")
	name := "model.onnx"
	switch {
	case file:
		name = filepath.Base(out)
	case m.Path != "":
		name = filepath.Base(m.Path)
	}
	plan, err := e.Plan(name, o.Limit)
	if err != nil {
		return nil, err
	}
	w := &Written{Notes: plan.Notes}
	for i := range plan.Files {
		w.Files = append(w.Files, plan.Files[i].Name)
		w.Bytes += plan.Files[i].Size
	}
	switch {
	case !file:
		err = writeDir(m, plan, out, o, w)
	case len(plan.Files) > 1 || len(m.ExternalFiles()) > 0 && !sameDir(filepath.Dir(out), filepath.Dir(m.Path)):
		err = writeBeside(m, plan, out, o, w)
	default:
		err = writeOne(plan, out, o)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// writeOne writes a model that is one file.
func writeOne(plan *onnx.Output, out string, o WriteOptions) error {
	if err := absent(out, o.Replace); err != nil {
		return err
	}
	f, err := atomicfile.CreateFS(o.FS, out, 0o666)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := copyOut(&plan.Files[0], f); err != nil {
		return err
	}
	if o.Before != nil {
		if err := f.Sync(); err != nil {
			return err
		}
		if err := o.Before(); err != nil {
			return err
		}
	}
	return f.Commit()
}

// absent fails where an output exists that may not be replaced.
func absent(out string, replace bool) error {
	if _, err := os.Lstat(out); err == nil && !replace {
		return fmt.Errorf("%s: %w", out, atomicfile.ErrExists)
	}
	return nil
}

// writeBeside writes a model that is a file with external data beside it.
func writeBeside(m *onnx.Model, plan *onnx.Output, out string, o WriteOptions, w *Written) (err error) {
	if err := absent(out, o.Replace); err != nil {
		return err
	}
	lock, err := atomicfile.NewLock(out)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	stage := StagingDir(out)
	defer func() { err = errors.Join(err, o.FS.RemoveAll(stage)) }()
	if err := writeDir(m, plan, stage, WriteOptions{FS: o.FS, Replace: true}, w); err != nil {
		return err
	}
	if w.Files, err = place(filepath.Join(stage, plan.Files[0].Name), out, o.Replace, o.FS, o.Before); err != nil || len(plan.Files) < 2 {
		return err
	}
	old := plan.Files[1].Name
	i, _ := slices.BinarySearch(m.ExternalFiles(), old) // its place among the old names, in whose order Place gives new ones
	for k, n := range w.Notes {
		w.Notes[k] = strings.ReplaceAll(n, old, w.Files[1+i])
	}
	return nil
}

func sameDir(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// copyOut writes a file through a buffer, for the many small chunks.
func copyOut(f *onnx.OutFile, w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<20)
	if _, err := f.WriteTo(b); err != nil {
		return err
	}
	return b.Flush()
}

// writeDir writes the model with everything that belongs to it.
func writeDir(m *onnx.Model, plan *onnx.Output, out string, o WriteOptions, w *Written) error {
	d, err := atomicfile.NewDirFS(o.FS, out, o.Replace)
	if err != nil {
		return err
	}
	defer d.Abort()
	var names []string
	for i := range plan.Files {
		f := &plan.Files[i]
		names = append(names, f.Name)
		if err := d.WriteFile(f.Name, 0o666, func(w io.Writer) error { return copyOut(f, w) }); err != nil {
			return err
		}
	}
	for _, loc := range m.ExternalFiles() {
		n, err := copyFile(d, filepath.Join(filepath.Dir(m.Path), filepath.FromSlash(loc)), filepath.FromSlash(loc))
		if err != nil {
			return err
		}
		names, w.Bytes, w.Files = append(names, loc), w.Bytes+n, append(w.Files, loc)
	}
	for _, path := range o.Carry {
		if rel := filepath.Base(path); !slices.Contains(names, rel) {
			n, err := copyFile(d, path, rel)
			if err != nil {
				return err
			}
			w.Bytes, w.Files = w.Bytes+n, append(w.Files, rel)
		}
	}
	if o.Finish != nil {
		if err := o.Finish(d.Path()); err != nil {
			return err
		}
	}
	if o.Before != nil {
		if err := d.Prepare(); err != nil {
			return err
		}
		if err := o.Before(); err != nil {
			return err
		}
	}
	return d.Commit()
}

func copyFile(d *atomicfile.Dir, from, rel string) (n int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return 0, err
	}
	out, err := d.Create(rel, 0o666)
	if err != nil {
		return 0, err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	return st.Size(), out.CopyAt(in, 0, 0, st.Size())
}
