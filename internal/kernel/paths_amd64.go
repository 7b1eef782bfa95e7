//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// x/sys/cpu has looked at XGETBV too: a feature counts only when the system
// saves its registers.
func archPaths() []*path {
	x := &cpu.X86
	if !x.HasAVX2 || !x.HasFMA || !hasF16C() {
		return nil
	}
	avx2 := &path{name: "avx2", vec: &avx2Vec, f32: &avx2Tile32, slim: &avx2Tile32, row: &avx2Tile32, narrow: &avx2Narrow, odd: &avx2Odd, f64: &avx2Tile64}
	if !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL || !trusted(&avx512Tile) || !trusted(&avx512Slim) {
		return []*path{avx2}
	}
	avx512 := *avx2
	avx512.name, avx512.f32, avx512.slim = "avx512", &avx512Tile, &avx512Slim
	if trustedStrided(&avx512Row) && trustedStrided(&avx512Half) {
		avx512.row, avx512.half, avx512.odd = &avx512Row, &avx512Half, nil
	}
	if trustedStrided(&avx512Row64) && trustedStrided(&avx512Half64) {
		avx512.f64, avx512.half64 = &avx512Row64, &avx512Half64
	}
	if x.HasAVX512BF16 && trusted(&avx512BF16) {
		avx512.bf16 = &avx512BF16
	}
	paths := []*path{&avx512, avx2}
	if x.HasAMXTile && x.HasAMXBF16 && permitAMX() && trusted(&amxBF16) {
		amx := avx512
		amx.name, amx.bf16 = "amx", &amxBF16
		paths = append([]*path{&amx}, paths...)
	}
	return paths
}

// hasF16C reads the one bit of CPUID that x/sys/cpu does not offer.
func hasF16C() bool { return cpuidFeatures()&(1<<29) != 0 }

var (
	avx2Tile32   = tileKernel[float32]{name: "avx2-6x16", mr: 6, nr: 16, strided: stridedF32x6x16, transpose: avx2Transpose, addTo: avx2AddTo}
	avx2Narrow   = tileKernel[float32]{name: "avx2-8x8", mr: 8, nr: 8, strided: stridedF32x8x8, transpose: avx2Transpose, addTo: avx2AddTo}
	avx2Odd      = tileKernel[float32]{name: "avx2-4x24", mr: 4, nr: 24, strided: stridedF32x4x24, transpose: avx2Transpose, addTo: avx2AddTo}
	avx2Tile64   = tileKernel[float64]{name: "avx2-6x8", mr: 6, nr: 8, strided: stridedF64x6x8, transpose: goTranspose[float64], addTo: goAddTo[float64]}
	avx512Tile   = tileKernel[float32]{name: "avx512-8x48", mr: 8, nr: 48, piece: 8, packed: packedF32x8x48, transpose: avx2Transpose}
	avx512Slim   = tileKernel[float32]{name: "avx512-24x16", mr: 24, nr: 16, piece: 8, packed: packedF32x24x16, transpose: avx2Transpose}
	avx512Row    = tileKernel[float32]{name: "avx512-8x32", mr: 8, nr: 32, strided: stridedF32x8x32, transpose: avx2Transpose, addTo: avx2AddTo}
	avx512Half   = tileKernel[float32]{name: "avx512-8x16", mr: 8, nr: 16, strided: stridedF32x8x16, transpose: avx2Transpose, addTo: avx2AddTo}
	avx512BF16   = tileKernel[float32]{name: "avx512-bf16-14x32", mr: 14, nr: 32, piece: 8, packed: packedBF16x14x32, transpose: avx2Transpose, pairs: true}
	avx512Row64  = tileKernel[float64]{name: "avx512-8x16", mr: 8, nr: 16, strided: stridedF64x8x16, transpose: goTranspose[float64], addTo: goAddTo[float64]}
	avx512Half64 = tileKernel[float64]{name: "avx512-8x8", mr: 8, nr: 8, strided: stridedF64x8x8, transpose: goTranspose[float64], addTo: goAddTo[float64]}
	amxBF16      = tileKernel[float32]{name: "amx-bf16-32x32", mr: 32, nr: 32, piece: 16, packed: packedAMX, transpose: avx2Transpose, pairs: true}
)
