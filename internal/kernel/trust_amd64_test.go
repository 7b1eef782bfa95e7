//go:build !purego

package kernel

import "testing"

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
