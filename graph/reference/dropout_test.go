package reference

import (
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/philox"
)

// scaled is what an element that is kept with probability 1-p is multiplied by.
func scaled(keep bool, p float32) float64 {
	if !keep {
		return 0
	}
	return 1 / (1 - float64(p)) // the tests' p is a power of two
}

func TestDropoutReadsTheBitOfItsElement(t *testing.T) {
	const cols, p, site = 5, 0.5, 9
	b := newBench(t, map[string]tensor{"x": {Shape: []int{14, cols}, Data: make([]float64, 14*cols)}})
	for i := range b.c["x"].Data {
		b.c["x"].Data[i] = 1
	}
	x := b.tokens("x")
	y, dx := b.like(x), b.like(x)
	b.emit(&graph.Dropout{X: x, P: p, Site: site, Y: y}, &graph.DropoutGrad{DY: x, P: p, Site: site, DX: dx})
	b.batch.Train, b.batch.Seed, b.batch.Step = true, 0x123456789, 4
	r := b.run()
	got, grad := r.Float64(y), r.Float64(dx)
	for i := range got {
		want := scaled(philox.Keep(p, 0x123456789, site, 4, uint64(i)), p)
		if got[i] != want || grad[i] != want {
			t.Fatalf("element %d is %v, its gradient %v, want %v", i, got[i], grad[i], want)
		}
	}
}

// With queries of zeros every key has the same probability, and with unit
// vectors as values the result shows the masked probabilities themselves.
func TestAttentionDropoutReadsTheBitOfItsProbability(t *testing.T) {
	const heads, dim, p = 2, 8, 0.5
	b := newBench(t, map[string]tensor{
		"q": {Shape: []int{14, heads * dim}, Data: make([]float64, 14*heads*dim)},
		"v": {Shape: []int{14, dim}, Data: make([]float64, 14*dim)},
	})
	for i, position := range b.batch.Positions {
		b.c["v"].Data[i*dim+int(position)] = 1
	}
	q, v := b.tokens("q"), b.tokens("v")
	y := b.Attention("y", q, v, v, graph.Attention{Heads: heads, KVHeads: 1, HeadDim: dim, Scale: 1, DropP: p})
	b.batch.Train, b.batch.Seed, b.batch.Step = true, 77, 2
	site := b.P.Ops[len(b.P.Ops)-1].(*graph.Attention).Site
	got := b.run().Float64(y)
	for s, lo := range b.batch.CuSeqlens[:3] {
		n := int(b.batch.CuSeqlens[s+1] - lo)
		for row := int(lo); row < int(lo)+n; row++ {
			for h := range heads {
				for k := range n {
					want := scaled(philox.Keep(p, 77, site, 2, uint64(row*heads+h)<<20+uint64(k)), p) / float64(n)
					if g := got[row*heads*dim+h*dim+k]; g-want > 1e-12 || want-g > 1e-12 {
						t.Fatalf("row %d, head %d, key %d: %v, want %v", row, h, k, g, want)
					}
				}
			}
		}
	}
}
