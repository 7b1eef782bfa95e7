//go:build !purego

package kernel

import "math"

// These functions are not one that takes a kernel: called through a variable, the compiler would
// put the sums of every row on the heap.

func archAddRoundBF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRoundBF16AVX2(&dst[0], &src[0], &d[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRoundF16(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRoundF16AVX2(&dst[0], &src[0], &d[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRoundBF16From32(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRoundBF16From32AVX2(&dst[0], &src[0], &d[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRoundF16From32(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRoundF16From32AVX2(&dst[0], &src[0], &d[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

// groups32 adds the sums of whole groups of eight.
func groups32(a *[40]float32, n int, scale float32, s *RoundSums) int {
	var sums goSums
	for l := range 8 {
		sums.Same += int64(math.Float32bits(a[l]))
		sums.Zero += int64(math.Float32bits(a[8+l]))
		sums.SqErr += float64(a[16+l])
		sums.SqDelta += float64(a[24+l])
		sums.MaxErr = max(sums.MaxErr, float64(a[32+l]))
	}
	sums.addTo(s, float64(scale))
	return n &^ 7
}

func archAddRoundF32(dst, src []byte, d []float64, bound, scale float64, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [20]float64
	addRoundF32AVX2(&dst[0], &src[0], &d[0], len(d), bound, scale, &doubt[0], &a)
	var sums goSums
	for l := range 4 {
		sums.Same += int64(math.Float64bits(a[l]))
		sums.Zero += int64(math.Float64bits(a[4+l]))
		sums.SqErr += a[8+l]
		sums.SqDelta += a[12+l]
		sums.MaxErr = max(sums.MaxErr, a[16+l])
	}
	sums.addTo(s, scale)
	return len(d) &^ 7
}

func archAddRandomBF16(dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRandomBF16AVX2(&dst[0], &src[0], &d[0], &random[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRandomF16(dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRandomF16AVX2(&dst[0], &src[0], &d[0], &random[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRandomBF16From32(dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRandomBF16From32AVX2(&dst[0], &src[0], &d[0], &random[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archAddRandomF16From32(dst, src []byte, d []float32, random []uint32, bound, scale float32, doubt []uint8, s *RoundSums) int {
	if len(d) < 8 {
		return 0
	}
	var a [40]float32
	addRandomF16From32AVX2(&dst[0], &src[0], &d[0], &random[0], len(d), bound, scale, &doubt[0], &a)
	return groups32(&a, len(d), scale, s)
}

func archSplitMix(dst []uint32, at uint64, shift uint, mask uint32) int {
	if len(dst) < 8 {
		return 0
	}
	splitMixAVX2(&dst[0], len(dst), at, uint64(shift), uint64(mask)<<32|uint64(mask))
	return len(dst) &^ 7
}

func archAddFeedback(f *Round64, dst, src, base []float32, d, carry []float64, doubt []uint8) int {
	if len(d) < 8 {
		return 0
	}
	addFeedbackAVX2(&f.updateTiny[0], &dst[0], &src[0], &base[0], &d[0], &carry[0], len(d), &doubt[0], &f.lanes)
	return len(d) &^ 7
}

func archAddRandomF32(f *Round64, dst, src, base []float32, d []float64, random []uint32, doubt []uint8) int {
	if len(d) < 8 {
		return 0
	}
	addRandomF32AVX2(&f.updateTiny[0], &dst[0], &src[0], &base[0], &d[0], &random[0], len(d), &doubt[0], &f.lanes)
	return len(d) &^ 7
}

func archPrefetch(b []byte) { prefetchAMD64(&b[0], len(b)) }
