package merge

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Rounding is how sums become elements of the output.
type Rounding string

// The ways of rounding.
const (
	// Nearest rounds the exact sum to nearest, ties to even.
	Nearest Rounding = "nearest"
	// Stochastic rounds up with the probability of the fraction: unbiased. The
	// random bits depend on seed, tensor and element alone.
	Stochastic Rounding = "stochastic"
	// ErrorFeedback rounds to nearest and carries the error on to the next
	// element along the input dimension, so that errors cancel in the layer's
	// response. The carry starts anew with every output and every tile.
	ErrorFeedback Rounding = "error-feedback"
)

// binfmt is a float format by what it leaves out of a float64.
type binfmt struct {
	drop   uint   // bits of the mantissa
	rebias uint64 // taken off the exponent, in units of the format's codes
	tiny   uint64 // bits of the smallest normal number
	huge   uint64 // bits of the largest finite number
	width  int    // bytes
	// slack is how near to the middle between two neighbours a float64 sum may
	// come, in its last places, before the exact sum has to decide.
	slack uint64
}

var binfmts = map[tensor.DType]*binfmt{
	tensor.BF16: {drop: 45, rebias: (1023 - 127) << 7, tiny: (1023 - 126) << 52, huge: (1023+127)<<52 | 0x7f<<45, width: 2, slack: 1 << 20},
	tensor.F16:  {drop: 42, rebias: (1023 - 15) << 10, tiny: (1023 - 14) << 52, huge: (1023+15)<<52 | 0x3ff<<42, width: 2, slack: 1 << 18},
	tensor.F32:  {drop: 29, rebias: (1023 - 127) << 23, tiny: (1023 - 126) << 52, huge: (1023+127)<<52 | 0x7fffff<<29, width: 4, slack: 1 << 12},
}

const signBit = 1 << 63

// tinyFor returns the bits of the magnitude below which the slack does not cover
// an error of bound: errBound <= slack/2 · ulp must hold at and above it.
func (f *binfmt) tinyFor(bound float64) uint64 {
	if bound == 0 {
		return f.tiny
	}
	_, e := math.Frexp(bound / float64(f.slack) * 2) // < 2^e
	return max(f.tiny, math.Float64bits(math.Ldexp(1, e+52)))
}

// sums is what the report of a tensor is made of.
type sums struct {
	same      int64 // elements that kept their value
	zero      int64 // elements with an update of 0
	sqErr     float64
	sqDelta   float64
	maxErr    float64
	nonFinite int64 // elements of the base that are NaN or infinite: kept
	overflow  int64 // finite sums outside the range of the dtype
}

func (s *sums) add(o *sums) {
	s.same += o.same
	s.zero += o.zero
	s.sqErr += o.sqErr
	s.sqDelta += o.sqDelta
	s.maxErr = max(s.maxErr, o.maxErr)
	s.nonFinite += o.nonFinite
	s.overflow += o.overflow
}

// rounder rounds the rows of one tensor. It belongs to one worker.
type rounder struct {
	t        *target
	from, to tensor.DType
	mode     Rounding
	key      uint64 // of stochastic rounding
	along    bool   // error feedback runs along the rows (input is the last dimension)

	fmt  *binfmt // of to; nil: every element through exact
	tiny uint64
	// updateTiny are the bits of the magnitude from which on an update may be rounded
	// to updateBits without a look at its exact value.
	updateTiny uint64
	sums       sums

	// Of one row: the base, the update in float32, the base in float32's bytes, bits of the
	// elements in doubt.
	w     []float64
	d32   []float32
	wide  []byte
	doubt []uint8
	// Random bits of a row; one element's base, update and carry.
	random     []uint32
	w1, d1, c1 [1]float64

	round64 *kernel.Round64 // with inFloat64
	chain   *chainBuffers
}

func newRounder(t *target, from, to tensor.DType, o *Options, name string, inputLast bool) *rounder {
	r := &rounder{t: t, from: from, to: to, mode: o.Rounding, along: inputLast, fmt: binfmts[to]}
	if r.fmt != nil {
		r.tiny = r.fmt.tinyFor(t.errBound)
	}
	r.updateTiny = updateFormat.tinyFor(t.errBound)
	r.key = mix(o.Seed ^ hashName(name))
	if r.inFloat64() {
		r.round64 = kernel.NewRound64(r.fmt.drop, r.fmt.tiny, r.fmt.huge, r.updateTiny)
	}
	return r
}

