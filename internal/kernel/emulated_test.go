package kernel

import (
	"math"
	"unsafe"
)

// The AVX-512 and AMX microkernels run on few machines. Their contract (layouts of A
// and B, masks, rows past the end) and their sizes are therefore also kept by these functions in
// plain Go, so that all tests run the packing and the blocking around them
// everywhere. They appear as more paths of the test binary.
func init() {
	tile := func(mr, nr, piece int, pairs bool) *tileKernel[float32] {
		return &tileKernel[float32]{name: "emulated", mr: mr, nr: nr, piece: piece, pairs: pairs, packed: emulate(mr, nr, piece, pairs),
			transpose: goTranspose[float32], addTo: goAddTo[float32]}
	}
	plain := goPath
	plain.name, plain.f32, plain.slim = "emulated-avx512", tile(8, 48, 8, false), tile(24, 16, 8, false)
	plain.row, plain.half, plain.narrow = emulatedStrided[float32](8, 32), emulatedStrided[float32](8, 16), emulatedStrided[float32](8, 8)
	plain.f64, plain.half64 = emulatedStrided[float64](8, 16), emulatedStrided[float64](8, 8)
	bf16 := plain
	bf16.name, bf16.bf16 = "emulated-avx512-bf16", tile(14, 32, 8, true)
	amx := plain
	amx.name, amx.bf16 = "emulated-amx", tile(32, 32, 16, true)
	present = append(present, &plain, &bf16, &amx)
}

// emulatedStrided is a strided microkernel of mr x nr.
func emulatedStrided[T float](mr, nr int) *tileKernel[T] {
	return &tileKernel[T]{name: "emulated", mr: mr, nr: nr, transpose: goTranspose[T], addTo: goAddTo[T],
		strided: func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
			for j := range nj {
				p := b
				if k > 0 { // else there may be no B
					p = at(b, j*bjs)
				}
				goStrided(k, a, ars, acs, p, brs, 4, at(c, j*nr), ldc, m, nr/4, acc)
			}
		}}
}

func emulate(mr, nr, piece int, pairs bool) func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
	return func(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
		sum := make([]float32, mr*nr)
		as, bs := unsafe.Slice(a, pieces*piece*mr), unsafe.Slice(b, pieces*piece*nr)
		for k := range piece * pieces {
			for i := range min(m, mr) {
				x := as[k/piece*mr*piece+i*piece+k%piece]
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
