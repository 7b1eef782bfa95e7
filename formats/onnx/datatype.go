package onnx

import (
	"fmt"
	"math/bits"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// DataType is an element type with ONNX's number (TensorProto.DataType).
type DataType int32

// The element types.
const (
	Undefined      DataType = 0
	Float          DataType = 1
	Uint8          DataType = 2
	Int8           DataType = 3
	Uint16         DataType = 4
	Int16          DataType = 5
	Int32          DataType = 6
	Int64          DataType = 7
	String         DataType = 8
	Bool           DataType = 9
	Float16        DataType = 10
	Double         DataType = 11
	Uint32         DataType = 12
	Uint64         DataType = 13
	Complex64      DataType = 14
	Complex128     DataType = 15
	BFloat16       DataType = 16
	Float8E4M3FN   DataType = 17
	Float8E4M3FNUZ DataType = 18
	Float8E5M2     DataType = 19
	Float8E5M2FNUZ DataType = 20
	Uint4          DataType = 21
	Int4           DataType = 22
	Float4E2M1     DataType = 23
	Float8E8M0     DataType = 24
	Uint2          DataType = 25
	Int2           DataType = 26
	Float6E2M3     DataType = 27
	Float6E3M2     DataType = 28
)

// field numbers of TensorProto that hold data.
const (
	fieldFloat  = 4
	fieldInt32  = 5
	fieldString = 6
	fieldInt64  = 7
	fieldRaw    = 9
	fieldDouble = 10
	fieldUint64 = 11
)

// typeInfo describes an element type. typed is the field that holds the
// elements where raw_data does not.
type typeInfo struct {
	name  string
	bits  int
	typed int
	dtype tensor.DType // Invalid where the tensor package has none
}

var types = [...]typeInfo{
	Undefined:      {"UNDEFINED", 0, 0, tensor.Invalid},
	Float:          {"FLOAT", 32, fieldFloat, tensor.F32},
	Uint8:          {"UINT8", 8, fieldInt32, tensor.U8},
	Int8:           {"INT8", 8, fieldInt32, tensor.I8},
	Uint16:         {"UINT16", 16, fieldInt32, tensor.U16},
	Int16:          {"INT16", 16, fieldInt32, tensor.I16},
	Int32:          {"INT32", 32, fieldInt32, tensor.I32},
	Int64:          {"INT64", 64, fieldInt64, tensor.I64},
	String:         {"STRING", 0, fieldString, tensor.Invalid},
	Bool:           {"BOOL", 8, fieldInt32, tensor.Bool},
	Float16:        {"FLOAT16", 16, fieldInt32, tensor.F16},
	Double:         {"DOUBLE", 64, fieldDouble, tensor.F64},
	Uint32:         {"UINT32", 32, fieldUint64, tensor.U32},
	Uint64:         {"UINT64", 64, fieldUint64, tensor.U64},
	Complex64:      {"COMPLEX64", 64, fieldFloat, tensor.C64},
	Complex128:     {"COMPLEX128", 128, fieldDouble, tensor.Invalid},
	BFloat16:       {"BFLOAT16", 16, fieldInt32, tensor.BF16},
	Float8E4M3FN:   {"FLOAT8E4M3FN", 8, fieldInt32, tensor.F8E4M3},
	Float8E4M3FNUZ: {"FLOAT8E4M3FNUZ", 8, fieldInt32, tensor.F8E4M3FNUZ},
	Float8E5M2:     {"FLOAT8E5M2", 8, fieldInt32, tensor.F8E5M2},
	Float8E5M2FNUZ: {"FLOAT8E5M2FNUZ", 8, fieldInt32, tensor.F8E5M2FNUZ},
	Uint4:          {"UINT4", 4, fieldInt32, tensor.Invalid},
	Int4:           {"INT4", 4, fieldInt32, tensor.Invalid},
	Float4E2M1:     {"FLOAT4E2M1", 4, fieldInt32, tensor.F4},
	Float8E8M0:     {"FLOAT8E8M0", 8, fieldInt32, tensor.F8E8M0},
	Uint2:          {"UINT2", 2, fieldInt32, tensor.Invalid},
	Int2:           {"INT2", 2, fieldInt32, tensor.Invalid},
	Float6E2M3:     {"FLOAT6E2M3", 6, fieldInt32, tensor.F6E2M3},
	Float6E3M2:     {"FLOAT6E3M2", 6, fieldInt32, tensor.F6E3M2},
}

func (d DataType) info() typeInfo {
	if d < 0 || int(d) >= len(types) {
		return typeInfo{name: fmt.Sprintf("DataType(%d)", int32(d))}
	}
	return types[d]
}

// String returns ONNX's name: "FLOAT", "INT4".
func (d DataType) String() string { return d.info().name }

// Bits is the size of one element; 0 for strings and unknown types.
func (d DataType) Bits() int { return d.info().bits }

// DType is the same type of package tensor, or Invalid where that has none
// (4- and 2-bit integers, COMPLEX128, strings).
func (d DataType) DType() tensor.DType { return d.info().dtype }

// DataTypeOf returns ONNX's number of a type of package tensor, or Undefined.
func DataTypeOf(d tensor.DType) DataType {
	for i := range types {
		if types[i].dtype == d && d != tensor.Invalid {
			return DataType(i)
		}
	}
	return Undefined
}

// size is the length of n elements as raw data: sub-byte elements are packed,
// the last byte filled up. ok is false where it does not fit into an int64.
func (d DataType) size(n int64) (bytes int64, ok bool) {
	hi, lo := bits.Mul64(uint64(n), uint64(d.Bits()))
	if hi != 0 || lo > 1<<63-8 {
		return 0, false
	}
	return int64((lo + 7) / 8), true
}
