package kernel_test

import (
	"encoding/binary"
	"fmt"
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
	rel   float64      // relative error of d that is allowed for
	base  *roundFormat // of src
}

// roundFormats round to the format of their base; roundings are these and those to
// another one.
var roundFormats = []roundFormat{
	{"bf16", 2, 8, func(c uint32) float64 { return float64(tensor.BF16ToF32(uint16(c))) }, func(x float64) uint32 { return uint32(tensor.F64ToBF16(x)) }, add32(tensor.BF16, tensor.BF16), 0x1p-23, nil},
	{"f16", 2, 11, func(c uint32) float64 { return float64(tensor.F16ToF32(uint16(c))) }, func(x float64) uint32 { return uint32(tensor.F64ToF16(x)) }, add32(tensor.F16, tensor.F16), 0x1p-23, nil},
	{"f32", 4, 24, func(c uint32) float64 { return float64(math.Float32frombits(c)) }, func(x float64) uint32 { return math.Float32bits(float32(x)) },
		func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
			kernel.AddRoundF32(dst, src, d, bound, scaleFor(d), doubt, s)
		}, 0x1p-52, nil},
}

var roundings = func() (all []roundFormat) {
	bf16, f16, f32 := &roundFormats[0], &roundFormats[1], &roundFormats[2]
	for _, f := range roundFormats {
		f.base = &f
		all = append(all, f)
	}
	for _, p := range []struct {
		name     string
		to, base *roundFormat
		add      [2]tensor.DType
	}{
		{"f32 to bf16", bf16, f32, [2]tensor.DType{tensor.BF16, tensor.F32}},
		{"f32 to f16", f16, f32, [2]tensor.DType{tensor.F16, tensor.F32}},
		{"f16 to bf16", bf16, f16, [2]tensor.DType{tensor.BF16, tensor.F16}},
		{"bf16 to f16", f16, bf16, [2]tensor.DType{tensor.F16, tensor.BF16}},
	} {
		f := *p.to
		f.name, f.base, f.add = p.name, p.base, add32(p.add[0], p.add[1])
		all = append(all, f)
	}
	return all
}()

// add32 calls AddRound16.
func add32(to, from tensor.DType) func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
	return func(dst, src []byte, d []float64, bound float64, doubt []uint8, s *kernel.RoundSums) {
		d32 := make([]float32, len(d))
		for i, x := range d {
			d32[i] = float32(x)
		}
		kernel.AddRound16(to, from, dst, src, d32, float32(bound), float32(scaleFor(d)), doubt, s)
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

// element draws an element of the base and its update, odd ones too.
func (f *roundFormat) element(r *rand.Rand) (c uint32, d float64) {
	b := f.base
	c = b.to(0.02 * r.NormFloat64())
	d = 1e-4 * r.NormFloat64()
	v := b.from(c)
	switch r.IntN(60) {
	case 0:
		d = -v
	case 1: // the middle between v and the next, or close to it
		code := f.to(v)
		v, next := f.from(code), f.from(code+1)
		d = v - b.from(c) + (next-v)/2 + float64(r.IntN(3)-1)*math.Ldexp(math.Abs(v), -30)
	case 2:
		c = b.to([]float64{math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64}[r.IntN(4)])
		if math.IsNaN(b.from(c)) { // with all bits of the mantissa, the sign of either kind
			c |= 1<<(b.bits-1) - 1 | uint32(r.IntN(2))<<(8*b.width-1)
		}
	case 8: // the base lies in the middle between two numbers of the output
		if code := f.to(v); f.bits < b.bits {
			c = b.to((f.from(code) + f.from(code+1)) / 2)
			d *= float64(r.IntN(2))
		}
	case 3:
		d = []float64{math.Inf(1), math.NaN(), 1e36, 7e4, 3.4e38}[r.IntN(5)]
	case 4:
		c = b.to(0.02*r.NormFloat64()) & (1 << (8*b.width - 1)) // zeros of both signs
	case 5:
		c = uint32(r.IntN(1 << (b.bits - 1))) // subnormal numbers
		d *= b.from(c)
	case 6, 7:
		d = 0
	}
	return c, float64(float32(d))
}

// TestAddRound: whatever the error within the bounds, elements that are not in doubt
// are the exact sum rounded once; few are in doubt; guards and sums.
func TestAddRound(t *testing.T) {
	for _, f := range roundings {
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
	src, checkSrc := testkit.Guarded[byte](t, f.base.width*n, round%8)
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
		f.base.put(src, i, c)
	}
	var s, want kernel.RoundSums
	f.add(dst, src, d, bound, doubt, &s)
	check()
	checkSrc()
	checkDoubt()
	inf := f.to(math.Inf(1))
	for i, x := range d {
		v := f.base.from(f.base.get(src, i))
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
		if f.from(got) == f.from(f.to(v)) {
			want.Same++
		}
		if x == 0 {
			want.Zero++
		}
	}
	nearSums(t, n, s, want, 0x1p-22/scaleFor(d)*float64(n))
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
	for _, p := range []struct{ to, from tensor.DType }{
		{tensor.BF16, tensor.BF16}, {tensor.F16, tensor.F16}, {tensor.F32, tensor.F32},
		{tensor.BF16, tensor.F32}, {tensor.F16, tensor.F32}, {tensor.BF16, tensor.F16}, {tensor.F16, tensor.BF16},
	} {
		src, dst := make([]byte, p.from.Bits()/8*n), make([]byte, p.to.Bits()/8*n)
		w := make([]float64, n)
		for i := range w {
			w[i] = 0.02 * r.NormFloat64()
		}
		if err := tensor.EncodeF64(src, w, p.from); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%v to %v", p.from, p.to), func(b *testing.B) {
			for b.Loop() {
				if p.to == tensor.F32 {
					kernel.AddRoundF32(dst, src, d, 1e-15, 1, doubt, &s)
				} else {
					kernel.AddRound16(p.to, p.from, dst, src, d32, 1e-9, 1, doubt, &s)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds()/1e9, "Gelement/s")
		})
	}
}
