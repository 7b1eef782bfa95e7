package decompose_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// lsrUpdate returns A B of random factors (in, out) with unit norm.
func lsrUpdate(rng *rand.Rand, a, b kron.Shape) []float64 {
	fa := kron.NewFactor(a, normals(rng, a.S*a.A1*a.R1), normals(rng, a.S*a.A2*a.R2))
	fb := kron.NewFactor(b, normals(rng, b.S*b.A1*b.R1), normals(rng, b.S*b.A2*b.R2))
	ka, kb := make([]float64, a.N*a.M), make([]float64, b.N*b.M)
	kron.Materialize(nil, nil, ka, fa)
	kron.Materialize(nil, nil, kb, fb)
	w := make([]float64, a.N*b.M)
	kernel.GemmF64(nil, false, false, a.N, b.M, a.M, 1, ka, a.M, kb, b.M, 0, w, b.M)
	rescale(w)
	return w
}

func rescale(w []float64) {
	n := frobenius(w)
	for i := range w {
		w[i] /= n
	}
}

func frobenius(w []float64) float64 {
	var sum float64
	for _, v := range w {
		sum += v * v
	}
	return math.Sqrt(sum)
}

func shapes(in, out, r1, r2, s int) (a, b kron.Shape) {
	a1, a2 := kron.Split(in)
	b1, b2 := kron.Split(out)
	return kron.Shape{S: s, A1: a1, R1: r1, A2: a2, R2: r2, N: in, M: r1 * r2}, kron.Shape{S: s, A1: r1, R1: b1, A2: r2, R2: b2, N: r1 * r2, M: out}
}

// Planted low-separation-rank updates under noise: what is left is at most the
// noise, and the fit is nearer to the plant than the noisy matrix is by the
// share of its few parameters. 1013 is prime: its split is padded.
func TestFitLSRRecoversPlanted(t *testing.T) {
	for _, c := range []struct {
		in, out, r1, r2, s int
		noise              float64
	}{
		{768, 768, 2, 2, 16, 1e-2}, {768, 3072, 4, 4, 4, 1e-3}, {1013, 320, 2, 3, 3, 1e-2}, {2048, 5632, 2, 2, 8, 1e-2}, {384, 384, 1, 1, 2, 0},
	} {
		if testing.Short() && c.in*c.out > 1e6 {
			continue
		}
		rng := rand.New(rand.NewPCG(uint64(c.in), uint64(c.out)))
		a, b := shapes(c.in, c.out, c.r1, c.r2, c.s)
		w := lsrUpdate(rng, a, b)
		sigma := c.noise / math.Sqrt(float64(len(w)))
		noisy := make([]float32, len(w))
		var noise2 float64
		for i, v := range w {
			noisy[i] = float32(v + sigma*rng.NormFloat64())
			e := float64(noisy[i]) - v
			noise2 += e * e
		}
		fa, fb, error2, err := decompose.FitLSR(nil, noisy, a, b, 7)
		if err != nil {
			t.Fatal(err)
		}
		ka, kb := make([]float64, a.N*a.M), make([]float64, b.N*b.M)
		kron.Materialize(nil, nil, ka, fa)
		kron.Materialize(nil, nil, kb, fb)
		got := make([]float64, len(w))
		kernel.GemmF64(nil, false, false, a.N, b.M, a.M, 1, ka, a.M, kb, b.M, 0, got, b.M)
		var left, off float64
		for i, v := range got {
			e := float64(noisy[i]) - v
			left += e * e
			off += (w[i] - v) * (w[i] - v)
		}
		// float32 products leave 1e-6 of the norm.
		const floor = 1e-12
		if left > noise2+floor {
			t.Errorf("%+v: %.4g is left, the noise is %.4g", c, math.Sqrt(left), math.Sqrt(noise2))
		}
		if math.Abs(left-error2) > 1e-6*left+1e-18 {
			t.Errorf("%+v: squared error %g reported, %g found", c, error2, left)
		}
		// Only the noise within the span of the parameters can be fitted.
		if share := float64(a.Params()+b.Params()) / float64(len(w)); off > 1.5*share*noise2+floor {
			t.Errorf("%+v: %.4g from the plant, expected %.4g", c, math.Sqrt(off), math.Sqrt(share*noise2))
		}
	}
}

