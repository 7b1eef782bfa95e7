package kernel

import (
	"fmt"
	"math"
	"math/bits"
)

// Dropout sets dst = src·scale where an element is kept and 0 where it is
// dropped. Whether element i is kept is a function of (seed, stream, offset+i)
// alone, so nothing is stored: the same call on the gradient is the backward
// pass, and a site cut into pieces gives the bits of the whole. stream tells the
// sites and steps of a run apart.
//
// Element e is dropped when its 16 bits, half e mod 2 of word ⌊e/2⌋ mod 4 of
// Philox 4x32-7 with key seed and counter (⌊e/8⌋, stream), are less than p·2¹⁶,
// rounded to a whole number of at most 2¹⁶-1; scale is 1/(1-p) with p rounded
// so, which changes p by less than 2⁻¹⁶. p must be in [0, 1); it panics
// otherwise. Source: Salmon et al., Parallel Random Numbers: As Easy as
// 1, 2, 3, SC 2011.
func Dropout(dst, src []float32, p float32, seed, stream, offset uint64) {
	same("Dropout", len(src), len(dst))
	if !(p >= 0 && p < 1) {
		panic(fmt.Sprintf("kernel: Dropout: probability %v is not in [0, 1)", p))
	}
	threshold := min(uint32(math.Round(float64(p)*(1<<16))), 1<<16-1)
	if threshold == 0 {
		copy(dst, src)
		return
	}
	scale := float32(1 / (1 - float64(threshold)/(1<<16)))
	// Up to the next multiple of eight, one by one; then whole counters.
	head := min(int(-offset&7), len(src))
	if head > 0 {
		dropoutHead(dst[:head], src[:head], threshold, scale, seed, stream, offset)
	}
	if head < len(src) {
		cur.vec.dropout(dst[head:], src[head:], threshold, scale, seed, stream, (offset+uint64(head))/8)
	}
}

func dropoutHead(dst, src []float32, threshold uint32, scale float32, seed, stream, offset uint64) {
	w := philox(seed, offset/8, stream)
	for i, x := range src {
		dst[i] = keep(x*scale, w, int(offset&7)+i, threshold)
	}
}

// keep is 0 for dropped elements, whatever x is: a NaN that is dropped is gone.
// i is the index of the element's half word.
func keep(x float32, w [4]uint32, i int, threshold uint32) float32 {
	if w[i/2&3]>>(i%2*16)&0xffff < threshold {
		return 0
	}
	return x
}

func goDropout(dst, src []float32, threshold uint32, scale float32, seed, stream, block uint64) {
	for i := 0; i < len(src); i += 8 {
		w := philox(seed, block, stream)
		block++
		for j, x := range src[i:min(i+8, len(src))] {
			dst[i+j] = keep(x*scale, w, j, threshold)
		}
	}
}

// The multipliers and key increments of Philox 4x32.
const (
	philoxM0, philoxM1 = 0xD2511F53, 0xCD9E8D57
	philoxW0, philoxW1 = 0x9E3779B9, 0xBB67AE85
)

// philoxRounds are those of package graph/philox for masks.
const philoxRounds = 7

// philox is Philox 4x32-7 of the counter (lo, hi) under the key, each 64 bits
// with the low word first.
func philox(key, lo, hi uint64) [4]uint32 {
	c0, c1, c2, c3 := uint32(lo), uint32(lo>>32), uint32(hi), uint32(hi>>32)
	k0, k1 := uint32(key), uint32(key>>32)
	for range philoxRounds {
		h0, l0 := bits.Mul32(philoxM0, c0)
		h1, l1 := bits.Mul32(philoxM1, c2)
		c0, c1, c2, c3 = h1^c1^k0, l1, h0^c3^k1, l0
		k0 += philoxW0
		k1 += philoxW1
	}
	return [4]uint32{c0, c1, c2, c3}
}
