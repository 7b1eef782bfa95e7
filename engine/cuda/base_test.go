package cuda

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// roundedTo is w, rows as stored, after the rounding of a base dtype: to
// bfloat16, or to eight bits with a scale per output channel, which is a
// row where w is transposed and else a column.
func roundedTo(dtype string, w []float32, cols int, transposed bool) []float32 {
	out := slices.Clone(w)
	switch dtype {
	case "bf16":
		for i, v := range w {
			u := math.Float32bits(v)
			out[i] = math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff)
		}
	case "int8":
		channel := func(i int) int {
			if transposed {
				return i / cols
			}
			return i % cols
		}
		scale := make([]float32, len(w)/cols+cols)
		for i, v := range w {
			scale[channel(i)] = max(scale[channel(i)], float32(math.Abs(float64(v)))/127)
		}
		for i, v := range w {
			if s := scale[channel(i)]; s > 0 {
				out[i] = s * float32(math.RoundToEven(float64(v)/float64(s)))
			}
		}
	}
	return out
}

// compareBase multiplies with a frozen (k, n) matrix in both directions and
// compares with float64 sums over the rounded matrix. An operand loses eps of
// itself.
func compareBase(t *testing.T, e *Engine, m, n, k int, transposed bool, eps float64) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(m*n), uint64(k)))
	b := graph.NewBuilder()
	x, dy := b.Param("x", []int{m, k}, m, k), b.Param("dy", []int{m, n}, m, n)
	w := b.Weight("w", k, n, transposed)
	y := b.Linear("y", x, w, b.Vector("bias", n), graph.ActNone, graph.None)
	dx := b.P.NewValue(graph.Info{Name: "dx", Rows: graph.FixedRows(m), Cols: k})
	b.P.Ops = append(b.P.Ops, &graph.LinearGrad{DY: dy, W: w, DX: dx})
	b.P.Forward = len(b.P.Ops)
	b.Output(y)
	b.Output(dx)
	random := func(n int) []float32 { return normals(r, n) }
	source := matrices{"w": random(k * n), "bias": random(n)}
	ex, err := e.Compile(b.P, source, graph.Dims{T: 1, S: 1, MaxLen: 1})
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
	cols, dtype := n, e.opt.BaseDType
	if transposed {
		cols = k
	}
	if k == 1 {
		dtype = "f32"
	}
	matrix := roundedTo(dtype, source["w"], cols, transposed)
	at := func(i, j int) float64 {
		if transposed {
			return float64(matrix[j*k+i])
		}
		return float64(matrix[i*n+j])
	}
	check := func(what string, v graph.Value, left []float32, inner, width int, right func(q, j int) float64, bias []float32) {
		t.Helper()
		got := make([]float32, m*width)
		if err := ex.Read(v, got); err != nil {
			t.Fatal(err)
		}
		for i := range m {
			for j := range width {
				sum, size := 0.0, 1.0
				if bias != nil {
					sum = float64(bias[j])
				}
				for q := range inner {
					p := float64(left[i*inner+q]) * right(q, j)
					sum, size = sum+p, size+math.Abs(p)
				}
				if d := math.Abs(float64(got[i*width+j]) - sum); !(d <= 1.5*(eps+float64(inner)*0x1p-26)*size) {
					t.Fatalf("%s: element (%d, %d) is %v, want %v (off by %.3g of the sum of magnitudes)", what, i, j, got[i*width+j], sum, d/size)
				}
			}
		}
	}
	check("y", y, params[:m*k], k, n, at, source["bias"])
	check("dx", dx, params[m*k:], n, k, func(q, j int) float64 { return at(j, q) }, nil)
}

// baseChoices are the precisions and base dtypes that go together, with what an
// operand loses.
var baseChoices = []struct {
	precision, base string
	eps             float64
}{
	{"f32", "bf16", 0x1p-23}, {"f32", "int8", 0x1p-22}, {"tf32", "bf16", 0x1p-10}, {"tf32", "int8", 0x1p-10}, {"bf16", "bf16", 0x1p-7}, {"bf16", "int8", 0x1p-7},
}

// TestBase compares products with reduced frozen matrices, by our own kernels
// and by the library.
func TestBase(t *testing.T) {
	f := openFake(t)
	for _, c := range baseChoices {
		for _, library := range []bool{false, true} {
			o := Options{Precision: c.precision, BaseDType: c.base}
			if library {
				o.CuBLASLt = f.blas
			}
			e := f.open(t, o)
			for _, s := range []struct{ m, n, k int }{{17, 9, 33}, {3, 130, 64}, {9, 40, 1}} {
				for _, transposed := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/library=%v/%v/transposed=%v", c.precision, c.base, library, s, transposed), func(t *testing.T) {
						compareBase(t, e, s.m, s.n, s.k, transposed, c.eps)
					})
				}
			}
		}
	}
	// Scales of columns need all pieces of a matrix.
	e := f.open(t, Options{BaseDType: "int8"})
	for _, transposed := range []bool{false, true} {
		t.Run(fmt.Sprintf("pieces/transposed=%v", transposed), func(t *testing.T) { compareBase(t, e, 1, 1030, 1100, transposed, 0x1p-22) })
	}
}

