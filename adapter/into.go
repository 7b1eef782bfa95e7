package adapter

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// adapterShard is the file of adapter tensors beside a sharded base.
const adapterShard = "model-adapter.safetensors"

// WriteInto writes the directory out, whole or not at all: a checkpoint with
// base's tensors, bytes and names unchanged, and the adapter's tensors beside
// them, with the base's other files and the adapter's configuration. It opens
// as the base model, and [Load] finds the adapter in it.
//
// A base in one file becomes one file; a sharded base keeps its shards and
// gains one. The base's data are copied inside the kernel where it can.
func WriteInto(base *formats.Checkpoint, a *Adapter, out string, replace bool) error {
	return WriteIntoWith(base, a, out, SaveOptions{Replace: replace})
}

// WriteIntoWith is WriteInto with options.
func WriteIntoWith(base *formats.Checkpoint, a *Adapter, out string, o SaveOptions) (err error) {
	k, err := Lookup(a.Method)
	if err != nil {
		return err
	}
	if base.Format() != "safetensors" {
		return &formats.Error{Path: base.Path(), Reason: "adapters are written into safetensors checkpoints, this is " + base.Format(), Hint: "leave out --into", Err: formats.ErrUnsupported}
	}
	if same(out, base.Dir()) {
		return fmt.Errorf("%s: the output is the base model itself", out)
	}
	if err := a.Finite(); err != nil {
		return err
	}
	if err := a.saveHead(); err != nil {
		return err
	}
	ts := a.fileTensors()
	for _, t := range ts {
		if _, ok := base.Lookup(t.name); ok {
			return &formats.Error{Path: base.Path(), Tensor: t.name, Reason: "an adapter is in this checkpoint already", Hint: "start from the base model", Err: ErrMismatch}
		}
	}
	config, err := a.encodeConfig(k)
	if err != nil {
		return err
	}
	d, err := atomicfile.NewDir(out, o.Replace)
	if err != nil {
		return err
	}
	defer d.Abort()
	w := &intoWriter{d: d, base: base, ts: ts, metadata: a.metadata()}
	if base.Index() == nil && len(base.Files()) == 1 {
		err = w.oneFile()
	} else {
		err = w.shards()
	}
	if err != nil {
		return err
	}
	if err := w.write(ConfigFile, config); err != nil {
		return err
	}
	if err := w.carry(); err != nil {
		return err
	}
	if err := o.prepare(d); err != nil {
		return err
	}
	return o.commit(d)
}

func same(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

type intoWriter struct {
	d        *atomicfile.Dir
	base     *formats.Checkpoint
	ts       []fileTensor
	metadata []safetensors.KV
}

func (w *intoWriter) write(name string, b []byte) error {
	f, err := w.d.Create(name, 0o666)
	if err != nil {
		return err
	}
	return writeClose(f, func(w io.Writer) error { _, err := w.Write(b); return err })
}

// oneFile writes base and adapter tensors to one file. The adapter's data come
// last, or first where they would not lie at a multiple of their size.
func (w *intoWriter) oneFile() error {
	file := w.base.Files()[0]
	var data int64
	for _, t := range w.base.Tensors() {
		data += t.Bytes
	}
	start := file.Size - data // the format has no holes
	own := headerOf(w.ts, nil)
	size, err := own.Layout()
	if err != nil {
		return err
	}
	baseAt, ownAt := int64(0), data
	if data%4 != 0 {
		baseAt, ownAt = size, 0
	}
	h := &safetensors.Header{}
	for _, kv := range file.Metadata {
		h.Metadata = append(h.Metadata, safetensors.KV(kv))
	}
	for _, kv := range w.metadata {
		if !slices.ContainsFunc(h.Metadata, func(m safetensors.KV) bool { return m.Key == kv.Key }) {
			h.Metadata = append(h.Metadata, kv)
		}
	}
	for _, t := range w.base.Tensors() {
		begin := t.Offset - start + baseAt
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: t.Name, DType: t.DType, Shape: t.Shape, Begin: begin, End: begin + t.Bytes})
	}
	for i, e := range own.Tensors {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: e.Name, DType: tensor.F32, Shape: w.ts[i].shape, Begin: e.Begin + ownAt, End: e.End + ownAt})
	}
	head := h.Encode()
	return w.place(formats.ModelFile, file.Path, head, start, data, int64(len(head))+baseAt, int64(len(head))+ownAt)
}

// place writes a file of a header, n bytes of src from offset from, and the
// adapter's data.
func (w *intoWriter) place(name, src string, head []byte, from, n, at, ownAt int64) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	f, err := w.d.Create(name, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	if n > 0 {
		if err := f.CopyAt(in, from, at, n); err != nil {
			return err
		}
	}
	for _, t := range w.ts {
		o := io.NewOffsetWriter(f, ownAt)
		if err := writeFloats(o, t.data); err != nil {
			return err
		}
		ownAt += 4 * int64(len(t.data))
	}
	return nil
}

// shards copies the base's files, adds one with the adapter and writes the
// index.
func (w *intoWriter) shards() error {
	index := map[string]string{}
	var total int64
	for _, t := range w.base.Tensors() {
		name := filepath.Base(w.base.Files()[t.File].Path)
		if name == adapterShard {
			return &formats.Error{Path: w.base.Path(), Reason: "an adapter is in this checkpoint already", Hint: "start from the base model", Err: ErrMismatch}
		}
		index[t.Name] = name
		total += t.Bytes
	}
	for _, f := range w.base.Files() {
		if err := w.copyFile(f.Path, filepath.Base(f.Path), f.Size, 0o666); err != nil {
			return err
		}
	}
	for _, t := range w.ts {
		index[t.name] = adapterShard
		total += 4 * int64(len(t.data))
	}
	f, err := w.d.Create(adapterShard, 0o666)
	if err != nil {
		return err
	}
	if err := writeClose(f, func(o io.Writer) error { return writeTensors(o, w.ts, w.metadata) }); err != nil {
		return err
	}
	// encoding/json sorts the names, as transformers does.
	b, err := json.MarshalIndent(map[string]any{"metadata": map[string]int64{"total_size": total}, "weight_map": index}, "", "  ")
	if err != nil {
		return err
	}
	return w.write(formats.IndexFile, append(b, '\n'))
}

// copyFile copies size bytes of the file path to name within the output.
func (w *intoWriter) copyFile(path, name string, size int64, mode os.FileMode) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	f, err := w.d.Create(name, mode)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if size == 0 {
		return nil
	}
	return f.CopyAt(in, 0, 0, size)
}

// carry copies the base's other files: configuration, tokenizer, licence. An
// adapter's configuration that lies there is not this one's.
func (w *intoWriter) carry() error {
	files, _, err := w.base.Companions()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Path == ConfigFile || f.Path == manifest.File {
			continue
		}
		if err := w.copyFile(filepath.Join(w.base.Dir(), f.Path), f.Path, f.Size, f.Mode|0o600); err != nil {
			return err
		}
	}
	return nil
}
