package adapter

import (
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// lora is the low-rank update of arXiv 2106.09685:
//
//	ΔW = scale·A B,  A (in, r), B (r, out)
//
// Tensors, as PEFT stores them: lora_A.weight (r, in), the transpose of A, and
// lora_B.weight (out, r), the transpose of B; with a start from W itself also the
// frozen lora_A0.weight, lora_B0.weight (rebased.go).
type lora struct{}

func (lora) Method() string   { return MethodLoRA }
func (lora) PEFTType() string { return "LORA" }

func (lora) Defaults() Settings { return Settings{Rank: Rank{8, 1}, Terms: 1, Alpha: 16} }

func (lora) Params(site Site, s Settings) ([]ParamSpec, error) {
	switch {
	case s.Rank.R2 != 1:
		return nil, fmt.Errorf("rank %v: lora takes one number", s.Rank)
	case s.Terms != 1:
		return nil, fmt.Errorf("%d terms: lora has no terms", s.Terms)
	case s.Split != [2]int{} || s.SplitOut != [2]int{}:
		return nil, fmt.Errorf("split %dx%d: lora has no split", s.Split[0], s.Split[1])
	}
	r := s.Rank.R1
	specs := []ParamSpec{
		{Name: site.tensorName("lora_A.weight"), Shape: []int{r, site.In}},
		{Name: site.tensorName("lora_B.weight"), Shape: []int{site.Out, r}},
	}
	if s.rebased() {
		specs = append(specs,
			ParamSpec{Name: site.tensorName("lora_A0.weight"), Shape: []int{r, site.In}, Frozen: true},
			ParamSpec{Name: site.tensorName("lora_B0.weight"), Shape: []int{site.Out, r}, Frozen: true})
	}
	return specs, nil
}

// Init: zero draws A as torch's kaiming_uniform_(a=√5) does, evenly over
// ±1/√in, and B = 0, as PEFT. paper draws both from N(0, 0.01²). svd makes A
// the leading left singular vectors of W, weighted by the roots of their
// singular values and scaled to the norm that zero gives A. pissa and olora start
// from a part of W, see rebasedStart.
func (k lora) Init(site Site, s Settings, src Source, w WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	switch s.Init {
	case InitPaper:
		src.Normal(specs[0].Name, t[0], 0.01)
		src.Normal(specs[1].Name, t[1], 0.01)
	case InitSVD:
		a, err := principalInputs(site, s.Rank.R1, w)
		if err != nil {
			return nil, err
		}
		t[0] = narrow(transpose(a, site.In, s.Rank.R1))
	case InitPiSSA, InitOLoRA:
		a, b, err := rebasedStart(site, s, w)
		if err != nil {
			return nil, err
		}
		t[0], t[1], t[2], t[3] = narrow(a), narrow(b), narrow(a), narrow(b)
		for i := range t[3] {
			t[3][i] = -t[3][i]
		}
	default:
		src.Uniform(specs[0].Name, t[0], 1/math.Sqrt(float64(site.In)))
	}
	return t, nil
}

func (lora) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	if s.rebased() {
		a0 := b.Weight(site.tensorName("lora_A0.weight"), site.In, s.Rank.R1, true)
		b0 := b.Weight(site.tensorName("lora_B0.weight"), s.Rank.R1, site.Out, true)
		h := b.Linear(site.Module+".lora_A0", x, a0, graph.NoWeight, graph.ActNone, graph.None)
		h = b.Axpby(site.Module+".lora_h0", float32(s.Scale()), h, 0, graph.None)
		y = b.Linear(site.Module+".lora_B0", h, b0, graph.NoWeight, graph.ActNone, y)
	}
	h := b.MatMul(site.Module+".lora_A", x, params[0], false, true, 1, graph.None)
	return b.MatMul(site.Module+".lora_B", h, params[1], false, true, float32(s.Scale()), y)
}

func (k lora) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	r := s.Rank.R1
	d := &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), R: r,
		A: transpose(t[0], r, site.In), B: transpose(t[1], site.Out, r)}
	if !s.rebased() {
		return d, nil
	}
	a0, b0 := transpose(t[2], r, site.In), transpose(t[3], site.Out, r)
	if slices.Equal(t[0], t[2]) && negatives(d.B, b0) {
		clear(d.B) // the start: exactly 0
		return d, nil
	}
	both := make([]float64, 0, 2*len(d.A))
	for i := range site.In {
		both = append(append(both, d.A[i*r:][:r]...), a0[i*r:][:r]...)
	}
	d.A, d.B, d.R = both, append(d.B, b0...), 2*r
	return d, nil
}

// negatives reports whether y = -x.
func negatives(x, y []float64) bool {
	for i, v := range x {
		if y[i] != -v {
			return false
		}
	}
	return true
}

// transpose returns xᵀ (cols, rows) of x (rows, cols) in float64.
func transpose[T float32 | float64](x []T, rows, cols int) []float64 {
	y := make([]float64, len(x))
	for i := range rows {
		for j, v := range x[i*cols:][:cols] {
			y[j*rows+i] = float64(v)
		}
	}
	return y
}