// norms are the norms of the columns of W + A B/2 by an engine.
func norms(t *testing.T, e graph.Engine, k, n int, transposed bool) []float32 {
	t.Helper()
	const rank = 3
	r := rand.New(rand.NewPCG(5, uint64(k)))
	bld := graph.NewBuilder()
	a, b := bld.Param("a", []int{k, rank}, k, rank), bld.Param("b", []int{rank, n}, rank, n)
	y := bld.ColNorm("norms", bld.Weight("w", k, n, transposed), graph.ColNorm{A: a, B: b, Alpha: 0.5})
	bld.P.Forward = len(bld.P.Ops)
	bld.Output(y)
	x, err := e.Compile(bld.P, matrices{"w": normals(r, k*n)}, graph.Dims{T: 1, S: 1, MaxLen: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(normals(r, bld.P.ParamSize)); err != nil {
		t.Fatal(err)
	}
	if err := x.Run(context.Background(), &graph.Batch{CuSeqlens: []int32{0, 1}, IDs: []int32{0}}); err != nil {
		t.Fatal(err)
	}
	got := make([]float32, n)
	if err := x.Read(y, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// wantNorms is what norms computes, in float64 over the rounded matrix.
func wantNorms(dtype string, k, n int, transposed bool) []float64 {
	r := rand.New(rand.NewPCG(5, uint64(k)))
	cols, down, across := n, n, 1 // from W[i, j] to W[i+1, j] and W[i, j+1]
	if transposed {
		cols, down, across = k, 1, k
	}
	w := roundedTo(dtype, normals(r, k*n), cols, transposed)
	params := normals(r, 3*(k+n))
	a, b := params[:3*k], params[3*k:]
	out := make([]float64, n)
	for j := range out {
		for i := range k {
			v := float64(w[i*down+j*across])
			for q := range 3 {
				v += 0.5 * float64(a[i*3+q]) * float64(b[q*n+j])
			}
			out[j] += v * v
		}
		out[j] = math.Sqrt(out[j])
	}
	return out
}

func compareNorms(t *testing.T, e graph.Engine, dtype string, k, n int, transposed bool) {
	t.Helper()
	want := wantNorms(dtype, k, n, transposed)
	for j, v := range norms(t, e, k, n, transposed) {
		if d := math.Abs(float64(v) - want[j]); !(d <= 2e-6*want[j]) {
			t.Fatalf("%s: norm %d is %v, want %v", e.Name(), j, v, want[j])
		}
	}
}

// TestNormsOfBase checks that the norms of adapted columns (DoRA) are those of the
// frozen matrix as it is held, on this engine and on the CPU's.
func TestNormsOfBase(t *testing.T) {
	f := openFake(t)
	for _, dtype := range []string{"f32", "bf16", "int8"} {
		c, err := cpu.New(cpu.Options{Threads: 1, BaseDType: dtype})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []graph.Engine{c, f.open(t, Options{BaseDType: dtype})} {
			for _, transposed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/transposed=%v", dtype, e.Name(), transposed), func(t *testing.T) {
					compareNorms(t, e, dtype, 65, 37, transposed)
				})
			}
		}
	}
}

// TestBaseTakesLess checks that a reduced base takes less memory, learns, and
// that a table that is also the output layer is kept in both forms.
func TestBaseTakesLess(t *testing.T) {
	f := openFake(t)
	for _, s := range []shape{tinyBERT, tinyLlama} {
		var sizes []int64
		for _, base := range []string{"f32", "bf16", "int8"} {
			e := f.open(t, Options{BaseDType: base})
			losses, _ := s.curve(t, e, 4)
			if !(losses[3] < losses[1]) {
				t.Errorf("%s with base dtype %s does not learn: %v", s.name, base, losses)
			}
			x, _, err := s.compile(t, e, graph.Dims{T: 8, S: 1, R: 8, MaxLen: 8})
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, x.PeakBytes())
		}
		if !(sizes[2] < sizes[1] && sizes[1] < sizes[0]) {
			t.Errorf("%s takes %v bytes in f32, bf16, int8", s.name, sizes)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string // part of the error, or empty
	}{
		{Options{}, ""},
		{Options{Precision: "bf16", BaseDType: "int8"}, ""},
		{Options{Precision: "tf32", BaseDType: "bf16"}, ""},
		{Options{Precision: "f16"}, `precision "f16" is unknown; choose f32, tf32 or bf16`},
		{Options{BaseDType: "int4"}, `base dtype "int4" is unknown; choose f32, bf16 or int8`},
		{Options{Precision: "bf16", BaseDType: "f32"}, "base dtype f32 does not go with precision bf16"},
	} {
		err := c.o.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: error %v, want one with %q", c.o, err, c.want)
		}
	}
}
