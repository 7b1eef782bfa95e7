package kernel

import "testing"

// TestPeak runs every path's loop and wants a credible figure: products cannot
// be faster than the peak that they are compared with.
func TestPeak(t *testing.T) {
	for _, name := range Paths() {
		undo := Use(name)
		p := NewPool(1)
		if v := Peak(p); v < 0.01 || v > 10_000 {
			t.Errorf("%s: %.3g GFLOP/s", name, v)
		}
		p.Close()
		undo()
	}
}
