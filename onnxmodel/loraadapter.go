package onnxmodel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// AdapterExt is the name ending of ONNX Runtime's adapter files.
const AdapterExt = ".onnx_adapter"

// LoraAdapter is an .onnx_adapter file: values for optional inputs of a graph,
// which ONNX Runtime feeds for as long as the adapter is active.
//
// The file is a FlatBuffer (https://flatbuffers.dev/internals/) with the
// identifier "TORT", of this schema (onnxruntime/lora/adapter_format/adapter_schema.fbs):
//
//	table Adapter {
//	  format_version: int;  // 1
//	  adapter_version: int;
//	  model_version: int;
//	  parameters: [Parameter];
//	}
//	table Parameter {
//	  name: string;
//	  dims: [long];
//	  data_type: int;       // ONNX's number of the element type
//	  raw_data: [ubyte];    // little-endian, aligned to 8 bytes
//	}
type LoraAdapter struct {
	AdapterVersion int
	ModelVersion   int
	Parameters     []Parameter
}

// Parameter is the value of one graph input.
type Parameter struct {
	Name string
	Type onnx.DataType
	Dims []int
	Data []byte // little-endian, row-major
}

const (
	adapterMagic  = "TORT"
	formatVersion = 1
	// maxFlat is the size that 32-bit offsets of FlatBuffers allow.
	maxFlat = math.MaxInt32
)

// Encode returns the file. Names must be there and differ, and the data must fit
// dims and type.
func (a *LoraAdapter) Encode() ([]byte, error) {
	seen := map[string]bool{}
	size := 64
	for i := range a.Parameters {
		p := &a.Parameters[i]
		if p.Name == "" || seen[p.Name] {
			return nil, fmt.Errorf("parameter %q: its name is empty or taken", p.Name)
		}
		seen[p.Name] = true
		if err := p.check(); err != nil {
			return nil, err
		}
		size += len(p.Name) + 8*len(p.Dims) + len(p.Data) + 80
		if size > maxFlat {
			return nil, fmt.Errorf("the adapter would be longer than the %d bytes that its format allows: adapt fewer layers, or with a smaller rank", maxFlat)
		}
	}
	w := flatWriter{b: make([]byte, 0, size)}
	w.u32(0) // offset of the root
	w.b = append(w.b, adapterMagic...)
	root := w.table(w.vtable(4), 4)
	w.patch(0, root)
	for i, v := range []int{formatVersion, a.AdapterVersion, a.ModelVersion} {
		if v != int(int32(v)) {
			return nil, fmt.Errorf("version %d does not fit into 32 bits", v)
		}
		binary.LittleEndian.PutUint32(w.b[root+4+4*i:], uint32(int32(v)))
	}
	list := w.vector(len(a.Parameters), 4, 4)
	w.patch(root+16, list-4)
	shape := w.vtable(4)
	for i := range a.Parameters {
		w.patch(list+4*i, w.parameter(&a.Parameters[i], shape))
	}
	return w.b, nil
}

// check fails unless the data fit shape and type.
func (p *Parameter) check() error {
	n, err := tensor.Elements(p.Dims)
	if err != nil {
		return fmt.Errorf("parameter %q: %w", p.Name, err)
	}
	bits := int64(p.Type.Bits())
	if bits == 0 || bits%8 != 0 {
		return fmt.Errorf("parameter %q: element type %v", p.Name, p.Type)
	}
	if have := int64(len(p.Data)); have%(bits/8) != 0 || have/(bits/8) != n {
		return fmt.Errorf("parameter %q: %d bytes for %v %v", p.Name, have, p.Type, p.Dims)
	}
	return nil
}

// flatWriter writes a FlatBuffer from front to back: references point forward,
// and every table comes before what it refers to.
type flatWriter struct{ b []byte }

func (w *flatWriter) u16(v int) { w.b = binary.LittleEndian.AppendUint16(w.b, uint16(v)) }
func (w *flatWriter) u32(v int) { w.b = binary.LittleEndian.AppendUint32(w.b, uint32(v)) }

