// Package kernel holds all arithmetic that has to be fast on a CPU: matrix
// products, activations, normalisation, dropout, the optimizer's update and
// conversions between dtypes. Every operation exists as plain Go, which is its
// reference, and most also as AVX2, AVX-512 or AMX assembly for amd64 or NEON
// assembly for arm64, written by the generators in _asm.
//
// # Words
//
// A path is one set of implementations: "go", "neon", "avx2", "avx512" or "amx". The best one
// that the CPU offers is chosen at start; [Selected] names it, [Use] switches
// it for tests. On an "avx512" machine only the matrix products are 512 bits
// wide; everything else uses the AVX2 versions. "amx" is "avx512" with products
// of bf16 in tiles.
//
// A tile is the piece of a product that one call of a microkernel computes in
// registers; a panel is a strip of B as wide as a tile, stored so that the
// microkernel reads it in sequence.
//
// # Conventions
//
// Matrices are row-major with a row stride (lda, ldb, ldc) counted in
// elements. Weights are applied from the right, y = x·W, with W (in, out).
//
// Results never depend on the number of threads: the inner dimension of a
// product is never divided among them, and where a tile begins depends on the
// sizes alone. They do depend on the path: AVX2 adds in another order than
// plain Go does.
//
// Elementwise functions want slices of equal length and panic otherwise. dst
// may be the same slice as a source, but must not overlap it partially.
// Nothing here returns an error: wrong shapes are the caller's mistake and
// panic.
package kernel

//go:generate go -C _asm run . -out ../asm_amd64.s -stubs ../asm_amd64.go -pkg kernel
//go:generate go -C _asm run ./neon -out ../neon_arm64.s -stubs ../neon_arm64.go -pkg kernel