// row rounds columns [c0, c0+len(d)) of row i: src has the base's elements, d
// the update's, carry the state of error feedback, which is one number or one per
// column.
func (r *rounder) row(dst, src []byte, d, carry []float64, i, c0 int) error {
	switch {
	case r.halves():
		return r.narrowed(dst, src, d, i, c0)
	case r.mode == Nearest && r.to == tensor.F32 && widens(r.from):
		return r.nearestF32(dst, src, d, i, c0)
	case r.inFloat64() && !r.across():
		return r.rowInFloat64(dst, src, d, carry, i, c0)
	}
	w := grow(&r.w, len(d))
	if err := tensor.DecodeF64(w, src, r.from); err != nil {
		return err
	}
	if r.mode != Nearest {
		return r.other(dst, src, w, d, carry, i, c0)
	}
	for k, x := range d {
		if err := r.one(dst, src, w[k], x, i, c0, k); err != nil {
			return err
		}
	}
	return nil
}

// quick rounds element k of the row to nearest if its float64 sum decides, for formats in binfmts.
func (r *rounder) quick(dst []byte, w, x float64, k int) bool {
	f := r.fmt
	if f == nil || r.tiny > f.huge {
		return false
	}
	half, low := uint64(1)<<(f.drop-1), uint64(1)<<f.drop-1
	s := w + x
	u := math.Float64bits(s)
	m := u &^ signBit
	if m-r.tiny >= f.huge-r.tiny || m&low-(half-f.slack) < 2*f.slack {
		return false
	}
	q := m + (half - 1) + m>>f.drop&1
	f.write(dst, k, u, q)
	base := w
	if r.to != r.from {
		base = r.rounded(base)
	}
	r.sums.count(math.Float64frombits(u&signBit|q&^low), base, s, x)
	return true
}

// write writes the element whose magnitude, to be cut off after the format's mantissa,
// is q, and whose sign is that of u. It must be a normal number of the format.
func (f *binfmt) write(dst []byte, k int, u, q uint64) {
	code := q>>(f.drop&63) - f.rebias // &63: one instruction
	if f.width == 2 {
		binary.LittleEndian.PutUint16(dst[2*k:], uint16(u>>48&0x8000|code))
	} else {
		binary.LittleEndian.PutUint32(dst[4*k:], uint32(u>>32&0x80000000|code))
	}
}

// equal is 1 if two numbers that are not zero are the same, else 0: without a branch
// that no processor can foresee.
func equal(a, b float64) int64 {
	d := math.Float64bits(a) ^ math.Float64bits(b)
	return int64((d|-d)>>63 ^ 1)
}

// count enters one element: v is written, base would have been without the
// update x, s is the sum.
func (s *sums) count(v, base, sum, x float64) {
	e := v - sum
	s.sqErr += e * e
	s.sqDelta += x * x
	s.maxErr = max(s.maxErr, math.Abs(e))
	if v == base {
		s.same++
	}
	if x == 0 {
		s.zero++
	}
}

// rounded is x rounded to nearest to the output's dtype.
func (r *rounder) rounded(x float64) float64 {
	if f := r.fmt; f != nil {
		u := math.Float64bits(x)
		if m := u &^ signBit; m >= f.tiny && m < f.huge {
			return math.Float64frombits(u&signBit | (m+(1<<(f.drop-1)-1)+m>>f.drop&1)&^(1<<f.drop-1))
		} else if m < f.tiny { // subnormal numbers, all as far apart: the unit of the last place of this
			middle := math.Float64frombits(f.tiny+uint64(f.drop)<<52) * 1.5
			return math.Copysign(x+middle-middle, x)
		}
	}
	var b [8]byte
	var v [1]float64
	n := r.to.Bits() / 8
	if tensor.EncodeF64(b[:n], []float64{x}, r.to) != nil || tensor.DecodeF64(v[:], b[:n], r.to) != nil {
		return math.NaN() // no such dtype gets here: the plan refuses it
	}
	return v[0]
}

// slow rounds element k of the row through the exact sum: near ties, subnormal
// numbers, overflow, NaN.
func (r *rounder) slow(dst, src []byte, w, x float64, i, c0, k int) error {
	n, n0 := r.to.Bits()/8, r.from.Bits()/8
	out := dst[k*n:][:n]
	if w-w != 0 { // NaN or infinity: the base's own
		r.sums.nonFinite++
		r.sums.same++
		if r.to == r.from {
			copy(out, src[k*n0:][:n0])
			return nil
		}
		return tensor.EncodeF64(out, []float64{w}, r.to)
	}
	s := r.t.exact(i, c0+k, w, r.to == tensor.F64)
	if s == 0 && w == 0 {
		s = w // the sign of zero
	}
	return r.put(out, w, s, x)
}

// put rounds s to nearest into out and counts it.
func (r *rounder) put(out []byte, w, s, x float64) error {
	if err := tensor.EncodeF64(out, []float64{s}, r.to); err != nil {
		return err
	}
	var v [1]float64
	if err := tensor.DecodeF64(v[:], out, r.to); err != nil {
		return err
	}
	if v[0]-v[0] != 0 || math.Abs(s) > 448 && r.to == tensor.F8E4M3 {
		r.sums.overflow++
		return nil
	}
	base := w
	if r.to != r.from {
		base = r.rounded(w)
	}
	r.sums.count(v[0], base, w+x, x)
	return nil
}

