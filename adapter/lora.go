package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// lora is the low-rank update of arXiv 2106.09685:
//
//	ΔW = scale·A B,  A (in, r), B (r, out)
//
// Tensors, as PEFT stores them: lora_A.weight (r, in), the transpose of A, and
// lora_B.weight (out, r), the transpose of B.
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
	return []ParamSpec{
		{Name: site.tensorName("lora_A.weight"), Shape: []int{r, site.In}},
		{Name: site.tensorName("lora_B.weight"), Shape: []int{site.Out, r}},
	}, nil
}

// Init: zero draws A as torch's kaiming_uniform_(a=√5) does, evenly over
// ±1/√in, and B = 0, as PEFT. paper draws both from N(0, 0.01²). svd makes A
// the leading left singular vectors of W, weighted by the roots of their
// singular values and scaled to the norm that zero gives A.
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
	default:
		src.Uniform(specs[0].Name, t[0], 1/math.Sqrt(float64(site.In)))
	}
	return t, nil
}

func (lora) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	h := b.MatMul(site.Module+".lora_A", x, params[0], false, true, 1, graph.None)
	return b.MatMul(site.Module+".lora_B", h, params[1], false, true, float32(s.Scale()), y)
}

func (k lora) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	r := s.Rank.R1
	return &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), R: r,
		A: transpose(t[0], r, site.In), B: transpose(t[1], site.Out, r)}, nil
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
