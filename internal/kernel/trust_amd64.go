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
