package merge

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// updateDrop is what updateFormat leaves out of a float64's mantissa, updateSlack
// how near to the middle between two of its numbers an update is looked at exactly.
const (
	updateDrop  = 53 - kernel.UpdateBits
	updateSlack = kernel.UpdateSlack
)

// updateFormat is what updates are rounded to before they are rounded stochastically
// or with error feedback: float32's 24 bits, with the exponents of float64. The float64 sums that updates are computed as
// differ in their last bits between processors, and where chance or a carry
// decides, so would the results; rounded from the exact value they are the same everywhere.
var updateFormat = &binfmt{drop: updateDrop, slack: updateSlack}

// canonical is the exact update of element (i, j), of which x is the computed and w
// the base's value, rounded to updateFormat.
func (r *rounder) canonical(x, w float64, i, j int) float64 {
	m := math.Float64bits(x) &^ signBit
	if m < r.updateTiny || m&(1<<updateDrop-1)-(1<<(updateDrop-1)-updateSlack) < 2*updateSlack {
		return r.canonicalSlow(w, i, j)
	}
	return roundUpdate(x)
}

// roundUpdate rounds to nearest, ties to even.
func roundUpdate(x float64) float64 {
	u := math.Float64bits(x)
	m := u &^ signBit
	return math.Float64frombits(u&signBit | (m+(1<<(updateDrop-1)-1)+m>>updateDrop&1)&^(1<<updateDrop-1))
}

func (r *rounder) canonicalSlow(w float64, i, j int) float64 {
	if w-w != 0 {
		return 0 // the base's element is kept
	}
	if r.t.scale != nil {
		return roundUpdate(r.t.exact(i, j, w, false) - w)
	}
	if x, e := r.t.twice(i, j); inFormat(x, e) {
		return roundUpdate(x)
	}
	return roundUpdate(r.t.exact(i, j, 0, false))
}

// inFormat tells whether all numbers within e + 2^-53·|x| of x round as x does.
func inFormat(x, e float64) bool {
	e += 0x1p-52 * math.Abs(x)
	return roundUpdate(x-e) == roundUpdate(x+e)
}

// twice is element (i, j) of the update, summed up in twice the precision of float64 (Ogita,
// Rump and Oishi 2005, algorithm Dot2), and a bound on its error but for the last rounding. For
// Kronecker sums the bound is infinite.
func (t *target) twice(i, j int) (x, e float64) {
	var hi, lo, mag float64
	ops, across := 0, t.across()
	for k := range t.terms {
		d := t.terms[k].delta
		if d.Kron != nil {
			return 0, math.Inf(1)
		}
		var s, rest, sum float64
		column := across[k].A[j*d.R:][:d.R]
		for l, a := range d.A[i*d.R:][:d.R] {
			p, pe := twoProd(a, column[l])
			var se float64
			s, se = twoSum(s, p)
			rest += pe + se
			sum += math.Abs(p)
		}
		c, ce := twoProd(t.terms[k].weight, d.Scale)
		p, pe := twoProd(c, s)
		var se float64
		hi, se = twoSum(hi, p)
		lo += se + (pe + (c*rest + ce*s))
		mag += math.Abs(c) * (sum + 0x1p-960) // products as small may have lost their errors
		ops = max(ops, d.R)
	}
	// 2^-900 is more than what may be lost of c·s.
	n := float64(ops + len(t.terms) + 8)
	return hi + lo, n*n*0x1p-104*mag + 0x1p-900
}

// randoms are the random bits of columns [c0, c0+n) of row i: all that the format leaves out, or the
// leading ones as AddRandom16 takes them.
func (r *rounder) randoms(i, c0, n int) []uint32 {
	bits := grow(&r.random, n)
	at := r.key + (uint64(i)*uint64(r.t.cols)+uint64(c0))*golden
	shift := uint(0)
	if r.halves() {
		shift = 29 // a float32 has so many bits less
	}
	kernel.SplitMix(bits, at, shift, 1<<(r.fmt.drop-shift)-1)
	return bits
}

// otherOne is other for element k of the row alone; carry is nil but with error feedback.
func (r *rounder) otherOne(dst, src []byte, w, x float64, carry []float64, i, c0, k int) error {
	r.w1[0], r.d1[0] = w, x
	return r.other(dst[k*r.to.Bits()/8:], src[k*r.from.Bits()/8:], r.w1[:], r.d1[:], carry, i, c0+k)
}
