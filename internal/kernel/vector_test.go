package kernel_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// lengths are 0 … 3·width+1 for the widest vectors and some that cut pieces.
func lengths() []int {
	var n []int
	for i := range 50 {
		n = append(n, i)
	}
	return append(n, 127, 1024, 1025, 3071)
}

var (
	nan = float32(math.NaN())
	inf = float32(math.Inf(1))
)

// spread fills x with values of all magnitudes that matter to f.
func spread(x []float32, lo, hi float32, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range x {
		x[i] = lo + (hi-lo)*r.Float32()
		if i%7 == 3 {
			x[i] *= float32(math.Exp(-20 * r.Float64()))
		}
	}
}

// checkMap runs f on guarded, unaligned slices of every length, in place too,
// and compares with ref; the limit is abs·max(1,|x|) + rel·|ref|.
func checkMap(t *testing.T, name string, lo, hi float32, f func(dst, src []float32), ref func(float64) float64, abs, rel float64) {
	t.Helper()
	worst := 0.0
	for _, n := range lengths() {
		for off := range 3 {
			src, guardSrc := testkit.Guarded[float32](t, n, off)
			dst, guardDst := testkit.Guarded[float32](t, n, 2*off)
			spread(src, lo, hi, uint64(n))
			f(dst, src)
			guardSrc()
			guardDst()
			for i, x := range src {
				want := ref(float64(x))
				limit := abs*max(1, math.Abs(float64(x))) + rel*math.Abs(want)
				d := math.Abs(float64(dst[i]) - want)
				if !(d <= limit) {
					t.Fatalf("%s(%v) = %v, want %v: element %d of %d", name, x, dst[i], want, i, n)
				}
				if limit > 0 {
					worst = max(worst, d/limit)
				}
			}
			f(src, src)
			testkit.EqualBits(t, name+" in place", src, dst)
		}
	}
	t.Logf("%s: worst error %.2f of the stated bound", name, worst)
	// A value must not depend on where it stands.
	x := make([]float32, 67)
	spread(x, lo, hi, 5)
	y, one := make([]float32, len(x)), make([]float32, 1)
	f(y, x)
	for i := range x {
		f(one, x[i:i+1])
		testkit.EqualBits(t, fmt.Sprintf("%s of element %d alone", name, i), one, y[i:i+1])
	}
}

func TestTranscendentals(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		checkMap(t, "exp", -87, 88.5, kernel.Exp, math.Exp, 0, 0x1p-22)
		checkMap(t, "exp subnormal", -104, -87, kernel.Exp, math.Exp, 1.5e-45/100, 0x1p-22)
		checkMap(t, "tanh", -12, 12, kernel.Tanh, math.Tanh, 0, 0x1p-21)
		src := []float32{nan, -inf, inf, 89, -200, 0, float32(math.Copysign(0, -1)), 1e38, -1e38}
		dst := make([]float32, len(src))
		kernel.Exp(dst, src)
		testkit.Compare(t, "exp", dst, []float64{math.NaN(), 0, math.Inf(1), math.Inf(1), 0, 1, 1, math.Inf(1), 0}, 0, 0)
		kernel.Tanh(dst, src)
		testkit.Compare(t, "tanh", dst, []float64{math.NaN(), -1, 1, 1, -1, 0, 0, 1, -1}, 0, 0)
	})
}

// activations in float64, written independently of the package.
var activations = []struct {
	act   kernel.Act
	f, df func(x float64) float64
}{
	{kernel.ActNone, func(x float64) float64 { return x }, func(float64) float64 { return 1 }},
	{kernel.ActGELU, func(x float64) float64 { return 0.5 * x * (1 + math.Erf(x/math.Sqrt2)) }, nil},
	{kernel.ActGELUTanh, func(x float64) float64 {
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}, nil},
	{kernel.ActReLU, func(x float64) float64 { return math.Max(x, 0) }, func(x float64) float64 {
		if x > 0 {
			return 1
		}
		return 0
	}},
	{kernel.ActSiLU, func(x float64) float64 { return x / (1 + math.Exp(-x)) }, nil},
	{kernel.ActTanh, math.Tanh, nil},
}

// slope is the central difference of f, good to about 1e-9.
func slope(f func(float64) float64) func(float64) float64 {
	return func(x float64) float64 {
		const h = 1e-5
		return (f(x+h) - f(x-h)) / (2 * h)
	}
}

