package kernel_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

var packedShapes = [][3]int{ // m, k, n
	{1, 1, 1}, {1, 16, 16}, {5, 9, 7}, {6, 8, 48}, {13, 70, 33}, {24, 100, 16}, {33, 65, 100}, {130, 40, 97}, {7, 900, 50}, {200, 800, 20}, {3, 0, 5},
}

// bf16 is x rounded to bfloat16.
func bf16(x float32) float64 {
	b := make([]byte, 2)
	kernel.F32ToBF16(b, []float32{x})
	return float64(math.Float32frombits((uint32(b[0]) | uint32(b[1])<<8) << 16))
}

func TestPackedMul(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) { testPackedMul(t) })
}

func testPackedMul(t *testing.T) {
	pool := kernel.NewPool(3)
	defer pool.Close()
	for _, s := range packedShapes {
		m, k, n := s[0], s[1], s[2]
		lda, ldc := k+3, n+2
		a := randn(m*lda+1, 1)[1:]
		b := randn(k*n, 2)
		bt := make([]float32, len(b))
		for i := range k {
			for j := range n {
				bt[j*k+i] = b[i*n+j]
			}
		}
		plain := product(false, false, m, n, k, a, lda, b, n)
		a16, b16, b8 := make([]float64, len(a)), make([]float64, len(b)), make([]float64, len(b))
		for i, v := range a {
			a16[i] = bf16(v)
		}
		for i, v := range b {
			b16[i] = bf16(v)
		}
		for j := range n {
			var scale float32
			for i := range k {
				scale = max(scale, float32(math.Abs(float64(b[i*n+j])))/127)
			}
			for i := range k {
				if q := math.RoundToEven(float64(b[i*n+j]) / float64(scale)); math.Abs(q) > 127 {
					t.Fatalf("quantum %v", q)
				} else {
					b8[i*n+j] = q * float64(scale)
				}
			}
		}
		rounded := product(false, false, m, n, k, a16, lda, b16, n)
		halves := product(false, false, m, n, k, testkit.Float64s(a), lda, b16, n)
		bytes := product(false, false, m, n, k, testkit.Float64s(a), lda, b8, n)
		again, againT := make([]float32, 7), []float32(nil) // too short, or not there
		row := func(dst []float32, i int) { copy(dst, b[i*n:][:n]) }
		col := func(dst []float32, j int) { copy(dst, bt[j*k:][:k]) }
		for _, p := range []struct {
			name string
			b    *kernel.PackedB
			want []float64
		}{
			{"f32 plain", kernel.PackB(pool, k, n, b, n, false), plain},
			{"transposed", kernel.PackB(pool, k, n, bt, k, true), plain},
			{"again", kernel.RepackB(&again, pool, k, n, b, n, false), plain},
			{"again, transposed", kernel.RepackB(&againT, pool, k, n, bt, k, true), plain},
			{"bf16", kernel.PackBBF16(pool, k, n, false, row), rounded},
			{"bf16 transposed", kernel.PackBBF16(pool, k, n, true, col), rounded},
			{"bf16 stored", kernel.PackBStoredBF16(pool, k, n, false, row), halves},
			{"bf16 stored transposed", kernel.PackBStoredBF16(pool, k, n, true, col), halves},
			{"int8", kernel.PackBInt8(pool, k, n, false, row), bytes},
			{"int8 transposed", kernel.PackBInt8(pool, k, n, true, col), bytes},
		} {
			checkPacked(t, fmt.Sprintf("%s %s", p.name, testkit.Shape(m, k, n)), pool, p.b, m, a, lda, ldc, p.want)
			if slices.Contains([]string{"f32 plain", "transposed", "again", "again, transposed"}, p.name) {
				got := make([]float32, n)
				for i := range k {
					p.b.Row(got, i)
					testkit.EqualBits(t, p.name+": a row", got, b[i*n:][:n])
				}
			}
			p.b.Free()
		}
	}
}

