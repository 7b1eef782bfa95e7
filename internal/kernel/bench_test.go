package kernel_test

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

func perNano(b *testing.B, work float64, unit string) {
	b.ReportMetric(work*float64(b.N)/float64(b.Elapsed().Nanoseconds()), unit)
}

func filled(n int, seed uint64) []float32 {
	s := kernel.Alloc(n)
	copy(s, randn(n, seed))
	return s
}

// shapes of RoBERTa-base's linear layers: m, k, n.
var denseShapes = [][3]int{{2048, 768, 768}, {2048, 768, 3072}, {2048, 3072, 768}, {512, 768, 768}, {32, 768, 3072}}

func BenchmarkPacked(b *testing.B) {
	for _, threads := range []int{1, 2} {
		pool := kernel.NewPool(threads)
		defer pool.Close()
		for _, s := range denseShapes {
			m, k, n := s[0], s[1], s[2]
			a, w, c := filled(m*k, 1), filled(k*n, 2), filled(m*n, 3)
			bias, res := filled(n, 4), filled(m*n, 5)
			load := func(dst []float32, row int) { copy(dst, w[row*n:]) }
			packs := []struct {
				name string
				b    *kernel.PackedB
				e    *kernel.Epilogue
			}{
				{"f32", kernel.PackB(pool, k, n, w, n, false), nil},
				{"f32-gelu", kernel.PackB(pool, k, n, w, n, false), &kernel.Epilogue{Bias: bias, Act: kernel.ActGELU}},
				{"f32-bias-res", kernel.PackB(pool, k, n, w, n, false), &kernel.Epilogue{Bias: bias, Residual: res, LdRes: n}},
				{"bf16", kernel.PackBBF16(pool, k, n, false, load), nil},
				{"int8", kernel.PackBInt8(pool, k, n, false, load), nil},
			}
			for _, p := range packs {
				b.Run(fmt.Sprintf("%s/%dT/%s", p.name, threads, testkit.Shape(m, k, n)), func(b *testing.B) {
					for b.Loop() {
						p.b.Mul(pool, m, a, k, c, n, p.e)
					}
					perNano(b, 2*float64(m*k*n), "GFLOP/s")
				})
				p.b.Free()
			}
			for _, x := range [][]float32{a, w, c, bias, res} {
				kernel.Free(x)
			}
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	for _, c := range []struct {
		name           string
		transA, transB bool
		m, n, k        int
	}{
		{"dense", false, false, 2048, 768, 768}, {"dense-tb", false, true, 2048, 768, 768}, {"dense-ta", true, false, 768, 768, 2048},
		{"xA", false, false, 2048, 4, 768}, {"xA", false, false, 2048, 8, 768}, {"xA", false, false, 2048, 16, 768}, {"xA", false, false, 2048, 64, 768},
		{"hB", false, false, 2048, 768, 4}, {"hB", false, false, 2048, 768, 8}, {"hB", false, false, 2048, 768, 16}, {"hB", false, false, 2048, 768, 64},
		{"dA", true, false, 768, 4, 2048}, {"dA", true, false, 768, 8, 2048}, {"dA", true, false, 768, 16, 2048}, {"dA", true, false, 768, 64, 2048},
		{"dB", true, false, 4, 768, 2048}, {"dB", true, false, 8, 768, 2048}, {"dB", true, false, 16, 768, 2048}, {"dB", true, false, 64, 768, 2048},
		{"dh=dyBt", false, true, 2048, 8, 768}, {"dx=dhAt", false, true, 2048, 768, 8},
	} {
		for _, threads := range []int{1, 2} {
			pool := kernel.NewPool(threads)
			defer pool.Close()
			x, y, z := filled(c.m*c.k, 1), filled(c.k*c.n, 2), filled(c.m*c.n, 3)
			lda, ldb := c.k, c.n
			if c.transA {
				lda = c.m
			}
			if c.transB {
				ldb = c.k
			}
			b.Run(fmt.Sprintf("%s/%dT/%s", c.name, threads, testkit.Shape(c.m, c.k, c.n)), func(b *testing.B) {
				for b.Loop() {
					kernel.Gemm(pool, c.transA, c.transB, c.m, c.n, c.k, 1, x, lda, y, ldb, 0, z, c.n)
				}
				perNano(b, 2*float64(c.m*c.n*c.k), "GFLOP/s")
			})
		}
	}
}

// BenchmarkAttention are the products of one head on one thread: scores q·kᵀ,
// p·v, and the two of the backward pass that transpose p. Heads are slices of
// rows of 768 elements.
func BenchmarkAttention(b *testing.B) {
	for _, d := range []int{32, 64, 128} {
		for _, l := range []int{16, 64, 128, 512} {
			rows := min(l, 64)
			const ld = 768
			q, k, s := filled(l*ld, 1), filled(l*ld, 2), filled(rows*l, 3)
			for _, c := range []struct {
				name string
				f    func()
			}{
				{"qk", func() { kernel.Gemm(nil, false, true, rows, l, d, 1, q, ld, k, ld, 0, s, l) }},
				{"pv", func() { kernel.Gemm(nil, false, false, rows, d, l, 1, s, l, k, ld, 0, q, ld) }},
				{"ptdo", func() { kernel.Gemm(nil, true, false, l, d, rows, 1, s, l, k, ld, 1, q, ld) }},
			} {
				b.Run(fmt.Sprintf("%s/d%d/len%d", c.name, d, l), func(b *testing.B) {
					for b.Loop() {
						c.f()
					}
					perNano(b, 2*float64(rows*l*d), "GFLOP/s")
				})
			}
		}
	}
}

func BenchmarkGemmF64(b *testing.B) {
	for _, threads := range []int{1, 2} {
		pool := kernel.NewPool(threads)
		defer pool.Close()
		const n = 768
		x, y, z := make([]float64, n*n), make([]float64, n*n), make([]float64, n*n)
		for i := range x {
			x[i], y[i] = float64(i%13)-6, float64(i%11)-5
		}
		for _, trans := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dT/%d/transB=%v", threads, n, trans), func(b *testing.B) {
				for b.Loop() {
					kernel.GemmF64(pool, false, trans, n, n, n, 1, x, n, y, n, 0, z, n)
				}
				perNano(b, 2*n*n*n, "GFLOP/s")
			})
		}
	}
}