func TestActivations(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, a := range activations {
			df := a.df
			if df == nil {
				df = slope(a.f)
			}
			checkMap(t, a.act.String(), -12, 12, func(dst, src []float32) { kernel.ActForward(a.act, dst, src) }, a.f, 5e-7, 0)
			checkMap(t, a.act.String()+" gradient", -12, 12, func(dst, src []float32) {
				dy := make([]float32, len(src))
				for i := range dy {
					dy[i] = 1
				}
				kernel.ActBackward(a.act, dst, dy, src)
			}, df, 2e-6, 0)

			dy, pre := randn(37, 1), randn(37, 2)
			want, dx := make([]float64, 37), make([]float32, 37)
			for i := range want {
				want[i] = float64(dy[i]) * df(float64(pre[i]))
			}
			kernel.ActBackward(a.act, dx, dy, pre)
			testkit.Compare(t, a.act.String()+" backward", dx, want, 8e-6, 0)
			kernel.ActBackward(a.act, dy, dy, pre)
			testkit.EqualBits(t, a.act.String()+" backward in place of dy", dy, dx)

			big := []float32{nan, 1e30, -1e30, 3e38, -3e38, 60, -60, 100, -100}
			out, ones := make([]float32, len(big)), []float32{1, 1, 1, 1, 1, 1, 1, 1, 1}
			kernel.ActForward(a.act, out, big)
			for i, x := range big {
				if w := a.f(float64(x)); !testkit.Near(float64(out[i]), w, 1e-6, 1e-6) {
					t.Errorf("%v(%v) = %v, want %v", a.act, x, out[i], w)
				}
			}
			kernel.ActBackward(a.act, out, ones, big)
			for i, x := range big[1:] {
				if !testkit.Near(float64(out[i+1]), math.Round(df(math.Max(-100, math.Min(float64(x), 100)))), 1e-6, 0) {
					t.Errorf("%v'(%v) = %v", a.act, x, out[i+1])
				}
			}
		}
	})
}

func TestGated(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, c := range []struct {
			act      int
			forward  func(dst, gate, up []float32)
			backward func(dgate, dup, dy, gate, up []float32)
		}{{4, kernel.SiLUMul, kernel.SiLUMulBackward}, {2, kernel.GELUTanhMul, kernel.GELUTanhMulBackward}} {
			a := activations[c.act]
			for _, n := range lengths() {
				gate, up, dy := randn(n, 1), randn(n, 2), randn(n, 3)
				dst, g1 := testkit.Guarded[float32](t, n, 1)
				dgate, g2 := testkit.Guarded[float32](t, n, 2)
				dup, g3 := testkit.Guarded[float32](t, n, 3)
				c.forward(dst, gate, up)
				c.backward(dgate, dup, dy, gate, up)
				g1()
				g2()
				g3()
				y, dg, du := make([]float64, n), make([]float64, n), make([]float64, n)
				for i := range n {
					g, u, d := float64(gate[i]), float64(up[i]), float64(dy[i])
					y[i], dg[i], du[i] = a.f(g)*u, d*u*slope(a.f)(g), d*a.f(g)
				}
				testkit.Compare(t, "gated", dst, y, 1e-5, 0)
				testkit.Compare(t, "dgate", dgate, dg, 3e-5, 0)
				testkit.Compare(t, "dup", dup, du, 1e-5, 0)
				c.backward(gate, up, dy, gate, up)
				testkit.EqualBits(t, "dgate in place", gate, dgate)
				testkit.EqualBits(t, "dup in place", up, dup)
			}
		}
	})
}

func TestArithmetic(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range lengths() {
			a, b := randn(n, 1), randn(n, 2)
			dst, guard := testkit.Guarded[float32](t, n, 1)
			want := make([]float64, n)
			check := func(what string, f func(i int) float64) {
				t.Helper()
				guard()
				for i := range want {
					want[i] = f(i)
				}
				testkit.Compare(t, what, dst, want, 1e-30, 0x1p-22)
			}
			A, B := testkit.Float64s(a), testkit.Float64s(b)
			kernel.Add(dst, a, b)
			check("add", func(i int) float64 { return float64(a[i] + b[i]) })
			kernel.Mul(dst, a, b)
			check("mul", func(i int) float64 { return A[i] * B[i] })
			kernel.Scale(0.3, dst)
			check("scale", func(i int) float64 { return A[i] * B[i] * float64(float32(0.3)) })
			copy(dst, b)
			kernel.Axpy(-0.7, a, dst)
			guard()
			for i := range want {
				want[i] = B[i] + float64(float32(-0.7))*A[i]
			}
			testkit.Compare(t, "axpy", dst, want, 1e-6, 0)
		}
	})
}

