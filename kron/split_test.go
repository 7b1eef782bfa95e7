package kron_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

func TestSplitOfKnownDimensions(t *testing.T) {
	for n, want := range map[int][2]int{
		1: {1, 1}, 2: {2, 1}, 3: {3, 1}, 16: {4, 4}, 64: {8, 8}, 384: {24, 16},
		768:   {32, 24}, // the authors' split of RoBERTa-base
		1024:  {32, 32},
		2048:  {64, 32},
		3072:  {64, 48},
		5632:  {88, 64},
		11008: {128, 86},
		127:   {13, 10},   // prime: padded to 130, not 127x1
		50257: {236, 213}, // prime: GPT-2's vocabulary, padded to 50268
		3027:  {62, 49},   // 3 x 1009: padded to 3038
	} {
		if a1, a2 := kron.Split(n); a1 != want[0] || a2 != want[1] {
			t.Errorf("Split(%d) = %d, %d; want %d, %d", n, a1, a2, want[0], want[1])
		}
	}
}

func TestSplitBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5000).Draw(t, "n")
		a1, a2 := kron.Split(n)
		if a1 < a2 || a1*a2 < n {
			t.Fatalf("Split(%d) = %d, %d", n, a1, a2)
		}
		// The smallest possible sum, by trying all.
		best, pad := 1<<30, 0
		for d := 1; d <= n; d++ {
			e := (n + d - 1) / d
			if d+e < best || d+e == best && d*e-n < pad {
				best, pad = d+e, d*e-n
			}
		}
		switch {
		case a1*a2 == n && 4*(a1+a2) <= 5*best:
		case a1+a2 == best && a1*a2-n == pad:
			for _, s := range kron.Splits(n) {
				if 4*(s[0]+s[1]) <= 5*best {
					t.Fatalf("Split(%d) = %d, %d pads though %v is exact", n, a1, a2, s)
				}
			}
		default:
			t.Fatalf("Split(%d) = %d, %d; smallest sum %d with padding %d", n, a1, a2, best, pad)
		}
	})
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name string
		s    kron.Shape
		rows int
		want kron.Form
	}{
		{"published setting", kron.Full(16, 32, 2, 24, 2), 2048, kron.Thin},
		{"rank 1024 with four terms", kron.Full(4, 32, 32, 24, 32), 2048, kron.Sandwich},
		{"its other factor", kron.Full(4, 32, 32, 32, 24), 2048, kron.Sandwich},
		{"rank 1024 with 64 terms", kron.Full(64, 32, 32, 24, 32), 2048, kron.Thin},
		{"full-rank single product", kron.Full(1, 32, 24, 24, 32), 2048, kron.Sandwich},
	} {
		if got := kron.Choose(c.s, c.rows); got != c.want {
			t.Errorf("%s: %v, want %v (thin %+v, sandwich %+v)", c.name, got, c.want,
				kron.CostOf(kron.Thin, c.s, c.rows), kron.CostOf(kron.Sandwich, c.s, c.rows))
		}
	}
	s := kron.Full(4, 32, 32, 24, 32)
	thin, sandwich := kron.CostOf(kron.Thin, s, 1<<20), kron.CostOf(kron.Sandwich, s, 1<<20)
	if r := float64(thin.FLOPs) / float64(sandwich.FLOPs); r < 3.4 {
		t.Errorf("rank 1024 takes %.2f times the operations when thin, want above 3.4", r)
	}
}
