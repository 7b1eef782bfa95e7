// Package formats opens checkpoints: named tensors in files, mapped and never
// written.
//
// A [Checkpoint] is one file, or several that an index binds together. Opening
// reads the headers only; bytes are mapped when a tensor is first touched.
// The codecs live below (formats/safetensors) and know nothing of this
// package.
package formats

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Tensor is a named tensor of a checkpoint.
type Tensor struct {
	Name   string
	DType  tensor.DType
	Shape  []int
	File   int   // index into Files
	Offset int64 // of its first byte in that file
	Bytes  int64
	// Stored names the element type where DType has no name for it and is
	// Invalid: "INT4" or "STRING" of an ONNX model. Else it is empty.
	Stored string

	decoded []byte // bytes that no file holds in this form
}

// TypeName is the name of the element type.
func (t Tensor) TypeName() string {
	if t.Stored != "" {
		return t.Stored
	}
	return t.DType.String()
}

// InFile says whether the bytes lie in the file as Bytes gives them.
func (t Tensor) InFile() bool { return t.decoded == nil }

// Elements is the number of elements.
func (t Tensor) Elements() int64 {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return 0 // not reached: shapes are checked when a file is opened
	}
	return n
}

// KV is one entry of a file's metadata.
type KV struct{ Key, Value string }

// File is one file of a checkpoint.
type File struct {
	Path     string
	Size     int64
	Metadata []KV // in file order
}

// Checkpoint is an open checkpoint. It is safe for concurrent use.
type Checkpoint struct {
	path    string
	dir     string
	format  string
	files   []File
	tensors []Tensor
	byName  map[string]int
	index   *Index

	mu   sync.Mutex
	maps [][]byte
}

// Path is the path as it was given to Open, or the file of the ONNX model that was
// found in the directory given.
func (c *Checkpoint) Path() string { return c.path }

// Dir is the directory that holds config.json and the tokenizer's files. An ONNX
// model may lie in its folder onnx.
func (c *Checkpoint) Dir() string { return c.dir }

// Format names the file format: "safetensors" or "onnx".
func (c *Checkpoint) Format() string { return c.format }

// Tensors lists all tensors, file by file in file order. The caller must not
// change the slice.
func (c *Checkpoint) Tensors() []Tensor { return c.tensors }

// Files lists the files in the order of their names' first use.
func (c *Checkpoint) Files() []File { return c.files }

// Index is the parsed model.safetensors.index.json, or nil.
func (c *Checkpoint) Index() *Index { return c.index }

// Lookup finds a tensor by name.
func (c *Checkpoint) Lookup(name string) (Tensor, bool) {
	i, ok := c.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return c.tensors[i], true
}

// Metadata merges the metadata of all files; the first file with a key wins.
func (c *Checkpoint) Metadata() map[string]string {
	m := map[string]string{}
	for _, f := range c.files {
		for _, kv := range f.Metadata {
			if _, ok := m[kv.Key]; !ok {
				m[kv.Key] = kv.Value
			}
		}
	}
	return m
}

// Bytes returns the tensor's bytes as a view of the read-only mapping: they must
// not be written, and not be used after Close. Touching a view of a file that
// another process has truncated since raises a fault; ReadF32, ReadF64 and
// Guard turn it into an error.
func (c *Checkpoint) Bytes(t Tensor) ([]byte, error) {
	if t.Bytes == 0 {
		return nil, nil
	}
	if t.decoded != nil {
		return t.decoded, nil
	}
	m, err := c.mapped(t.File)
	if err != nil {
		return nil, err
	}
	if t.Offset < 0 || t.Offset+t.Bytes > int64(len(m)) {
		return nil, &Error{Path: c.files[t.File].Path, Tensor: t.Name, Offset: t.Offset, Reason: "its bytes lie outside the file", Hint: "the file changed while it was open", Err: ErrMalformed}
	}
	return m[t.Offset : t.Offset+t.Bytes : t.Offset+t.Bytes], nil
}

// Mapped returns a whole file as a view of its read-only mapping, with the same
// rules as Bytes.
func (c *Checkpoint) Mapped(file int) ([]byte, error) { return c.mapped(file) }

func (c *Checkpoint) mapped(file int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps == nil {
		return nil, fmt.Errorf("%s: checkpoint is closed", c.path)
	}
	if c.maps[file] == nil {
		f := &c.files[file]
		m, err := mapFile(f.Path, f.Size)
		if err != nil {
			return nil, &Error{Path: f.Path, Reason: err.Error(), Hint: "the file changed or vanished while it was open", Err: err}
		}
		c.maps[file] = m
	}
	return c.maps[file], nil
}

// Guard runs f, which reads mapped bytes, and turns the fault of a page that
// is no longer there (a truncated file, a failing disk) into an error.
func (c *Checkpoint) Guard(t Tensor, f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			// Only a memory fault has an address; anything else is a bug of f.
			if _, ok := r.(interface{ Addr() uintptr }); ok {
				err = &Error{Path: c.files[t.File].Path, Tensor: t.Name, Offset: t.Offset, Reason: "reading it failed: the file was truncated or the disk has an error", Hint: "check the file and try again", Err: ErrMalformed}
				return
			}
			panic(r)
		}
	}()
	return f()
}

// ReadF32 converts elements [from, to) of t to float32. F64 is rounded.
func (c *Checkpoint) ReadF32(t Tensor, from, to int64, dst []float32) error {
	return c.read(t, from, to, len(dst), func(b []byte) error { return tensor.DecodeF32(dst, b, t.DType) })
}

// ReadF64 converts elements [from, to) of t to float64, exactly.
func (c *Checkpoint) ReadF64(t Tensor, from, to int64, dst []float64) error {
	return c.read(t, from, to, len(dst), func(b []byte) error { return tensor.DecodeF64(dst, b, t.DType) })
}

func (c *Checkpoint) read(t Tensor, from, to int64, n int, decode func([]byte) error) error {
	if from < 0 || to < from || to > t.Elements() || int64(n) != to-from {
		panic(fmt.Sprintf("formats: elements [%d, %d) of %d into %d", from, to, t.Elements(), n))
	}
	if !tensor.Convertible(t.DType) {
		return &Error{Path: c.files[t.File].Path, Tensor: t.Name, Reason: fmt.Sprintf("dtype %s can be copied but not computed with", t.TypeName()), Hint: "use a checkpoint in F32, F16, BF16 or F8", Err: ErrUnsupported}
	}
	if n == 0 {
		return nil
	}
	b, err := c.Bytes(t)
	if err != nil {
		return err
	}
	w := int64(t.DType.Bits() / 8)
	return c.Guard(t, func() error { return decode(b[from*w : to*w]) })
}

// Forget gives back the memory that elements [from, to) of t take in this process, after
// they have been read once and for all: a mapped page counts as memory until then.
// It may be called while others read; what they read comes back.
func (c *Checkpoint) Forget(t Tensor, from, to int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps == nil || t.decoded != nil || c.maps[t.File] == nil {
		return
	}
	w := int64(t.DType.Bits() / 8)
	forgetPages(c.maps[t.File], t.Offset+from*w, t.Offset+to*w)
}

// Close unmaps the files.
func (c *Checkpoint) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	for _, m := range c.maps {
		if m != nil {
			if err := unmapFile(m); err != nil && first == nil {
				first = err
			}
		}
	}
	c.maps = nil
	return first
}

func fileSize(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
