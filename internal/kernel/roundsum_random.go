package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// golden is SplitMix64's increment.
const golden = 0x9E3779B97F4A7C15

// SplitMix fills dst with bits of SplitMix64's sequence (Steele, Lea and Flood 2014), one
// number for each element:
//
//	dst[i] = mix(at + i·0x9E3779B97F4A7C15) >> shift & mask
func SplitMix(dst []uint32, at uint64, shift uint, mask uint32) {
	done := 0
	if cur != &goPath {
		done = archSplitMix(dst, at, shift, mask)
	}
	goSplitMix(dst[done:], at+uint64(done)*golden, shift, mask)
}

func goSplitMix(dst []uint32, at uint64, shift uint, mask uint32) {
	for i := range dst {
		z := at + uint64(i)*golden
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		dst[i] = uint32((z^z>>31)>>(shift&63)) & mask
	}
}

// AddRandom16 is AddRound16 with stochastic rounding: the magnitude of src[i] + d[i] + δ, as a
// float64, is cut off after the output's mantissa, once random bits of less than its last place have
// been added. random[i] has the leading ones of these, 16 for BF16 and 13 for F16; an element
// is decided where neither δ nor any further bits make a difference.
func AddRandom16(to, from tensor.DType, dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) {
	f, arch, arch32 := &formatBF16, archAddRandomBF16, archAddRandomBF16From32
	if to == tensor.F16 {
		f, arch, arch32 = &formatF16, archAddRandomF16, archAddRandomF16From32
	}
	switch {
	case to != tensor.BF16 && to != tensor.F16:
		panic(fmt.Sprintf("kernel: AddRandom16 to %v", to))
	case from == to:
		f.addRandoms(2, dst, src, d, random, bound, scale, doubt, s, arch)
	case from == tensor.F32:
		f.addRandoms(4, dst, src, d, random, bound, scale, doubt, s, arch32)
	case from == tensor.BF16 || from == tensor.F16:
		const piece = 512 // a multiple of 8, for doubt
		t := takeScratch[float32]()
		defer t.release()
		for i := 0; i < len(d); i += piece {
			n := min(piece, len(d)-i)
			f.addRandoms(4, dst[2*i:], widened(grow(&t.a, piece)[:n], src[2*i:], from), d[i:][:n], random[i:], bound, scale, doubt[i/8:], s, arch32)
		}
	default:
		panic(fmt.Sprintf("kernel: AddRandom16 from %v", from))
	}
}

// widened returns the bytes of buf, filled with numbers of 16 bits.
func widened(buf []float32, src []byte, from tensor.DType) []byte {
	if from == tensor.BF16 {
		BF16ToF32(buf, src[:2*len(buf)])
	} else {
		F16ToF32(buf, src[:2*len(buf)])
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), 4*len(buf))
}

// randomFunc does the first elements of d, and returns how many.
type randomFunc func(dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) int

// addRandoms reads src in the format itself, or in four bytes each in float32.
func (f *format16) addRandoms(srcWidth int, dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums, arch randomFunc) {
	n := len(d)
	checkRound("AddRandom16", 2, srcWidth, n, dst, src, doubt, float64(bound))
	if len(random) < n {
		panic(fmt.Sprintf("kernel: AddRandom16: %d random numbers for %d elements", len(random), n))
	}
	done := 0
	if cur != &goPath {
		done = arch(dst, src, d, random, bound, scale, doubt, s)
	}
	if done < n {
		f.addRandom(dst[2*done:], src[srcWidth*done:], srcWidth == 4, d[done:], random[done:], bound, scale, doubt[done/8:], s)
	}
}

// addRandom is the reference of the kernels.
func (f *format16) addRandom(dst, src []byte, wide bool, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) {
	clear(doubt[:(len(d)+7)/8])
	var sums goSums
	for i, x := range d {
		w, base := f.base(src, i, wide)
		sum := w + x
		a := abs32(sum)
		e := (a+abs32(x))*0x1p-22 + bound
		lo := math.Float32bits(a - e)
		code := (lo + random[i]) >> f.drop
		if int32(lo) < int32(f.tiny) || code >= f.huge>>f.drop || code != (math.Float32bits(a+e)+random[i])>>f.drop {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		sign := math.Float32bits(sum) & (1 << 31)
		binary.LittleEndian.PutUint16(dst[2*i:], uint16(sign>>16|(code-f.rebias)))
		v := math.Float32frombits(sign | code<<f.drop)
		sums.count(v == base, x == 0, float64((v-w)*scale-x*scale), float64(x*scale))
	}
	sums.addTo(s, float64(scale))
}
