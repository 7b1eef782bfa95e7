package kron_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// naive is K by the definition of the Kronecker product, element by element.
func naive(f kron.Factor[float64]) []float64 {
	k := make([]float64, f.N*f.M)
	for row := range f.N {
		for col := range f.M {
			i, u, j, v := row/f.A2, row%f.A2, col/f.R2, col%f.R2
			for t := range f.S {
				k[row*f.M+col] += f.F1[(t*f.A1+i)*f.R1+j] * f.F2[(t*f.A2+u)*f.R2+v]
			}
		}
	}
	return k
}

// multiply is op(a)(m, k) · op(b)(k, n), by the definition.
func multiply(transA, transB bool, m, n, k int, a, b []float64) []float64 {
	c := make([]float64, m*n)
	for i := range m {
		for j := range n {
			for l := range k {
				x, y := i*k+l, l*n+j
				if transA {
					x = l*m + i
				}
				if transB {
					y = j*k + l
				}
				c[i*n+j] += a[x] * b[y]
			}
		}
	}
	return c
}

func shapes(t *rapid.T) kron.Shape {
	d := rapid.IntRange(1, 9)
	s := kron.Full(rapid.IntRange(1, 6).Draw(t, "s"), d.Draw(t, "a1"), d.Draw(t, "r1"), d.Draw(t, "a2"), d.Draw(t, "r2"))
	s.N -= rapid.IntRange(0, (s.N-1)/2).Draw(t, "cut rows")
	s.M -= rapid.IntRange(0, (s.M-1)/2).Draw(t, "cut columns")
	return s
}

func normals(rng *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	return x
}

func random(rng *rand.Rand, s kron.Shape) kron.Factor[float64] {
	return kron.NewFactor(s, normals(rng, s.S*s.A1*s.R1), normals(rng, s.S*s.A2*s.R2))
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func near[T kron.Float](t fataler, what string, got []T, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !testkit.Near(float64(got[i]), want[i], tol, tol) {
			t.Fatalf("%s: element %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// Sums here have at most 6·81 terms of size around 10: float64 keeps 1e-12,
// float32 1e-4.
const tol64, tol32 = 1e-11, 2e-4

func TestMaterializeIsTheKroneckerSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		f := random(rng, shapes(t))
		want := naive(f)
		got := make([]float64, f.N*f.M)
		kron.Materialize(nil, nil, got, f)
		near(t, "float64", got, want, tol64)

		g := kron.NewFactor(f.Shape, narrow(f.F1), narrow(f.F2))
		got32 := make([]float32, f.N*f.M)
		kron.Materialize(nil, &kron.Work[float32]{}, got32, g)
		near(t, "float32", got32, want, tol32)

		lo := rapid.IntRange(0, f.N).Draw(t, "lo")
		hi := rapid.IntRange(lo, f.N).Draw(t, "hi")
		part := make([]float64, (hi-lo)*f.M)
		kron.MaterializeRows(nil, nil, part, f, lo, hi)
		near(t, "rows", part, want[lo*f.M:hi*f.M], tol64)
	})
}

func TestParamsAndWidening(t *testing.T) {
	// The published setting: A and B of a 768 x 768 layer are 3,584 numbers.
	a, b := kron.Full(16, 32, 2, 24, 2), kron.Full(16, 2, 32, 2, 24)
	if n := a.Params() + b.Params(); n != 3584 {
		t.Errorf("%d parameters, want 3,584", n)
	}
	f := random(rand.New(rand.NewPCG(1, 1)), a)
	g := kron.NewFactor(a, narrow(f.F1), narrow(f.F2))
	if len(g.F1)+len(g.F2) != a.Params() {
		t.Errorf("%d elements", len(g.F1)+len(g.F2))
	}
	wide := g.Float64()
	for i, v := range g.F2 {
		if wide.F2[i] != float64(v) {
			t.Fatalf("element %d widened to %v, was %v", i, wide.F2[i], v)
		}
	}
}

func TestRearrangeTurnsKroneckerTermsIntoOuterProducts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		s := shapes(t)
		s.N, s.M = s.A1*s.A2, s.R1*s.R2
		f := random(rng, s)
		r := make([]float64, s.N*s.M)
		kron.Rearrange(r, naive(f), s)
		m1, m2 := s.A1*s.R1, s.A2*s.R2
		near(t, "R(K) and mat(F1)ᵀ mat(F2)", r, multiply(true, false, m1, m2, s.S, f.F1, f.F2), tol64)
	})
}