// The singular triplets are those of the float64 method, with any threads.
func TestLeadingAgreesWithTruncated(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, c := range []struct{ m, n, r int }{{300, 200, 6}, {200, 300, 150}, {64, 900, 3}, {40, 30, 30}} {
		s := make([]float64, min(c.m, c.n))
		for i := range s {
			s[i] = math.Pow(0.7, float64(i))
		}
		a := planted(rng, c.m, c.n, s)
		x := make([]float32, len(a))
		for i, v := range a {
			x[i] = float32(v)
		}
		d, norm2, err := decompose.Leading(nil, x, c.m, c.n, c.r, 3)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(math.Sqrt(norm2)-frobenius(a)) > 1e-6 {
			t.Errorf("norm %v, want %v", math.Sqrt(norm2), frobenius(a))
		}
		for i, v := range d.S {
			if math.Abs(v-s[i]) > 3e-3*s[i]+1e-6 {
				t.Errorf("%+v: σ_%d = %v, want %v", c, i, v, s[i])
			}
		}
		pool := kernel.NewPool(2)
		again, _, err := decompose.Leading(pool, x, c.m, c.n, c.r, 3)
		pool.Close()
		if err != nil || !slices.Equal(again.U, d.U) || !slices.Equal(again.S, d.S) || !slices.Equal(again.V, d.V) {
			t.Errorf("%+v: two threads give other results: %v", c, err)
		}
	}
	if _, _, err := decompose.Leading(nil, []float32{1, float32(math.NaN())}, 1, 2, 1, 0); err == nil {
		t.Error("no error for NaN")
	}
	if d, n, err := decompose.Leading(nil, make([]float32, 6), 3, 2, 2, 0); err != nil || n != 0 || d.S[0] != 0 || defect(d.U, 3, 2) != 0 {
		t.Errorf("zero matrix: %v, %v, %v", d, n, err)
	}
}

// layer is one tensor of a small checkpoint.
type layer struct {
	name  string
	shape []int
	w     []float64
}