// checkPacked multiplies with no epilogue, with each activation and with
// everything at once, on three threads and on one.
func checkPacked(t *testing.T, name string, pool *kernel.Pool, b *kernel.PackedB, m int, a []float32, lda, ldc int, want []float64) {
	t.Helper()
	n := b.N
	tol := testkit.DotTolerance(b.K, 1.5) + 2e-6
	bias, res, old := randn(n, 4), randn(m*(n+1), 5), randn(m*ldc, 6)
	for i := range 3 * len(activations) {
		if name[:4] != "f32 " && i != 0 && i != len(activations)+1 && i != 2*len(activations)+1 {
			continue // one with everything is enough for the other formats
		}
		act := activations[i%len(activations)]
		full := i >= len(activations)    // bias, pre, residual and accumulation too
		deriv := i >= 2*len(activations) // with the derivative for pre, and a factor for the residual
		e := &kernel.Epilogue{Act: act.act}
		if i == 0 {
			e = nil
		}
		var pre []float32
		guardPre := func() {}
		if full {
			pre, guardPre = testkit.Guarded[float32](t, m*n, 0)
			e.Bias, e.Pre, e.LdPre, e.Residual, e.LdRes, e.Accumulate = bias, pre, n, res, n+1, true
		}
		if deriv {
			e.Slope, e.Factor, e.LdFactor = true, res, n+1
			if act.act != kernel.ActReLU { // once with all of them
				e.Residual = nil
			}
		}
		c, guard := testkit.Guarded[float32](t, m*ldc, 1)
		copy(c, old)
		b.Mul(pool, m, a, lda, c, ldc, e)
		guard()
		guardPre()
		for r := range m {
			for j := range ldc {
				got, w, scale := float64(c[r*ldc+j]), float64(old[r*ldc+j]), 1.
				if j < n {
					x := want[r*n+j]
					if full {
						x += w + float64(bias[j])
						p := x
						if deriv && act.df != nil {
							p = act.df(x)
						} else if deriv {
							p = slope(act.f)(x)
						}
						// Where ReLU bends, the side depends on rounding.
						bend := deriv && act.act == kernel.ActReLU && math.Abs(x) < tol
						if !bend && !testkit.Near(float64(pre[r*n+j]), p, 1.2*tol+2e-6, 0) {
							t.Fatalf("%s: pre of %v (derivative: %v) at %d,%d is %v, want %v", name, act.act, deriv, r, j, pre[r*n+j], p)
						}
					}
					w = act.f(x)
					if deriv {
						w *= float64(res[r*(n+1)+j])
						scale = max(1, math.Abs(float64(res[r*(n+1)+j])))
					}
					if full && e.Residual != nil {
						w += float64(res[r*(n+1)+j])
					}
				} else if got != w {
					t.Fatalf("%s: column %d of C, past N, was written", name, j)
				}
				if !testkit.Near(got, w, scale*1.2*tol+1e-6*math.Abs(w), 0) {
					t.Fatalf("%s, %v, everything %v: C[%d,%d] = %v, want %v", name, act.act, full, r, j, got, w)
				}
			}
		}
		one := append([]float32(nil), old...)
		b.Mul(nil, m, a, lda, one, ldc, e)
		testkit.EqualBits(t, name+" on one thread", one, c)
	}
}

func TestPackedBytes(t *testing.T) {
	load := func(dst []float32, _ int) { clear(dst) }
	const k, n = 768, 768
	f := kernel.PackB(nil, k, n, make([]float32, k*n), n, false).Bytes()
	h := kernel.PackBBF16(nil, k, n, false, load).Bytes()
	b := kernel.PackBInt8(nil, k, n, false, load).Bytes()
	if f != 4*k*n || h != 2*k*n || b != k*n+4*n {
		t.Errorf("768x768 packed takes %d bytes, %d as bf16, %d as int8", f, h, b)
	}
}

func TestMulPanics(t *testing.T) {
	b := kernel.PackB(nil, 4, 4, make([]float32, 16), 4, false)
	c := make([]float32, 8)
	for name, f := range map[string]func(){
		"short A":   func() { b.Mul(nil, 2, make([]float32, 7), 4, c, 4, nil) },
		"short C":   func() { b.Mul(nil, 3, make([]float32, 12), 4, c, 4, nil) },
		"stride":    func() { b.Mul(nil, 2, make([]float32, 8), 3, c, 4, nil) },
		"bias":      func() { b.Mul(nil, 2, make([]float32, 8), 4, c, 4, &kernel.Epilogue{Bias: c}) },
		"pre":       func() { b.Mul(nil, 2, make([]float32, 8), 4, c, 4, &kernel.Epilogue{Pre: c[:3], LdPre: 4}) },
		"gemm":      func() { kernel.Gemm(nil, true, false, 2, 2, 2, 1, c[:3], 2, c, 2, 0, c, 2) },
		"lengths":   func() { kernel.Add(c, c, c[1:]) },
		"dropout":   func() { kernel.Dropout(c, c, 1, 0, 0, 0) },
		"norm":      func() { kernel.RMSNorm(c, c, c, 0, 2, 4, nil) },
		"bytes":     func() { kernel.F32ToBF16(make([]byte, 3), c[:2]) },
		"path":      func() { kernel.Use("abacus") },
		"transpose": func() { kernel.Transpose(c, 1, c, 2, 2, 2) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