func TestUnrearrangeInvertsRearrange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		s := shapes(t)
		k := normals(rng, s.N*s.M)
		r := normals(rng, s.A1*s.R1*s.A2*s.R2) // Rearrange must overwrite all of it
		kron.Rearrange(r, k, s)
		back := make([]float64, len(k))
		kron.Unrearrange(back, r, s)
		near(t, "inverse", back, k, 0)
		var sk, sr float64
		for _, v := range k {
			sk += v * v
		}
		for _, v := range r {
			sr += v * v
		}
		if math.Abs(sk-sr) > 1e-9*sk {
			t.Fatalf("norm² %v became %v: cut elements must be 0", sk, sr)
		}
	})
}

// difference returns the finite-difference gradient of loss by x. loss is
// bilinear in the parameters, so central differences are exact but for
// rounding.
func difference(x []float64, loss func() float64) []float64 {
	g := make([]float64, len(x))
	const h = 1e-3
	for i := range x {
		keep := x[i]
		x[i] = keep + h
		up := loss()
		x[i] = keep - h
		down := loss()
		x[i] = keep
		g[i] = (up - down) / (2 * h)
	}
	return g
}

func inner(a, b []float64) float64 {
	var s float64
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

func TestGradAgainstFiniteDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 4))
		f := random(rng, shapes(t))
		dK := normals(rng, f.N*f.M)
		loss := func() float64 { return inner(dK, naive(f)) }
		want1, want2 := difference(f.F1, loss), difference(f.F2, loss)
		before1, before2 := normals(rng, len(f.F1)), normals(rng, len(f.F2))
		df1, df2 := append([]float64(nil), before1...), append([]float64(nil), before2...)
		kron.Grad(nil, nil, df1, df2, f, dK)
		for i := range df1 {
			want1[i] += before1[i]
		}
		for i := range df2 {
			want2[i] += before2[i]
		}
		near(t, "dF1", df1, want1, 1e-8)
		near(t, "dF2", df2, want2, 1e-8)
	})
}

func TestApplyIsTheProductWithTheSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 5))
		f := random(rng, shapes(t))
		trans := rapid.Bool().Draw(t, "trans")
		rows := rapid.IntRange(0, 20).Draw(t, "rows")
		n, m := f.N, f.M
		if trans {
			n, m = m, n
		}
		padX, padY := rapid.IntRange(0, 3).Draw(t, "padX"), rapid.IntRange(0, 3).Draw(t, "padY")
		alpha, beta := rng.NormFloat64(), float64(rapid.IntRange(0, 2).Draw(t, "beta"))
		x, y := normals(rng, rows*(n+padX)), normals(rng, rows*(m+padY))
		want := append([]float64(nil), y...)
		k := naive(f)
		for r := range rows {
			prod := multiply(false, trans, 1, m, n, x[r*(n+padX):], k)
			for j, v := range prod {
				want[r*(m+padY)+j] = alpha*v + beta*want[r*(m+padY)+j]
			}
		}
		got32 := narrow(y)
		kron.Apply(nil, nil, y, m+padY, x, n+padX, rows, f, trans, alpha, beta)
		near(t, "float64", y, want, 1e-10)
		g := kron.NewFactor(f.Shape, narrow(f.F1), narrow(f.F2))
		kron.Apply(nil, nil, got32, m+padY, narrow(x), n+padX, rows, g, trans, float32(alpha), float32(beta))
		near(t, "float32", got32, want, 5e-3)
	})
}