func write(t *testing.T, dtype tensor.DType, ts ...layer) *formats.Checkpoint {
	t.Helper()
	h := &safetensors.Header{}
	for _, l := range ts {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: l.name, DType: dtype, Shape: l.shape})
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	b := h.Encode()
	for _, l := range ts {
		for _, v := range l.w {
			if dtype == tensor.F64 {
				b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
			} else {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
			}
		}
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// models returns a base and a tuned model of three layers, (48, 60) stored
// (out, in), (48, 60) stored (in, out), and one that does not change, and the
// differences (in, out).
func models(t *testing.T, dtype tensor.DType, prefix string) (base, tuned *formats.Checkpoint, sites []adapter.Site, deltas [][]float64) {
	rng := rand.New(rand.NewPCG(4, 4))
	const in, out = 48, 60
	var x, y []layer
	for i, n := range []string{"layer.0.query", "layer.0.conv", "layer.0.idle"} {
		s := adapter.Site{Module: n, In: in, Out: out, Weight: n + ".weight", Transposed: i != 1, Kind: n[8:], DType: dtype}
		sites = append(sites, s)
		w := normals(rng, in*out)
		a, b := shapes(in, out, 2, 2, 2)
		d := lsrUpdate(rng, a, b)
		shape := []int{in, out}
		if s.Transposed {
			shape = []int{out, in}
		}
		v := slices.Clone(w)
		if n != "layer.0.idle" {
			deltas = append(deltas, d)
			for r := range in {
				for c := range out {
					at := r*out + c
					if s.Transposed {
						at = c*in + r
					}
					v[at] += d[r*out+c]
				}
			}
		}
		x, y = append(x, layer{s.Weight, shape, w}), append(y, layer{prefix + s.Weight, shape, v})
	}
	x = append(x, layer{"norm.weight", []int{2}, []float64{1, 1}}, layer{"gone.bias", []int{1}, []float64{0}})
	y = append(y, layer{prefix + "norm.weight", []int{2}, []float64{1, 2}}, layer{"classifier.weight", []int{1, 2}, []float64{5, 6}}, layer{prefix + "extra.bias", []int{1}, []float64{3}})
	return write(t, dtype, x...), write(t, dtype, y...), sites, deltas
}

func config(method string, rank adapter.Rank, terms int) adapter.Config {
	return adapter.Config{Settings: adapter.Settings{Method: method, Rank: rank, Terms: terms}, Targets: adapter.Targets{AllLinear: true}}
}

func TestExtract(t *testing.T) {
	for _, c := range []struct {
		name   string
		dtype  tensor.DType
		prefix string
		config adapter.Config
		most   float64 // error
	}{
		{"lora", tensor.F32, "", config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1), 4e-6},
		{"lora, more than the dimensions", tensor.F32, "", config(adapter.MethodLoRA, adapter.Rank{R1: 70, R2: 1}, 1), 4e-6},
		{"lora, prefix, f64", tensor.F64, "bert.", config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1), 4e-6},
		{"lsr", tensor.F32, "", config(adapter.MethodLSR, adapter.Rank{R1: 2, R2: 2}, 2), 1e-5},
		{"krona", tensor.F32, "", config(adapter.MethodKronA, adapter.Rank{R1: 1, R2: 1}, 64), 4e-6},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, tuned, sites, deltas := models(t, c.dtype, c.prefix)
			a, rep, err := decompose.Extract(context.Background(), base, tuned, sites, decompose.ExtractOptions{Config: c.config, Save: []string{"classifier"}, Threads: 3})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Error > c.most {
				t.Errorf("error %g", rep.Error)
			}
			if !slices.Equal(rep.Unchanged, []string{"layer.0.idle"}) || !slices.Equal(rep.Changed, []string{"norm.weight"}) || !slices.Equal(rep.Added, []string{c.prefix + "extra.bias"}) || !slices.Equal(rep.Missing, []string{"gone.bias"}) {
				t.Errorf("report %+v", rep)
			}
			dir := filepath.Join(t.TempDir(), "a")
			if err := a.Save(dir, false); err != nil {
				t.Fatal(err)
			}
			back, err := adapter.Load(dir, sites)
			if err != nil {
				t.Fatal(err)
			}
			if len(back.Head) != 1 || back.Head[0].Name != "classifier.weight" || !slices.Equal(back.Head[0].Data, []float32{5, 6}) {
				t.Errorf("head %v", back.Head)
			}
			got, err := back.Deltas()
			if err != nil || len(got) != 2 {
				t.Fatal(len(got), err)
			}
			for i, d := range got {
				var off float64
				for j, v := range d.Dense() {
					off += (v - deltas[i][j]) * (v - deltas[i][j])
				}
				// The files hold the weights in float32: 2e-6 of noise.
				if math.Sqrt(off) > c.most+4e-6 {
					t.Errorf("%s: off by %g", d.Module, math.Sqrt(off))
				}
			}
		})
	}
}

func TestExtractSizes(t *testing.T) {
	base, tuned, sites, _ := models(t, tensor.F32, "")
	for _, m := range []adapter.Config{config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1), config(adapter.MethodLSR, adapter.Rank{R1: 2, R2: 2}, 2), config(adapter.MethodKronA, adapter.Rank{R1: 1, R2: 1}, 1)} {
		a, rep, err := decompose.Extract(context.Background(), base, tuned, sites, decompose.ExtractOptions{Config: m, MaxError: 0.5})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range rep.Modules {
			if !x.Reached || x.Error > 0.5 {
				t.Errorf("%s %s: error %v", m.Method, x.Module, x.Error)
			}
		}
		budget := adapter.ParamCount(a.Modules) - 1
		b, smaller, err := decompose.Extract(context.Background(), base, tuned, sites, decompose.ExtractOptions{Config: m, Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		if n := adapter.ParamCount(b.Modules); n > budget || n == 0 {
			t.Errorf("%s: %d parameters, budget %d", m.Method, n, budget)
		}
		if smaller.Error > 1 || smaller.Error < rep.Error/2 {
			t.Errorf("%s: error %v with a budget just below one of error %v", m.Method, smaller.Error, rep.Error)
		}
	}
	_, _, err := decompose.Extract(context.Background(), base, tuned, sites, decompose.ExtractOptions{Config: config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1), Budget: 20})
	if !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("budget below the smallest update: %v", err)
	}
}

