package decompose_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// TestResidual: of a merge that kept nothing, the residual is the update itself,
// to float32's precision; of one that lost nothing there is none.
func TestResidual(t *testing.T) {
	const in, out, r = 60, 48, 4
	rng := rand.New(rand.NewPCG(1, 2))
	site := adapter.Site{Module: "q", Weight: "q.weight", In: in, Out: out, Transposed: true}
	a, err := adapter.New([]adapter.Site{site}, adapter.Config{Targets: adapter.Targets{Modules: []string{"q"}}, Settings: adapter.Settings{Method: adapter.MethodLoRA, Rank: adapter.Rank{R1: r, R2: 1}, Terms: 1, Alpha: r, Scaling: adapter.ScaleLoRA, Init: adapter.InitZero}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range a.Modules[0].Tensors {
		for i := range x {
			x[i] = float32(1e-4 * rng.NormFloat64())
		}
	}
	ds, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	want := ds[0].Delta.Dense()
	base := write(t, tensor.F32, layer{"q.weight", []int{out, in}, normals(rng, in*out)})
	o := decompose.ExtractOptions{Config: adapter.Config{Settings: adapter.Settings{Rank: adapter.Rank{R1: r, R2: 1}}}}
	rest, rep, err := decompose.Residual(context.Background(), base, base, []*adapter.Adapter{a}, []float64{0.5}, []adapter.Site{site}, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := rest.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	var diff []float64
	for i, v := range got[0].Delta.Dense() {
		diff = append(diff, v-0.5*want[i])
	}
	if e := frobenius(diff) / (0.5 * frobenius(want)); e > 1e-5 || rep.Error > 1e-3 {
		t.Errorf("error %.3g, report %+v", e, rep)
	}
	clear(a.Modules[0].Tensors[1])
	if _, _, err := decompose.Residual(context.Background(), base, base, []*adapter.Adapter{a}, []float64{1}, []adapter.Site{site}, o); !errors.Is(err, decompose.ErrMismatch) {
		t.Errorf("nothing lost: %v", err)
	}
}
