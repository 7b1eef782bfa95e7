package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// krona is a sum of Kronecker products of full rank, KronA of arXiv 2212.10650
// for one term:
//
//	ΔW = scale·Σ_k C_k ⊗ D_k,  C_k (a1, b1), D_k (a2, b2)
//
// Tensors: C (s, a1, b1), D (s, a2, b2). It has no rank: the scale is alpha.
type krona struct{}

func (krona) Method() string   { return MethodKronA }
func (krona) PEFTType() string { return "KRONA" }

func (krona) Defaults() Settings { return Settings{Rank: Rank{1, 1}, Terms: 1, Alpha: 16} }

// shape pairs the larger part of in with the smaller of out, which has fewer
// parameters than the other way, unless the split of out was asked for.
func (krona) shape(site Site, s Settings) (kron.Shape, error) {
	if s.Rank != (Rank{1, 1}) {
		return kron.Shape{}, fmt.Errorf("rank %v: krona is of full rank and takes none", s.Rank)
	}
	if err := s.checkSplits(site); err != nil {
		return kron.Shape{}, err
	}
	a1, a2 := splitOf(site.In, s.Split)
	b1, b2 := splitOf(site.Out, s.outSplit())
	if asked := s.outSplit(); asked == [2]int{} || asked[0]*asked[1] != site.Out {
		b1, b2 = b2, b1
	}
	return kron.Shape{S: s.Terms, A1: a1, R1: b1, A2: a2, R2: b2, N: site.In, M: site.Out}, nil
}

func (k krona) Params(site Site, s Settings) ([]ParamSpec, error) {
	f, err := k.shape(site, s)
	if err != nil {
		return nil, err
	}
	return []ParamSpec{
		{Name: site.tensorName("krona_C"), Shape: []int{f.S, f.A1, f.R1}},
		{Name: site.tensorName("krona_D"), Shape: []int{f.S, f.A2, f.R2}},
	}, nil
}

// Init: zero draws D evenly over ±1/√a2 and sets C = 0; paper draws both from
// N(0, 0.01²).
func (k krona) Init(site Site, s Settings, src Source, _ WeightReader) ([][]float32, error) {
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
		return nil, fmt.Errorf("init %q: krona has no low-rank factor to start from singular vectors", s.Init)
	default:
		src.Uniform(specs[1].Name, t[1], 1/math.Sqrt(float64(specs[1].Shape[1])))
	}
	return t, nil
}

func (k krona) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	f, err := k.shape(site, s)
	if err != nil {
		panic("adapter: " + err.Error())
	}
	return lowerFactor(b, site.Module+".krona", x, y, f, params, float32(s.Scale()))
}

func (k krona) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	shape, err := k.shape(site, s)
	if err != nil {
		return nil, err
	}
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	f := kron.NewFactor(shape, t[0], t[1]).Float64()
	return &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), Kron: &f}, nil
}
