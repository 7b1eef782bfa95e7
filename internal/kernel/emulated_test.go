package kernel

import (
	"math"
	"unsafe"
)

// The AVX-512 microkernels run on few machines. Their contract (layouts of A
// and B, masks, rows past the end) is therefore also kept by these functions in
// plain Go, so that all tests run the packing and the blocking around them
// everywhere. They appear as two more paths of the test binary.
func init() {
	tile := func(mr, nr int, pairs bool) *tileKernel[float32] {
		return &tileKernel[float32]{name: "emulated", mr: mr, nr: nr, pairs: pairs, packed: emulate(mr, nr, pairs),
			transpose: goTranspose[float32], addTo: goAddTo[float32]}
	}
	plain := goPath
	plain.name, plain.f32, plain.slim = "emulated-avx512", tile(8, 48, false), tile(24, 16, false)
	bf16 := plain
	bf16.name, bf16.bf16 = "emulated-avx512-bf16", tile(14, 32, true)
	present = append(present, &plain, &bf16)
}

func emulate(mr, nr int, pairs bool) func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
	return func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
		sum := make([]float32, mr*nr)
		as, bs := unsafe.Slice(a, k8*8*mr), unsafe.Slice(b, k8*8*nr)
		for k := range 8 * k8 {
			for i := range min(m, mr) {
				x := as[k/8*mr*8+i*8+k%8]
				row := sum[i*nr:][:nr]
				if !pairs {
					goAxpy(x, bs[k*nr:][:nr], row)
					continue
				}
				for j, y := range bs[k*nr:][:nr] {
					row[j] += low(x)*low(y) + high(x)*high(y)
				}
			}
		}
		for i := range min(m, mr) {
			for j := range nr {
				if mask>>j&1 == 0 {
					continue
				}
				if p := at(c, i*ldc+j); acc != 0 {
					*p += sum[i*nr+j]
				} else {
					*p = sum[i*nr+j]
				}
			}
		}
	}
}

func low(x float32) float32  { return math.Float32frombits(math.Float32bits(x) << 16) }
func high(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ 0xffff) }
