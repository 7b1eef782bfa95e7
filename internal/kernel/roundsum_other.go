//go:build !amd64 || purego

package kernel

func archAddRoundBF16(dst, src []byte, d []float64, tiny uint64, s *RoundSums) int {
	return goAddRoundBF16(dst, src, d, tiny, s)
}