func (w *flatWriter) align(to, ahead int) {
	for (len(w.b)+ahead)%to != 0 {
		w.b = append(w.b, 0)
	}
}

// vtable writes the layout of a table of n fields of 4 bytes.
func (w *flatWriter) vtable(n int) (at int) {
	w.align(4, 0)
	at = len(w.b)
	w.u16(4 + 2*n)
	w.u16(4 + 4*n)
	for i := range n {
		w.u16(4 + 4*i)
	}
	return at
}

// table writes a table of n fields, all 0 for now, and returns its position.
func (w *flatWriter) table(vtable, n int) (at int) {
	w.align(4, 0)
	at = len(w.b)
	w.u32(at - vtable)
	for range n {
		w.u32(0)
	}
	return at
}

// patch sets the offset at a position to one that refers to a later one.
func (w *flatWriter) patch(at, to int) {
	binary.LittleEndian.PutUint32(w.b[at:], uint32(to-at))
}

// vector writes the length and n zeroed elements and returns the position of
// the first; the length stands 4 bytes before.
func (w *flatWriter) vector(n, width, alignment int) (at int) {
	w.align(alignment, 4)
	w.u32(n)
	at = len(w.b)
	w.b = append(w.b, make([]byte, n*width)...)
	return at
}

func (w *flatWriter) parameter(p *Parameter, vtable int) (at int) {
	at = w.table(vtable, 4)
	binary.LittleEndian.PutUint32(w.b[at+12:], uint32(p.Type))
	name := w.vector(len(p.Name), 1, 4)
	copy(w.b[name:], p.Name)
	w.b = append(w.b, 0) // strings end in NUL
	w.patch(at+4, name-4)
	dims := w.vector(len(p.Dims), 8, 8)
	for i, d := range p.Dims {
		binary.LittleEndian.PutUint64(w.b[dims+8*i:], uint64(d))
	}
	w.patch(at+8, dims-4)
	w.align(8, 4)
	w.u32(len(p.Data))
	w.patch(at+16, len(w.b)-4)
	w.b = append(w.b, p.Data...)
	return at
}

// ParseLoraAdapter reads an .onnx_adapter file; path is for messages. The data
// of parameters are parts of b. Every offset is checked; what does not fit is an
// error wrapping [formats.ErrMalformed].
func ParseLoraAdapter(path string, b []byte) (*LoraAdapter, error) {
	r := flatReader{b: b}
	a, err := r.adapter()
	if err != nil {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "the file is truncated, damaged or not an adapter of ONNX Runtime: fetch it again", Err: formats.ErrMalformed}
	}
	return a, nil
}

// flatReader reads a FlatBuffer whose bytes are not trusted.
type flatReader struct{ b []byte }

func (r *flatReader) adapter() (*LoraAdapter, error) {
	if len(r.b) < 8 || string(r.b[4:8]) != adapterMagic {
		return nil, fmt.Errorf("the identifier %s of ONNX Runtime's adapters is missing", adapterMagic)
	}
	if len(r.b) > maxFlat {
		return nil, fmt.Errorf("%d bytes are more than the format allows", len(r.b))
	}
	at, err := r.refer(0)
	if err != nil {
		return nil, err
	}
	root, err := r.table(at)
	if err != nil {
		return nil, err
	}
	a := &LoraAdapter{}
	var version int
	for i, dst := range []*int{&version, &a.AdapterVersion, &a.ModelVersion} {
		v, err := root.i32(i)
		if err != nil {
			return nil, err
		}
		*dst = int(v)
	}
	if version != formatVersion {
		return nil, fmt.Errorf("format version %d; known is %d", version, formatVersion)
	}
	list, n, err := root.vector(3, 4)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i := range n {
		p, err := r.parameter(list + 4*i)
		if err != nil {
			return nil, fmt.Errorf("parameter %d: %w", i, err)
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("two parameters are called %q", p.Name)
		}
		seen[p.Name] = true
		a.Parameters = append(a.Parameters, *p)
	}
	return a, nil
}

