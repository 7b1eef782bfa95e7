package decompose_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

func TestDiff(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	w := normals(rng, 96*80)
	// A change of three equal Kronecker products: their spread over the
	// rearranged matrix is orthogonal only nearly, but 90 % need all three.
	k := kron.Full(3, 12, 8, 8, 10)
	f := kron.NewFactor(k, normals(rng, k.S*k.A1*k.R1), normals(rng, k.S*k.A2*k.R2))
	change := make([]float64, 96*80)
	kron.Materialize(nil, nil, change, f)
	rescale(change)
	rank1 := make([]float64, 96*80)
	u, v := normals(rng, 96), normals(rng, 80)
	for i := range u {
		for j := range v {
			rank1[i*80+j] = u[i] * v[j]
		}
	}
	rescale(rank1)
	plus := func(d []float64) []float64 {
		x := make([]float64, len(w))
		for i := range w {
			x[i] = w[i] + d[i]
		}
		return x
	}
	nan := []float64{1, math.NaN()}
	first := write(t, tensor.F32, layer{"l.0.a.weight", []int{96, 80}, w}, layer{"l.0.b.weight", []int{96, 80}, w}, layer{"l.1.a.weight", []int{96, 80}, w},
		layer{"bias", []int{2}, []float64{3, 4}}, layer{"zero", []int{1}, []float64{0}}, layer{"odd", []int{2}, []float64{1, 2}}, layer{"gone", []int{1}, []float64{1}}, layer{"nan", []int{2}, []float64{1, 1}})
	second := write(t, tensor.F32, layer{"l.0.a.weight", []int{96, 80}, plus(change)}, layer{"l.0.b.weight", []int{96, 80}, plus(rank1)}, layer{"l.1.a.weight", []int{96, 80}, w},
		layer{"bias", []int{2}, []float64{3, 3.5}}, layer{"zero", []int{1}, []float64{1}}, layer{"odd", []int{1, 2}, []float64{1, 2}}, layer{"nan", []int{2}, nan}, layer{"new<", []int{1}, []float64{1}})
	ds, err := decompose.Diff(context.Background(), first, second, decompose.DiffOptions{Components: 8})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]decompose.TensorDiff{}
	for _, d := range ds {
		got[d.Name] = d
	}
	for name, s := range map[string]decompose.State{"l.0.a.weight": decompose.Changed, "l.1.a.weight": decompose.Same, "odd": decompose.Reshaped, "gone": decompose.Missing, "new<": decompose.Added, "nan": decompose.Changed} {
		if got[name].State != s {
			t.Errorf("%s: %s, want %s", name, got[name].State, s)
		}
	}
	if d := got["bias"]; math.Abs(d.Norm-0.5) > 1e-12 || math.Abs(d.Relative-0.1) > 1e-12 || d.MaxChange != 0.5 {
		t.Errorf("bias: %+v", d)
	}
	if d := got["zero"]; !math.IsInf(d.Relative, 1) {
		t.Errorf("zero: %+v", d)
	}
	if d := got["nan"]; d.NotFinite != 1 || d.Norm != 0 {
		t.Errorf("nan: %+v", d)
	}
	if d := got["l.0.a.weight"]; math.Abs(d.Norm-1) > 1e-5 || math.Abs(d.Relative-1/frobenius(w)) > 1e-6 || d.SeparationRank90 != 3 || d.Rank90 != 9 {
		t.Errorf("three products: %+v", d)
	}
	if d := got["l.0.b.weight"]; d.Rank90 != 1 || math.Abs(d.EffectiveRank-1) > 1e-4 {
		t.Errorf("rank one: %+v", d)
	}
	var b bytes.Buffer
	if err := decompose.HeatMap(&b, ds); err != nil {
		t.Fatal(err)
	}
	cells, dec := 0, xml.NewDecoder(&b)
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "title" {
			cells++
		}
	}
	if cells != 6 {
		t.Errorf("%d cells", cells)
	}
	ds, err = decompose.Diff(context.Background(), first, first, decompose.DiffOptions{Match: func(n string) bool { return strings.HasPrefix(n, "l.") }})
	if err != nil || len(ds) != 3 {
		t.Fatal(len(ds), err)
	}
	for _, d := range ds {
		if d.State != decompose.Same {
			t.Errorf("%s differs from itself", d.Name)
		}
	}
}
