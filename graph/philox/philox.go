// Package philox is the counter-based random generator behind dropout:
// Philox 4x32 with ten rounds (Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011), and the one definition of which
// element of a mask reads which of its bits. Every engine draws exactly
// these masks, whatever its vector width or number of threads.
//
// The word of element i of dropout site s in step t under a seed is
//
//	Block(counter, key)[i mod 4]
//	counter = (lo32(i/4), hi32(i/4), s, lo32(t)), key = (lo32(seed), hi32(seed))
//
// and the element is kept when word >= Threshold(p).
package philox

// The multipliers and the key increments of the paper (its section 3.3 and
// table 2, and the golden ratio and sqrt(3)-1 as 32-bit fractions).
const (
	mul0  = 0xD2511F53
	mul1  = 0xCD9E8D57
	weyl0 = 0x9E3779B9
	weyl1 = 0xBB67AE85
)

// Rounds is the number of rounds.
const Rounds = 10

// Block is the bijection: four words out of a counter under a key.
func Block(c [4]uint32, k [2]uint32) [4]uint32 {
	for range Rounds {
		p0 := uint64(mul0) * uint64(c[0])
		p1 := uint64(mul1) * uint64(c[2])
		c = [4]uint32{uint32(p1>>32) ^ c[1] ^ k[0], uint32(p1), uint32(p0>>32) ^ c[3] ^ k[1], uint32(p0)}
		k[0] += weyl0
		k[1] += weyl1
	}
	return c
}

// Word is the random word of element i of a dropout site. Only the low 32
// bits of step count.
func Word(seed uint64, site uint32, step, i uint64) uint32 {
	q := i / 4
	c := [4]uint32{uint32(q), uint32(q >> 32), site, uint32(step)}
	return Block(c, [2]uint32{uint32(seed), uint32(seed >> 32)})[i%4]
}

// Threshold is floor(p·2^32): words below it drop their element, so an
// element is dropped with probability p up to 2^-32. p is in [0, 1).
func Threshold(p float32) uint32 { return uint32(float64(p) * (1 << 32)) }

// Keep reports whether element i survives dropout with probability p.
func Keep(p float32, seed uint64, site uint32, step, i uint64) bool {
	return Word(seed, site, step, i) >= Threshold(p)
}
