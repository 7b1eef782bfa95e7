// Package philox is the counter-based random generator behind dropout and the
// starts of adapters: Philox 4x32 (Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011), and the one definition of which
// element of a dropout mask reads which of its bits. Every engine draws exactly
// these masks, whatever its vector width or number of threads.
//
// Element i of dropout site s in step t under a seed reads 16 bits: half i mod 2
// (the low one first) of word ⌊i/2⌋ mod 4 of
//
//	Block(MaskRounds, counter, key)
//	counter = (lo32(i/8), hi32(i/8), s, lo32(t)), key = (lo32(seed), hi32(seed))
//
// and is kept, times Scale(p), when they are at least Threshold(p).
package philox

import "math"

// The multipliers and the key increments of the paper (its section 3.3 and
// table 2, and the golden ratio and sqrt(3)-1 as 32-bit fractions).
const (
	mul0  = 0xD2511F53
	mul1  = 0xCD9E8D57
	weyl0 = 0x9E3779B9
	weyl1 = 0xBB67AE85
)

// Rounds is the number of rounds that the paper recommends; MaskRounds is the
// smallest that it found to pass all tests of BigCrush.
const (
	Rounds     = 10
	MaskRounds = 7
)

// Block is the bijection: four words out of a counter under a key.
func Block(rounds int, c [4]uint32, k [2]uint32) [4]uint32 {
	for range rounds {
		p0 := uint64(mul0) * uint64(c[0])
		p1 := uint64(mul1) * uint64(c[2])
		c = [4]uint32{uint32(p1>>32) ^ c[1] ^ k[0], uint32(p1), uint32(p0>>32) ^ c[3] ^ k[1], uint32(p0)}
		k[0] += weyl0
		k[1] += weyl1
	}
	return c
}

// Half is the 16 random bits of element i of a dropout site. Only the low 32
// bits of step count.
func Half(seed uint64, site uint32, step, i uint64) uint32 {
	q := i / 8
	c := [4]uint32{uint32(q), uint32(q >> 32), site, uint32(step)}
	w := Block(MaskRounds, c, [2]uint32{uint32(seed), uint32(seed >> 32)})
	return w[i/2%4] >> (i % 2 * 16) & 0xffff
}

// Threshold is the multiple of 2^-16 next to p, as 16 bits, at most 2^16-1:
// what is below drops its element. p is in [0, 1).
func Threshold(p float32) uint32 {
	return min(uint32(math.Round(float64(p)*(1<<16))), 1<<16-1)
}

// Scale is 1/(1-p), with p as Threshold rounds it, so that the mean of a mask
// is 1.
func Scale(p float32) float32 {
	return float32(1 / (1 - float64(Threshold(p))/(1<<16)))
}

// Keep reports whether element i survives dropout with probability p.
func Keep(p float32, seed uint64, site uint32, step, i uint64) bool {
	return Half(seed, site, step, i) >= Threshold(p)
}
