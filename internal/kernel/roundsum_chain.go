package kernel

import (
	"fmt"
	"math"
)

// Updates are rounded to UpdateBits bits before chance or a carry decides. One within
// UpdateSlack units in the last place of a float64 of the middle between two numbers is not: its
// exact value has to be looked at.
const (
	UpdateBits  = 24
	UpdateSlack = 1 << 17

	updateDrop = 53 - UpdateBits
)

// Round64 rounds sums in float64 to a format whose numbers float32 holds, and sums up what that did
// to the elements. It belongs to one goroutine.
type Round64 struct {
	// Each four times; the order is known to the generator of the kernels.
	updateTiny, updateNear, updateMask    [4]uint64
	belowTiny, belowHuge, belowHalf, keep [4]uint64
	drop                                  [4]uint64
	fromTiny, span                        [4]uint64

	lanes [16]float64 // of the kernels
	sums  goSums
}

// Sums returns the sums and begins new ones.
func (f *Round64) Sums() (s RoundSums) {
	for l := range 4 { // updates of zero are not among these: they are in doubt
		same := math.Float64bits(f.lanes[l])
		f.sums.Same += int64(same&(1<<32-1) + same>>32)
		f.sums.SqErr += f.lanes[4+l]
		f.sums.SqDelta += f.lanes[8+l]
		f.sums.MaxErr = max(f.sums.MaxErr, f.lanes[12+l])
	}
	s = RoundSums(f.sums)
	f.lanes, f.sums = [16]float64{}, goSums{}
	return s
}

// NewRound64 describes a format by what it leaves out of a float64: drop bits of the
// mantissa, and magnitudes below tiny, its smallest normal number, and from huge on, its largest
// finite one (bits of float64). updateTiny are the bits of the magnitude from which on an update may be
// rounded to UpdateBits without a look at its exact value.
func NewRound64(drop uint, tiny, huge, updateTiny uint64) *Round64 {
	four := func(x uint64) [4]uint64 { return [4]uint64{x, x, x, x} }
	const normal32 = (1023 - 126) << 52 // float32 rounds to 24 bits from here on
	var near uint64 = 1<<(updateDrop-1) - UpdateSlack
	return &Round64{
		updateTiny: four(max(updateTiny, normal32) - 1), updateNear: four(-near), updateMask: four(1<<updateDrop - 2*UpdateSlack),
		belowTiny: four(tiny - 1), belowHuge: four(huge - 1), belowHalf: four(1<<(drop-1) - 1), keep: four(-(uint64(1) << drop)),
		drop: four(uint64(drop)), fromTiny: four(1<<63 - tiny), span: four(1<<63 + (huge - tiny - 1)),
	}
}

// AddFeedback adds an update and a carry to numbers and rounds to the format, to nearest, ties to
// even; the carry becomes what rounding has left:
//
//	x = d[i] rounded to UpdateBits
//	s = src[i] + x + carry[i]
//	dst[i], carry[i] = round(s), s - round(s)
//
// in float64. Elements whose update is near to a middle or tiny, and those whose s is outside of the
// format's normal numbers, are in doubt: bit i%8 of doubt[i/8] is set, dst[i] is undefined, carry[i] stays, and they
// are not counted. base has what the elements would be without an update: dst[i] = base[i] is the same. It panics
// when a slice is too short.
func (f *Round64) AddFeedback(dst, src, base []float32, d, carry []float64, doubt []uint8) {
	n := len(d)
	check64("AddFeedback", n, len(carry), dst, src, base, doubt)
	done := 0
	if cur != &goPath {
		done = archAddFeedback(f, dst, src, base, d, carry, doubt)
	}
	if done < n {
		f.goFeedback(dst[done:], src[done:], base[done:], d[done:], carry[done:], doubt[done/8:])
	}
}

// AddRandom is AddFeedback for stochastic rounding: random[i], of as many bits as the format leaves
// out, is added to the magnitude of src[i] + x as bits, and the sum cut off. The format must be
// float32 or one with no fewer bits.
func (f *Round64) AddRandom(dst, src, base []float32, d []float64, random []uint32, doubt []uint8) {
	n := len(d)
	check64("AddRandom", n, len(random), dst, src, base, doubt)
	if f.drop[0] > 32 {
		panic(fmt.Sprintf("kernel: AddRandom: %d random bits", f.drop[0]))
	}
	done := 0
	if cur != &goPath {
		done = archAddRandomF32(f, dst, src, base, d, random, doubt)
	}
	if done < n {
		f.goRandom(dst[done:], src[done:], base[done:], d[done:], random[done:], doubt[done/8:])
	}
}

func check64(what string, n, more int, dst, src, base []float32, doubt []uint8) {
	if len(dst) < n || len(src) < n || len(base) < n || more < n || len(doubt) < (n+7)/8 {
		panic(fmt.Sprintf("kernel: %s: %d, %d, %d and %d numbers, %d of doubt, for %d elements", what, len(dst), len(src), len(base), more, len(doubt), n))
	}
}

func (f *Round64) goFeedback(dst, src, base []float32, d, carry []float64, doubt []uint8) {
	clear(doubt[:(len(d)+7)/8])
	for i, x := range d {
		x, ok := f.update(x)
		sum := float64(src[i]) + x
		c := sum + carry[i]
		u := math.Float64bits(c)
		v := math.Float64frombits((u + f.belowHalf[0] + u>>(f.drop[0]&63)&1) & f.keep[0])
		if m := int64(u &^ (1 << 63)); !ok || m <= int64(f.belowTiny[0]) || m > int64(f.belowHuge[0]) {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		dst[i], carry[i] = float32(v), c-v
		f.sums.count(dst[i] == base[i], x == 0, v-sum, x)
	}
}

func (f *Round64) goRandom(dst, src, base []float32, d []float64, random []uint32, doubt []uint8) {
	clear(doubt[:(len(d)+7)/8])
	for i, x := range d {
		x, ok := f.update(x)
		sum := float64(src[i]) + x
		u := math.Float64bits(sum)
		v := math.Float64frombits((u + uint64(random[i])) & f.keep[0])
		if !ok || int64(u&^(1<<63)) <= int64(f.belowTiny[0]) || int64(math.Float64bits(v)&^(1<<63)) > int64(f.belowHuge[0]) {
			doubt[i/8] |= 1 << (i % 8)
			continue
		}
		dst[i] = float32(v)
		f.sums.count(dst[i] == base[i], x == 0, v-sum, x)
	}
}

// update rounds an update, if what is known of it decides how.
func (f *Round64) update(x float64) (rounded float64, ok bool) {
	u := math.Float64bits(x)
	ok = u&^(1<<63) > f.updateTiny[0] && (u+f.updateNear[0])&f.updateMask[0] != 0
	return float64(float32(x)), ok
}

// Prefetch is a hint that b is going to be read or written soon.
func Prefetch(b []byte) {
	if len(b) > 0 && cur != &goPath {
		archPrefetch(b)
	}
}
