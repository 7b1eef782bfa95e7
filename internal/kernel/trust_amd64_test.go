//go:build !purego

package kernel

import "testing"

// TestTrusted wants the check to accept what keeps the contract, for every
// shape of AVX-512 kernel, and to refuse what does not.
func TestTrusted(t *testing.T) {
	for _, s := range []struct {
		mr, nr int
		pairs  bool
	}{{8, 48, false}, {24, 16, false}, {14, 32, true}} {
		kn := &tileKernel[float32]{mr: s.mr, nr: s.nr, pairs: s.pairs, packed: emulate(s.mr, s.nr, s.pairs)}
		if !trusted(kn) {
			t.Errorf("%+v: a good kernel is refused", s)
		}
		good := kn.packed
		for what, bad := range map[string]func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int){
			"one row too many": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(k8, a, b, c, ldc, m+1, mask, acc)
			},
			"a column too many": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(k8, a, b, c, ldc, m, mask<<1|1, acc)
			},
			"does not add": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) { good(k8, a, b, c, ldc, m, mask, 0) },
			"half of the steps": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(k8/2, a, b, c, ldc, m, mask, acc)
			},
			"computes nothing": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {},
			"reads another row": func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
				good(k8, at(a, 8), b, c, ldc, m-1, mask, acc)
			},
		} {
			kn.packed = bad
			if trusted(kn) {
				t.Errorf("%+v: a kernel that fails (%s) is trusted", s, what)
			}
		}
	}
}
