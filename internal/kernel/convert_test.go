package kernel_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// half decodes sign, exponent and fraction of a 16-bit float.
func half(h uint16, expBits int) float64 {
	fracBits := 15 - expBits
	sign := 1.0
	if h>>15 != 0 {
		sign = -1
	}
	exp := int(h>>fracBits) & (1<<expBits - 1)
	frac := float64(h & (1<<fracBits - 1))
	bias := 1<<(expBits-1) - 1
	switch {
	case exp == 1<<expBits-1 && frac != 0:
		return math.NaN()
	case exp == 1<<expBits-1:
		return math.Inf(int(sign))
	case exp == 0:
		return sign * math.Ldexp(frac, 1-bias-fracBits)
	}
	return sign * math.Ldexp(1+math.Ldexp(frac, -fracBits), exp-bias)
}

var formats = []struct {
	name    string
	expBits int
	widen   func(dst []float32, src []byte)
	narrow  func(dst []byte, src []float32)
}{
	{"bf16", 8, kernel.BF16ToF32, kernel.F32ToBF16},
	{"f16", 5, kernel.F16ToF32, kernel.F32ToF16},
}

// TestWiden decodes every 16-bit pattern, and rounds it back to itself.
func TestWiden(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, f := range formats {
			src, back, dst := make([]byte, 1<<17), make([]byte, 1<<17), make([]float32, 1<<16)
			for h := range 1 << 16 {
				binary.LittleEndian.PutUint16(src[2*h:], uint16(h))
			}
			f.widen(dst, src)
			f.narrow(back, dst)
			for h, x := range dst {
				want := half(uint16(h), f.expBits)
				if !testkit.Near(float64(x), want, 0, 0) || math.Signbit(float64(x)) != (h>>15 != 0) {
					t.Fatalf("%s %04x is %v, want %v", f.name, h, x, want)
				}
				if b := binary.LittleEndian.Uint16(back[2*h:]); b != uint16(h) && !(x != x && half(b, f.expBits) != half(b, f.expBits)) {
					t.Fatalf("%s %04x comes back as %04x", f.name, h, b)
				}
			}
		}
	})
}

// TestNarrow rounds numbers around every boundary: a value, the middle to the
// next one, and both neighbours of the middle.
func TestNarrow(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, f := range formats {
			limit := uint16(1 << (15 - f.expBits) * (1<<f.expBits - 1)) // infinity
			var src []float32
			var want []uint16
			for h := range limit {
				lo, hi := half(h, f.expBits), half(h+1, f.expBits)
				if h+1 == limit {
					hi = lo + (lo - half(h-1, f.expBits))
				}
				mid := float32((lo + hi) / 2)
				even := h + h&1
				src = append(src, float32(lo), mid, math.Nextafter32(mid, 0), math.Nextafter32(mid, inf), -mid)
				want = append(want, h, even, h, h+1, even|0x8000)
			}
			src = append(src, inf, -inf, 3e38, nan)
			top := limit
			if f.expBits == 8 { // 3e38 is finite in bf16
				top = uint16(math.Float32bits(3e38) >> 16)
				if math.Float32bits(3e38)&0xffff > 0x8000 {
					top++
				}
			}
			want = append(want, limit, limit|0x8000, top)
			dst := make([]byte, 2*len(src))
			f.narrow(dst, src)
			for i, w := range want {
				if got := binary.LittleEndian.Uint16(dst[2*i:]); got != w {
					t.Fatalf("%s of %v (%08x) is %04x, want %04x", f.name, src[i], math.Float32bits(src[i]), got, w)
				}
			}
			if h := binary.LittleEndian.Uint16(dst[2*len(want):]); !math.IsNaN(half(h, f.expBits)) {
				t.Errorf("%s of NaN is %04x", f.name, h)
			}
			for _, n := range lengths() {
				x := randn(n+1, 3)[1:]
				out, guard := testkit.Guarded[byte](t, 2*n, 1)
				f.narrow(out, x)
				guard()
				wide, guard := testkit.Guarded[float32](t, n, 1)
				f.widen(wide, out)
				guard()
				for i := range wide {
					if !testkit.Near(float64(wide[i]), float64(x[i]), 1e-7, math.Ldexp(1, f.expBits-16)) {
						t.Fatalf("%s: element %d of %d: %v became %v", f.name, i, n, x[i], wide[i])
					}
				}
			}
		}
	})
}

func TestInt8Rows(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 15, 16, 37, 384} {
			x := randn(n, 3)
			q, y := make([]int8, n), make([]float32, n)
			s := kernel.F32ToInt8(q, x)
			if want := kernel.MaxAbs(x) / 127; s != want {
				t.Fatalf("%d elements: scale %v, want %v", n, s, want)
			}
			kernel.Int8ToF32(y, q, s)
			for i, v := range y {
				if v != float32(q[i])*s || math.Abs(float64(v)-float64(x[i])) > 0.5001*float64(s) {
					t.Fatalf("%d elements: %v becomes %d and %v, scale %v", n, x[i], q[i], v, s)
				}
			}
		}
	})
}