func BenchmarkVector(b *testing.B) {
	const n = 3072
	x, y, z, w := filled(n, 1), filled(n, 2), filled(n, 3), filled(n, 4)
	half := make([]byte, 2*n)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"exp", func() { kernel.Exp(y, x) }}, {"expsum", func() { kernel.ExpSum(y, x, 1) }}, {"tanh", func() { kernel.Tanh(y, x) }},
		{"gelu", func() { kernel.ActForward(kernel.ActGELU, y, x) }}, {"gelu'", func() { kernel.ActBackward(kernel.ActGELU, y, z, x) }},
		{"gelu_tanh", func() { kernel.ActForward(kernel.ActGELUTanh, y, x) }}, {"gelu_tanh'", func() { kernel.ActBackward(kernel.ActGELUTanh, y, z, x) }},
		{"silu", func() { kernel.ActForward(kernel.ActSiLU, y, x) }}, {"silumul'", func() { kernel.SiLUMulBackward(y, z, w, x, w) }},
		{"add", func() { kernel.Add(y, x, z) }}, {"axpy", func() { kernel.Axpy(0.5, x, y) }}, {"dot", func() { kernel.Dot(x, y) }}, {"sum", func() { kernel.Sum(x) }},
		{"max", func() { kernel.Max(x) }}, {"stats", func() { kernel.Stats(x) }},
		{"dropout", func() { kernel.Dropout(y, x, 0.1, 1, 2, 0) }}, {"adamw", func() { kernel.AdamW(y, x, z, w, 1e-3, .9, .999, 1e-8, .01, .5, .5, 1) }},
		{"layernorm", func() { kernel.LayerNorm(y, x, z[:768], w[:768], 1e-5, 4, 768, nil, nil) }},
		{"layernorm'", func() { kernel.LayerNormBackward(y, z, x, w[:768], x[:4], w[:4], 4, 768, nil, nil) }},
		{"bf16->f32", func() { kernel.BF16ToF32(y, half) }}, {"f32->bf16", func() { kernel.F32ToBF16(half, x) }},
		{"f16->f32", func() { kernel.F16ToF32(y, half) }}, {"f32->f16", func() { kernel.F32ToF16(half, x) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.f()
			}
			perNano(b, n, "elem/ns")
		})
	}
}

func BenchmarkPool(b *testing.B) {
	pool := kernel.NewPool(2)
	defer pool.Close()
	for b.Loop() {
		pool.Run(2, func(_, _ int) {})
	}
}