// other rounds stochastically or with error feedback.
func (r *rounder) other(dst, src []byte, w, d, carry []float64, i, c0 int) error {
	f, feedback := r.fmt, r.mode == ErrorFeedback
	if f == nil {
		f = &binfmt{drop: 1} // no number is in its range
	}
	half, low, span := uint64(1)<<(f.drop-1), uint64(1)<<f.drop-1, f.huge-f.tiny
	narrows := r.to != r.from
	index := r.key + (uint64(i)*uint64(r.t.cols)+uint64(c0))*golden
	var same, zero int64
	var sqErr, sqDelta, maxErr float64
	w = w[:len(d)]
	for k, x := range d {
		c := &r.c1[0]
		if feedback {
			if c = &carry[0]; !r.along {
				c = &carry[k]
			}
		}
		x = r.canonical(x, w[k], i, c0+k)
		sum := w[k] + x
		s := sum
		if feedback {
			s += *c
		}
		u := math.Float64bits(s)
		m := u &^ signBit
		var q uint64
		if feedback {
			q = m + (half - 1) + m>>(f.drop&63)&1
		} else {
			q = m + mix(index)&low
			index += golden
		}
		if v := q &^ low; m-f.tiny >= span || !feedback && v >= f.huge {
			if err := r.otherSlow(dst, src, w[k], x, c, i, c0, k); err != nil {
				return err
			}
			continue
		}
		f.write(dst, k, u, q)
		base := w[k]
		if narrows {
			base = r.rounded(base)
		}
		v := math.Float64frombits(u&signBit | q&^low)
		same += equal(v, base)
		e := v - sum
		sqErr += e * e
		sqDelta += x * x
		if e = math.Abs(e); e > maxErr {
			maxErr = e
		}
		if x == 0 {
			zero++
		}
		if feedback {
			*c = s - v
		}
	}
	r.sums.add(&sums{same: same, zero: zero, sqErr: sqErr, sqDelta: sqDelta, maxErr: maxErr})
	return nil
}

// otherSlow rounds element k of the row where the result may be no normal number
// of the format.
func (r *rounder) otherSlow(dst, src []byte, w, x float64, c *float64, i, c0, k int) error {
	n, n0 := r.to.Bits()/8, r.from.Bits()/8
	out := dst[k*n:][:n]
	if w-w != 0 {
		r.sums.nonFinite++
		r.sums.same++
		if r.to == r.from {
			copy(out, src[k*n0:][:n0])
			return nil
		}
		return tensor.EncodeF64(out, []float64{w}, r.to)
	}
	s := w + x
	if x == 0 && s == 0 {
		s = w // the sign of zero
	}
	v := s
	if r.mode == ErrorFeedback {
		s += *c
		*c = s - r.rounded(s)
		v = s
	} else {
		v = r.stochastic(s, uint64(i)*uint64(r.t.cols)+uint64(c0+k))
	}
	return r.put(out, w, v, x)
}

// stochastic returns one of the two neighbours of s in the output's format, the
// nearer one with the greater probability.
func (r *rounder) stochastic(s float64, index uint64) float64 {
	random := mix(r.key + index*golden)
	if f := r.fmt; f != nil {
		u := math.Float64bits(s)
		low := uint64(1)<<f.drop - 1
		if m := u &^ signBit; m >= f.tiny && m < f.huge {
			return math.Float64frombits(u&signBit | (m+random&low)&^low)
		}
	}
	near := r.rounded(s)
	if near == s || near-near != 0 {
		return near
	}
	next := r.neighbour(near, s)
	if next-next != 0 {
		return near
	}
	if float64(random>>11)*0x1p-53 < (s-near)/(next-near) {
		return next
	}
	return near
}

// neighbour returns the value next to v in the direction of s.
func (r *rounder) neighbour(v, s float64) float64 {
	// s - v is less than half the spacing. Doubling it until another value
	// appears cannot skip the neighbour.
	for step := s - v; ; step *= 2 {
		if o := r.rounded(v + step); o != v {
			return o
		}
		if math.IsInf(step, 0) {
			return v
		}
	}
}

// golden is SplitMix64's increment.
const golden = 0x9E3779B97F4A7C15

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// hashName is FNV-1a.
func hashName(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// ParseRounding reads a way of rounding; "" is Nearest.
func ParseRounding(s string) (Rounding, error) {
	switch r := Rounding(s); r {
	case "":
		return Nearest, nil
	case Nearest, Stochastic, ErrorFeedback:
		return r, nil
	}
	return "", fmt.Errorf("rounding %q: want nearest, stochastic or error-feedback", s)
}
