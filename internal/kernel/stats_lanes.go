//go:build (amd64 || arm64) && !purego

package kernel

import "unsafe"

// statLanes is what assembly writes: statistics of eight interleaved slices.
type statLanes struct {
	min, max    [8]float32
	nan         [8]uint32
	finite      [8]int32 // negative
	sum, square [8]float64
}

// laneStats is goStats by assembly for n8 groups of eight.
func laneStats(x []float32, stats func(x *float32, n8 int, out *byte)) Statistics {
	n := len(x) &^ 7
	s := goStats(x[n:])
	// Counts of a lane stay far below 2³¹.
	const piece = 1 << 24
	for i := 0; i < n; i += piece {
		h := min(piece, n-i)
		var l statLanes
		stats(&x[i], h/8, (*byte)(unsafe.Pointer(&l)))
		t := NoStatistics()
		finite := 0
		for j := range 8 {
			t.Min, t.Max = min(t.Min, l.min[j]), max(t.Max, l.max[j])
			t.Sum += l.sum[j]
			t.SumSquares += l.square[j]
			t.NaN += int(l.nan[j])
			finite -= int(l.finite[j])
		}
		t.Inf = h - finite - t.NaN
		s.Add(t)
	}
	return s
}