func (r *flatReader) parameter(at int) (*Parameter, error) {
	at, err := r.refer(at)
	if err != nil {
		return nil, err
	}
	t, err := r.table(at)
	if err != nil {
		return nil, err
	}
	p := &Parameter{}
	at, n, err := t.vector(0, 1)
	if err != nil {
		return nil, err
	}
	if p.Name = string(r.b[at : at+n]); p.Name == "" {
		return nil, fmt.Errorf("it has no name")
	}
	if at, n, err = t.vector(1, 8); err != nil {
		return nil, err
	}
	for i := range n {
		d := int64(binary.LittleEndian.Uint64(r.b[at+8*i:]))
		if d < 0 || d > math.MaxInt32 {
			return nil, fmt.Errorf("%q has dimension %d", p.Name, d)
		}
		p.Dims = append(p.Dims, int(d))
	}
	v, err := t.i32(2)
	if err != nil {
		return nil, err
	}
	p.Type = onnx.DataType(v)
	if at, n, err = t.vector(3, 1); err != nil {
		return nil, err
	}
	p.Data = r.b[at : at+n : at+n]
	return p, p.check()
}

// refer follows the offset at a position.
func (r *flatReader) refer(at int) (int, error) {
	v, err := r.u32(at)
	if err != nil {
		return 0, err
	}
	if v == 0 || v > uint32(len(r.b)-at) {
		return 0, fmt.Errorf("the offset %d at byte %d leads out of the file", v, at)
	}
	return at + int(v), nil
}

func (r *flatReader) u32(at int) (uint32, error) {
	if at < 0 || at > len(r.b)-4 {
		return 0, fmt.Errorf("byte %d lies beyond the end of the file", at)
	}
	return binary.LittleEndian.Uint32(r.b[at:]), nil
}

// flatTable is a table with its vtable.
type flatTable struct {
	r      *flatReader
	at     int
	size   int // of the table
	fields []byte
}

func (r *flatReader) table(at int) (t flatTable, err error) {
	back, err := r.u32(at)
	if err != nil {
		return t, err
	}
	v := int64(at) - int64(int32(back))
	if v < 0 || v > int64(len(r.b)-4) {
		return t, fmt.Errorf("the table at byte %d has its layout at byte %d", at, v)
	}
	n := int64(binary.LittleEndian.Uint16(r.b[v:]))
	size := int(binary.LittleEndian.Uint16(r.b[v+2:]))
	if n < 4 || n%2 != 0 || v+n > int64(len(r.b)) || size < 4 || size > len(r.b)-at {
		return t, fmt.Errorf("the table at byte %d has a layout of %d bytes for %d", at, n, size)
	}
	return flatTable{r, at, size, r.b[v+4 : v+n]}, nil
}

// field is the position of a field of 4 bytes, 0 where it is absent.
func (t *flatTable) field(i int) (int, error) {
	if 2*i+2 > len(t.fields) {
		return 0, nil
	}
	off := int(binary.LittleEndian.Uint16(t.fields[2*i:]))
	if off == 0 {
		return 0, nil
	}
	if off < 4 || off > t.size-4 {
		return 0, fmt.Errorf("field %d of the table at byte %d lies outside of it", i, t.at)
	}
	return t.at + off, nil
}

// i32 is an integer field; absent ones are 0.
func (t *flatTable) i32(i int) (int32, error) {
	at, err := t.field(i)
	if err != nil || at == 0 {
		return 0, err
	}
	v, err := t.r.u32(at)
	return int32(v), err
}

// vector is the position of the elements of a vector and their number; an
// absent one is empty.
func (t *flatTable) vector(i, width int) (at, n int, err error) {
	if at, err = t.field(i); err != nil || at == 0 {
		return 0, 0, err
	}
	if at, err = t.r.refer(at); err != nil {
		return 0, 0, err
	}
	v, err := t.r.u32(at)
	if err != nil {
		return 0, 0, err
	}
	at += 4
	if int64(v)*int64(width) > int64(len(t.r.b)-at) {
		return 0, 0, fmt.Errorf("a vector of %d elements at byte %d reaches beyond the end of the file", v, at)
	}
	return at, int(v), nil
}
