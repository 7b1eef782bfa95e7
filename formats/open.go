package formats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
)

// Names of the files of a Hugging Face model or adapter directory.
const (
	ModelFile   = "model.safetensors"
	IndexFile   = "model.safetensors.index.json"
	AdapterFile = "adapter_model.safetensors"
	GraphFile   = "model.onnx"
)

const (
	graphExt    = ".onnx"
	graphFolder = "onnx"
)

// OpenOptions are the facts that a library must not find out itself.
type OpenOptions struct {
	// HubCache is the local Hugging Face cache, where a name like
	// "org/model" is looked up; see HubCacheDir. Empty means no lookup.
	HubCache string
}

// Codec opens another file format by name ending.
type Codec struct {
	Format string // "onnx"
	Ext    string // ".onnx"
	// Open lists files and tensors of path. Errors should be *Error.
	Open func(path string) ([]File, []Tensor, error)
}

var codecs []Codec

// Register adds a codec. It is called from package initialisation.
func Register(c Codec) { codecs = append(codecs, c) }

// Open opens a checkpoint: a directory in Hugging Face layout, a .safetensors
// file, a model.safetensors.index.json, or an .onnx model. A directory without
// .safetensors files is that of its ONNX model: model.onnx or else the only .onnx
// file, in it or in its folder onnx.
func Open(path string) (*Checkpoint, error) { return OpenWith(path, OpenOptions{}) }

// OpenWith is Open with options.
func OpenWith(path string, o OpenOptions) (*Checkpoint, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if dir, ok := hubSnapshot(o.HubCache, path); ok {
			c, err := openDir(path, dir)
			return c, err
		}
		e := &Error{Path: path, Reason: "no such file or directory", Hint: "give a model directory, a .safetensors file, or a model of the local Hugging Face cache", Err: ErrNotFound}
		if o.HubCache != "" && looksLikeModelName(path) {
			e.Reason = "no such file or directory, and not in the Hugging Face cache " + o.HubCache
		}
		return nil, e
	}
	if err != nil {
		return nil, &Error{Path: path, Reason: err.Error(), Hint: "check the path and its permissions", Err: err}
	}
	if st.IsDir() {
		return openDir(path, path)
	}
	return openFile(path)
}

func openFile(path string) (*Checkpoint, error) {
	if strings.HasSuffix(path, ".index.json") {
		return openIndex(path, path)
	}
	ext := strings.ToLower(filepath.Ext(path))
	for _, k := range codecs {
		if ext == k.Ext {
			return openWith(k, path, homeOf(path))
		}
	}
	return openFiles(path, filepath.Dir(path), []string{path})
}

// openWith opens a model that is one file; dir has its configuration.
func openWith(k Codec, path, dir string) (*Checkpoint, error) {
	files, tensors, err := k.Open(path)
	if err != nil {
		return nil, err
	}
	return finish(&Checkpoint{path: path, dir: dir, format: k.Format, files: files, tensors: tensors})
}

// openFiles opens safetensors files as one checkpoint, in the order given.
func openFiles(given, dir string, paths []string) (*Checkpoint, error) {
	c := &Checkpoint{path: given, dir: dir, format: "safetensors"}
	for _, p := range paths {
		f, tensors, err := readFile(p, len(c.files))
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, f)
		c.tensors = append(c.tensors, tensors...)
	}
	return finish(c)
}

// finish builds the name table.
func finish(c *Checkpoint) (*Checkpoint, error) {
	c.maps = make([][]byte, len(c.files))
	c.byName = make(map[string]int, len(c.tensors))
	for i, t := range c.tensors {
		if j, dup := c.byName[t.Name]; dup {
			return nil, &Error{Path: c.files[t.File].Path, Tensor: t.Name, Reason: "also in " + filepath.Base(c.files[c.tensors[j].File].Path), Hint: "a tensor may be in one shard only: restore the checkpoint", Err: ErrMalformed}
		}
		c.byName[t.Name] = i
	}
	return c, nil
}

// readFile reads the header of one safetensors file.
func readFile(path string, file int) (File, []Tensor, error) {
	fail := func(err error) (File, []Tensor, error) {
		e := &Error{Path: path, Reason: err.Error(), Err: err}
		var se *safetensors.Error
		if errors.As(err, &se) {
			e.Tensor, e.Offset, e.Reason, e.Hint, e.Err = se.Tensor, se.Offset, se.Reason, se.Hint, ErrMalformed
		}
		return File{}, nil, e
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !st.Mode().IsRegular() {
		return fail(errors.New("not a regular file"))
	}
	h, err := safetensors.ReadHeader(f, st.Size())
	if err != nil {
		return fail(err)
	}
	out := make([]Tensor, len(h.Tensors))
	for i := range h.Tensors {
		e := &h.Tensors[i]
		out[i] = Tensor{Name: e.Name, DType: e.DType, Shape: e.Shape, File: file, Offset: h.DataStart + e.Begin, Bytes: e.End - e.Begin}
	}
	info := File{Path: path, Size: st.Size()}
	for _, kv := range h.Metadata {
		info.Metadata = append(info.Metadata, KV(kv))
	}
	return info, out, nil
}

// looksLikeModelName says whether s could be "name" or "org/name" of a hub.
func looksLikeModelName(s string) bool {
	return s != "" && strings.Count(s, "/") <= 1 && !strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "/") && !slices.Contains(strings.Split(s, "/"), "")
}
