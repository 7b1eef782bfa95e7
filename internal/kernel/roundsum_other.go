//go:build !amd64 || purego

package kernel

// Nothing is done here: all elements are the reference's.
func archAddRoundBF16([]byte, []byte, []float32, float32, float32, []uint8, *RoundSums) int { return 0 }
func archAddRoundF16([]byte, []byte, []float32, float32, float32, []uint8, *RoundSums) int  { return 0 }
func archAddRoundBF16From32([]byte, []byte, []float32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddRoundF16From32([]byte, []byte, []float32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddRoundF32([]byte, []byte, []float64, float64, float64, []uint8, *RoundSums) int { return 0 }

func archSplitMix([]uint32, uint64, uint, uint32) int { return 0 }
func archAddRandomBF16([]byte, []byte, []float32, []uint32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddRandomF16([]byte, []byte, []float32, []uint32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddRandomBF16From32([]byte, []byte, []float32, []uint32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddRandomF16From32([]byte, []byte, []float32, []uint32, float32, float32, []uint8, *RoundSums) int {
	return 0
}
func archAddFeedback(*Round64, []float32, []float32, []float32, []float64, []float64, []uint8) int {
	return 0
}
func archAddRandomF32(*Round64, []float32, []float32, []float32, []float64, []uint32, []uint8) int {
	return 0
}
func archPrefetch([]byte) {}
