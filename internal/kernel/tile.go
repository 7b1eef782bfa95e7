package kernel

import "unsafe"

type float interface{ float32 | float64 }

// tileKernel is a microkernel: C[0:m, 0:nj*nr] (+)= A·B. packed takes at most mr
// rows, strided any number.
type tileKernel[T float] struct {
	name   string
	mr, nr int

	// strided reads A through strides, element (i, k) at a[i*ars+k*acs], and B
	// by rows, element (k, j) of tile t at b[t*bjs+k*brs+j]. It computes nj
	// neighbouring tiles of full width; acc != 0 adds to C. All strides count
	// elements.
	strided func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int)

	// packed reads A in pieces of piece steps, [pieces][mr][piece], and B as
	// [pieces*piece][nr]; the low bits of mask say which columns to store. Rows
	// of A from m on must be readable. It is set for the AVX-512 and AMX kernels of
	// large products, strided for all others.
	packed func(pieces int, a, b, c *T, ldc, m int, mask uint64, acc int)
	piece  int

	// transpose is Transpose for this type.
	transpose func(dst []T, ldd int, src []T, lds, rows, cols int)

	// addTo adds src to dst, of equal lengths of at least 1.
	addTo func(dst, src []T)

	pairs bool // packed only: an element is a pair of bf16, two steps of k
}

// depth is the number of steps in memory for an inner dimension k.
func (kn *tileKernel[T]) depth(k int) int {
	if kn.pairs {
		k = (k + 1) / 2
	}
	if kn.packed != nil {
		k = roundUp(k, kn.piece)
	}
	return k
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

var (
	goTile32 = tileKernel[float32]{name: "go-4x4", mr: 4, nr: 4, strided: goStrided[float32], transpose: goTranspose[float32], addTo: goAddTo[float32]}
	goTile64 = tileKernel[float64]{name: "go-4x4", mr: 4, nr: 4, strided: goStrided[float64], transpose: goTranspose[float64], addTo: goAddTo[float64]}
)

func goAddTo[T float](dst, src []T) {
	for i, v := range src {
		dst[i] += v
	}
}

// at is p[i] without a bounds check. The result must lie inside the slice: the
// garbage collector may see it.
func at[T float](p *T, i int) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(p), i*int(unsafe.Sizeof(*p))))
}

// quad is p[i:i+4] without a bounds check.
func quad[T float](p *T, i int) *[4]T { return (*[4]T)(unsafe.Pointer(at(p, i))) }

// goStrided is the reference of every strided kernel, with 4x4 tiles. Two rows
// at a time keep the eight sums in registers.
func goStrided[T float](k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
	for j := range nj {
		for i := 0; i < m; i += 2 {
			if i+1 < m {
				goRows2(k, a, i*ars, (i+1)*ars, acs, b, j*bjs, brs, quad(c, i*ldc+4*j), quad(c, (i+1)*ldc+4*j), acc)
			} else {
				goRow1(k, a, i*ars, acs, b, j*bjs, brs, quad(c, i*ldc+4*j), acc)
			}
		}
	}
}

// goRows2 adds k products of the rows of A at offsets p and q to c0 and c1; o
// is the offset in b.
func goRows2[T float](k int, a *T, p, q, acs int, b *T, o, brs int, c0, c1 *[4]T, acc int) {
	var s00, s01, s02, s03, s10, s11, s12, s13 T
	for ; k > 0; k-- {
		r := quad(b, o)
		x, y := *at(a, p), *at(a, q)
		s00 += x * r[0]
		s01 += x * r[1]
		s02 += x * r[2]
		s03 += x * r[3]
		s10 += y * r[0]
		s11 += y * r[1]
		s12 += y * r[2]
		s13 += y * r[3]
		p, q, o = p+acs, q+acs, o+brs
	}
	if acc != 0 {
		s00, s01, s02, s03 = c0[0]+s00, c0[1]+s01, c0[2]+s02, c0[3]+s03
		s10, s11, s12, s13 = c1[0]+s10, c1[1]+s11, c1[2]+s12, c1[3]+s13
	}
	*c0 = [4]T{s00, s01, s02, s03}
	*c1 = [4]T{s10, s11, s12, s13}
}

func goRow1[T float](k int, a *T, p, acs int, b *T, o, brs int, c *[4]T, acc int) {
	var s0, s1, s2, s3 T
	for ; k > 0; k-- {
		r := quad(b, o)
		x := *at(a, p)
		s0 += x * r[0]
		s1 += x * r[1]
		s2 += x * r[2]
		s3 += x * r[3]
		p, o = p+acs, o+brs
	}
	if acc != 0 {
		s0, s1, s2, s3 = c[0]+s0, c[1]+s1, c[2]+s2, c[3]+s3
	}
	*c = [4]T{s0, s1, s2, s3}
}