func TestApplyGradAgainstGrad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 6))
		f := random(rng, shapes(t))
		trans := rapid.Bool().Draw(t, "trans")
		rows := rapid.IntRange(1, 20).Draw(t, "rows")
		n, m := f.N, f.M
		if trans {
			n, m = m, n
		}
		alpha := rng.NormFloat64()
		x, dy := normals(rng, rows*n), normals(rng, rows*m)
		var dK []float64
		if trans {
			dK = multiply(true, false, f.N, f.M, rows, dy, x)
		} else {
			dK = multiply(true, false, f.N, f.M, rows, x, dy)
		}
		for i := range dK {
			dK[i] *= alpha
		}
		want1, want2 := make([]float64, len(f.F1)), make([]float64, len(f.F2))
		kron.Grad(nil, nil, want1, want2, f, dK)
		df1, df2 := make([]float64, len(f.F1)), make([]float64, len(f.F2))
		kron.ApplyGrad(nil, nil, df1, df2, dy, m, x, n, rows, f, trans, alpha)
		near(t, "dF1", df1, want1, 1e-9)
		near(t, "dF2", df2, want2, 1e-9)
	})
}

// TestBackIsApplyAndApplyGrad checks all gradients at once against those one by
// one, with dx in memory of its own and in that of x.
func TestBackIsApplyAndApplyGrad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 6))
		f := random(rng, shapes(t))
		rows := rapid.IntRange(0, 40).Draw(t, "rows")
		alpha, beta := rng.NormFloat64(), float64(rapid.IntRange(0, 1).Draw(t, "beta"))
		x, dy := normals(rng, rows*f.N), normals(rng, rows*f.M)
		want, want1, want2 := normals(rng, rows*f.N), normals(rng, len(f.F1)), normals(rng, len(f.F2))
		dx, df1, df2 := slices.Clone(want), slices.Clone(want1), slices.Clone(want2)
		if rapid.Bool().Draw(t, "in place") {
			dx, want = x, slices.Clone(x)
		}
		kron.ApplyGrad(nil, nil, want1, want2, dy, f.M, slices.Clone(x), f.N, rows, f, false, alpha)
		kron.Apply(nil, nil, want, f.N, dy, f.M, rows, f, true, alpha, beta)
		kron.Back(nil, nil, dx, f.N, df1, df2, dy, f.M, x, f.N, rows, f, alpha, beta)
		near(t, "dx", dx, want, 1e-10)
		near(t, "dF1", df1, want1, 1e-10)
		near(t, "dF2", df2, want2, 1e-10)
	})
}

func TestComposeIsTheProduct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7))
		d := rapid.IntRange(1, 5)
		s, a1, r1, a2, r2, b1, b2 := d.Draw(t, "s"), d.Draw(t, "a1"), d.Draw(t, "r1"), d.Draw(t, "a2"), d.Draw(t, "r2"), d.Draw(t, "b1"), d.Draw(t, "b2")
		fs, gs := kron.Full(s, a1, r1, a2, r2), kron.Full(s, r1, b1, r2, b2)
		fs.N -= (fs.N - 1) / 3
		gs.M -= (gs.M - 1) / 3
		f, g := random(rng, fs), random(rng, gs)
		h := kron.Compose(f, g)
		if h.S != s*s {
			t.Fatalf("separation rank %d, want %d", h.S, s*s)
		}
		near(t, "product", naive(h), multiply(false, false, f.N, g.M, f.M, naive(f), naive(g)), 1e-10)
	})
}

