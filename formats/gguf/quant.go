package gguf

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// q8Block is the number of elements of a Q8_0 block.
const q8Block = 32

// Encode rounds x to elements of type t: F32, F16, BF16 to nearest even, Q8_0
// in blocks of 32,
//
//	d = max|x|/127,  q = round(x·(1/d)) half away from zero,  x ≈ f16(d)·q
//
// bit for bit as ggml's quantize_row_q8_0_ref.
func Encode(dst []byte, x []float32, t Type) error {
	if d := t.DType(); d.IsFloat() {
		return tensor.EncodeF32(dst, x, d)
	}
	if t != Q8_0 {
		return fmt.Errorf("%w: type %v is not written", ErrUnsupported, t)
	}
	if len(x)%q8Block != 0 || len(dst) != len(x)/q8Block*34 {
		return fmt.Errorf("%d elements do not fill the blocks of %d of %d bytes of Q8_0", len(x), q8Block, len(dst))
	}
	for len(x) > 0 {
		if err := encodeQ8(dst[:34], x[:q8Block]); err != nil {
			return err
		}
		dst, x = dst[34:], x[q8Block:]
	}
	return nil
}

func encodeQ8(dst []byte, x []float32) error {
	var top float32
	for _, v := range x {
		top = max(top, max(v, -v))
	}
	d := top / 127
	h := tensor.F32ToF16(d)
	if h&0x7c00 == 0x7c00 {
		return fmt.Errorf("a block with the value %v is outside the range of Q8_0, or not finite", top)
	}
	binary.LittleEndian.PutUint16(dst, h)
	var inverse float32
	if d != 0 {
		inverse = 1 / d
	}
	for i, v := range x {
		dst[2+i] = byte(int8(math.Round(float64(v * inverse))))
	}
	return nil
}

// Decode converts elements of type t to float32: F32, F16, BF16, F64 and Q8_0.
func Decode(dst []float32, src []byte, t Type) error {
	if d := t.DType(); d.IsFloat() {
		return tensor.DecodeF32(dst, src, d)
	}
	if t != Q8_0 {
		return &Error{Reason: fmt.Sprintf("type %v is not decoded", t), Hint: "convert the original model in f32, f16, bf16 or q8_0", Err: ErrUnsupported}
	}
	if len(dst)%q8Block != 0 || len(src) != len(dst)/q8Block*34 {
		return fmt.Errorf("%d bytes are not %d elements of Q8_0", len(src), len(dst))
	}
	for len(dst) > 0 {
		d := tensor.F16ToF32(binary.LittleEndian.Uint16(src))
		for i := range q8Block {
			dst[i] = d * float32(int8(src[2+i]))
		}
		dst, src = dst[q8Block:], src[34:]
	}
	return nil
}
