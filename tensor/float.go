package tensor

import "math"

// minifloat describes a binary float format of at most 16 bits with a sign
// bit, M mantissa bits and the exponent bias B.
type minifloat struct {
	bits, m, bias int
	inf           bool   // the top exponent holds infinities and NaNs (IEEE)
	max           uint16 // largest finite code without sign
	nan           uint16 // the NaN written
	fnuz          bool   // no negative zero; 0x80 is the only NaN
	saturate      bool   // beyond the range, infinity included, comes max
}

var (
	half    = minifloat{bits: 16, m: 10, bias: 15, inf: true, max: 0x7bff, nan: 0x7e00}
	brain   = minifloat{bits: 16, m: 7, bias: 127, inf: true, max: 0x7f7f, nan: 0x7fc0}
	e5m2    = minifloat{bits: 8, m: 2, bias: 15, inf: true, max: 0x7b, nan: 0x7f}
	e4m3    = minifloat{bits: 8, m: 3, bias: 7, max: 0x7e, nan: 0x7f, saturate: true}
	e4m3uz  = minifloat{bits: 8, m: 3, bias: 8, max: 0x7f, nan: 0x80, fnuz: true}
	e5m2uz  = minifloat{bits: 8, m: 2, bias: 16, max: 0x7f, nan: 0x80, fnuz: true}
	formats = map[DType]*minifloat{F16: &half, BF16: &brain, F8E5M2: &e5m2, F8E4M3: &e4m3, F8E4M3FNUZ: &e4m3uz, F8E5M2FNUZ: &e5m2uz}
)

// over is the code, without sign, of what lies beyond the range.
func (f *minifloat) over() uint16 {
	switch {
	case f.saturate:
		return f.max
	case f.inf:
		return f.max + 1
	}
	return f.nan
}

// encode rounds x to the nearest value of the format, ties to even, in one
// step. Beyond the range it does what PyTorch's casts do (2.15): infinity where
// the format has one, the largest number for F8_E4M3, NaN for the FNUZ types.
func (f *minifloat) encode(x float64) uint16 {
	sign := uint16(0)
	if math.Signbit(x) {
		sign = 1 << (f.bits - 1)
		x = -x
	}
	if f.fnuz && (x != x || math.IsInf(x, 0)) {
		return f.nan
	}
	switch {
	case x != x:
		return sign | f.nan
	case math.IsInf(x, 0):
		return sign | f.over()
	case x == 0 && f.fnuz:
		return 0
	case x == 0:
		return sign
	}
	_, e := math.Frexp(x) // x = frac·2^e, frac in [0.5, 1)
	e = max(e-1, 1-f.bias)
	q := math.RoundToEven(math.Ldexp(x, f.m-e)) // units in the last place
	code := uint64(q)
	if q >= float64(uint64(1)<<f.m) {
		code = uint64(e+f.bias-1)<<f.m + uint64(q)
	}
	if code > uint64(f.max) {
		if f.fnuz {
			return f.nan
		}
		return sign | f.over()
	}
	if code == 0 && f.fnuz {
		return 0
	}
	return sign | uint16(code)
}

// decode returns the exact value of a code.
func (f *minifloat) decode(c uint16) float64 {
	if f.fnuz && c == f.nan {
		return math.NaN()
	}
	signBit := uint16(1) << (f.bits - 1)
	neg := c&signBit != 0
	c &^= signBit
	var x float64
	switch {
	case c > f.max && f.inf && c == f.max+1:
		x = math.Inf(1)
	case c > f.max:
		x = math.NaN()
	default:
		e, m := int(c>>f.m), int(c&(1<<f.m-1))
		if e == 0 {
			x = math.Ldexp(float64(m), 1-f.bias-f.m)
		} else {
			x = math.Ldexp(float64(m|1<<f.m), e-f.bias-f.m)
		}
	}
	if neg {
		return -x
	}
	return x
}

// table8 holds the 256 values of each 8-bit format.
var table8 = func() map[DType]*[256]float32 {
	t := map[DType]*[256]float32{}
	for d, f := range formats {
		if f.bits != 8 {
			continue
		}
		v := new([256]float32)
		for c := range v {
			v[c] = float32(f.decode(uint16(c)))
		}
		t[d] = v
	}
	v := new([256]float32) // E8M0: powers of two, 2^(c-127); 255 is NaN
	for c := range 255 {
		v[c] = float32(math.Ldexp(1, c-127))
	}
	v[255] = float32(math.NaN())
	t[F8E8M0] = v
	return t
}()

// BF16ToF32 is exact.
func BF16ToF32(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// F32ToBF16 rounds to nearest, ties to even; a NaN stays a NaN.
func F32ToBF16(x float32) uint16 {
	u := math.Float32bits(x)
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// F16ToF32 is exact.
func F16ToF32(h uint16) float32 {
	sign, e, m := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch {
	case e == 31:
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	case e != 0:
		return math.Float32frombits(sign | (e+112)<<23 | m<<13)
	}
	f := float32(m) * (1.0 / (1 << 24)) // subnormal: m·2^-24, exact
	return math.Float32frombits(sign | math.Float32bits(f))
}

// F32ToF16 rounds to nearest, ties to even; beyond the range it gives
// infinity.
func F32ToF16(x float32) uint16 {
	u := math.Float32bits(x)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7e00 | uint16(u>>13&0x3ff)
	case u >= 0x477ff000: // 65520 and above
		return sign | 0x7c00
	case u < 0x38800000: // below the smallest normal: add 0.5 so that the last bit of f32 is 2^-24
		f := math.Float32frombits(u) + 0.5
		return sign | uint16(math.Float32bits(f)-math.Float32bits(0.5))
	}
	return sign | uint16((u+0xfff+u>>13&1-112<<23)>>13)
}

// F64ToBF16 rounds a float64 once, to nearest, ties to even; going through
// float32 would round twice. Beyond the range it gives infinity.
func F64ToBF16(x float64) uint16 {
	const drop = 52 - 7
	u := math.Float64bits(x)
	m := u &^ (1 << 63)
	if m < (1023-126)<<52 || m >= 0x7ff<<52 { // subnormal, infinite or NaN
		return brain.encode(x)
	}
	v := (m+1<<(drop-1)-1+m>>drop&1)>>drop - (1023-127)<<7
	return uint16(u>>48&0x8000 | min(v, 0x7f80))
}

// F64ToF16 rounds once; see F64ToBF16.
func F64ToF16(x float64) uint16 {
	const drop = 52 - 10
	u := math.Float64bits(x)
	m := u &^ (1 << 63)
	if m < (1023-14)<<52 || m >= 0x7ff<<52 {
		return half.encode(x)
	}
	v := (m+1<<(drop-1)-1+m>>drop&1)>>drop - (1023-15)<<10
	return uint16(u>>48&0x8000 | min(v, 0x7c00))
}

// F64ToF8 rounds once to one of the FP8 types with sign and mantissa; it panics on
// another dtype. Beyond the range: infinity for F8_E5M2, the largest number for
// F8_E4M3, NaN for the FNUZ types, as in PyTorch.
func F64ToF8(x float64, d DType) uint8 {
	f := formats[d]
	if f == nil || f.bits != 8 {
		panic("tensor: F64ToF8 to " + d.String())
	}
	return uint8(f.encode(x))
}

// F8ToF32 is exact. It panics on a dtype that is not an FP8 type.
func F8ToF32(c uint8, d DType) float32 {
	t := table8[d]
	if t == nil {
		panic("tensor: F8ToF32 from " + d.String())
	}
	return t[c]
}
