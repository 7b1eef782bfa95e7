package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

//go:generate go -C _asm run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel

// TieSlack is how near to the middle between two neighbours, in units in the
// last place of the float64 sum, AddRoundBF16 leaves a sum alone.
const TieSlack = 1 << 20

// RoundSums sums up what AddRoundBF16 did.
type RoundSums struct {
	Same, Zero     int64   // elements that kept their value; with d = 0
	SqErr, SqDelta float64 // Σ (dst - (src+d))², Σ d²
	MaxErr         float64 // max |dst - (src+d)|
}

// Largest finite bfloat16 as bits of a float64, and what it drops of one.
const (
	bf16Huge   = (1023+127)<<52 | 0x7f<<45
	bf16Drop   = 45
	bf16Rebias = (1023 - 127) << 7
)

// AddRoundBF16 adds float64 numbers to bfloat16 ones:
//
//	dst[i] = bf16(src[i] + d[i])     nearest, ties to even
//
// dst and src are little-endian, two bytes an element. The sum is float64 and
// rounded once. It goes on to the first element whose rounding it must not decide
// and returns its index, or len(d): one whose sum is below tiny in magnitude (bits
// of a float64, at least those of the smallest normal bfloat16), at or beyond the
// largest bfloat16, not a number, or within TieSlack of the middle between two
// neighbours. What it did is added to s; the last bits of SqErr and SqDelta depend
// on the path. It panics when dst or src is shorter than d.
func AddRoundBF16(dst, src []byte, d []float64, tiny uint64, s *RoundSums) int {
	n := len(d)
	if len(dst) < 2*n || len(src) < 2*n {
		panic(fmt.Sprintf("kernel: AddRoundBF16: %d and %d bytes for %d elements", len(dst), len(src), n))
	}
	if tiny < (1023-126)<<52 || tiny > bf16Huge {
		panic(fmt.Sprintf("kernel: AddRoundBF16: tiny %#x is out of range", tiny))
	}
	if cur != &goPath {
		return archAddRoundBF16(dst, src, d, tiny, s)
	}
	return goAddRoundBF16(dst, src, d, tiny, s)
}

func goAddRoundBF16(dst, src []byte, d []float64, tiny uint64, s *RoundSums) int {
	const sign, half = 1 << 63, 1 << (bf16Drop - 1)
	src, dst = src[:2*len(d)], dst[:2*len(d)]
	span := bf16Huge - tiny
	for k, x := range d {
		c := binary.LittleEndian.Uint16(src[2*k:])
		sum := float64(math.Float32frombits(uint32(c)<<16)) + x
		u := math.Float64bits(sum)
		m := u &^ sign
		if m-tiny >= span || m&(1<<bf16Drop-1)-(half-TieSlack) < 2*TieSlack {
			return k
		}
		q := m + (half - 1) + m>>bf16Drop&1
		code := uint16(u>>48&0x8000 | (q>>bf16Drop - bf16Rebias))
		binary.LittleEndian.PutUint16(dst[2*k:], code)
		e := math.Float64frombits(u&sign|q&^(1<<bf16Drop-1)) - sum
		s.SqErr += e * e
		s.SqDelta += x * x
		s.MaxErr = max(s.MaxErr, math.Abs(e))
		if code == c {
			s.Same++
		}
		if x == 0 {
			s.Zero++
		}
	}
	return len(d)
}