func TestReductions(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range lengths() {
			x, y := randn(n+1, 1)[1:], randn(n, 2)
			var dot, sum, abs, sq, most float64
			peak := math.Inf(-1)
			for i := range n {
				v := float64(x[i])
				dot += v * float64(y[i])
				sum += v
				abs += math.Abs(v)
				sq += v * v
				most = max(most, math.Abs(v))
				peak = max(peak, v)
			}
			for _, c := range []struct {
				what      string
				got, want float64
				limit     float64
			}{
				{"dot", float64(kernel.Dot(x, y)), dot, 1e-6*math.Abs(dot) + 1e-12*sq},
				{"sum", kernel.Sum(x), sum, abs * float64(n) * 0x1p-53},
				{"sum of squares", kernel.SumSquares(x), sq, sq * float64(n) * 0x1p-53},
				{"max |x|", float64(kernel.MaxAbs(x)), most, 0},
				{"max", float64(kernel.Max(x)), peak, 0},
			} {
				if !testkit.Near(c.got, c.want, c.limit, 0) {
					t.Fatalf("%s of %d elements = %v, want %v", c.what, n, c.got, c.want)
				}
			}
			for i := range min(n, 40) {
				z := append([]float32(nil), x...)
				z[i] = nan
				if v := kernel.Max(z); v == v {
					t.Fatalf("max with a NaN at %d of %d is %v", i, n, v)
				}
				if v := kernel.MaxAbs(z); v == v {
					t.Fatalf("max |x| with a NaN at %d of %d is %v", i, n, v)
				}
			}
		}
	})
}

func TestSoftmax(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range lengths()[1:] {
			x := randn(n, 1)
			if n > 3 {
				x[2] = -inf
			}
			const scale = 0.35
			peak := math.Inf(-1)
			for _, v := range x {
				peak = max(peak, float64(v))
			}
			want, total, lse := make([]float64, n), 0.0, 0.0
			for i, v := range x {
				want[i] = math.Exp(float64(float32(scale)) * (float64(v) - peak))
				total += want[i]
				lse += math.Exp(float64(v))
			}
			row, guard := testkit.Guarded[float32](t, n, 3)
			copy(row, x)
			_, sum := kernel.SoftmaxRow(row, scale)
			guard()
			testkit.Compare(t, "softmax", row, want, 1e-6, 0)
			if !testkit.Near(float64(sum), total, 0, 2e-6) {
				t.Fatalf("sum of %d = %v, want %v", n, sum, total)
			}
			l := kernel.LogSumExp(x)
			if !testkit.Near(float64(l), math.Log(lse), 2e-6, 1e-6) {
				t.Fatalf("log-sum-exp of %d = %v, want %v", n, l, math.Log(lse))
			}
			label := n / 2
			grad, guard := testkit.Guarded[float32](t, n, 1)
			kernel.SoftmaxGrad(grad, x, l, 0.25, label)
			guard()
			for i, v := range x {
				want[i] = 0.25 * math.Exp(float64(v)) / lse
				if i == label {
					want[i] -= 0.25
				}
			}
			testkit.Compare(t, "softmax gradient", grad, want, 1e-6, 0)
		}
		masked := []float32{-inf, -inf, -inf}
		if m, s := kernel.SoftmaxRow(masked, 1); s != 0 || m != -inf || masked[0] != 0 {
			t.Errorf("masked row: max %v sum %v %v", m, s, masked)
		}
		if l := kernel.LogSumExp([]float32{-inf, -inf}); l != -inf {
			t.Errorf("log-sum-exp of -Inf = %v", l)
		}
	})
}

func TestTranspose(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, s := range [][2]int{{1, 1}, {8, 8}, {16, 40}, {7, 9}, {9, 7}, {17, 33}, {64, 4}, {4, 64}} {
			rows, cols := s[0], s[1]
			src := randn(rows*(cols+2), 1)
			dst, guard := testkit.Guarded[float32](t, cols*(rows+3)-3, 1)
			kernel.Transpose(dst, rows+3, src, cols+2, rows, cols)
			guard()
			for i := range rows {
				for j := range cols {
					if dst[j*(rows+3)+i] != src[i*(cols+2)+j] {
						t.Fatalf("%v: element %d,%d is wrong", s, i, j)
					}
				}
			}
		}
	})
}

func TestStats(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range lengths() {
			x := randn(n, 1)
			for i := range x {
				switch i % 11 {
				case 4:
					x[i] = nan
				case 7:
					x[i] = inf
				case 9:
					x[i] = -inf
				}
			}
			want := kernel.NoStatistics()
			for _, v := range x {
				switch {
				case v != v:
					want.NaN++
				case v == inf || v == -inf:
					want.Inf++
				default:
					want.Add(kernel.Statistics{Min: v, Max: v, Sum: float64(v), SumSquares: float64(v) * float64(v)})
				}
			}
			got := kernel.Stats(x)
			if got.Min != want.Min || got.Max != want.Max || got.NaN != want.NaN || got.Inf != want.Inf ||
				!testkit.Near(got.Sum, want.Sum, 1e-10, 0) || !testkit.Near(got.SumSquares, want.SumSquares, 0, 1e-12) {
				t.Fatalf("%d elements: %+v, want %+v", n, got, want)
			}
		}
	})
}
