package decompose_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
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

func normals(rng *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	return x
}

// planted returns U diag(s) Vᵀ (m, n) with orthonormal U, V from products of
// random reflections I - 2 h hᵀ, applied directly.
func planted(rng *rand.Rand, m, n int, s []float64) []float64 {
	a := make([]float64, m*n)
	for i, v := range s {
		a[i*n+i] = v
	}
	unit := func(k int) []float64 {
		h := normals(rng, k)
		var sum float64
		for _, v := range h {
			sum += v * v
		}
		for i := range h {
			h[i] /= math.Sqrt(sum)
		}
		return h
	}
	for range 8 {
		h, g := unit(m), unit(n)
		c, d := make([]float64, n), make([]float64, m)
		for i := range m {
			for j := range n {
				c[j] += h[i] * a[i*n+j]
			}
		}
		for i := range m {
			for j := range n {
				a[i*n+j] -= 2 * h[i] * c[j]
				d[i] += a[i*n+j] * g[j]
			}
		}
		for i := range m {
			for j := range n {
				a[i*n+j] -= 2 * d[i] * g[j]
			}
		}
	}
	return a
}

// defect is the largest deviation of the columns of x (rows, r) from
// orthonormal.
func defect(x []float64, rows, r int) float64 {
	var worst float64
	for a := range r {
		for b := range r {
			var dot float64
			for i := range rows {
				dot += x[i*r+a] * x[i*r+b]
			}
			if a == b {
				dot--
			}
			worst = max(worst, math.Abs(dot))
		}
	}
	return worst
}

func TestTruncatedFindsPlantedTriplets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	decay := func(n int, f func(i int) float64) []float64 {
		s := make([]float64, n)
		for i := range s {
			s[i] = f(i)
		}
		return s
	}
	for _, c := range []struct {
		name    string
		m, n, r int
		s       []float64
		tol     float64 // of singular values, relative to the largest
	}{
		{"small, dense", 40, 30, 7, decay(30, func(i int) float64 { return 1 / float64(i+1) }), 1e-12},
		{"most of the spectrum", 300, 280, 130, decay(280, func(i int) float64 { return math.Exp(-float64(i) / 50) }), 1e-12},
		{"low rank", 400, 300, 8, []float64{9, 8, 7, 6, 5, 4, 3, 2}, 1e-12},
		{"geometric, wide", 270, 500, 10, decay(270, func(i int) float64 { return math.Pow(0.8, float64(i)) }), 1e-10},
		{"slow, as weights", 500, 270, 10, decay(270, func(i int) float64 { return 10 / math.Sqrt(float64(i+3)) }), 2e-3},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := planted(rng, c.m, c.n, c.s)
			d, err := decompose.Truncated(nil, a, c.m, c.n, c.r, 1)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.r {
				if math.Abs(d.S[i]-c.s[i]) > c.tol*c.s[0] {
					t.Errorf("σ_%d = %v, want %v", i, d.S[i], c.s[i])
				}
			}
			if u, v := defect(d.U, c.m, c.r), defect(d.V, c.n, c.r); u > 1e-12 || v > 1e-12 {
				t.Errorf("bases differ from orthonormal by %.3g, %.3g", u, v)
			}
			// Eckart and Young: the residual has the norm of the rest.
			var tail, got float64
			for _, v := range c.s[min(c.r, len(c.s)):] {
				tail += v * v
			}
			for i := range c.m {
				for j := range c.n {
					e := a[i*c.n+j]
					for k := range c.r {
						e -= d.U[i*c.r+k] * d.S[k] * d.V[j*c.r+k]
					}
					got += e * e
				}
			}
			if math.Sqrt(got) > math.Sqrt(tail)*1.001+1e-10*c.s[0] {
				t.Errorf("residual %v, the rest of the spectrum has %v", math.Sqrt(got), math.Sqrt(tail))
			}
			pool := kernel.NewPool(2)
			defer pool.Close()
			again, err := decompose.Truncated(pool, a, c.m, c.n, c.r, 1)
			if err != nil || again.U[0] != d.U[0] || again.S[c.r-1] != d.S[c.r-1] {
				t.Errorf("not reproducible: %v", err)
			}
		})
	}
}

func TestTruncatedRefusesNaN(t *testing.T) {
	if _, err := decompose.Truncated(nil, []float64{1, math.NaN(), 2, 3}, 2, 2, 1, 0); err == nil {
		t.Error("no error")
	}
}

func TestNearestKroneckerRecoversASum(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, s := range []kron.Shape{kron.Full(3, 6, 4, 5, 2), kron.Full(16, 24, 2, 16, 2), kron.Full(2, 24, 24, 16, 24)} {
		f := kron.NewFactor(s, normals(rng, s.S*s.A1*s.R1), normals(rng, s.S*s.A2*s.R2))
		k, back := make([]float64, s.N*s.M), make([]float64, s.N*s.M)
		kron.Materialize(nil, nil, k, f)
		g, err := decompose.NearestKronecker(nil, k, s, 1)
		if err != nil {
			t.Fatal(err)
		}
		kron.Materialize(nil, nil, back, g)
		for i := range k {
			if math.Abs(k[i]-back[i]) > 1e-11 {
				t.Fatalf("%v: element %d is %v, want %v", s, i, back[i], k[i])
			}
		}
	}
}

