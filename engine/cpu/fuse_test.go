package cpu

import (
	"fmt"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
)

// TestFusions checks that every feed-forward block of a training step keeps the
// derivative of its activation and multiplies by it inside the product, that
// the gradients of a sandwich are computed together, and that gradients are
// those of the reference.
func TestFusions(t *testing.T) {
	for _, adapter := range []string{"lora", "sandwich"} {
		for _, drop := range []float32{0, 0.1} {
			t.Run(fmt.Sprintf("%s/drop=%v", adapter, drop), func(t *testing.T) { testFusions(t, adapter, drop) })
		}
	}
}

func testFusions(t *testing.T, adapter string, drop float32) {
	e := small
	e.adapter, e.drop = adapter, drop
	p := e.program(t)
	b := newBatch(e.vocab, 9, 30, 17)
	x := compile(t, Options{BaseDType: "f32"}, p, noise{}, b.Dims()).(*executable)
	if len(x.slopes) != e.layers || len(x.joined) != e.layers || len(x.inside) != e.layers {
		t.Errorf("%d derivatives kept, %d products that multiply by one; want %d of each", len(x.slopes), len(x.joined), e.layers)
	}
	backs := 0
	if adapter == "sandwich" { // query and value, B and A; nothing below wants the lowest layer's
		backs = 4*e.layers - 2
	}
	if len(x.backs) != backs || len(x.begun) != backs {
		t.Errorf("%d sandwiches have their gradients together, want %d", len(x.backs), backs)
	}
	want, err := reference.New().Compile(p, noise{}, b.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	params, got, ref := make([]float32, p.ParamSize), make([]float32, p.ParamSize), make([]float32, p.ParamSize)
	for i := range params {
		params[i] = 0.05 * float32(i%7-3)
	}
	for _, exe := range []graph.Executable{x, want} {
		if err := exe.SetParams(params); err != nil {
			t.Fatal(err)
		}
		if err := exe.Run(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Grads(got); err != nil {
		t.Fatal(err)
	}
	if err := want.Grads(ref); err != nil {
		t.Fatal(err)
	}
	var most float32
	for _, v := range ref {
		most = max(most, v, -v)
	}
	for i, v := range ref {
		if d := got[i] - v; d > 2e-4*most || -d > 2e-4*most {
			t.Fatalf("gradient %d is %v, want %v (the largest is %v)", i, got[i], v, most)
		}
	}
}
