package philox

import (
	"math"
	"testing"
)

// The known answers published with the authors' Random123 library
// (kat_vectors, lines "philox4x32 10" and "philox4x32 7").
func TestBlockKnownAnswers(t *testing.T) {
	const ff = 0xffffffff
	for _, c := range []struct {
		rounds int
		ctr    [4]uint32
		key    [2]uint32
		want   [4]uint32
	}{
		{10, [4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{10, [4]uint32{ff, ff, ff, ff}, [2]uint32{ff, ff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{10, [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
		{7, [4]uint32{}, [2]uint32{}, [4]uint32{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}},
		{7, [4]uint32{ff, ff, ff, ff}, [2]uint32{ff, ff}, [4]uint32{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}},
		{7, [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}},
	} {
		if got := Block(c.rounds, c.ctr, c.key); got != c.want {
			t.Errorf("Block(%d, %08x, %08x) = %08x, want %08x", c.rounds, c.ctr, c.key, got, c.want)
		}
	}
}

func TestHalfReadsLanesOfBlocks(t *testing.T) {
	const seed, site, step = 0x0123456789abcdef, 7, 0x1_0000_0002
	for _, i := range []uint64{0, 1, 2, 3, 7, 8, 1<<35 + 5} {
		b := Block(MaskRounds, [4]uint32{uint32(i / 8), uint32(i / 8 >> 32), site, 2}, [2]uint32{0x89abcdef, 0x01234567})
		want := b[i%8/2] & 0xffff
		if i%2 == 1 {
			want = b[i%8/2] >> 16
		}
		if got := Half(seed, site, step, i); got != want {
			t.Errorf("bits of element %d = %04x, want %04x of %08x", i, got, want, b)
		}
	}
}

// Whatever p is rounded to, a kept element is worth what the dropped ones are.
func TestMeanIsOne(t *testing.T) {
	for _, p := range []float32{0, 1e-6, 1e-5, 0.1, 0.3, 0.5, 0.9, 0.99999, 1 - 1.0/(1<<24)} {
		threshold := Threshold(p)
		if mean := float64(Scale(p)) * float64(1<<16-threshold) / (1 << 16); math.Abs(mean-1) > 1e-7 {
			t.Errorf("p = %v: the mean of a mask is %v", p, mean)
		}
		if got := float64(threshold) / (1 << 16); math.Abs(got-float64(p)) > 1.0/(1<<16) {
			t.Errorf("p = %v is rounded to %v", p, got)
		}
	}
	if Threshold(0) != 0 || Threshold(0.5) != 1<<15 {
		t.Errorf("thresholds of 0 and 0.5: %d, %d", Threshold(0), Threshold(0.5))
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
