package tensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrConvert is wrapped by errors about conversions between dtypes.
var ErrConvert = errors.New("no conversion")

// Convertible says whether elements of d can be read as numbers by DecodeF32
// and DecodeF64.
func Convertible(d DType) bool {
	switch d {
	case F32, F64, F16, BF16:
		return true
	}
	return table8[d] != nil
}

func check(n int, src []byte, d DType) error {
	if !Convertible(d) {
		return fmt.Errorf("%w between %v and floating-point numbers", ErrConvert, d)
	}
	if want := n * d.Bits() / 8; len(src) != want {
		return fmt.Errorf("%w: %d elements of %v take %d bytes, not %d", ErrConvert, n, d, want, len(src))
	}
	return nil
}

// DecodeF32 converts little-endian elements of type d to float32. Only F64
// loses precision (rounded to nearest). len(src) must be the size of len(dst)
// elements.
func DecodeF32(dst []float32, src []byte, d DType) error {
	if err := check(len(dst), src, d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	default:
		t := table8[d]
		for i, c := range src {
			dst[i] = t[c]
		}
	}
	return nil
}

// DecodeF64 converts elements of type d to float64, exactly.
func DecodeF64(dst []float64, src []byte, d DType) error {
	if err := check(len(dst), src, d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i := range dst {
			dst[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:])))
		}
	case F64:
		for i := range dst {
			dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = float64(BF16ToF32(binary.LittleEndian.Uint16(src[2*i:])))
		}
	case F16:
		for i := range dst {
			dst[i] = float64(F16ToF32(binary.LittleEndian.Uint16(src[2*i:])))
		}
	default:
		t := table8[d]
		for i, c := range src {
			dst[i] = float64(t[c])
		}
	}
	return nil
}

// EncodeF32 rounds float32 numbers to elements of type d, to nearest, ties to
// even. F8_E8M0 is read-only.
func EncodeF32(dst []byte, src []float32, d DType) error {
	if err := checkEncode(len(src), dst, d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i, x := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		}
	case F64:
		for i, x := range src {
			binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(float64(x)))
		}
	case BF16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToBF16(x))
		}
	case F16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToF16(x))
		}
	default:
		f := formats[d]
		for i, x := range src {
			dst[i] = uint8(f.encode(float64(x)))
		}
	}
	return nil
}

// EncodeF64 rounds float64 numbers once to elements of type d.
func EncodeF64(dst []byte, src []float64, d DType) error {
	if err := checkEncode(len(src), dst, d); err != nil {
		return err
	}
	switch d {
	case F32:
		for i, x := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(float32(x)))
		}
	case F64:
		for i, x := range src {
			binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(x))
		}
	case BF16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F64ToBF16(x))
		}
	case F16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F64ToF16(x))
		}
	default:
		f := formats[d]
		for i, x := range src {
			dst[i] = uint8(f.encode(x))
		}
	}
	return nil
}

func checkEncode(n int, dst []byte, d DType) error {
	if d == F8E8M0 {
		return fmt.Errorf("%w to %v", ErrConvert, d)
	}
	return check(n, dst, d)
}
