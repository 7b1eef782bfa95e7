package philox

import (
	"math"
	"testing"
)

// The known answers published with the authors' Random123 library
// (kat_vectors, lines "philox4x32 10").
func TestBlockKnownAnswers(t *testing.T) {
	const ff = 0xffffffff
	for _, c := range []struct {
		ctr  [4]uint32
		key  [2]uint32
		want [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{ff, ff, ff, ff}, [2]uint32{ff, ff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Block(c.ctr, c.key); got != c.want {
			t.Errorf("Block(%08x, %08x) = %08x, want %08x", c.ctr, c.key, got, c.want)
		}
	}
}

func TestWordReadsLanesOfBlocks(t *testing.T) {
	const seed, site, step = 0x0123456789abcdef, 7, 0x1_0000_0002
	for _, i := range []uint64{0, 1, 2, 3, 4, 1<<34 + 5} {
		b := Block([4]uint32{uint32(i / 4), uint32(i / 4 >> 32), site, 2}, [2]uint32{0x89abcdef, 0x01234567})
		if got := Word(seed, site, step, i); got != b[i%4] {
			t.Errorf("Word of element %d = %08x, want lane %d of %08x", i, got, i%4, b)
		}
	}
}

func TestKeepRate(t *testing.T) {
	const n = 100_000
	for _, p := range []float32{0, 0.1, 0.5, 0.9} {
		kept := 0
		for i := range uint64(n) {
			if Keep(p, 42, 3, 9, i) {
				kept++
			}
		}
		want := (1 - float64(p)) * n
		// Five standard deviations of a binomial.
		if d := 5 * math.Sqrt(n*float64(p)*(1-float64(p))); math.Abs(float64(kept)-want) > d {
			t.Errorf("p = %v kept %d of %d, want %.0f ± %.0f", p, kept, n, want, d)
		}
	}
}
