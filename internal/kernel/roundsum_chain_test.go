package kernel_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// chainFormats are what Round64 rounds to.
var chainFormats = []randomFormat{randomFormats[0], randomFormats[1], {&roundFormats[2], 0, 29, 0x1p-126, math.MaxFloat32}}

// updateTiny is the magnitude below which the tests' updates are to be in doubt.
const updateTiny = 1e-9

// TestRound64: with error feedback and stochastically, elements that are not in doubt are what the
// definition in float64 gives, and the carry with them; few are in doubt; guards and sums.
func TestRound64(t *testing.T) {
	for _, f := range chainFormats {
		t.Run(f.name, func(t *testing.T) {
			kerneltest.ForEach(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				for n := range 70 {
					for range 10 {
						testRound64(t, &f, r, n, true)
						if f.drop == 29 {
							testRound64(t, &f, r, n, false)
						}
					}
				}
			})
		})
	}
}

func testRound64(t *testing.T, f *randomFormat, r *rand.Rand, n int, feedback bool) {
	kept := *f.roundFormat
	kept.base = &roundFormats[2]
	dst, checkDst := testkit.Guarded[float32](t, n, r.IntN(8))
	src, checkSrc := testkit.Guarded[float32](t, n, r.IntN(8))
	base, checkBase := testkit.Guarded[float32](t, n, r.IntN(8))
	d, checkD := testkit.Guarded[float64](t, n, r.IntN(4))
	carry, checkCarry := testkit.Guarded[float64](t, n, r.IntN(4))
	doubt, checkDoubt := testkit.Guarded[uint8](t, (n+7)/8, r.IntN(4))
	random := make([]uint32, n)
	for i := range d {
		c, x := kept.element(r)
		src[i] = math.Float32frombits(c)
		base[i] = float32(f.from(f.to(float64(src[i]))))
		d[i], carry[i] = x*(1+0x1p-30*r.NormFloat64()), 1e-5*r.NormFloat64()
		if r.IntN(40) == 0 { // close to the middle between two updates
			d[i] = float64(float32(d[i]))*(1+0x1p-24) + math.Ldexp(d[i], -40)*r.NormFloat64()
		}
		random[i] = r.Uint32() >> 3
	}
	was := append([]float64(nil), carry...)
	format := kernel.NewRound64(f.drop, math.Float64bits(f.tiny), math.Float64bits(f.huge), math.Float64bits(updateTiny))
	var want kernel.RoundSums
	if feedback {
		format.AddFeedback(dst, src, base, d, carry, doubt)
	} else {
		format.AddRandom(dst, src, base, d, random, doubt)
	}
	s := format.Sums()
	if again := format.Sums(); again != (kernel.RoundSums{}) {
		t.Fatalf("sums left over: %+v", again)
	}
	for _, check := range []func(){checkDst, checkSrc, checkBase, checkD, checkCarry, checkDoubt} {
		check()
	}
	for i, x := range d {
		up, ok := roundedUpdate(x)
		sum := float64(src[i]) + up
		v, c := f.definition(sum, was[i], random[i], feedback)
		a := math.Abs(sum)
		if feedback {
			a = math.Abs(sum + was[i])
		}
		ok = ok && a >= f.tiny && a < f.huge && (feedback || math.Abs(v) < f.huge)
		if inDoubt := doubt[i/8]>>(i%8)&1 != 0; inDoubt == ok {
			t.Fatalf("n %d: %v + %v + %v in doubt: %v", n, src[i], x, was[i], inDoubt)
		}
		if !ok {
			if carry[i] != was[i] {
				t.Fatalf("n %d: the carry of an element in doubt is %v, was %v", n, carry[i], was[i])
			}
			continue
		}
		if float64(dst[i]) != v || carry[i] != c {
			t.Fatalf("n %d: %v + %v + %v, random %#x: %v, carry %v; want %v, %v", n, src[i], x, was[i], random[i], dst[i], carry[i], v, c)
		}
		want.SqErr += (v - sum) * (v - sum)
		want.SqDelta += up * up
		want.MaxErr = max(want.MaxErr, math.Abs(v-sum))
		if dst[i] == base[i] {
			want.Same++
		}
	}
	nearSums(t, n, s, want, 0)
}

// roundedUpdate is x rounded to 24 bits, if it is neither small nor close to a middle.
func roundedUpdate(x float64) (up float64, ok bool) {
	up = float64(float32(x))
	ulp := math.Ldexp(1, math.Ilogb(x)-52)
	near := math.Abs(math.Abs(x-up) - ulp*(1<<28))
	return up, math.Abs(x) >= updateTiny && near > ulp*kernel.UpdateSlack
}

// definition is the number for a sum, and the carry after it.
func (f *randomFormat) definition(sum, carry float64, random uint32, feedback bool) (v, next float64) {
	if !feedback {
		return math.Copysign(f.cut(math.Abs(sum), uint64(random)), sum), carry
	}
	v = f.from(f.to(sum + carry))
	return v, sum + carry - v
}
