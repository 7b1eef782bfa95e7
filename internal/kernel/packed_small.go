package kernel

import (
	"math"
	"unsafe"
)

// PackBBF16 packs a matrix rounded to bfloat16 (nearest even). Mul then rounds
// A to bfloat16 too and accumulates in float32. Where the selected path
// multiplies bf16 in hardware (VDPBF16PS: HasBF16) it is used; it adds two
// products at a time and takes subnormal bf16 for zero. Elsewhere panels are
// widened tile by tile: half the memory of PackB, at nearly its speed.
//
// load fills dst with stored row number row, which has n elements, or k if transposed. It
// is called from several goroutines at once, one call for each row.
func PackBBF16(p *Pool, k, n int, transposed bool, load func(dst []float32, row int)) *PackedB {
	b := newPackedB(k, n)
	if cur.bf16 != nil {
		return packPairs(p, b, transposed, load)
	}
	b.roundA = true
	return packHalf(p, b, transposed, load)
}

// PackBStoredBF16 is PackBBF16 for memory alone: B is held as bfloat16, A stays
// float32, and so does every product.
func PackBStoredBF16(p *Pool, k, n int, transposed bool, load func(dst []float32, row int)) *PackedB {
	return packHalf(p, newPackedB(k, n), transposed, load)
}

// packHalf packs panels that Mul widens tile by tile.
func packHalf(p *Pool, b *PackedB, transposed bool, load func(dst []float32, row int)) *PackedB {
	nr := b.kn.nr
	if b.kn.packed != nil { // widened panels go through the strided kernel
		b.kn, b.depth = cur.row, b.K
		nr = b.kn.nr
	}
	b.half = make([]uint16, max(1, b.panels()*b.depth*nr))
	b.packRows(p, transposed, load, func(j int, panel []float32) {
		if len(panel) > 0 {
			roundTo(b.half[j*b.depth*nr:][:len(panel)], panel)
		}
	})
	return b
}

// packPairs packs for a kernel of bf16 pairs: element (step, column) holds rows
// 2·step (low half) and 2·step+1.
func packPairs(p *Pool, b *PackedB, transposed bool, load func(dst []float32, row int)) *PackedB {
	plain := *b // packs panels of the pair kernel's width in float32 first
	plain.kn = &tileKernel[float32]{mr: cur.bf16.mr, nr: cur.bf16.nr, transpose: cur.bf16.transpose}
	plain.depth = b.K
	b.kn = cur.bf16
	b.depth = b.kn.depth(b.K)
	nr := b.kn.nr
	b.f32 = Alloc(b.panels() * b.depth * nr)
	plain.packRows(p, transposed, load, func(j int, panel []float32) {
		dst := b.f32[j*b.depth*nr:][:b.depth*nr]
		for i := range b.K {
			for x, v := range panel[i*nr:][:nr] {
				h := uint32(toBF16(v))
				u := &dst[i/2*nr+x]
				if i%2 == 0 {
					*u = math.Float32frombits(h)
				} else {
					*u = math.Float32frombits(math.Float32bits(*u) | h<<16)
				}
			}
		}
	})
	return b
}

// PackBInt8 packs a matrix rounded to eight bits with one scale for each
// column: B[i,j] ≈ q·scale[j] with scale[j] = max|B[:,j]|/127 and q the nearest
// integer, so that the error of an element is at most scale[j]/2. Mul widens
// panels tile by tile: a quarter of the memory of PackB, and A stays float32.
// Arguments as for PackBBF16.
func PackBInt8(p *Pool, k, n int, transposed bool, load func(dst []float32, row int)) *PackedB {
	b := newPackedB(k, n)
	if b.kn.packed != nil {
		b.kn, b.depth = cur.row, k
	}
	nr := b.kn.nr
	b.bytes = make([]int8, max(1, b.panels()*b.depth*nr))
	b.scale = make([]float32, b.panels()*nr)
	b.packRows(p, transposed, load, func(j int, panel []float32) {
		quantize(b.bytes[j*b.depth*nr:], b.scale[j*nr:][:nr], panel)
	})
	return b
}

// quantize rounds a panel of len(scale) columns.
func quantize(dst []int8, scale, panel []float32) {
	nr := len(scale)
	for i, v := range panel {
		s := &scale[i%nr]
		*s = max(*s, float32(math.Abs(float64(v)))/127)
	}
	for i, v := range panel {
		if s := scale[i%nr]; s > 0 {
			dst[i] = int8(math.RoundToEven(float64(v) / float64(s)))
		}
	}
}

// F32ToInt8 rounds src to eight bits with one scale, which it returns: src[i] ≈
// dst[i]·scale with scale = max|src|/127, off by at most scale/2.
func F32ToInt8(dst []int8, src []float32) (scale float32) {
	same("F32ToInt8", len(src), len(dst))
	var s [1]float32
	quantize(dst, s[:], src)
	return s[0]
}

// Int8ToF32 sets dst = src·scale.
func Int8ToF32(dst []float32, src []int8, scale float32) {
	same("Int8ToF32", len(src), len(dst))
	var s [16]float32
	for i := range s {
		s[i] = scale
	}
	n := len(src) &^ 15
	cur.vec.unpackInt8(dst[:n], src[:n], s[:])
	goUnpackInt8(dst[n:], src[n:], s[:1])
}

func goUnpackInt8(dst []float32, src []int8, scale []float32) {
	nr := len(scale)
	for i := 0; i < len(src); i += nr {
		for j, q := range src[i:][:nr] {
			dst[i+j] = float32(q) * scale[j]
		}
	}
}

// roundTo rounds src to bf16.
func roundTo(dst []uint16, src []float32) {
	cur.vec.f32ToBF16(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 2*len(dst)), src)
}

// roundBF16 rounds x to bf16 in place.
func roundBF16(x []float32) {
	var buf [512]byte
	for len(x) > 0 {
		n := min(len(x), len(buf)/2)
		cur.vec.f32ToBF16(buf[:2*n], x[:n])
		cur.vec.bf16ToF32(x[:n], buf[:2*n])
		x = x[n:]
	}
}
