package onnx

import (
	"encoding/binary"
	"io"
	"math"
)

// Span is a range of bytes of the model file.
type Span struct{ Offset, Len int64 }

// End is the offset behind the range.
func (s Span) End() int64 { return s.Offset + s.Len }

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// window is how many bytes are read at once.
const window = 64 << 10

// maxString is the longest string that is taken into memory.
const maxString = 16 << 20

// source reads a file through a window, so that ranges that nobody asks for
// are never read.
type source struct {
	r    io.ReaderAt
	size int64
	win  []byte
	off  int64 // of win in the file
}

// bytes returns n bytes at off, valid until the next call.
func (s *source) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > s.size-off {
		return nil, malformedAt(off, "%d bytes are due and the file ends", n)
	}
	if off >= s.off && off+n <= s.off+int64(len(s.win)) {
		return s.win[off-s.off:][:n], nil
	}
	want := min(max(n, window), s.size-off)
	if int64(cap(s.win)) < want {
		s.win = make([]byte, want)
	}
	s.win, s.off = s.win[:want], off
	if k, err := s.r.ReadAt(s.win, off); int64(k) < want {
		s.win = s.win[:0]
		if err == nil || err == io.EOF {
			err = malformedAt(off, "the file became shorter while it was read")
		}
		return nil, err
	}
	return s.win[:n], nil
}

// varint reads a number that must end before end.
func (s *source) varint(off, end int64) (v uint64, next int64, err error) {
	b, err := s.bytes(off, min(binary.MaxVarintLen64, end-off))
	if err != nil {
		return 0, 0, err
	}
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, 0, malformedAt(off, "a number does not end")
	}
	return v, off + int64(n), nil
}

// field is one field of a message.
type field struct {
	num, wire int
	record    Span   // with its tag
	val       Span   // the value's bytes, without tag and length
	v         uint64 // of numbers
}

func (f *field) float() float32   { return math.Float32frombits(uint32(f.v)) }
func (f *field) signed() int64    { return int64(f.v) }
func (f *field) wantBytes() error { return f.want(wireBytes) }

func (f *field) want(wire int) error {
	if f.wire != wire {
		return malformedAt(f.record.Offset, "field %d has wire type %d instead of %d", f.num, f.wire, wire)
	}
	return nil
}

// fields calls f with every field of the message at sp.
func (s *source) fields(sp Span, f func(*field) error) error {
	for off := sp.Offset; off < sp.End(); {
		x, err := s.next(off, sp.End())
		if err != nil {
			return err
		}
		if err := f(&x); err != nil {
			return err
		}
		off = x.record.End()
	}
	return nil
}

// next reads the field at off of a message that ends at end.
func (s *source) next(off, end int64) (x field, err error) {
	tag, at, err := s.varint(off, end)
	if err != nil {
		return x, err
	}
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return x, malformedAt(off, "field number %d", tag>>3)
	}
	x.num, x.wire = int(tag>>3), int(tag&7)
	x.val = Span{at, 0}
	switch x.wire {
	case wireVarint:
		x.v, at, err = s.varint(at, end)
		if err != nil {
			return x, err
		}
		x.val.Len = at - x.val.Offset
	case wireFixed32, wireFixed64:
		x.val.Len = 4
		if x.wire == wireFixed64 {
			x.val.Len = 8
		}
		if x.val.End() > end {
			return x, malformedAt(off, "field %d reaches beyond its message", x.num)
		}
		b, err := s.bytes(at, x.val.Len)
		if err != nil {
			return x, err
		}
		var w [8]byte
		copy(w[:], b)
		x.v = binary.LittleEndian.Uint64(w[:])
	case wireBytes:
		n, at, err := s.varint(at, end)
		if err != nil {
			return x, err
		}
		if n > uint64(end-at) {
			return x, malformedAt(off, "field %d of %d bytes reaches beyond its message", x.num, n)
		}
		x.val = Span{at, int64(n)}
	default:
		return x, malformedAt(off, "field %d has the unknown wire type %d", x.num, x.wire)
	}
	x.record = Span{off, x.val.End() - off}
	return x, nil
}

// text reads a string.
func (s *source) text(f *field) (string, error) {
	if err := f.wantBytes(); err != nil {
		return "", err
	}
	if f.val.Len > maxString {
		return "", malformedAt(f.record.Offset, "a string of %d bytes", f.val.Len)
	}
	b, err := s.bytes(f.val.Offset, f.val.Len)
	return string(b), err
}

// numbers appends a repeated integer, packed or not.
func (s *source) numbers(f *field, dst []int64) ([]int64, error) {
	if f.wire == wireVarint {
		return append(dst, int64(f.v)), nil
	}
	if err := f.wantBytes(); err != nil {
		return dst, err
	}
	for at := f.val.Offset; at < f.val.End(); {
		v, next, err := s.varint(at, f.val.End())
		if err != nil {
			return dst, err
		}
		dst, at = append(dst, int64(v)), next
	}
	return dst, nil
}

// floats appends a repeated float, packed or not.
func (s *source) floats(f *field, dst []float32) ([]float32, error) {
	if f.wire == wireFixed32 {
		return append(dst, f.float()), nil
	}
	if err := f.wantBytes(); err != nil {
		return dst, err
	}
	if f.val.Len%4 != 0 {
		return dst, malformedAt(f.record.Offset, "%d bytes are no whole number of floats", f.val.Len)
	}
	for at := f.val.Offset; at < f.val.End(); at += 4 {
		b, err := s.bytes(at, 4)
		if err != nil {
			return dst, err
		}
		dst = append(dst, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return dst, nil
}

// The append functions write fields.

func appendTag(b []byte, num, wire int) []byte {
	return binary.AppendUvarint(b, uint64(num)<<3|uint64(wire))
}

func appendVarint(b []byte, num int, v int64) []byte {
	return binary.AppendUvarint(appendTag(b, num, wireVarint), uint64(v))
}

func appendBytes[T string | []byte](b []byte, num int, v T) []byte {
	b = binary.AppendUvarint(appendTag(b, num, wireBytes), uint64(len(v)))
	return append(b, v...)
}

func appendText(b []byte, num int, v string) []byte {
	if v == "" {
		return b
	}
	return appendBytes(b, num, v)
}

func appendFloat(b []byte, num int, v float32) []byte {
	return binary.LittleEndian.AppendUint32(appendTag(b, num, wireFixed32), math.Float32bits(v))
}
