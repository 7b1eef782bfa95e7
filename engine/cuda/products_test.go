package cuda

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// matrices is a weight source in memory.
type matrices map[string][]float32

// ReadRows implements graph.WeightSource.
func (m matrices) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	copy(dst, m[w.Name][lo*w.StoredCols():hi*w.StoredCols()])
	return nil
}

// normals are n numbers of the standard normal distribution.
func normals(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// productSizes have remainders of every tile, and inner dimensions that are cut
// into parts.
var productSizes = []struct{ m, n, k int }{{1, 1, 1}, {17, 9, 33}, {130, 33, 40}, {5, 131, 16}, {70, 64, 600}, {3, 7, 1100}}

// TestProducts compares products of every kernel, orientation and size with
// sums in float64. An operand loses 2^-24, 2^-11 or 2^-8 of itself when it is
// rounded; the sum of magnitudes of a product bounds what that does.
func TestProducts(t *testing.T) {
	f := openFake(t)
	for _, o := range []struct {
		precision     string
		value, weight float64
		blas          bool
	}{{"f32", 0x1p-23, 0x1p-23, false}, {"tf32", 0x1p-10, 0x1p-10, false}, {"bf16", 0x1p-10, 0x1p-7, false}, {"bf16", 0x1p-10, 0x1p-7, true}} {
		opt := Options{Precision: o.precision}
		if o.blas {
			opt.CuBLASLt = f.blas
		}
		e := f.open(t, opt)
		for _, s := range productSizes {
			for _, ta := range []bool{false, true} {
				for _, tb := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/library=%v/%v/ta=%v/tb=%v", o.precision, o.blas, s, ta, tb), func(t *testing.T) {
						compareProducts(t, e, s.m, s.n, s.k, ta, tb, o.value, o.weight)
					})
				}
			}
		}
	}
}

func compareProducts(t *testing.T, e *Engine, m, n, k int, ta, tb bool, value, weight float64) {
	r := rand.New(rand.NewPCG(uint64(m*n), uint64(k)))
	b := graph.NewBuilder()
	shape := func(rows, cols int, trans bool) (int, int) {
		if trans {
			return cols, rows
		}
		return rows, cols
	}
	ar, ac := shape(m, k, ta)
	br, bc := shape(k, n, tb)
	a, c := b.Param("a", []int{ar, ac}, ar, ac), b.Param("b", []int{br, bc}, br, bc)
	x, d := b.Param("x", []int{m, k}, m, k), b.Param("d", []int{m, n}, m, n)
	y := b.MatMul("y", a, c, ta, tb, 0.5, d)
	z := b.Linear("z", x, b.Weight("w", k, n, tb), b.Vector("bias", n), graph.ActNone, d)
	b.Output(y)
	b.Output(z)
	random := func(n int) []float32 { return normals(r, n) }
	w := matrices{"w": random(k * n), "bias": random(n)}
	ex, err := e.Compile(b.P, w, graph.Dims{T: 1, S: 1, MaxLen: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer ex.Close()
	params := random(b.P.ParamSize)
	if err := ex.SetParams(params); err != nil {
		t.Fatal(err)
	}
	if err := ex.Run(context.Background(), &graph.Batch{CuSeqlens: []int32{0, 1}, IDs: []int32{0}}); err != nil {
		t.Fatal(err)
	}
	part := func(i int) []float32 { p := b.P.Params[i]; return params[p.Offset : p.Offset+p.Size] }
	check := func(what string, v graph.Value, left, right []float32, ta, tb bool, alpha, eps float64, bias []float32) {
		t.Helper()
		got := make([]float32, m*n)
		if err := ex.Read(v, got); err != nil {
			t.Fatal(err)
		}
		for i := range m {
			for j := range n {
				sum, size := float64(part(3)[i*n+j]), 1.0
				if bias != nil {
					sum += float64(bias[j])
				}
				for q := range k {
					l, r := i*k+q, q*n+j
					if ta {
						l = q*m + i
					}
					if tb {
						r = j*k + q
					}
					p := alpha * float64(left[l]) * float64(right[r])
					sum, size = sum+p, size+math.Abs(p)
				}
				if d := math.Abs(float64(got[i*n+j]) - sum); !(d <= 1.5*(eps+float64(k)*0x1p-26)*size) {
					t.Fatalf("%s: element (%d, %d) is %v, want %v (off by %.3g of the sum of magnitudes)", what, i, j, got[i*n+j], sum, d/size)
				}
			}
		}
	}
	check("values", y, part(0), part(1), ta, tb, 0.5, value, nil)
	check("weight", z, part(2), w["w"], false, tb, 1, weight, w["bias"])
}
