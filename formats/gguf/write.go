package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
)

// Layout assigns version, alignment and places to a file that is to be
// written: tensors in order, each at a multiple of the alignment. It returns
// the size of the file.
func (f *File) Layout() (int64, error) {
	f.Version, f.Alignment = maxVersion, DefaultAlignment
	head, err := f.encode()
	if err != nil {
		return 0, err
	}
	f.DataStart = align(int64(len(head)), f.Alignment)
	at := f.DataStart
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Bytes, err = ByteSize(t.Type, t.Shape); err != nil {
			return 0, &Error{Tensor: t.Name, Reason: err.Error(), Err: err}
		}
		t.Offset = at
		at = align(at+t.Bytes, f.Alignment)
	}
	return at, nil
}

// encode returns the bytes before the data, without padding.
func (f *File) encode() ([]byte, error) {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Version))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(f.KV)))
	seen := map[string]bool{}
	for _, kv := range f.KV {
		if seen[kv.Key] {
			return nil, &Error{Key: kv.Key, Reason: "the key appears twice"}
		}
		seen[kv.Key] = true
		b = appendText(b, kv.Key)
		t, v, err := appendValue(nil, kv.Value)
		if err != nil {
			return nil, &Error{Key: kv.Key, Reason: err.Error(), Err: err}
		}
		b = append(binary.LittleEndian.AppendUint32(b, t), v...)
	}
	clear(seen)
	for _, t := range f.Tensors {
		if seen[t.Name] {
			return nil, &Error{Tensor: t.Name, Reason: "the name appears twice"}
		}
		seen[t.Name] = true
		if len(t.Shape) > maxDims {
			return nil, &Error{Tensor: t.Name, Reason: fmt.Sprintf("%d dimensions; the format has at most %d", len(t.Shape), maxDims)}
		}
		b = appendText(b, t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Shape)))
		for _, d := range slices.Backward(t.Shape) {
			b = binary.LittleEndian.AppendUint64(b, uint64(d))
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Type))
		b = binary.LittleEndian.AppendUint64(b, uint64(t.Offset-f.DataStart))
	}
	return b, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// appendValue appends a value's bytes and returns its type.
func appendValue(b []byte, v any) (uint32, []byte, error) {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return typeU8, append(b, v), nil
	case int8:
		return typeI8, append(b, byte(v)), nil
	case bool:
		if v {
			return typeBool, append(b, 1), nil
		}
		return typeBool, append(b, 0), nil
	case uint16:
		return typeU16, le.AppendUint16(b, v), nil
	case int16:
		return typeI16, le.AppendUint16(b, uint16(v)), nil
	case uint32:
		return typeU32, le.AppendUint32(b, v), nil
	case int32:
		return typeI32, le.AppendUint32(b, uint32(v)), nil
	case float32:
		return typeF32, le.AppendUint32(b, math.Float32bits(v)), nil
	case uint64:
		return typeU64, le.AppendUint64(b, v), nil
	case int64:
		return typeI64, le.AppendUint64(b, uint64(v)), nil
	case float64:
		return typeF64, le.AppendUint64(b, math.Float64bits(v)), nil
	case string:
		return typeString, appendText(b, v), nil
	}
	b, err := appendArray(b, v)
	return typeArray, b, err
}

func appendArray(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case []uint8:
		return appendAll(b, typeU8, v)
	case []int8:
		return appendAll(b, typeI8, v)
	case []bool:
		return appendAll(b, typeBool, v)
	case []uint16:
		return appendAll(b, typeU16, v)
	case []int16:
		return appendAll(b, typeI16, v)
	case []uint32:
		return appendAll(b, typeU32, v)
	case []int32:
		return appendAll(b, typeI32, v)
	case []float32:
		return appendAll(b, typeF32, v)
	case []uint64:
		return appendAll(b, typeU64, v)
	case []int64:
		return appendAll(b, typeI64, v)
	case []float64:
		return appendAll(b, typeF64, v)
	case []string:
		return appendAll(b, typeString, v)
	case []any:
		b = binary.LittleEndian.AppendUint32(b, typeArray)
		b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
		for _, x := range v {
			var err error
			if b, err = appendArray(b, x); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("a %T is no value of the format", v)
}

func appendAll[T any](b []byte, t uint32, v []T) ([]byte, error) {
	b = binary.LittleEndian.AppendUint32(b, t)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
	for _, x := range v {
		var err error
		if _, b, err = appendValue(b, x); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Writer streams a file: the start at once, then the data of every tensor in
// order.
type Writer struct {
	f    *File
	w    io.Writer
	next int
	at   int64
}

// NewWriter lays f out and writes everything before the data.
func NewWriter(w io.Writer, f *File) (*Writer, error) {
	if _, err := f.Layout(); err != nil {
		return nil, err
	}
	head, err := f.encode()
	if err != nil {
		return nil, err
	}
	x := &Writer{f: f, w: w}
	if err := x.write(head); err != nil {
		return nil, err
	}
	return x, x.pad()
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.at += int64(n)
	return err
}

func (w *Writer) pad() error {
	return w.write(make([]byte, align(w.at, w.f.Alignment)-w.at))
}

// Tensor writes the next tensor, which has to be called name, by the bytes that
// fill writes, and pads it. Other than the tensor's number of bytes is an error.
func (w *Writer) Tensor(name string, fill func(io.Writer) error) error {
	if w.next >= len(w.f.Tensors) || w.f.Tensors[w.next].Name != name {
		return fmt.Errorf("gguf: tensor %q is written out of order", name)
	}
	t := &w.f.Tensors[w.next]
	if err := fill(writerFunc(w.write)); err != nil {
		return err
	}
	if n := w.at - t.Offset; n != t.Bytes {
		return fmt.Errorf("gguf: tensor %q: %d bytes were written, it has %d", name, n, t.Bytes)
	}
	w.next++
	return w.pad()
}

// Floats writes the next tensor from its elements.
func (w *Writer) Floats(name string, x []float32) error {
	return w.Tensor(name, func(out io.Writer) error {
		t := &w.f.Tensors[w.next]
		b := make([]byte, t.Bytes)
		if err := Encode(b, x, t.Type); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		_, err := out.Write(b)
		return err
	})
}

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close fails if tensors are missing.
func (w *Writer) Close() error {
	if w.next != len(w.f.Tensors) {
		return fmt.Errorf("gguf: %d of %d tensors were written", w.next, len(w.f.Tensors))
	}
	return nil
}
