package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"unicode/utf8"
)

// Types of metadata values.
const (
	typeU8 uint32 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeString
	typeArray
	typeU64
	typeI64
	typeF64
)

const (
	magic = "GGUF"
	// maxName bounds names of tensors; ggml's own limit is 64.
	maxName = 1 << 16
	// maxDims is ggml's.
	maxDims = 4
	// maxNesting bounds arrays of arrays.
	maxNesting = 4
)

// Read parses the start of a file of size bytes. Names, types, shapes and places
// of all tensors are checked against the file's size; no data is read.
// Nothing is allocated that the rest of the file could not hold. Errors are
// *Error.
func Read(r io.ReaderAt, size int64) (*File, error) {
	p := &parser{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}
	f, err := p.file()
	if p.err != nil {
		return nil, p.err
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// parser reads the start of a file in order. The first error sticks.
type parser struct {
	r    *bufio.Reader
	at   int64
	size int64
	err  error
	buf  [8]byte
}

func (p *parser) left() int64 { return p.size - p.at }

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = malformed(p.at, format, args...)
	}
}

// bytes reads n bytes.
func (p *parser) bytes(b []byte) {
	if p.err != nil {
		return
	}
	if _, err := io.ReadFull(p.r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			p.fail("the file ends in its header")
		} else {
			p.err = &Error{Offset: p.at, Reason: err.Error(), Err: err}
		}
		return
	}
	p.at += int64(len(b))
}

func (p *parser) u32() uint32 {
	p.bytes(p.buf[:4])
	if p.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint32(p.buf[:4])
}

func (p *parser) u64() uint64 {
	p.bytes(p.buf[:8])
	if p.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(p.buf[:8])
}

// count reads a number of things that take at least each bytes.
func (p *parser) count(what string, each int64) int {
	n := p.u64()
	if p.err == nil && n > uint64(p.left()/each) {
		p.fail("%d %s do not fit into the %d bytes that are left", n, what, p.left())
	}
	if p.err != nil {
		return 0
	}
	return int(n)
}

func (p *parser) text() string {
	n := p.count("bytes of a string", 1)
	if p.err != nil {
		return ""
	}
	b := make([]byte, n)
	p.bytes(b)
	return string(b)
}

// name reads a key or a tensor's name.
func (p *parser) name(what string) string {
	s := p.text()
	switch {
	case p.err != nil:
	case len(s) > maxName:
		p.fail("a %s of %d bytes", what, len(s))
	case !utf8.ValidString(s):
		p.fail("a %s that is not UTF-8", what)
	}
	return s
}

func (p *parser) file() (*File, error) {
	var m [4]byte
	p.bytes(m[:])
	if p.err == nil && string(m[:]) != magic {
		p.fail("it starts with %q, not with %q", m[:], magic)
	}
	f := &File{Version: int(p.u32()), Alignment: DefaultAlignment, byKey: map[string]int{}, byName: map[string]int{}}
	if p.err != nil {
		return nil, p.err
	}
	if err := checkVersion(uint32(f.Version)); err != nil {
		return nil, err
	}
	// A tensor takes at least 24 bytes, an entry 13.
	tensors, entries := p.count("tensors", 24), p.count("metadata entries", 13)
	for range entries {
		if p.err != nil {
			return nil, p.err
		}
		if err := p.entry(f); err != nil {
			return nil, err
		}
	}
	if err := f.readAlignment(); err != nil {
		return nil, err
	}
	for range tensors {
		if p.err != nil {
			return nil, p.err
		}
		p.tensor(f)
	}
	if p.err != nil {
		return nil, p.err
	}
	f.DataStart = align(p.at, f.Alignment)
	return f, f.place(p.size)
}

func checkVersion(v uint32) error {
	switch {
	case v >= minVersion && v <= maxVersion:
		return nil
	case v&0xffff == 0:
		return &Error{Offset: 4, Reason: "a big-endian file", Hint: "convert it on a little-endian machine", Err: ErrUnsupported}
	}
	return &Error{Offset: 4, Reason: fmt.Sprintf("version %d of the format; versions %d and %d are read", v, minVersion, maxVersion), Hint: "convert the model again with a newer llama.cpp", Err: ErrUnsupported}
}

func (p *parser) entry(f *File) error {
	key := p.name("key")
	v := p.value(p.u32(), 0)
	if p.err != nil {
		if e, ok := p.err.(*Error); ok && e.Key == "" {
			e.Key = key
		}
		return p.err
	}
	if _, dup := f.byKey[key]; dup {
		return &Error{Key: key, Offset: p.at, Reason: "the key appears twice", Hint: damaged, Err: ErrMalformed}
	}
	f.byKey[key] = len(f.KV)
	f.KV = append(f.KV, KV{key, v})
	return nil
}

func (f *File) readAlignment() error {
	const key = "general.alignment"
	v, ok := f.Get(key)
	if !ok {
		return nil
	}
	n, isU32 := v.(uint32)
	if !isU32 || n == 0 || n&(n-1) != 0 || n > 1<<20 {
		return &Error{Key: key, Reason: fmt.Sprintf("%v is no alignment", v), Hint: damaged, Err: ErrMalformed}
	}
	f.Alignment = int64(n)
	return nil
}

