package kron_test

import (
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// BenchmarkForms times y = x A for in = 768 over 2,048 tokens in both forms:
// forward only, materialisation included.
func BenchmarkForms(b *testing.B) {
	const rows = 2048
	for _, c := range []struct {
		name string
		s    kron.Shape
	}{
		{"r=2x2,s=16", kron.Full(16, 32, 2, 24, 2)},
		{"r=8x8,s=4", kron.Full(4, 32, 8, 24, 8)},
		{"r=32x32,s=4", kron.Full(4, 32, 32, 24, 32)},
	} {
		rng := rand.New(rand.NewPCG(1, 1))
		f := kron.NewFactor(c.s, narrow(normals(rng, c.s.S*c.s.A1*c.s.R1)), narrow(normals(rng, c.s.S*c.s.A2*c.s.R2)))
		x, y, k := narrow(normals(rng, rows*f.N)), make([]float32, rows*f.M), make([]float32, f.N*f.M)
		b.Run(c.name+"/thin", func(b *testing.B) {
			w := &kron.Work[float32]{}
			for b.Loop() {
				kron.Materialize(nil, w, k, f)
				kernel.Gemm(nil, false, false, rows, f.M, f.N, 1, x, f.N, k, f.M, 0, y, f.M)
			}
		})
		b.Run(c.name+"/sandwich", func(b *testing.B) {
			w := &kron.Work[float32]{}
			for b.Loop() {
				kron.Apply(nil, w, y, f.M, x, f.N, rows, f, false, 1, 0)
			}
		})
	}
}
