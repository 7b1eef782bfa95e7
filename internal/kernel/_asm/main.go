// Command _asm generates the amd64 assembly of package kernel with avo:
//
//	go run . -out ../asm_amd64.s -stubs ../asm_amd64.go -pkg kernel
//
// matmul.go and amx.go emit the microkernels of matrix products, vector.go everything
// else, lanes.go the loops and constants that those share. It is a module of its
// own, so that building kernel needs no avo.
package main

import (
	. "github.com/mmcloughlin/avo/build"
)

func main() {
	ConstraintExpr("amd64,!purego")

	genStrided("stridedF32x6x16", 6, 2, 32, false)
	genStrided("stridedF32x8x8", 8, 1, 32, false)  // for narrow C
	genStrided("stridedF32x4x24", 4, 3, 32, false) // for 24 columns, 72, …
	genStrided("stridedF64x6x8", 6, 2, 32, true)
	genStrided("stridedF32x8x32", 8, 2, 64, false)
	genStrided("stridedF32x8x16", 8, 1, 64, false) // for narrow C and what 32 columns leave over
	genStrided("stridedF64x8x16", 8, 2, 64, true)
	genStrided("stridedF64x8x8", 8, 1, 64, true)
	genPacked(packed{name: "packedF32x8x48", mr: 8, nv: 3})
	genPacked(packed{name: "packedF32x24x16", mr: 24, nv: 1}) // for narrow C
	genPacked(packed{name: "packedBF16x14x32", mr: 14, nv: 2, bf16: true})
	genAMX()

	genMaps()
	genActs()
	genEpilogues()
	genReductions()
	genNorms()
	genAdamW()
	genPhilox()
	genConversions()
	genStats()
	genTranspose()
	genUnpackInt8("unpackInt8AVX2", 16)
	genUnpackInt8("unpackInt8x32AVX2", 32)
	genFeatures()
	emitConsts()
	emitIndex()
	Generate()
}
