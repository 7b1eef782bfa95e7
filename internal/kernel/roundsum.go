package kernel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

//go:generate go -C _asm run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel

// RoundSums sums up what AddRoundBF16 and its kin did to the elements that they decided.
type RoundSums struct {
	Same, Zero     int64   // elements that kept their value; with d = 0
	SqErr, SqDelta float64 // Σ ((dst - src) - d)², Σ d²
	MaxErr         float64 // max |(dst - src) - d|
}

// AddRoundBF16 adds an update that is known up to an error to bfloat16 numbers:
//
//	dst[i] = bf16(src[i] + d[i] + δ)     nearest, |δ| < bound + 2^-23·|d[i]|
//
// where every such δ gives the same finite number. An element of which that is not known
// is in doubt: bit i%8 of doubt[i/8] is set, dst[i] is undefined and s does not count it. All
// bits of doubt up to the last element are written. Elements that are not finite, and sums that
// may be zero or too large, are in doubt.
//
// dst and src are little-endian, two bytes an element. bound must be at least 2^-100. The
// errors in s are float32, within 2^-22·|d[i]|, and their squares are summed in float32 within a call; scale is
// a power of two by which d is multiplied first, so that they neither overflow nor vanish. The last
// bits of s depend on the path. It panics when a slice is too short.
func AddRoundBF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) {
	addRound("AddRoundBF16", 2, dst, src, d, bound, scale, doubt, s, archAddRoundBF16, goAddRoundBF16)
}

// AddRoundF16 is AddRoundBF16 for float16.
func AddRoundF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) {
	addRound("AddRoundF16", 2, dst, src, d, bound, scale, doubt, s, archAddRoundF16, goAddRoundF16)
}

// AddRoundF32 is AddRoundBF16 for float32 numbers of four bytes and a float64 update:
// |δ| < bound + 2^-52·|d[i]|, and sums in float64.
func AddRoundF32(dst, src []byte, d []float64, bound, scale float64, doubt []uint8, s *RoundSums) {
	addRound("AddRoundF32", 4, dst, src, d, bound, scale, doubt, s, archAddRoundF32, goAddRoundF32)
}

// roundFunc does the first elements of d, and returns how many.
type roundFunc[T float] func(dst, src []byte, d []T, bound, scale T, doubt []uint8, s *RoundSums) int

func addRound[T float](what string, width int, dst, src []byte, d []T, bound, scale T, doubt []uint8, s *RoundSums, arch, plain roundFunc[T]) {
	n := len(d)
	if len(dst) < width*n || len(src) < width*n || len(doubt) < (n+7)/8 {
		panic(fmt.Sprintf("kernel: %s: %d and %d bytes, %d of doubt, for %d elements", what, len(dst), len(src), len(doubt), n))
	}
	if !(bound >= 0x1p-100) {
		panic(fmt.Sprintf("kernel: %s: error bound %v", what, bound))
	}
	done := 0
	if cur != &goPath {
		done = arch(dst, src, d, bound, scale, doubt, s)
	}
	if done < n {
		plain(dst[width*done:], src[width*done:], d[done:], bound, scale, doubt[done/8:], s)
	}
}

func goAddRoundBF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return goAddRound16(dst, src, d, bound, scale, doubt, s, 0x7f80, tensor.BF16ToF32, func(x float32) uint16 {
		return uint16((math.Float32bits(x) + 0x8000) >> 16) // ties are in doubt
	})
}

func goAddRoundF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return goAddRound16(dst, src, d, bound, scale, doubt, s, 0x7c00, tensor.F16ToF32, tensor.F32ToF16)
}

// goAddRound16 widens by from and rounds by to; codes with all bits of inf are not finite.
func goAddRound16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums, inf uint16, from func(uint16) float32, to func(float32) uint16) int {
	clear(doubt[:(len(d)+7)/8])
	var sums goSums
	for i, x := range d {
		w := from(binary.LittleEndian.Uint16(src[2*i:]))
		sum := w + x
		e := (abs32(sum)+abs32(x))*0x1p-22 + bound
		code := to(sum - e)
		if code != to(sum+e) || code&inf == inf {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		binary.LittleEndian.PutUint16(dst[2*i:], code)
		v := from(code)
		sums.count(v == w, x == 0, float64((v-w)*scale-x*scale), float64(x*scale))
	}
	sums.addTo(s, float64(scale))
	return len(d)
}

func goAddRoundF32(dst, src []byte, d []float64, bound, scale float64, doubt []uint8, s *RoundSums) int {
	const inf = 0x7f800000
	clear(doubt[:(len(d)+7)/8])
	var sums goSums
	for i, x := range d {
		w := float64(math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:])))
		sum := w + x
		e := (math.Abs(sum)+math.Abs(x))*0x1p-51 + bound
		code := math.Float32bits(float32(sum - e))
		if code != math.Float32bits(float32(sum+e)) || code&inf == inf {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		binary.LittleEndian.PutUint32(dst[4*i:], code)
		v := float64(math.Float32frombits(code))
		sums.count(v == w, x == 0, (v-w)*scale-x*scale, x*scale)
	}
	sums.addTo(s, scale)
	return len(d)
}

func abs32(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// goSums are sums of scaled numbers.
type goSums RoundSums

func (s *goSums) count(same, zero bool, e, x float64) {
	if same {
		s.Same++
	}
	if zero {
		s.Zero++
	}
	s.SqErr += e * e
	s.SqDelta += x * x
	s.MaxErr = max(s.MaxErr, math.Abs(e))
}

// addTo adds the sums, with the scale taken out, to s.
func (s *goSums) addTo(t *RoundSums, scale float64) {
	t.Same += s.Same
	t.Zero += s.Zero
	inv := 1 / scale
	t.SqErr += s.SqErr * inv * inv
	t.SqDelta += s.SqDelta * inv * inv
	t.MaxErr = max(t.MaxErr, s.MaxErr*inv)
}
