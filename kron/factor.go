package kron

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// Float is an element type.
type Float interface{ float32 | float64 }

// Shape is the shape of K = Σ_{k<S} F1_k ⊗ F2_k cut to its first N rows and M
// columns: F1_k (A1, R1), F2_k (A2, R2), N ≤ A1·A2, M ≤ R1·R2.
//
// The factor A (in, r) of an update has N = in and M = r; the factor B
// (r, out) has A1 = r1, A2 = r2, R1 = b1, R2 = b2, N = r and M = out.
type Shape struct {
	S      int // terms
	A1, R1 int // each F1_k
	A2, R2 int // each F2_k
	N, M   int // K after cutting
}

// Full returns the shape without cutting, N = a1·a2 and M = r1·r2.
func Full(s, a1, r1, a2, r2 int) Shape {
	return Shape{S: s, A1: a1, R1: r1, A2: a2, R2: r2, N: a1 * a2, M: r1 * r2}
}

// Params returns the number of elements to store: s·(a1·r1 + a2·r2), or those of K if
// it is plain.
func (s Shape) Params() int {
	if s.Plain() {
		return s.N * s.M
	}
	return s.S * (s.A1*s.R1 + s.A2*s.R2)
}

// Plain says whether K is any matrix (N, M) at all: one uncut term with a factor of
// 1 x 1, which adds nothing to the other.
func (s Shape) Plain() bool {
	return s.S == 1 && (s.A1*s.R1 == 1 || s.A2*s.R2 == 1) && s.N == s.A1*s.A2 && s.M == s.R1*s.R2
}

// PlainFactor returns k (N, M) as the factor of a plain shape. It panics if the shape is
// not plain.
func PlainFactor[T Float](s Shape, k []T) Factor[T] {
	if !s.Plain() {
		panic(fmt.Sprintf("kron: %v is not plain", s))
	}
	if s.A2*s.R2 == 1 {
		return NewFactor(s, k, []T{1})
	}
	return NewFactor(s, []T{1}, k)
}

// String returns "16 x (32x2 ⊗ 24x2) -> 768x4".
func (s Shape) String() string {
	return fmt.Sprintf("%d x (%dx%d ⊗ %dx%d) -> %dx%d", s.S, s.A1, s.R1, s.A2, s.R2, s.N, s.M)
}

// Check returns an error unless the shape is one: positive sizes, and N and M
// within the product.
func (s Shape) Check() error {
	if s.S < 1 || s.A1 < 1 || s.A2 < 1 || s.R1 < 1 || s.R2 < 1 || s.N < 1 || s.M < 1 {
		return fmt.Errorf("kronecker factor %v has a size below 1", s)
	}
	if s.N > s.A1*s.A2 || s.M > s.R1*s.R2 {
		return fmt.Errorf("kronecker factor %v: the terms give only %dx%d", s, s.A1*s.A2, s.R1*s.R2)
	}
	return nil
}

// Factor is a sum of Kronecker products with its numbers.
type Factor[T Float] struct {
	Shape
	F1 []T // (S, A1, R1)
	F2 []T // (S, A2, R2)
}

// NewFactor returns the factor of that shape over f1 and f2, which it does
// not copy. It panics if the shape fails Check or the lengths differ from it.
func NewFactor[T Float](s Shape, f1, f2 []T) Factor[T] {
	f := Factor[T]{Shape: s, F1: f1, F2: f2}
	f.must()
	return f
}

func (f *Factor[T]) must() {
	if err := f.Check(); err != nil {
		panic("kron: " + err.Error())
	}
	length("f1", f.F1, f.S*f.A1*f.R1)
	length("f2", f.F2, f.S*f.A2*f.R2)
}

// Float64 returns f in float64.
func (f Factor[T]) Float64() Factor[float64] {
	return Factor[float64]{Shape: f.Shape, F1: widen(f.F1), F2: widen(f.F2)}
}

func widen[T Float](x []T) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// length panics unless x has n elements.
func length[T Float](name string, x []T, n int) {
	if len(x) != n {
		panic(fmt.Sprintf("kron: %s has %d elements, want %d", name, len(x), n))
	}
}

// Compose returns the factor of the product of two uncut-inside factors,
//
//	(Σ_k P1_k ⊗ P2_k)(Σ_l Q1_l ⊗ Q2_l) = Σ_kl (P1_k Q1_l) ⊗ (P2_k Q2_l),
//
// whose separation rank is at most f.S·g.S. It panics unless f's columns are
// all kept and pair with g's rows: f.M = f.R1·f.R2, f.R1 = g.A1, f.R2 = g.A2.
func Compose[T Float](f, g Factor[T]) Factor[T] {
	f.must()
	g.must()
	if f.R1 != g.A1 || f.R2 != g.A2 || f.M != f.R1*f.R2 || g.N != g.A1*g.A2 {
		panic(fmt.Sprintf("kron: %v and %v do not compose", f.Shape, g.Shape))
	}
	s := Shape{S: f.S * g.S, A1: f.A1, R1: g.R1, A2: f.A2, R2: g.R2, N: f.N, M: g.M}
	h := Factor[T]{Shape: s, F1: make([]T, s.S*s.A1*s.R1), F2: make([]T, s.S*s.A2*s.R2)}
	for k := range f.S {
		for l := range g.S {
			t := k*g.S + l
			gemm(nil, false, false, f.A1, g.R1, f.R1, 1, f.F1[k*f.A1*f.R1:], f.R1, g.F1[l*g.A1*g.R1:], g.R1, 0, h.F1[t*s.A1*s.R1:], s.R1)
			gemm(nil, false, false, f.A2, g.R2, f.R2, 1, f.F2[k*f.A2*f.R2:], f.R2, g.F2[l*g.A2*g.R2:], g.R2, 0, h.F2[t*s.A2*s.R2:], s.R2)
		}
	}
	return h
}

// gemm is c = alpha·op(a) op(b) + beta·c in the precision of T.
func gemm[T Float](p *kernel.Pool, transA, transB bool, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int) {
	switch a := any(a).(type) {
	case []float32:
		kernel.Gemm(p, transA, transB, m, n, k, float32(alpha), a, lda, any(b).([]float32), ldb, float32(beta), any(c).([]float32), ldc)
	case []float64:
		kernel.GemmF64(p, transA, transB, m, n, k, float64(alpha), a, lda, any(b).([]float64), ldb, float64(beta), any(c).([]float64), ldc)
	}
}
