package merge

import (
	"encoding/binary"
	"iter"
	"math"
	"math/bits"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Rounding into 16 bits, to nearest or stochastically, does not need the update in float64: in
// float32, with a bound of its error, it decides all but a few in a thousand elements, at a third of
// the time. Those that it leaves in doubt are computed in float64, and what that leaves in doubt
// exactly, so that the results are the same to the last bit.

// narrow32 is the update of a target in float32, as one product A·B.
type narrow32 struct {
	rank int
	a, b []float32 // (rows, rank), (rank, cols): the factors of all terms, scales within B
	// Of each row: no element of the update is larger than size, and none as block
	// computes it is further than bound from the exact one.
	size, bound []float64
}

// largest is the magnitude of factors up to which no product of float32 overflows, and what
// underflows is less than tiniest32 in sum.
const (
	largest   = 0x1p20
	tiniest32 = 0x1p-100
)

// newNarrow32 returns nil for a target whose updates float32 cannot hold.
func newNarrow32(t *target) *narrow32 {
	n := &narrow32{size: make([]float64, t.rows), bound: make([]float64, t.rows)}
	for k := range t.terms {
		d := t.terms[k].delta
		c := t.terms[k].weight * d.Scale
		if d.Kron != nil || !(math.Abs(c) <= largest && maxAbs(d.A) <= largest && maxAbs(d.B) <= largest) {
			return nil
		}
		rows, col := t.terms[k].norms()
		for i, row := range rows {
			n.size[i] += math.Abs(c) * row * col
		}
		n.rank += d.R
	}
	n.a, n.b = make([]float32, t.rows*n.rank), make([]float32, 0, n.rank*t.cols)
	first := 0
	for k := range t.terms {
		d := t.terms[k].delta
		c := t.terms[k].weight * d.Scale
		for i := range t.rows {
			for l, x := range d.A[i*d.R:][:d.R] {
				n.a[i*n.rank+first+l] = float32(x)
			}
		}
		for _, x := range d.B {
			n.b = append(n.b, float32(c*x))
		}
		first += d.R
	}
	// By Cauchy and Schwarz size bounds the sum of the products' magnitudes. Each is off by
	// the roundings of its factors and of itself, and those of rank sums: by γ of Higham,
	// nu/(1 - nu) for n roundings of u.
	nu := float64(n.rank+3) * 0x1p-24
	for i, size := range n.size {
		n.bound[i] = nu/(1-nu)*size*(1+0x1p-20) + tiniest32
	}
	return n
}

// norms are those of the rows of A and the greatest of the columns of B.
func (t *term) norms() (rows []float64, col float64) {
	d := t.delta
	rows = make([]float64, d.In)
	for i := range rows {
		var s float64
		for _, x := range d.A[i*d.R:][:d.R] {
			s += x * x
		}
		rows[i] = math.Sqrt(s)
	}
	cols := make([]float64, d.Out)
	for k := range d.R {
		for j, x := range d.B[k*d.Out:][:d.Out] {
			cols[j] += x * x
		}
	}
	for _, s := range cols {
		col = max(col, s)
	}
	return rows, math.Sqrt(col)
}

// panel packs columns [c0, c1) of B for block.
func (n *narrow32) panel(buf *[]float32, c0, c1, cols int) *kernel.PackedB {
	if n.rank == 0 {
		return nil
	}
	return kernel.RepackB(buf, nil, n.rank, c1-c0, n.b[c0:], cols, false)
}

// block is target.block in float32, for the columns of a panel.
func (n *narrow32) block(dst []float32, panel *kernel.PackedB, r0, r1, cols int) {
	if n.rank == 0 {
		clear(dst)
		return
	}
	panel.Mul(nil, r1-r0, n.a[r0*n.rank:], n.rank, dst, cols, nil)
}

// widens tells whether float32 holds every number of a format.
func widens(t tensor.DType) bool { return t == tensor.F32 || t == tensor.BF16 || t == tensor.F16 }

// halves tells whether the rounder takes updates in float32.
func (r *rounder) halves() bool {
	return r.mode != ErrorFeedback && (r.to == tensor.BF16 || r.to == tensor.F16) && widens(r.from)
}

// rowOfHalves is row for 16-bit formats. d has the update within bound, and none of its
// elements exceeds size; exact has it in float64, or is nil.
func (r *rounder) rowOfHalves(dst, src []byte, d []float32, bound, size float64, exact []float64, i, c0 int) error {
	_, e := math.Frexp(size)
	var s kernel.RoundSums
	doubt := grow(&r.doubt, (len(d)+7)/8)
	scale := float32(math.Ldexp(1, -min(max(e, -126), 126)))
	if r.mode == Stochastic {
		kernel.AddRandom16(r.to, r.from, dst, src, d, r.randoms(i, c0, len(d)), up32(bound), scale, doubt, &s)
	} else {
		kernel.AddRound16(r.to, r.from, dst, src, d, up32(bound), scale, doubt, &s)
	}
	r.sums.addKernel(&s)
	for k := range inDoubt(doubt) {
		w := r.element(src, k)
		x := 0.0
		if exact != nil {
			x = exact[k]
		} else {
			x = r.t.at(i, c0+k)
		}
		var err error
		if r.mode == Stochastic {
			err = r.otherOne(dst, src, w, x, nil, i, c0, k)
		} else {
			err = r.one(dst, src, w, x, i, c0, k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// element is element k of src, of a format that float32 holds.
func (r *rounder) element(src []byte, k int) float64 {
	switch r.from {
	case tensor.BF16:
		return float64(tensor.BF16ToF32(binary.LittleEndian.Uint16(src[2*k:])))
	case tensor.F16:
		return float64(tensor.F16ToF32(binary.LittleEndian.Uint16(src[2*k:])))
	}
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(src[4*k:])))
}

// inDoubt are the numbers of the bits that are set, eight bytes at a time as most have none.
func inDoubt(doubt []uint8) iter.Seq[int] {
	return func(yield func(int) bool) {
		for g := 0; g < len(doubt); g += 8 {
			var b uint64
			if g+8 <= len(doubt) {
				b = binary.LittleEndian.Uint64(doubt[g:])
			} else {
				for i, x := range doubt[g:] {
					b |= uint64(x) << (8 * i)
				}
			}
			for ; b != 0; b &= b - 1 {
				if !yield(8*g + bits.TrailingZeros64(b)) {
					return
				}
			}
		}
	}
}

// narrowed is rowOfHalves for an update in float64.
func (r *rounder) narrowed(dst, src []byte, d []float64, i, c0 int) error {
	x := grow(&r.d32, len(d))
	size := 0.0
	for k, v := range d {
		x[k] = float32(v)
		size = max(size, math.Abs(v))
	}
	return r.rowOfHalves(dst, src, x, r.t.errBound*(1+0x1p-20)+tiniest32, size, d, i, c0)
}

// nearestF32 rounds a row to float32.
func (r *rounder) nearestF32(dst, src []byte, d []float64, i, c0 int) error {
	from := src
	switch r.from {
	case tensor.BF16:
		from = grow(&r.wide, 4*len(d))
		for k := range d {
			binary.LittleEndian.PutUint32(from[4*k:], uint32(binary.LittleEndian.Uint16(src[2*k:]))<<16)
		}
	case tensor.F16:
		from = grow(&r.wide, 4*len(d))
		for k := range d {
			binary.LittleEndian.PutUint32(from[4*k:], math.Float32bits(tensor.F16ToF32(binary.LittleEndian.Uint16(src[2*k:]))))
		}
	}
	var s kernel.RoundSums
	doubt := grow(&r.doubt, (len(d)+7)/8)
	kernel.AddRoundF32(dst, from, d, r.t.errBound*(1+0x1p-40)+tiniest32, 1, doubt, &s)
	r.sums.addKernel(&s)
	for k := range inDoubt(doubt) {
		if err := r.one(dst, src, r.element(src, k), d[k], i, c0, k); err != nil {
			return err
		}
	}
	return nil
}

// one rounds element k of the row, in float64 if that decides it.
func (r *rounder) one(dst, src []byte, w, x float64, i, c0, k int) error {
	if r.quick(dst, w, x, k) {
		return nil
	}
	return r.slow(dst, src, w, x, i, c0, k)
}

func (s *sums) addKernel(k *kernel.RoundSums) {
	s.add(&sums{same: k.Same, zero: k.Zero, sqErr: k.SqErr, sqDelta: k.SqDelta, maxErr: k.MaxErr})
}

// up32 is the least float32 that is not below x.
func up32(x float64) float32 {
	y := float32(x)
	if float64(y) < x {
		y = math.Nextafter32(y, float32(math.Inf(1)))
	}
	return y
}
