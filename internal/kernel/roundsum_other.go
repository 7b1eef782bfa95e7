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
