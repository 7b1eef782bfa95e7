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

// TestAddRoundBF16 compares with tensor.F64ToBF16 element by element: lengths,
// alignments, elements in doubt at every place of a group, guards.
func TestAddRoundBF16(t *testing.T) {
	const tiny = (1023 - 60) << 52
	kerneltest.ForEach(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		for n := range 70 {
			for round := range 40 {
				src, checkSrc := testkit.Guarded[byte](t, 2*n, round%8)
				dst, check := testkit.Guarded[byte](t, 2*n, round%5)
				d := make([]float64, n)
				doubt := n
				for i := range d {
					w := 0.02 * r.NormFloat64()
					d[i] = 1e-4 * r.NormFloat64()
					c := tensor.F64ToBF16(w)
					if r.IntN(8) == 0 {
						d[i] = 0
					}
					v := float64(tensor.BF16ToF32(c))
					odd := true
					switch r.IntN(400) {
					case 0:
						d[i] = -v
					case 1: // the middle between v and the next, or close to it
						next := float64(tensor.BF16ToF32(c + 1))
						d[i] = (next-v)/2 + float64(r.IntN(3)-1)*math.Ldexp(1, -70)
					case 2:
						c = []uint16{0x7f80, 0xff80, 0x7fc0, 0x7f7f, 0xff7f}[r.IntN(5)]
					case 3:
						d[i] = []float64{math.Inf(1), math.NaN(), 1e300}[r.IntN(3)]
					default:
						odd = math.Abs(v+d[i]) < math.Float64frombits(tiny)
					}
					if odd && i < doubt {
						doubt = i
					}
					binary.LittleEndian.PutUint16(src[2*i:], c)
				}
				var s kernel.RoundSums
				if got := kernel.AddRoundBF16(dst, src, d, tiny, &s); got != doubt {
					t.Fatalf("n %d: stopped at %d, want %d", n, got, doubt)
				}
				check()
				checkSrc()
				var want kernel.RoundSums
				for i, x := range d[:doubt] {
					c := binary.LittleEndian.Uint16(src[2*i:])
					sum := float64(tensor.BF16ToF32(c)) + x
					code := tensor.F64ToBF16(sum)
					if got := binary.LittleEndian.Uint16(dst[2*i:]); got != code {
						t.Fatalf("n %d element %d: %#x, want %#x", n, i, got, code)
					}
					e := float64(tensor.BF16ToF32(code)) - sum
					want.SqErr += e * e
					want.SqDelta += x * x
					want.MaxErr = max(want.MaxErr, math.Abs(e))
					if code == c {
						want.Same++
					}
					if x == 0 {
						want.Zero++
					}
				}
				if s.Same != want.Same || s.Zero != want.Zero || s.MaxErr != want.MaxErr || !testkit.Near(s.SqErr, want.SqErr, 0, 1e-14) || !testkit.Near(s.SqDelta, want.SqDelta, 0, 1e-14) {
					t.Fatalf("n %d: sums %+v, want %+v", n, s, want)
				}
			}
		}
	})
}

func BenchmarkAddRoundBF16(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 256
	src, dst, d := make([]byte, 2*n), make([]byte, 2*n), make([]float64, n)
	for i := range d {
		binary.LittleEndian.PutUint16(src[2*i:], tensor.F64ToBF16(0.02*r.NormFloat64()))
		d[i] = 1e-4 * r.NormFloat64()
	}
	var s kernel.RoundSums
	if kernel.AddRoundBF16(dst, src, d, (1023-60)<<52, &s) != n {
		b.Fatal("an element is in doubt")
	}
	for b.Loop() {
		kernel.AddRoundBF16(dst, src, d, (1023-60)<<52, &s)
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds()/1e9, "Gelement/s")
}
