//go:build !purego

package kernel

import "math"

func archAddRoundBF16(dst, src []byte, d []float64, tiny uint64, s *RoundSums) int {
	done := 0
	if len(d) >= 4 {
		var a [20]float64
		done = addRoundBF16AVX2(&dst[0], &src[0], &d[0], len(d), tiny, &a)
		for l := range 4 {
			s.Same += int64(math.Float64bits(a[l]))
			s.Zero += int64(math.Float64bits(a[4+l]))
			s.MaxErr = max(s.MaxErr, a[16+l])
		}
		s.SqErr += (a[8] + a[9]) + (a[10] + a[11])
		s.SqDelta += (a[12] + a[13]) + (a[14] + a[15])
	}
	// The rest, or the group with the first element in doubt.
	n := min(len(d)-done, 4)
	return done + goAddRoundBF16(dst[2*done:], src[2*done:], d[done:done+n], tiny, s)
}
