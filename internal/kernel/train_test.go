package kernel_test

import (
	"math"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// maskBits is the 16 bits of element i of (seed, stream): Philox 4x32-7, written
// from the paper with 64-bit products.
func maskBits(seed, stream, i uint64) uint32 {
	c := [4]uint64{i / 8 & 0xffffffff, i / 8 >> 32, stream & 0xffffffff, stream >> 32}
	k := [2]uint64{seed & 0xffffffff, seed >> 32}
	for r := uint64(0); r < 7; r++ {
		p, q := 0xD2511F53*c[0], 0xCD9E8D57*c[2]
		c = [4]uint64{q>>32 ^ c[1] ^ (k[0]+r*0x9E3779B9)&0xffffffff, q & 0xffffffff, p>>32 ^ c[3] ^ (k[1]+r*0xBB67AE85)&0xffffffff, p & 0xffffffff}
	}
	return uint32(c[i%8/2]>>(16*(i%2))) & 0xffff
}

// The reference itself against the known answers of the authors' Random123
// library (kat_vectors, philox4x32 7).
func TestPhiloxKnownAnswers(t *testing.T) {
	for i, want := range []uint32{0xb709, 0x5f6f, 0x3f64, 0x0d89, 0x1f81, 0x4f12, 0x0a48, 0x4f73} {
		if got := maskBits(0, 0, uint64(i)); got != want {
			t.Errorf("bits %d of zero is %04x, want %04x", i, got, want)
		}
	}
}

func TestDropout(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		const seed, stream = 0x0123456789abcdef, 0x55667788_11223344
		for _, p := range []float32{0, 1e-6, 0.1, 0.5, 0.999, 1 - 1.0/(1<<24)} {
			threshold := uint32(min(math.Round(float64(p)*(1<<16)), 1<<16-1))
			scale := float32(1 / (1 - float64(threshold)/(1<<16)))
			for _, offset := range []uint64{0, 1, 2, 5, 7, 8, 31, 8*(1<<32-5) + 2, 1<<63 + 1} {
				for _, n := range lengths() {
					src := randn(n, 1)
					if n > 5 {
						src[5] = nan // a dropped NaN must be gone
					}
					dst, guard := testkit.Guarded[float32](t, n, 1)
					kernel.Dropout(dst, src, p, seed, stream, offset)
					guard()
					for i := range n {
						want := src[i] * scale
						if maskBits(seed, stream, offset+uint64(i)) < threshold {
							want = 0
						}
						if !testkit.Near(float64(dst[i]), float64(want), 0, 0) {
							t.Fatalf("p %v offset %d: element %d of %d is %v, want %v", p, offset, i, n, dst[i], want)
						}
					}
				}
			}
		}
	})
}

// TestAdamW takes 20 steps and compares with the published update in float64.
func TestAdamW(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range lengths() {
			const lr, beta1, beta2, eps, decay, gradScale = 1e-2, 0.9, 0.999, 1e-8, 0.1, 0.5
			w, guardW := testkit.Guarded[float32](t, n, 1)
			m, guardM := testkit.Guarded[float32](t, n, 2)
			v, guardV := testkit.Guarded[float32](t, n, 3)
			copy(w, randn(n, 1))
			W, M, V := testkit.Float64s(w), make([]float64, n), make([]float64, n)
			for step := 1; step <= 20; step++ {
				g := randn(n, uint64(100+step))
				bias1, bias2 := 1-math.Pow(beta1, float64(step)), 1-math.Pow(beta2, float64(step))
				kernel.AdamW(w, g, m, v, lr, beta1, beta2, eps, decay, float32(bias1), float32(bias2), gradScale)
				for i := range n {
					d := gradScale * float64(g[i])
					M[i] = beta1*M[i] + (1-beta1)*d
					V[i] = beta2*V[i] + (1-beta2)*d*d
					W[i] = W[i]*(1-lr*decay) - lr*(M[i]/bias1)/(math.Sqrt(V[i]/bias2)+eps)
				}
			}
			guardW()
			guardM()
			guardV()
			// float32(0.999) is off by 1.3e-8, 1.3e-5 of 1-beta2.
			testkit.Compare(t, "w", w, W, 4e-6, 4e-6)
			testkit.Compare(t, "m", m, M, 1e-6, 1e-5)
			testkit.Compare(t, "v", v, V, 1e-9, 3e-5)
		}
	})
}
