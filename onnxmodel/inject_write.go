package onnxmodel

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
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
// External data stay external. A file alone cannot hold them, except where it
// lies in the directory of the base model, whose data it then shares.
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
	if file {
		err = writeOne(m, plan, out, o)
	} else {
		err = writeDir(m, plan, out, o, w)
	}
	if err != nil {
		return nil, err
	}
	for i := range plan.Files {
		w.Files = append(w.Files, plan.Files[i].Name)
		w.Bytes += plan.Files[i].Size
	}
	return w, nil
}

// writeOne writes a model that is one file.
func writeOne(m *onnx.Model, plan *onnx.Output, out string, o WriteOptions) error {
	if len(plan.Files) > 1 {
		return &formats.Error{Path: out, Reason: "the model needs external data: " + strings.Join(plan.Notes, "; "), Hint: "give a directory as the output", Err: formats.ErrUnsupported}
	}
	if ext := m.ExternalFiles(); len(ext) > 0 && !sameDir(filepath.Dir(out), filepath.Dir(m.Path)) {
		return &formats.Error{Path: out, Reason: "the model has external data (" + strings.Join(ext, ", ") + ")", Hint: "give a directory as the output, or a file beside the base model, to share its data", Err: formats.ErrUnsupported}
	}
	if !o.Replace {
		if _, err := os.Lstat(out); err == nil {
			return fmt.Errorf("%s: %w", out, atomicfile.ErrExists)
		}
	}
	return atomicfile.WriteFileFS(o.FS, out, 0o666, func(w io.Writer) error { return copyOut(&plan.Files[0], w) })
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
