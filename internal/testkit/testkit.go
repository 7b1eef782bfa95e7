// Package testkit holds what tests of several packages share: where the
// repository and its shared data are, slices with guards around them, and
// comparisons of float32 results with float64 references.
package testkit

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// RepoRoot returns the directory of go.mod, found by walking up from the
// package under test.
func RepoRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("working directory: %v", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			t.Fatalf("no go.mod in %s or above it", dir)
		}
	}
}

// Shared returns the path of a file or folder of the study data that lies
// beside the repository (../shared). The test is skipped where it is absent.
func Shared(t testing.TB, elems ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{filepath.Dir(RepoRoot(t)), "shared"}, elems...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("shared data %s is not on this machine; it lies beside the repository where it is", filepath.Join(elems...))
	}
	return path
}

// Guarded returns a slice of n elements in the middle of a larger allocation,
// off elements behind a 64-byte boundary as far as the allocator allows, with
// sentinels on both sides, and a function that fails the test if a sentinel
// changed.
func Guarded[T float32 | float64 | uint16 | byte](t testing.TB, n, off int) (s []T, check func()) {
	t.Helper()
	const pad = 64
	var sentinel T = 93
	buf := make([]T, pad+off+n+pad)
	for i := range buf {
		buf[i] = sentinel
	}
	s = buf[pad+off : pad+off+n : pad+off+n]
	clear(s)
	return s, func() {
		t.Helper()
		for i, x := range buf[:pad+off] {
			if x != sentinel {
				t.Fatalf("element %d before a slice of %d was overwritten with %v", pad+off-i, n, x)
			}
		}
		for i, x := range buf[pad+off+n:] {
			if x != sentinel {
				t.Fatalf("element %d after a slice of %d was overwritten with %v", i, n, x)
			}
		}
	}
}

// Near reports whether got is want within abs + rel*|want|. NaN is near NaN
// only, and an infinity only near itself.
func Near(got, want, abs, rel float64) bool {
	switch {
	case math.IsNaN(want) || math.IsNaN(got):
		return math.IsNaN(want) && math.IsNaN(got)
	case math.IsInf(want, 0) || math.IsInf(got, 0):
		return got == want
	}
	return math.Abs(got-want) <= abs+rel*math.Abs(want)
}

// Compare fails the test at the first element of got that is not Near want.
func Compare(t testing.TB, what string, got []float32, want []float64, abs, rel float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !Near(float64(got[i]), want[i], abs, rel) {
			t.Fatalf("%s: element %d is %v, want %v (difference %.3g, allowed %.3g + %.3g relative)",
				what, i, got[i], want[i], float64(got[i])-want[i], abs, rel)
		}
	}
}

// EqualBits fails the test unless both slices have the same bits.
func EqualBits(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v, want %v bit for bit", what, i, got[i], want[i])
		}
	}
}

// DotTolerance bounds the error of a float32 sum of k products of magnitude
// at most scale, summed in any order with fused or separate multiply-adds:
// (k+2)·2⁻²⁴ of the sum of magnitudes is the worst case; random data stays
// near its square root, for which eight standard deviations are allowed.
func DotTolerance(k int, scale float64) float64 {
	return 8 * (math.Sqrt(float64(k)) + 2) * scale * math.Sqrt(float64(k)) * 0x1p-24
}

// Float64s widens x.
func Float64s(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// Shape prints sizes as 2048x768x3072, for names of subtests.
func Shape(dims ...int) string {
	s := ""
	for i, d := range dims {
		if i > 0 {
			s += "x"
		}
		s += fmt.Sprint(d)
	}
	return s
}