// TestExtractPlain wants an LSR update of free size to cost no more than the
// LoRA within the same error, whose factors are LSR's with the splits in x 1
// and out x 1, and its files to hold what the report says.
func TestExtractPlain(t *testing.T) {
	const in, out = 48, 60
	rng := rand.New(rand.NewPCG(5, 5))
	w := normals(rng, in*out)
	falling := make([]float64, 12) // singular values of a matrix without Kronecker structure
	for i := range falling {
		falling[i] = math.Pow(0.7, float64(i))
	}
	delta := planted(rng, in, out, falling)
	v := slices.Clone(w)
	for i, d := range delta {
		v[i] += d
	}
	sites := []adapter.Site{{Module: "layer.0.query", In: in, Out: out, Weight: "layer.0.query.weight", Kind: "query", DType: tensor.F64}}
	base, tuned := write(t, tensor.F64, layer{sites[0].Weight, []int{in, out}, w}), write(t, tensor.F64, layer{sites[0].Weight, []int{in, out}, v})
	plain := 0
	for _, o := range []decompose.ExtractOptions{{MaxError: 0.9}, {MaxError: 0.2}, {MaxError: 0.02}, {Budget: 450}} {
		o.Config = config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1)
		lora, _, err := decompose.Extract(t.Context(), base, tuned, sites, o)
		if err != nil {
			t.Fatal(err)
		}
		o.Config = config(adapter.MethodLSR, adapter.Rank{R1: 2, R2: 2}, 2)
		lsr, rep, err := decompose.Extract(t.Context(), base, tuned, sites, o)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := adapter.ParamCount(lsr.Modules), adapter.ParamCount(lora.Modules)+2; got > want {
			t.Errorf("%+v: %d parameters, LoRA with its two more needs %d", o, got, want)
		}
		if lsr.Modules[0].Split == [2]int{in, 1} {
			plain++
		}
		dir := filepath.Join(t.TempDir(), "a")
		if err := lsr.Save(dir, false); err != nil {
			t.Fatal(err)
		}
		back, err := adapter.Load(dir, sites)
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.Deltas()
		if err != nil || len(got) != 1 {
			t.Fatal(len(got), err)
		}
		off := got[0].Dense()
		for i := range off {
			off[i] -= delta[i]
		}
		if e := frobenius(off) / frobenius(delta); math.Abs(e-rep.Modules[0].Error) > 1e-5 {
			t.Errorf("%+v: the report says %g, it is %g", o, rep.Modules[0].Error, e)
		}
	}
	if plain == 0 {
		t.Error("no update has plain factors")
	}
}

func TestExtractRefuses(t *testing.T) {
	base, tuned, sites, _ := models(t, tensor.F32, "")
	good := config(adapter.MethodLoRA, adapter.Rank{R1: 4, R2: 1}, 1)
	extract := func(tuned *formats.Checkpoint, c adapter.Config) error {
		_, _, err := decompose.Extract(context.Background(), base, tuned, sites, decompose.ExtractOptions{Config: c})
		return err
	}
	if err := extract(base, good); !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("the base as tuned model: %v", err)
	}
	other := write(t, tensor.F32, layer{"layer.0.query.weight", []int{2, 2}, make([]float64, 4)}, layer{"layer.0.conv.weight", []int{48, 60}, make([]float64, 48*60)}, layer{"layer.0.idle.weight", []int{60, 48}, make([]float64, 48*60)})
	if err := extract(other, good); !errors.Is(err, decompose.ErrMismatch) || !strings.Contains(err.Error(), "layer.0.query.weight") {
		t.Errorf("another shape: %v", err)
	}
	few := write(t, tensor.F32, layer{"layer.0.query.weight", []int{60, 48}, make([]float64, 48*60)})
	if err := extract(few, good); !errors.Is(err, decompose.ErrMismatch) || !strings.Contains(err.Error(), "layer.0.conv.weight") {
		t.Errorf("missing: %v", err)
	}
	nan := make([]float64, 48*60)
	nan[77] = math.NaN()
	bad := write(t, tensor.F32, layer{"layer.0.query.weight", []int{60, 48}, nan}, layer{"layer.0.conv.weight", []int{48, 60}, nan}, layer{"layer.0.idle.weight", []int{60, 48}, nan})
	if err := extract(bad, good); !errors.Is(err, formats.ErrMalformed) {
		t.Errorf("NaN: %v", err)
	}
	if err := extract(tuned, config(adapter.MethodKAdaptation, adapter.Rank{R1: 1, R2: 1}, 4)); err == nil || !strings.Contains(err.Error(), "kadaptation") {
		t.Errorf("method: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := decompose.Extract(ctx, base, tuned, sites, decompose.ExtractOptions{Config: good}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
