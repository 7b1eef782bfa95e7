package kernel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

//go:generate go -C _asm run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel

// RoundSums sums up what AddRound16 and AddRoundF32 did to the elements that they decided.
type RoundSums struct {
	Same, Zero     int64   // elements that are what they would be without d; with d = 0
	SqErr, SqDelta float64 // Σ ((dst - src) - d)², Σ d²
	MaxErr         float64 // max |(dst - src) - d|
}

// AddRound16 adds an update that is known up to an error to numbers of format from, and
// rounds to one of 16 bits:
//
//	dst[i] = to(src[i] + d[i] + δ)     nearest, |δ| < bound + 2^-23·|d[i]|
//
// where every such δ gives the same finite number. An element of which that is not known
// is in doubt: bit i%8 of doubt[i/8] is set, dst[i] is undefined and s does not count it. All
// bits of doubt up to the last element are written. Elements that are not finite, and sums that
// may be zero or too large, are in doubt.
//
// to is BF16 or F16, from one of these or F32; dst and src are little-endian. bound must be at least 2^-100. The
// errors in s are float32, within 2^-22·|d[i]|, and their squares are summed in float32 within a call; scale is
// a power of two by which d is multiplied first, so that they neither overflow nor vanish. The last
// bits of s depend on the path. It panics when a slice is too short, and for other formats.
func AddRound16(to, from tensor.DType, dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) {
	arch, plain := archAddRoundBF16, goAddRoundBF16
	arch32, plain32 := archAddRoundBF16From32, goAddRoundBF16From32
	if to == tensor.F16 {
		arch, plain = archAddRoundF16, goAddRoundF16
		arch32, plain32 = archAddRoundF16From32, goAddRoundF16From32
	}
	switch {
	case to != tensor.BF16 && to != tensor.F16:
		panic(fmt.Sprintf("kernel: AddRound16 to %v", to))
	case from == to:
		addRound("AddRound16", 2, 2, dst, src, d, bound, scale, doubt, s, arch, plain)
	case from == tensor.F32:
		addRound("AddRound16", 2, 4, dst, src, d, bound, scale, doubt, s, arch32, plain32)
	case from == tensor.BF16 || from == tensor.F16:
		const piece = 512 // a multiple of 8, for doubt
		t := takeScratch[float32]()
		defer t.release()
		for i := 0; i < len(d); i += piece {
			n := min(piece, len(d)-i)
			addRound("AddRound16", 2, 4, dst[2*i:], widened(grow(&t.a, piece)[:n], src[2*i:], from), d[i:][:n], bound, scale, doubt[i/8:], s, arch32, plain32)
		}
	default:
		panic(fmt.Sprintf("kernel: AddRound16 from %v", from))
	}
}

// AddRoundF32 is AddRound16 for float32 numbers, from and to, and a float64 update:
// |δ| < bound + 2^-52·|d[i]|, and sums in float64.
func AddRoundF32(dst, src []byte, d []float64, bound, scale float64, doubt []uint8, s *RoundSums) {
	addRound("AddRoundF32", 4, 4, dst, src, d, bound, scale, doubt, s, archAddRoundF32, goAddRoundF32)
}

// roundFunc does the first elements of d, and returns how many.
type roundFunc[T float] func(dst, src []byte, d []T, bound, scale T, doubt []uint8, s *RoundSums) int

// addRound does elements of so many bytes each, of dst and of src.
func addRound[T float](what string, width, srcWidth int, dst, src []byte, d []T, bound, scale T, doubt []uint8, s *RoundSums, arch, plain roundFunc[T]) {
	n := len(d)
	checkRound(what, width, srcWidth, n, dst, src, doubt, float64(bound))
	done := 0
	if cur != &goPath {
		done = arch(dst, src, d, bound, scale, doubt, s)
	}
	if done < n {
		plain(dst[width*done:], src[srcWidth*done:], d[done:], bound, scale, doubt[done/8:], s)
	}
}

func checkRound(what string, width, srcWidth, n int, dst, src []byte, doubt []uint8, bound float64) {
	if len(dst) < width*n || len(src) < srcWidth*n || len(doubt) < (n+7)/8 {
		panic(fmt.Sprintf("kernel: %s: %d and %d bytes, %d of doubt, for %d elements", what, len(dst), len(src), len(doubt), n))
	}
	if !(bound >= 0x1p-100) {
		panic(fmt.Sprintf("kernel: %s: error bound %v", what, bound))
	}
}

// format16 is a format of 16 bits; codes with all bits of inf are not finite.
type format16 struct {
	inf  uint16
	from func(uint16) float32
	to   func(float32) uint16
	// As numbers of float32: bits that are cut off, the smallest normal and the largest finite
	// number, what is taken off the codes.
	drop               uint
	tiny, huge, rebias uint32
}

var (
	formatBF16 = format16{0x7f80, tensor.BF16ToF32, tensor.F32ToBF16, 16, 0x00800000, 0x7f7f0000, 0}
	formatF16  = format16{0x7c00, tensor.F16ToF32, tensor.F32ToF16, 13, (127 - 14) << 23, (127+15)<<23 | 0x3ff<<13, 112 << 10}
)

// base is element i of src, in the format or in float32, and what it is in the format.
func (f *format16) base(src []byte, i int, wide bool) (w, kept float32) {
	if wide {
		w = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		return w, f.from(f.to(w))
	}
	w = f.from(binary.LittleEndian.Uint16(src[2*i:]))
	return w, w
}

func goAddRoundBF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return formatBF16.addRound(dst, src, false, d, bound, scale, doubt, s)
}

func goAddRoundF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return formatF16.addRound(dst, src, false, d, bound, scale, doubt, s)
}

func goAddRoundBF16From32(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return formatBF16.addRound(dst, src, true, d, bound, scale, doubt, s)
}

func goAddRoundF16From32(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	return formatF16.addRound(dst, src, true, d, bound, scale, doubt, s)
}

// addRound reads src in the format itself, or in float32.
func (f *format16) addRound(dst, src []byte, wide bool, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	clear(doubt[:(len(d)+7)/8])
	var sums goSums
	for i, x := range d {
		w, base := f.base(src, i, wide)
		sum := w + x
		e := (abs32(sum)+abs32(x))*0x1p-22 + bound
		code := f.to(sum - e)
		if code != f.to(sum+e) || code&f.inf == f.inf {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		binary.LittleEndian.PutUint16(dst[2*i:], code)
		v := f.from(code)
		sums.count(v == base, x == 0, float64((v-w)*scale-x*scale), float64(x*scale))
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
