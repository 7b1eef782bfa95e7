package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// kadaptation is the update of arXiv 2203.16329, whose t x t matrices, each of
// rank one, are shared by all modules of one name (all query layers):
//
//	ΔW = scale·Σ_{i=1..t} (p_i q_iᵀ) ⊗ (u_i v_iᵀ)
//
// Tensors: shared p, q (t, t); of the module u (t, ⌈in/t⌉), v (t, ⌈out/t⌉);
// rows are p_i, q_i, u_i, v_i. t is Terms. It has no rank: the scale is alpha.
// The bias that the authors' code adds is left out.
type kadaptation struct{}

func (kadaptation) Method() string   { return MethodKAdaptation }
func (kadaptation) PEFTType() string { return "KADAPTATION" }

// Defaults: t = 32 and scale 160 are those of the authors' code.
func (kadaptation) Defaults() Settings { return Settings{Rank: Rank{1, 1}, Terms: 32, Alpha: 160} }

func (kadaptation) shape(site Site, s Settings) (kron.Shape, error) {
	switch {
	case s.Rank != (Rank{1, 1}):
		return kron.Shape{}, fmt.Errorf("rank %v: kadaptation takes none", s.Rank)
	case s.Split != [2]int{} || s.SplitOut != [2]int{}:
		return kron.Shape{}, fmt.Errorf("split %dx%d: kadaptation splits by its terms", s.Split[0], s.Split[1])
	case s.Terms > min(site.In, site.Out):
		return kron.Shape{}, fmt.Errorf("%s: %d terms on (%d, %d)", site.Module, s.Terms, site.In, site.Out)
	}
	t := s.Terms
	return kron.Shape{S: t, A1: t, R1: t, A2: (site.In + t - 1) / t, R2: (site.Out + t - 1) / t, N: site.In, M: site.Out}, nil
}

func (k kadaptation) Params(site Site, s Settings) ([]ParamSpec, error) {
	f, err := k.shape(site, s)
	if err != nil {
		return nil, err
	}
	shared := "base_model.shared." + site.Kind + ".kadaptation_"
	return []ParamSpec{
		{Name: shared + "p", Shape: []int{f.S, f.A1}, Shared: true},
		{Name: shared + "q", Shape: []int{f.S, f.R1}, Shared: true},
		{Name: site.tensorName("kadaptation_u"), Shape: []int{f.S, f.A2}},
		{Name: site.tensorName("kadaptation_v"), Shape: []int{f.S, f.R2}},
	}, nil
}

// Init: zero draws p and q evenly over ±0.01, as the authors' code, u by
// Glorot's rule and sets v = 0: ΔW = 0 with gradients alive, which the stored
// code (u and v both 0) does not have. paper draws u and v from N(0, 0.01²).
func (k kadaptation) Init(site Site, s Settings, src Source, _ WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	src.Uniform(specs[0].Name, t[0], 0.01)
	src.Uniform(specs[1].Name, t[1], 0.01)
	switch s.Init {
	case InitPaper:
		src.Normal(specs[2].Name, t[2], 0.01)
		src.Normal(specs[3].Name, t[3], 0.01)
	case InitSVD:
		return nil, fmt.Errorf("init %q: kadaptation has no low-rank factor to start from singular vectors", s.Init)
	default:
		src.Uniform(specs[2].Name, t[2], math.Sqrt(6/float64(specs[2].Shape[1]+1)))
	}
	return t, nil
}

func (k kadaptation) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	f, err := k.shape(site, s)
	if err != nil {
		panic("adapter: " + err.Error())
	}
	f1 := b.RowOuter(site.Module+".kadaptation_pq", params[0], params[1])
	f2 := b.RowOuter(site.Module+".kadaptation_uv", params[2], params[3])
	return lowerFactor(b, site.Module+".kadaptation", x, y, f, []graph.Value{f1, f2}, float32(s.Scale()))
}

func (k kadaptation) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	shape, err := k.shape(site, s)
	if err != nil {
		return nil, err
	}
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	f := kron.NewFactor(shape, rowOuter(t[0], t[1], shape.S), rowOuter(t[2], t[3], shape.S))
	return &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), Kron: &f}, nil
}

// rowOuter returns vec(u_i v_iᵀ) for every row i.
func rowOuter(u, v []float32, rows int) []float64 {
	a, b := len(u)/rows, len(v)/rows
	y := make([]float64, 0, rows*a*b)
	for i := range rows {
		for _, x := range u[i*a:][:a] {
			for _, z := range v[i*b:][:b] {
				y = append(y, float64(x)*float64(z))
			}
		}
	}
	return y
}
