// Package tensor knows element types, shapes and their sizes, and converts
// between float formats. It does no arithmetic.
package tensor

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// DType is an element type of the safetensors specification.
type DType uint8

// The element types, in the order of the specification's alignment (widest
// last). F8, F6 and F4 follow the OCP microscaling formats; the FNUZ types have
// no negative zero and one NaN.
const (
	Invalid DType = iota
	Bool
	F4
	F6E2M3
	F6E3M2
	U8
	I8
	F8E5M2
	F8E4M3
	F8E8M0
	F8E4M3FNUZ
	F8E5M2FNUZ
	I16
	U16
	F16
	BF16
	I32
	U32
	F32
	C64
	F64
	I64
	U64
)

var dtypes = [...]struct {
	name  string
	bits  int
	float bool
}{
	Invalid:    {"INVALID", 0, false},
	Bool:       {"BOOL", 8, false},
	F4:         {"F4", 4, true},
	F6E2M3:     {"F6_E2M3", 6, true},
	F6E3M2:     {"F6_E3M2", 6, true},
	U8:         {"U8", 8, false},
	I8:         {"I8", 8, false},
	F8E5M2:     {"F8_E5M2", 8, true},
	F8E4M3:     {"F8_E4M3", 8, true},
	F8E8M0:     {"F8_E8M0", 8, true},
	F8E4M3FNUZ: {"F8_E4M3FNUZ", 8, true},
	F8E5M2FNUZ: {"F8_E5M2FNUZ", 8, true},
	I16:        {"I16", 16, false},
	U16:        {"U16", 16, false},
	F16:        {"F16", 16, true},
	BF16:       {"BF16", 16, true},
	I32:        {"I32", 32, false},
	U32:        {"U32", 32, false},
	F32:        {"F32", 32, true},
	C64:        {"C64", 64, false},
	F64:        {"F64", 64, true},
	I64:        {"I64", 64, false},
	U64:        {"U64", 64, false},
}

// DTypes lists every valid element type.
func DTypes() []DType {
	d := make([]DType, 0, len(dtypes)-1)
	for i := 1; i < len(dtypes); i++ {
		d = append(d, DType(i))
	}
	return d
}

// String returns the name that the safetensors format uses.
func (d DType) String() string {
	if int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Bits is the size of one element.
func (d DType) Bits() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].bits
}

// IsFloat says whether the elements are real floating-point numbers.
func (d DType) IsFloat() bool { return int(d) < len(dtypes) && dtypes[d].float }

var byName = func() map[string]DType {
	m := make(map[string]DType, len(dtypes))
	for i := 1; i < len(dtypes); i++ {
		m[dtypes[i].name] = DType(i)
	}
	return m
}()

// ParseDType looks a name of the safetensors format up.
func ParseDType(s string) (DType, bool) {
	d, ok := byName[s]
	return d, ok
}

// ErrShape is wrapped by errors about shapes.
var ErrShape = errors.New("bad shape")

// Elements is the product of the dimensions. A negative dimension or a
// product beyond 2^63-1 is an error wrapping ErrShape.
func Elements(shape []int) (int64, error) {
	n := uint64(1)
	zero := false
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: negative dimension in %v", ErrShape, shape)
		}
		if d == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("%w: %v has more than 2^63 elements", ErrShape, shape)
		}
		n = lo
	}
	if zero {
		return 0, nil
	}
	return int64(n), nil
}

// ByteSize is the exact size of a tensor. Sub-byte elements are packed; a size
// that does not fill whole bytes is an error wrapping ErrShape.
func ByteSize(d DType, shape []int) (int64, error) {
	n, err := Elements(shape)
	if err != nil {
		return 0, err
	}
	hi, lo := bits.Mul64(uint64(n), uint64(d.Bits()))
	if lo%8 != 0 {
		return 0, fmt.Errorf("%w: %v of %v does not fill whole bytes", ErrShape, shape, d)
	}
	if hi >= 4 { // 2^63 bytes and more
		return 0, fmt.Errorf("%w: %v of %v is too large", ErrShape, shape, d)
	}
	return int64(hi<<61 | lo>>3), nil
}
