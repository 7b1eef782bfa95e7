package adapter

import (
	"crypto/sha256"
	"encoding/binary"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph/philox"
)

// Source draws the numbers that adapters start with. They depend on the seed,
// on the tensor's name and on the element's index alone: adding a module or
// changing the order of modules changes no other tensor.
//
// Four elements share one block of Philox 4x32-10 (Salmon et al., SC 2011)
// with the seed as key and the block's index and the first eight bytes of the
// name's SHA-256 as counter.
type Source struct{ Seed uint64 }

// Normal fills dst with N(0, sigma²), by the method of Box and Muller (1958)
// in float64, rounded once.
func (s Source) Normal(name string, dst []float32, sigma float64) {
	s.blocks(name, len(dst), func(i int, u [4]float64) {
		var z [4]float64
		for p := 0; p < 4; p += 2 {
			radius := sigma * math.Sqrt(-2*math.Log(u[p]))
			sin, cos := math.Sincos(2 * math.Pi * u[p+1])
			z[p], z[p+1] = radius*cos, radius*sin
		}
		fill(dst[i:], z)
	})
}

// Uniform fills dst with numbers evenly distributed over (-bound, bound).
func (s Source) Uniform(name string, dst []float32, bound float64) {
	s.blocks(name, len(dst), func(i int, u [4]float64) {
		for j := range u {
			u[j] = bound * (2*u[j] - 1)
		}
		fill(dst[i:], u)
	})
}

func fill(dst []float32, x [4]float64) {
	for j := range min(4, len(dst)) {
		dst[j] = float32(x[j])
	}
}

// blocks calls f with four numbers in (0, 1) for every four elements.
func (s Source) blocks(name string, n int, f func(i int, u [4]float64)) {
	h := sha256.Sum256([]byte(name))
	lo, hi := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:])
	key := [2]uint32{uint32(s.Seed), uint32(s.Seed >> 32)}
	for i := 0; i < n; i += 4 {
		q := uint64(i / 4)
		w := philox.Block(philox.Rounds, [4]uint32{uint32(q), uint32(q >> 32), lo, hi}, key)
		var u [4]float64
		for j := range u {
			u[j] = (float64(w[j]) + 0.5) / (1 << 32)
		}
		f(i, u)
	}
}