// value reads one value of a type.
func (p *parser) value(t uint32, depth int) any {
	switch t {
	case typeU8, typeI8, typeBool:
		p.bytes(p.buf[:1])
		return p.small(t)
	case typeU16, typeI16:
		p.bytes(p.buf[:2])
		v := binary.LittleEndian.Uint16(p.buf[:2])
		if t == typeI16 {
			return int16(v)
		}
		return v
	case typeU32:
		return p.u32()
	case typeI32:
		return int32(p.u32())
	case typeF32:
		return math.Float32frombits(p.u32())
	case typeU64:
		return p.u64()
	case typeI64:
		return int64(p.u64())
	case typeF64:
		return math.Float64frombits(p.u64())
	case typeString:
		return p.text()
	case typeArray:
		return p.array(depth)
	}
	p.fail("a value of the unknown type %d", t)
	return nil
}

// small makes a value of the byte that was read.
func (p *parser) small(t uint32) any {
	switch t {
	case typeI8:
		return int8(p.buf[0])
	case typeBool:
		if p.buf[0] > 1 {
			p.fail("a bool of %d", p.buf[0])
		}
		return p.buf[0] == 1
	}
	return p.buf[0]
}

// widths of values of fixed size; strings and arrays take at least their
// counts.
var widths = map[uint32]int64{typeU8: 1, typeI8: 1, typeBool: 1, typeU16: 2, typeI16: 2, typeU32: 4, typeI32: 4, typeF32: 4,
	typeU64: 8, typeI64: 8, typeF64: 8, typeString: 8, typeArray: 12}

func (p *parser) array(depth int) any {
	t := p.u32()
	w, ok := widths[t]
	if p.err == nil && !ok {
		p.fail("an array of the unknown type %d", t)
	}
	if depth >= maxNesting {
		p.fail("arrays nested more than %d deep", maxNesting)
	}
	if p.err != nil {
		return nil
	}
	n := p.count("elements of an array", w)
	switch t {
	case typeU8:
		return arrayOf[uint8](p, t, n)
	case typeI8:
		return arrayOf[int8](p, t, n)
	case typeBool:
		return arrayOf[bool](p, t, n)
	case typeU16:
		return arrayOf[uint16](p, t, n)
	case typeI16:
		return arrayOf[int16](p, t, n)
	case typeU32:
		return arrayOf[uint32](p, t, n)
	case typeI32:
		return arrayOf[int32](p, t, n)
	case typeF32:
		return arrayOf[float32](p, t, n)
	case typeU64:
		return arrayOf[uint64](p, t, n)
	case typeI64:
		return arrayOf[int64](p, t, n)
	case typeF64:
		return arrayOf[float64](p, t, n)
	case typeString:
		return arrayOf[string](p, t, n)
	}
	var out []any
	for range n {
		if p.err != nil {
			return nil
		}
		out = append(out, p.array(depth+1))
	}
	return out
}

func arrayOf[T any](p *parser, t uint32, n int) []T {
	out := make([]T, 0, min(n, 1<<16))
	for range n {
		v, ok := p.value(t, 0).(T)
		if p.err != nil || !ok {
			return nil
		}
		out = append(out, v)
	}
	return out
}

func (p *parser) tensor(f *File) {
	start := p.at
	t := Tensor{Name: p.name("tensor name")}
	dims := p.u32()
	if p.err == nil && dims > maxDims {
		p.fail("tensor %q has %d dimensions", t.Name, dims)
	}
	for range dims {
		if p.err != nil {
			return
		}
		d := p.u64()
		if d > math.MaxInt32*1024 {
			p.fail("tensor %q has a dimension of %d", t.Name, d)
		}
		t.Shape = append(t.Shape, int(d))
	}
	slices.Reverse(t.Shape)
	t.Type = Type(p.u32())
	off := p.u64()
	if p.err != nil {
		return
	}
	bad := func(format string, args ...any) {
		e := malformed(start, format, args...)
		e.Tensor, p.err = t.Name, e
	}
	var err error
	_, dup := f.byName[t.Name]
	switch t.Bytes, err = ByteSize(t.Type, t.Shape); {
	case err != nil:
		bad("%v", err)
	case dup:
		bad("the name appears twice")
	case off > uint64(p.size):
		bad("its data starts %d bytes into the data, beyond the file", off)
	case int64(off)%f.Alignment != 0:
		bad("its data starts %d bytes into the data, no multiple of the alignment %d", off, f.Alignment)
	}
	t.Offset = int64(off)
	f.byName[t.Name] = len(f.Tensors)
	f.Tensors = append(f.Tensors, t)
}

// place turns offsets in the data to offsets in the file, and checks that all
// tensors lie in it and none over another.
func (f *File) place(size int64) error {
	order := make([]*Tensor, len(f.Tensors))
	for i := range f.Tensors {
		t := &f.Tensors[i]
		t.Offset += f.DataStart
		if t.Offset > size || t.Bytes > size-t.Offset {
			e := malformed(t.Offset, "its %d bytes end beyond the file of %d", t.Bytes, size)
			e.Tensor = t.Name
			return e
		}
		order[i] = t
	}
	slices.SortStableFunc(order, func(a, b *Tensor) int { return int(min(1, max(-1, a.Offset-b.Offset))) })
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; a.Bytes > 0 && b.Bytes > 0 && a.Offset+a.Bytes > b.Offset {
			e := malformed(b.Offset, "its data lies over that of %q", a.Name)
			e.Tensor = b.Name
			return e
		}
	}
	return nil
}
