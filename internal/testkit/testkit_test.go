package testkit

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestRepoRoot(t *testing.T) {
	root := RepoRoot(t)
	if _, err := os.Stat(filepath.Join(root, "internal", "testkit", "testkit.go")); err != nil {
		t.Error(err)
	}
}

func TestNear(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		got, want, abs, rel float64
		near                bool
	}{
		{1, 1, 0, 0, true}, {1.1, 1, 0.2, 0, true}, {1.1, 1, 0, 0.2, true}, {1.1, 1, 0.01, 0.01, false},
		{nan, nan, 0, 0, true}, {nan, 1, inf, 0, false}, {1, nan, inf, 0, false},
		{inf, inf, 0, 0, true}, {inf, -inf, 1, 1, false}, {1, inf, 1, 1, false}, {inf, 1, 1, 1, false},
	} {
		if Near(c.got, c.want, c.abs, c.rel) != c.near {
			t.Errorf("Near(%v, %v, %v, %v) is %v", c.got, c.want, c.abs, c.rel, !c.near)
		}
	}
}

// recorder is a test whose failure is looked at instead of reported.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true; panic(r) }

func fails(t *testing.T, f func(tb testing.TB)) bool {
	r := &recorder{TB: t}
	func() {
		defer func() {
			if e := recover(); e != nil && e != any(r) {
				panic(e)
			}
		}()
		f(r)
	}()
	return r.failed
}

func TestGuarded(t *testing.T) {
	for _, i := range []int{-1, 0, 4, 5} {
		overran := fails(t, func(tb testing.TB) {
			s, check := Guarded[float32](tb, 5, 3)
			if len(s) != 5 || cap(s) != 5 {
				t.Fatalf("slice of %d elements, capacity %d", len(s), cap(s))
			}
			*element(s, i) = 1
			check()
		})
		if outside := i < 0 || i >= 5; overran != outside {
			t.Errorf("writing element %d of 5: failed is %v", i, overran)
		}
	}
}

func TestComparisonsFail(t *testing.T) {
	a, b := []float32{1, 2}, []float32{1, 2.5}
	if !fails(t, func(tb testing.TB) { Compare(tb, "x", a, Float64s(b), 0.1, 0) }) ||
		!fails(t, func(tb testing.TB) { Compare(tb, "x", a, Float64s(b[:1]), 1, 0) }) ||
		fails(t, func(tb testing.TB) { Compare(tb, "x", a, Float64s(b), 0.5, 0) }) {
		t.Error("Compare is wrong")
	}
	zeros := []float32{0, float32(math.Copysign(0, -1))}
	if !fails(t, func(tb testing.TB) { EqualBits(tb, "x", zeros[:1], zeros[1:]) }) || fails(t, func(tb testing.TB) { EqualBits(tb, "x", a, a) }) {
		t.Error("EqualBits is wrong")
	}
}

func TestShape(t *testing.T) {
	if s := Shape(2048, 768, 4); s != "2048x768x4" {
		t.Error(s)
	}
}