// Large enough that Materialize, Grad and Apply work in several chunks.
func TestChunksAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	s := kron.Full(3, 33, 16, 41, 16)
	s.N, s.M = 1350, 250
	f := random(rng, s)
	want := naive(f)
	k := make([]float64, s.N*s.M)
	pool := kernel.NewPool(2)
	defer pool.Close()
	kron.Materialize(pool, nil, k, f)
	near(t, "sum", k, want, tol64)

	const rows = 150
	x, dy := normals(rng, rows*s.N), normals(rng, rows*s.M)
	y := make([]float64, rows*s.M)
	kron.Apply(pool, nil, y, s.M, x, s.N, rows, f, false, 1, 0)
	near(t, "apply", y, multiply(false, false, rows, s.M, s.N, x, want), 1e-9)

	dK := multiply(true, false, s.N, s.M, rows, x, dy)
	df1, df2 := make([]float64, len(f.F1)), make([]float64, len(f.F2))
	kron.Grad(pool, nil, df1, df2, f, dK)
	// <dF, F> of each group is <dK, K>: Euler's relation for a bilinear map.
	for name, v := range map[string]float64{"F1": inner(df1, f.F1), "F2": inner(df2, f.F2)} {
		if e := inner(dK, want); math.Abs(v-e) > 1e-9*math.Abs(e)+1e-6 {
			t.Errorf("<d%s, %s> = %v, <dK, K> = %v", name, name, v, e)
		}
	}
	g1, g2 := make([]float64, len(f.F1)), make([]float64, len(f.F2))
	kron.ApplyGrad(pool, nil, g1, g2, dy, s.M, x, s.N, rows, f, false, 1)
	near(t, "dF1", g1, df1, 1e-8)
	near(t, "dF2", g2, df2, 1e-8)
}

func TestThreadsDoNotChangeBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	f64 := random(rng, kron.Full(4, 32, 32, 24, 32))
	f := kron.NewFactor(f64.Shape, narrow(f64.F1), narrow(f64.F2))
	x := narrow(normals(rng, 70*f.N))
	pool := kernel.NewPool(3)
	defer pool.Close()
	one, many := make([]float32, 70*f.M), make([]float32, 70*f.M)
	kron.Apply(nil, nil, one, f.M, x, f.N, 70, f, false, 1, 0)
	kron.Apply(pool, nil, many, f.M, x, f.N, 70, f, false, 1, 0)
	testkit.EqualBits(t, "apply", many, one)
	dx1, dx3 := make([]float32, 70*f.N), make([]float32, 70*f.N)
	g1, g3 := make([]float32, f.Params()), make([]float32, f.Params())
	n1 := len(f.F1)
	kron.Back(nil, nil, dx1, f.N, g1[:n1], g1[n1:], one, f.M, x, f.N, 70, f, 1, 0)
	kron.Back(pool, nil, dx3, f.N, g3[:n1], g3[n1:], one, f.M, x, f.N, 70, f, 1, 0)
	testkit.EqualBits(t, "gradient of x", dx3, dx1)
	testkit.EqualBits(t, "gradients of the terms", g3, g1)
	one, many = make([]float32, f.N*f.M), make([]float32, f.N*f.M)
	kron.Materialize(nil, nil, one, f)
	kron.Materialize(pool, nil, many, f)
	testkit.EqualBits(t, "materialize", many, one)
}

func TestShapeMistakesPanic(t *testing.T) {
	f := kron.Factor[float32]{Shape: kron.Full(2, 3, 2, 4, 2), F1: make([]float32, 12), F2: make([]float32, 16)}
	for name, call := range map[string]func(){
		"short dst":      func() { kron.Materialize(nil, nil, make([]float32, 5), f) },
		"short factor":   func() { kron.NewFactor(f.Shape, f.F1[:11], f.F2) },
		"cut above size": func() { s := f.Shape; s.N = 13; kron.NewFactor(s, f.F1, f.F2) },
		"rows":           func() { kron.MaterializeRows(nil, nil, nil, f, 5, 4) },
		"gradient":       func() { kron.Grad(nil, nil, f.F1, f.F2[:3], f, make([]float32, 48)) },
		"compose":        func() { kron.Compose(f, f) },
		"split":          func() { kron.Split(0) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			call()
		})
	}
}
