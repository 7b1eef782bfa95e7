package gguf

import "fmt"

// Versions of the format.
const (
	minVersion = 2
	maxVersion = 3
)

// DefaultAlignment is the alignment of files without "general.alignment".
const DefaultAlignment = 32

// KV is one entry of the metadata. Value is a bool, a string, an integer of 8
// to 64 bits, a float32 or float64, a slice of one of these, or [][]... as []any
// for arrays of arrays.
type KV struct {
	Key   string
	Value any
}

// Tensor describes one tensor.
type Tensor struct {
	Name   string
	Type   Type
	Shape  []int // row-major, the slowest dimension first
	Offset int64 // of the data in the file
	Bytes  int64
}

// File is everything of a file but its data.
type File struct {
	Version   int
	Alignment int64
	KV        []KV
	Tensors   []Tensor
	DataStart int64

	byKey  map[string]int
	byName map[string]int
}

// Get returns the value of a key, and whether it is there.
func (f *File) Get(key string) (any, bool) {
	i, ok := f.byKey[key]
	if !ok {
		return nil, false
	}
	return f.KV[i].Value, true
}

// Lookup finds a tensor by name.
func (f *File) Lookup(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensors[i], true
}

// Text returns the string at a key, or "" where it is absent.
func (f *File) Text(key string) (string, error) { return get[string](f, key) }

// Float returns the float32 at a key, or 0 where it is absent.
func (f *File) Float(key string) (float32, error) { return get[float32](f, key) }

func get[T any](f *File, key string) (T, error) {
	var zero T
	v, ok := f.Get(key)
	if !ok {
		return zero, nil
	}
	x, ok := v.(T)
	if !ok {
		return zero, &Error{Key: key, Reason: fmt.Sprintf("a %T, want a %T", v, zero), Hint: damaged, Err: ErrMalformed}
	}
	return x, nil
}

// align rounds up to a multiple of a.
func align(n, a int64) int64 { return (n + a - 1) / a * a }
