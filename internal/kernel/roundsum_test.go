package kernel_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// roundFormat is a format that sums are rounded to, for elements by their bits.
type roundFormat struct {
	name  string
	width int
	bits  int // of the mantissa, with the hidden one
	from  func(uint32) float64
	to    func(float64) uint32
	add   func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums)
	rel   float64 // relative error of d that is allowed for
}

var roundFormats = []roundFormat{
	{"bf16", 2, 8, func(c uint32) float64 { return float64(tensor.BF16ToF32(uint16(c))) }, func(x float64) uint32 { return uint32(tensor.F64ToBF16(x)) }, add32(kernel.AddRoundBF16), 0x1p-23},
	{"f16", 2, 11, func(c uint32) float64 { return float64(tensor.F16ToF32(uint16(c))) }, func(x float64) uint32 { return uint32(tensor.F64ToF16(x)) }, add32(kernel.AddRoundF16), 0x1p-23},
	{"f32", 4, 24, func(c uint32) float64 { return float64(math.Float32frombits(c)) }, func(x float64) uint32 { return math.Float32bits(float32(x)) },
		func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
			kernel.AddRoundF32(dst, src, d, bound, scaleFor(d), doubt, s)
		}, 0x1p-52},
}

// add32 calls a function that takes float32 updates.
func add32(f func(dst, src []byte, d []float32, bound, scale float32, doubt []uint8, s *kernel.RoundSums)) func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
	return func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
		d32 := make([]float32, len(d))
		for i, x := range d {
			d32[i] = float32(x)
		}
		f(dst, src, d32, float32(bound), float32(scaleFor(d)), doubt, s)
	}
}

// scaleFor brings the greatest finite number below 1.
func scaleFor(d []float64) float64 {
	var m float64
	for _, x := range d {
		if x-x == 0 {
			m = max(m, math.Abs(x))
		}
	}
	_, e := math.Frexp(m)
	return math.Ldexp(1, -e)
}

func (f *roundFormat) get(b []byte, i int) uint32 {
	if f.width == 2 {
		return uint32(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return binary.LittleEndian.Uint32(b[4*i:])
}

func (f *roundFormat) put(b []byte, i int, c uint32) {
	if f.width == 2 {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(c))
	} else {
		binary.LittleEndian.PutUint32(b[4*i:], c)
	}
}

// element draws a base's element and its update, odd ones too.
func (f *roundFormat) element(r *rand.Rand) (c uint32, d float64) {
	c = f.to(0.02 * r.NormFloat64())
	d = 1e-4 * r.NormFloat64()
	v := f.from(c)
	switch r.IntN(60) {
	case 0:
		d = -v
	case 1: // the middle between v and the next, or close to it
		next := f.from(c + 1)
		d = (next-v)/2 + float64(r.IntN(3)-1)*math.Ldexp(math.Abs(v), -30)
	case 2:
		c = f.to([]float64{math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64}[r.IntN(4)])
	case 3:
		d = []float64{math.Inf(1), math.NaN(), 1e36, 7e4, 3.4e38}[r.IntN(5)]
	case 4:
		c = f.to(0.02*r.NormFloat64()) & 0x80000000 >> (32 - 8*f.width) // zeros of both signs
	case 5:
		c = uint32(r.IntN(1 << (f.bits - 1))) // subnormal numbers
		d *= f.from(c)
	case 6, 7:
		d = 0
	}
	return c, float64(float32(d))
}

// TestAddRound: whatever the error within the bounds, elements that are not in doubt
// are the exact sum rounded once; few are in doubt; guards and sums.
func TestAddRound(t *testing.T) {
	for _, f := range roundFormats {
		t.Run(f.name, func(t *testing.T) {
			kerneltest.ForEach(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				for n := range 70 {
					for round := range 10 {
						testAddRound(t, &f, r, n, round)
					}
				}
			})
		})
	}
}

func testAddRound(t *testing.T, f *roundFormat, r *rand.Rand, n, round int) {
	src, checkSrc := testkit.Guarded[byte](t, f.width*n, round%8)
	dst, check := testkit.Guarded[byte](t, f.width*n, round%5)
	doubt, checkDoubt := testkit.Guarded[uint8](t, (n+7)/8, round%3)
	for i := range doubt {
		doubt[i] = uint8(r.Uint32())
	}
	bound := []float64{0x1p-100, 1e-9}[round%2]
	d := make([]float64, n)
	for i := range d {
		var c uint32
		c, d[i] = f.element(r)
		f.put(src, i, c)
	}
	var s, want kernel.RoundSums
	f.add(dst, src, d, bound, doubt, &s)
	check()
	checkSrc()
	checkDoubt()
	inf := f.to(math.Inf(1))
	for i, x := range d {
		c := f.get(src, i)
		v := f.from(c)
		near, far := f.to(v+x-bound-f.rel*math.Abs(x)), f.to(v+x+bound+f.rel*math.Abs(x))
		if doubt[i/8]>>(i%8)&1 != 0 {
			if e := 0x1p-20*(math.Abs(v)+math.Abs(x)) + 4*bound; f.bits < 24 && v+x != 0 && f.to(v+x-e) == f.to(v+x+e) && f.to(v+x)&inf != inf {
				t.Fatalf("n %d: %v + %v is in doubt", n, v, x)
			}
			continue
		}
		got := f.get(dst, i)
		if got != near || got != far || got&inf == inf {
			t.Fatalf("n %d element %d: %v + %v gives %#x, want %#x to %#x", n, i, v, x, got, near, far)
		}
		e := f.from(got) - v - x
		want.SqErr += e * e
		want.SqDelta += x * x
		want.MaxErr = max(want.MaxErr, math.Abs(e))
		if f.from(got) == v {
			want.Same++
		}
		if x == 0 {
			want.Zero++
		}
	}
	small := 0x1p-22 / scaleFor(d) * float64(n)
	near := func(got, want float64) bool { return testkit.Near(math.Sqrt(got), math.Sqrt(want), small, 1e-6) }
	if s.Same != want.Same || s.Zero != want.Zero || !near(s.MaxErr*s.MaxErr, want.MaxErr*want.MaxErr) || !near(s.SqErr, want.SqErr) || !near(s.SqDelta, want.SqDelta) {
		t.Fatalf("n %d: sums %+v, want %+v", n, s, want)
	}
}

func BenchmarkAddRound(b *testing.B) {
	const n = 512
	r := rand.New(rand.NewPCG(1, 2))
	d32, d := make([]float32, n), make([]float64, n)
	for i := range d {
		d[i] = 1e-4 * r.NormFloat64()
		d32[i] = float32(d[i])
	}
	doubt := make([]uint8, n/8)
	var s kernel.RoundSums
	for _, f := range roundFormats {
		src, dst := make([]byte, f.width*n), make([]byte, f.width*n)
		for i := range d {
			f.put(src, i, f.to(0.02*r.NormFloat64()))
		}
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				switch f.name {
				case "bf16":
					kernel.AddRoundBF16(dst, src, d32, 1e-9, 1, doubt, &s)
				case "f16":
					kernel.AddRoundF16(dst, src, d32, 1e-9, 1, doubt, &s)
				default:
					kernel.AddRoundF32(dst, src, d, 1e-15, 1, doubt, &s)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds()/1e9, "Gelement/s")
		})
	}
}
