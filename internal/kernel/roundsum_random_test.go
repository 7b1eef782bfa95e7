package kernel_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// TestSplitMix: the bits are those of the definition (Steele, Lea and Flood 2014, mix64 of
// the sequence with the golden gamma), whose first numbers for seed 1234567 are known.
func TestSplitMix(t *testing.T) {
	const golden = 0x9E3779B97F4A7C15
	mix := func(z uint64) uint64 {
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return z ^ z>>31
	}
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423} {
		if got := mix(1234567 + uint64(i+1)*golden); got != want {
			t.Fatalf("number %d is %d, want %d", i, got, want)
		}
	}
	kerneltest.ForEach(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		for n := range 70 {
			all := make([]uint32, n+16)
			dst := all[n%8:][:n]
			at, shift, mask := r.Uint64(), uint(r.IntN(33)), r.Uint32()>>r.IntN(20)
			kernel.SplitMix(dst, at, shift, mask)
			for i, x := range all {
				if x != 0 && (i < n%8 || i >= n%8+n) {
					t.Fatalf("n %d: written at %d", n, i-n%8)
				}
			}
			for i, got := range dst {
				if want := uint32(mix(at+uint64(i)*golden)>>shift) & mask; got != want {
					t.Fatalf("n %d, shift %d: number %d is %#x, want %#x", n, shift, i, got, want)
				}
			}
		}
	})
}

// randomFormat is what AddRandom16 rounds to, in bits of a float64.
type randomFormat struct {
	*roundFormat
	dtype      tensor.DType
	drop       uint
	tiny, huge float64
}

var randomFormats = []randomFormat{
	{&roundFormats[0], tensor.BF16, 45, 0x1p-126, 0x1.fep127},
	{&roundFormats[1], tensor.F16, 42, 0x1p-14, 65504},
}

// TestAddRandom16: whatever the error within the bounds and the bits that are not at hand,
// elements that are not in doubt are the sum with the random bits added, cut off; few are in
// doubt; guards and sums.
func TestAddRandom16(t *testing.T) {
	for _, f := range randomFormats {
		for k, from := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
			base := *f.roundFormat
			base.base = &roundFormats[k]
			f.roundFormat = &base
			t.Run(from.String()+" to "+f.name, func(t *testing.T) {
				kerneltest.ForEach(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(1, 2))
					for n := range 70 {
						for round := range 10 {
							testAddRandom(t, &f, from, r, n, round)
						}
					}
				})
			})
		}
	}
}

func testAddRandom(t *testing.T, f *randomFormat, from tensor.DType, r *rand.Rand, n, round int) {
	src, checkSrc := testkit.Guarded[byte](t, f.base.width*n, round%8)
	dst, check := testkit.Guarded[byte](t, f.width*n, round%5)
	doubt, checkDoubt := testkit.Guarded[uint8](t, (n+7)/8, round%3)
	for i := range doubt {
		doubt[i] = uint8(r.Uint32())
	}
	bound := []float64{0x1p-100, 1e-9}[round%2]
	d, d32, random := make([]float64, n), make([]float32, n), make([]uint32, n)
	for i := range d {
		var c uint32
		c, d[i] = f.element(r)
		d32[i] = float32(d[i])
		f.base.put(src, i, c)
		random[i] = r.Uint32() >> (32 - (f.drop - 29))
	}
	var s, want kernel.RoundSums
	kernel.AddRandom16(f.dtype, from, dst, src, d32, random, float32(bound), float32(scaleFor(d)), doubt, &s)
	check()
	checkSrc()
	checkDoubt()
	for i, x := range d {
		v := f.base.from(f.base.get(src, i))
		bits := uint64(random[i]) << 29
		if doubt[i/8]>>(i%8)&1 != 0 {
			e := 0x1p-20*(math.Abs(v)+math.Abs(x)) + 4*bound
			if a := math.Abs(v + x); a-e > 2*f.tiny && a+e < f.huge/2 && f.cut(a-e, bits) == f.cut(a+e, bits+1<<29) {
				t.Fatalf("n %d: %v + %v is in doubt", n, v, x)
			}
			continue
		}
		got := f.from(f.get(dst, i))
		e := bound + f.rel*math.Abs(x)
		for _, sum := range []float64{v + x - e, v + x, v + x + e} {
			for _, more := range []uint64{0, 1<<29 - 1} {
				want := math.Copysign(f.cut(math.Abs(sum), bits|more), sum)
				if got != want || math.Abs(sum) < f.tiny || math.Abs(want) >= f.huge {
					t.Fatalf("n %d element %d: %v + %v with %#x gives %v, want %v", n, i, v, x, bits, got, want)
				}
			}
		}
		e = got - v - x
		want.SqErr += e * e
		want.SqDelta += x * x
		want.MaxErr = max(want.MaxErr, math.Abs(e))
		if got == f.from(f.to(v)) {
			want.Same++
		}
		if x == 0 {
			want.Zero++
		}
	}
	nearSums(t, n, s, want, 0x1p-22/scaleFor(d)*float64(n))
}

// cut adds the random bits to the magnitude and cuts it off.
func (f *randomFormat) cut(a float64, bits uint64) float64 {
	return math.Float64frombits((math.Float64bits(a) + bits) &^ (1<<f.drop - 1))
}

// nearSums compares sums that are off by small, or by a millionth.
func nearSums(t *testing.T, n int, got, want kernel.RoundSums, small float64) {
	t.Helper()
	near := func(got, want float64) bool { return testkit.Near(got, want, small, 1e-6) }
	if got.Same != want.Same || got.Zero != want.Zero || !near(got.MaxErr, want.MaxErr) ||
		!near(math.Sqrt(got.SqErr), math.Sqrt(want.SqErr)) || !near(math.Sqrt(got.SqDelta), math.Sqrt(want.SqDelta)) {
		t.Fatalf("n %d: sums %+v, want %+v", n, got, want)
	}
}
