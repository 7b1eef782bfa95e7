//go:build !purego

package kernel

import "math"

// trusted runs a packed microkernel on small whole numbers, whose products and
// sums are exact in float32 and in bf16, and compares with the definition: a
// whole tile, and one at the edge of C, where a row and three columns are to stay
// as they are. The AVX-512 and AMX kernels run on few of the machines that this
// code is developed on; a processor or a virtual machine on which they compute
// something else falls back to AVX2 instead of training nonsense. It takes
// microseconds.
func trusted(kn *tileKernel[float32]) bool {
	return rightFor(kn, kn.mr, kn.nr, 0) && rightFor(kn, kn.mr, kn.nr, 1) && rightFor(kn, kn.mr-1, kn.nr-3, 1) && rightFor(kn, kn.mr-1, kn.nr-3, 0)
}

// rightFor multiplies into m rows and cols columns of a tile.
func rightFor(kn *tileKernel[float32], m, cols, acc int) bool {
	const pieces, ldc = 2, 64
	steps, piece := pieces*kn.piece, kn.piece
	a, b := make([]float32, steps*kn.mr), make([]float32, steps*kn.nr)
	number := func(i int) float32 { return float32(i*7%13 - 6) }
	for i := range a {
		a[i] = kn.element(number(i), number(i+5))
	}
	for i := range b {
		b[i] = kn.element(number(3*i+1), number(i+2))
	}
	c := make([]float32, kn.mr*ldc)
	for i := range c {
		c[i] = 1
	}
	kn.packed(pieces, &a[0], &b[0], &c[0], ldc, m, ^uint64(0)>>(64-cols), acc)
	for i := range kn.mr {
		for j := range ldc {
			want := float32(1)
			if i < m && j < cols {
				want = float32(acc)
				for k := range steps {
					x, y := a[k/piece*kn.mr*piece+i*piece+k%piece], b[k*kn.nr+j]
					want += kn.product(x, y)
				}
			}
			if c[i*ldc+j] != want {
				return false
			}
		}
	}
	return true
}

// element is x, or the pair of bf16 x, y.
func (kn *tileKernel[T]) element(x, y float32) float32 {
	if !kn.pairs {
		return x
	}
	return math.Float32frombits(math.Float32bits(x)>>16 | math.Float32bits(y)&^0xffff)
}

// product is what one step adds for the elements x and y.
func (kn *tileKernel[T]) product(x, y float32) float32 {
	if !kn.pairs {
		return x * y
	}
	half := func(v float32) (lo, hi float32) {
		u := math.Float32bits(v)
		return math.Float32frombits(u << 16), math.Float32frombits(u &^ 0xffff)
	}
	xl, xh := half(x)
	yl, yh := half(y)
	return xl*yl + xh*yh
}

// trustedStrided is trusted for a strided microkernel, with every number of rows: A by
// rows and B in panels, as thin products have them, and A by columns and B in place.
func trustedStrided[T float](kn *tileKernel[T]) bool {
	s := newStridedCheck(kn)
	for m := 1; m <= kn.mr+1; m++ {
		rows := m
		if m > kn.mr {
			rows = s.rows
		}
		for acc := range 2 {
			if !s.right(s.aRows, checkSteps, 1, s.bPanels, kn.nr, checkSteps*kn.nr, rows, acc) || !s.right(s.aCols, 1, s.rows, s.bPlain, s.cols, kn.nr, rows, acc) {
				return false
			}
		}
	}
	return true
}

const checkSteps = 7 // a round of four and a rest

// stridedCheck is a product of whole numbers below 51, rows x checkSteps by checkSteps x
// cols: more rows than a tile has, and two tiles of columns.
type stridedCheck[T float] struct {
	kn                            *tileKernel[T]
	rows, cols                    int
	aRows, aCols, bPanels, bPlain []T
	want, c                       []T // c has a row and a column more
}

func newStridedCheck[T float](kn *tileKernel[T]) *stridedCheck[T] {
	s := &stridedCheck[T]{kn: kn, rows: 2*kn.mr + 3, cols: 2 * kn.nr}
	s.aRows, s.aCols = make([]T, s.rows*checkSteps), make([]T, s.rows*checkSteps)
	s.bPanels, s.bPlain = make([]T, s.cols*checkSteps), make([]T, s.cols*checkSteps)
	s.want, s.c = make([]T, s.rows*s.cols), make([]T, (s.rows+1)*(s.cols+1))
	for k := range checkSteps {
		for j := range s.cols {
			v := T((k*s.cols+j)*37%101 - 50)
			s.bPlain[k*s.cols+j], s.bPanels[j/kn.nr*checkSteps*kn.nr+k*kn.nr+j%kn.nr] = v, v
		}
		for i := range s.rows {
			v := T((i*checkSteps+k)*29%97 - 48)
			s.aRows[i*checkSteps+k], s.aCols[k*s.rows+i] = v, v
			goAxpy(v, s.bPlain[k*s.cols:][:s.cols], s.want[i*s.cols:][:s.cols])
		}
	}
	return s
}

// right multiplies the first m rows and says whether they, and what is around them, are
// as they should be.
func (s *stridedCheck[T]) right(a []T, ars, acs int, b []T, brs, bjs, m, acc int) bool {
	ldc := s.cols + 1
	c := s.c[:(m+1)*ldc]
	for i := range c {
		c[i] = 1
	}
	s.kn.strided(checkSteps, &a[0], ars, acs, &b[0], brs, bjs, &c[0], ldc, m, 2, acc)
	for i := range m {
		for j, w := range s.want[i*s.cols:][:s.cols] {
			if c[i*ldc+j] != w+T(acc) {
				return false
			}
		}
		if c[i*ldc+s.cols] != 1 {
			return false
		}
	}
	for _, v := range c[m*ldc:] {
		if v != 1 {
			return false
		}
	}
	return true
}
