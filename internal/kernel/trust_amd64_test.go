//go:build !purego

package kernel

import (
	"slices"
	"testing"

	"golang.org/x/sys/cpu"
)

// TestTrusted wants the check to accept what keeps the contract, for every
// shape of AVX-512 and AMX kernel, and to refuse what does not.
func TestTrusted(t *testing.T) {
	for _, s := range []struct {
		mr, nr, piece int
		pairs         bool
	}{{8, 48, 8, false}, {24, 16, 8, false}, {14, 32, 8, true}, {32, 32, 16, true}} {
		kn := &tileKernel[float32]{mr: s.mr, nr: s.nr, piece: s.piece, pairs: s.pairs, packed: emulate(s.mr, s.nr, s.piece, s.pairs)}
		if !trusted(kn) {
			t.Errorf("%+v: a good kernel is refused", s)
		}
		good := kn.packed
		for what, bad := range map[string]func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int){
			"one row too many": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces, a, b, c, ldc, m+1, mask, acc)
			},
			"a column too many": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces, a, b, c, ldc, m, mask<<1|1, acc)
			},
			"always adds": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces, a, b, c, ldc, m, mask, 1)
			},
			"does not add": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces, a, b, c, ldc, m, mask, 0)
			},
			"half of the steps": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces/2, a, b, c, ldc, m, mask, acc)
			},
			"wrong at edges only": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				if m == s.mr {
					good(pieces, a, b, c, ldc, m, mask, acc)
				}
			},
			"wrong inside only": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				if m < s.mr {
					good(pieces, a, b, c, ldc, m, mask, acc)
				}
			},
			"computes nothing": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {},
			"reads another row": func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(pieces, at(a, s.piece), b, c, ldc, m-1, mask, acc)
			},
		} {
			kn.packed = bad
			if trusted(kn) {
				t.Errorf("%+v: a kernel that fails (%s) is trusted", s, what)
			}
		}
	}
}

// TestTrustedStrided is TestTrusted for strided kernels.
func TestTrustedStrided(t *testing.T) {
	testTrustedStrided[float32](t)
	testTrustedStrided[float64](t)
}

func testTrustedStrided[T float](t *testing.T) {
	for _, nr := range []int{8, 16, 32} {
		kn := emulatedStrided[T](8, nr)
		if !trustedStrided(kn) {
			t.Errorf("8x%d: a good kernel is refused", nr)
		}
		good := kn.strided
		for what, bad := range map[string]func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int){
			"one row too many": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, min(m+1, 19), nj, acc)
			},
			"always adds": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, m, nj, 1)
			},
			"does not add": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, m, nj, 0)
			},
			"a step too few": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k-1, a, ars, acs, b, brs, bjs, c, ldc, m, nj, acc)
			},
			"one tile only": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, m, 1, acc)
			},
			"the first tile twice": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, 0, c, ldc, m, nj, acc)
			},
			"wrong in one row of five": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, m, nj, acc)
				if m == 5 {
					*at(c, 3*ldc+nr-1)++
				}
			},
			"wrong in more rows than a tile": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, min(m, 8), nj, acc)
			},
			"past the last column": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, ars, acs, b, brs, bjs, c, ldc, m, nj, acc)
				*at(c, nj*nr) = 0
			},
			"rows of A alone": func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
				good(k, a, checkSteps, 1, b, brs, bjs, c, ldc, m, nj, acc)
			},
		} {
			kn.strided = bad
			if trustedStrided(kn) {
				t.Errorf("8x%d: a kernel that fails (%s) is trusted", nr, what)
			}
		}
	}
}

// TestTrustedHere runs the check with the kernels of this processor: one that is not
// trusted would be passed over by all other tests.
func TestTrustedHere(t *testing.T) {
	x := &cpu.X86
	t.Run("avx2", func(t *testing.T) {
		if !x.HasAVX2 || !x.HasFMA {
			t.Skip("this processor has no AVX2")
		}
		wantTrusted(t, &avx2Tile32, &avx2Narrow, &avx2Odd)
		wantTrusted(t, &avx2Tile64)
	})
	t.Run("avx512", func(t *testing.T) {
		if !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL {
			t.Skip("this processor has no AVX-512")
		}
		wantTrusted(t, &avx512Row, &avx512Half)
		wantTrusted(t, &avx512Row64, &avx512Half64)
		if !trusted(&avx512Tile) || !trusted(&avx512Slim) {
			t.Error("a packed kernel computes something else")
		}
	})
}

func wantTrusted[T float](t *testing.T, kernels ...*tileKernel[T]) {
	t.Helper()
	for _, kn := range kernels {
		if !trustedStrided(kn) {
			t.Errorf("%T %s computes something else", kn, kn.name)
		}
	}
}

// TestUnpackInt8 compares the widths of kernels that have assembly, and one that has not.
func TestUnpackInt8(t *testing.T) {
	if !cpu.X86.HasAVX2 {
		t.Skip("this processor has no AVX2")
	}
	for _, nr := range []int{8, 16, 32} {
		for rows := range 4 {
			src, scale := make([]int8, rows*nr), make([]float32, nr)
			for i := range src {
				src[i] = int8(i*37 - 128)
			}
			for i := range scale {
				scale[i] = float32(i) + 0.3
			}
			got, want := make([]float32, rows*nr+1), make([]float32, rows*nr+1)
			avx2UnpackInt8(got[:rows*nr], src, scale)
			goUnpackInt8(want[:rows*nr], src, scale)
			if !slices.Equal(got, want) {
				t.Errorf("%d rows of %d: %v, want %v", rows, nr, got, want)
			}
		}
	}
}
