package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

func checkBytes(what string, bytes, elements int) {
	if bytes != 2*elements {
		panic(fmt.Sprintf("kernel: %s: %d bytes for %d elements of two bytes", what, bytes, elements))
	}
}

// BF16ToF32 widens little-endian bfloat16; it is exact, NaN payloads included.
func BF16ToF32(dst []float32, src []byte) {
	checkBytes("BF16ToF32", len(src), len(dst))
	if len(dst) > 0 {
		cur.vec.bf16ToF32(dst, src)
	}
}

// F32ToBF16 rounds to little-endian bfloat16, to nearest, ties to even. Every
// NaN becomes a quiet NaN with the same sign.
func F32ToBF16(dst []byte, src []float32) {
	checkBytes("F32ToBF16", len(dst), len(src))
	if len(src) > 0 {
		cur.vec.f32ToBF16(dst, src)
	}
}

// F16ToF32 widens little-endian IEEE half precision; it is exact. NaN become
// quiet.
func F16ToF32(dst []float32, src []byte) {
	checkBytes("F16ToF32", len(src), len(dst))
	if len(dst) > 0 {
		cur.vec.f16ToF32(dst, src)
	}
}

// F32ToF16 rounds to little-endian IEEE half precision, to nearest, ties to
// even; values from 65520 on become infinite, NaN become quiet.
func F32ToF16(dst []byte, src []float32) {
	checkBytes("F32ToF16", len(dst), len(src))
	if len(src) > 0 {
		cur.vec.f32ToF16(dst, src)
	}
}

func goBF16ToF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

func goF32ToBF16(dst []byte, src []float32) {
	for i, x := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], toBF16(x))
	}
}

func goF16ToF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = fromF16(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func goF32ToF16(dst []byte, src []float32) {
	for i, x := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], toF16(x))
	}
}

// toBF16 rounds to nearest even; a NaN keeps its sign and upper payload and
// becomes quiet.
func toBF16(x float32) uint16 {
	u := math.Float32bits(x)
	if x != x {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

func fromF16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := uint32(h>>10&31), uint32(h&0x3ff)
	switch exp {
	case 0: // zero and subnormal: frac·2⁻²⁴, exact
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	case 31:
		if frac != 0 {
			frac |= 0x200
		}
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

func toF16(x float32) uint16 {
	u := math.Float32bits(x)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(u>>13&0x3ff)
	case u >= 0x477ff000: // 65520 and more
		return sign | 0x7c00
	case u < 0x38800000: // below 2⁻¹⁴: a multiple of 2⁻²⁴
		// Adding 1/2 puts the unit of 2⁻²⁴ at the last place, rounding as wanted.
		return sign | uint16(math.Float32bits(math.Float32frombits(u)+0.5)-0x3f000000)
	}
	u += 0xfff + u>>13&1
	return sign | uint16((u-112<<23)>>13)
}
