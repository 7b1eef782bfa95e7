package gguf

import (
	"fmt"
	"math/bits"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Type is ggml's type of a tensor's elements. Quantised types store blocks.
type Type uint32

// The types that this program writes. Others are listed and not decoded.
const (
	F32  Type = 0
	F16  Type = 1
	Q8_0 Type = 8
	BF16 Type = 30
)

// layout is the name of a type, and the elements and bytes of a block.
type layout struct {
	name         string
	elems, bytes int
}

// layouts are those of ggml's types. The numbers that are missing were
// withdrawn.
var layouts = map[Type]layout{
	F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2},
	2: {"Q4_0", 32, 18}, 3: {"Q4_1", 32, 20}, 6: {"Q5_0", 32, 22}, 7: {"Q5_1", 32, 24}, Q8_0: {"Q8_0", 32, 34}, 9: {"Q8_1", 32, 36},
	10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, 12: {"Q4_K", 256, 144}, 13: {"Q5_K", 256, 176}, 14: {"Q6_K", 256, 210}, 15: {"Q8_K", 256, 292},
	16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74}, 18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50}, 20: {"IQ4_NL", 32, 18},
	21: {"IQ3_S", 256, 110}, 22: {"IQ2_S", 256, 82}, 23: {"IQ4_XS", 256, 136}, 29: {"IQ1_M", 256, 56},
	24: {"I8", 1, 1}, 25: {"I16", 1, 2}, 26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8},
	34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66}, 39: {"MXFP4", 32, 17},
}

// String is ggml's name of the type.
func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("Type(%d)", uint32(t))
}

// DType is the element type, or tensor.Invalid for blocks.
func (t Type) DType() tensor.DType {
	switch t {
	case F32:
		return tensor.F32
	case F16:
		return tensor.F16
	case BF16:
		return tensor.BF16
	case 24:
		return tensor.I8
	case 25:
		return tensor.I16
	case 26:
		return tensor.I32
	case 27:
		return tensor.I64
	case 28:
		return tensor.F64
	}
	return tensor.Invalid
}

// ByteSize is the size of a tensor. An unknown type, a shape that overflows
// and rows that do not fill whole blocks are errors.
func ByteSize(t Type, shape []int) (int64, error) {
	l, ok := layouts[t]
	if !ok {
		return 0, fmt.Errorf("type %d is not known", uint32(t))
	}
	n, err := tensor.Elements(shape)
	if err != nil {
		return 0, err
	}
	if len(shape) > 0 && shape[len(shape)-1]%l.elems != 0 {
		return 0, fmt.Errorf("rows of %d elements do not fill blocks of %d of type %v", shape[len(shape)-1], l.elems, t)
	}
	hi, lo := bits.Mul64(uint64(n)/uint64(l.elems), uint64(l.bytes))
	if hi != 0 || lo > 1<<62 {
		return 0, fmt.Errorf("shape %v of type %v is too large", shape, t)
	}
	return int64(lo), nil
}