// With fewer terms than needed the error is that of the truncated SVD of R(K),
// and more terms never hurt.
func TestNearestKroneckerErrorFalls(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	s := kron.Full(1, 7, 3, 5, 4)
	s.N, s.M = 33, 11
	k := normals(rng, s.N*s.M)
	last := math.Inf(1)
	for s.S = 1; s.S <= 22; s.S++ {
		f, err := decompose.NearestKronecker(nil, k, s, 1)
		if err != nil {
			t.Fatal(err)
		}
		back := make([]float64, len(k))
		kron.Materialize(nil, nil, back, f)
		var e float64
		for i := range k {
			e += (k[i] - back[i]) * (k[i] - back[i])
		}
		if e > last*(1+1e-12)+1e-20 {
			t.Errorf("%d terms: error %v, with one less %v", s.S, e, last)
		}
		last = e
	}
	if last > 1e-20 {
		t.Errorf("all terms leave %v", last)
	}
}

// checkpoint writes one weight (out, in), float32, and returns its site.
func checkpoint(t *testing.T, w []float64, in, out int) (*formats.Checkpoint, adapter.Site) {
	t.Helper()
	h := &safetensors.Header{Tensors: []safetensors.Entry{{Name: "layer.0.query.weight", DType: tensor.F32, Shape: []int{out, in}}}}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	b := h.Encode()
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
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
	return c, adapter.Site{Module: "layer.0.query", In: in, Out: out, Weight: "layer.0.query.weight", Transposed: true, Kind: "query", DType: tensor.F32}
}

// init svd: ΔW = 0, and the input side spans the leading directions of W.
func TestInitSVD(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const in, out = 24, 20
	sigma := []float64{8, 4, 2, 1, .5, .25, .125}
	wt := planted(rng, out, in, sigma) // stored (out, in)
	ckpt, site := checkpoint(t, wt, in, out)
	reader := &decompose.Reader{Checkpoint: ckpt, Seed: 1}
	for _, c := range []struct {
		method string
		change func(*adapter.Config)
	}{
		{adapter.MethodLoRA, func(c *adapter.Config) { c.Rank.R1 = 4 }},
		// Enough terms for any A: the nearest sum is A itself.
		{adapter.MethodLSR, func(c *adapter.Config) { c.Terms = 8 }},
	} {
		s, err := adapter.Defaults(c.method, adapter.InitSVD)
		if err != nil {
			t.Fatal(err)
		}
		cfg := adapter.Config{Settings: s, Targets: adapter.Targets{Modules: []string{"query"}}}
		c.change(&cfg)
		a, err := adapter.New([]adapter.Site{site}, cfg, reader)
		if err != nil {
			t.Fatal(err)
		}
		d, err := a.Deltas()
		if err != nil {
			t.Fatal(err)
		}
		if !d[0].IsZero() {
			t.Errorf("%s: the update is not 0", c.method)
		}
		r := d[0].R
		var norm float64
		for _, v := range d[0].A {
			norm += v * v
		}
		if math.Abs(norm-float64(r)/3) > 1e-6 {
			t.Errorf("%s: norm² of A is %v, want %v", c.method, norm, float64(r)/3)
		}
		// Wᵀ A has columns σ_j √σ_j v_j: orthogonal, with norms in the
		// proportion σ^1.5, only if A's columns are the singular vectors.
		norms := make([]float64, r)
		for j := range r {
			for k := range r {
				var dot float64
				for o := range out {
					var x, y float64
					for i := range in {
						x += wt[o*in+i] * d[0].A[i*r+j]
						y += wt[o*in+i] * d[0].A[i*r+k]
					}
					dot += x * y
				}
				if j == k {
					norms[j] = math.Sqrt(dot)
				} else if math.Abs(dot) > 1e-4 {
					t.Errorf("%s: images of columns %d and %d are not orthogonal: %v", c.method, j, k, dot)
				}
			}
		}
		for j := 1; j < r; j++ {
			if got, want := norms[j]/norms[0], math.Pow(sigma[j]/sigma[0], 1.5); math.Abs(got-want) > 1e-4 {
				t.Errorf("%s: column %d has share %v, want %v", c.method, j, got, want)
			}
		}
	}
}

func TestReaderNamesWhatIsMissing(t *testing.T) {
	ckpt, site := checkpoint(t, make([]float64, 12), 4, 3)
	r := &decompose.Reader{Checkpoint: ckpt}
	site.Weight = "gone.weight"
	if _, err := r.Weight(site); err == nil || !strings.Contains(err.Error(), "gone.weight") {
		t.Errorf("%v", err)
	}
}
