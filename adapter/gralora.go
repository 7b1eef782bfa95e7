package adapter

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// gralora is a grid of low-rank updates, arXiv 2505.20355. W is cut into k x k
// blocks, and each block has a pair of rank q = r/k: for input block n and
// output block j
//
//	ΔW[n, j] = scale·A_n[:, jq:(j+1)q] B_j[nq:(n+1)q, :]
//
// and with a hybrid rank h, the plain update scale·A B of rank h besides. Its
// rank reaches k·r + h for the parameters of LoRA of rank r + h, whatever k is.
//
// Tensors, as PEFT stores them: gralora_A (k, in/k, r), gralora_B (k, r, out/k),
// gralora_A_general.weight (h, in), gralora_B_general.weight (out, h). k is
// Terms; scale is alpha/(r+h), as in PEFT (the authors' code names r+h the rank).
type gralora struct{}

func (gralora) Method() string   { return MethodGraLoRA }
func (gralora) PEFTType() string { return "GRALORA" }

// Defaults: k = 2 for ranks up to 32 and alpha = 2r, as the paper recommends.
func (gralora) Defaults() Settings { return Settings{Rank: Rank{8, 1}, Terms: 2, Alpha: 16} }

func (gralora) Params(site Site, s Settings) ([]ParamSpec, error) {
	k, r, h := s.Terms, s.Rank.R1, s.HybridRank
	switch {
	case s.Rank.R2 != 1:
		return nil, fmt.Errorf("rank %v: gralora takes one number", s.Rank)
	case s.Split != [2]int{} || s.SplitOut != [2]int{}:
		return nil, fmt.Errorf("split %dx%d: gralora splits by its terms", s.Split[0], s.Split[1])
	case r%k != 0:
		return nil, fmt.Errorf("%d blocks do not divide rank %d", k, r)
	case site.In%k != 0 || site.Out%k != 0:
		return nil, fmt.Errorf("%s: %d blocks do not divide (%d, %d); choose other terms", site.Module, k, site.In, site.Out)
	}
	specs := []ParamSpec{
		{Name: site.tensorName("gralora_A"), Shape: []int{k, site.In / k, r}},
		{Name: site.tensorName("gralora_B"), Shape: []int{k, r, site.Out / k}},
	}
	if h > 0 {
		specs = append(specs,
			ParamSpec{Name: site.tensorName("gralora_A_general.weight"), Shape: []int{h, site.In}},
			ParamSpec{Name: site.tensorName("gralora_B_general.weight"), Shape: []int{site.Out, h}})
	}
	return specs, nil
}

// Init: zero draws the A of every block as LoRA's of a layer of in/k inputs,
// evenly over ±√(k/in), and sets B = 0, as PEFT. paper draws all from
// N(0, 0.01²).
func (k gralora) Init(site Site, s Settings, src Source, _ WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	switch s.Init {
	case InitPaper:
		for i := range t {
			src.Normal(specs[i].Name, t[i], 0.01)
		}
	case InitZero:
		src.Uniform(specs[0].Name, t[0], math.Sqrt(float64(s.Terms)/float64(site.In)))
		if s.HybridRank > 0 {
			src.Uniform(specs[2].Name, t[2], 1/math.Sqrt(float64(site.In)))
		}
	default:
		return nil, fmt.Errorf("init %q: gralora starts from zero or paper", s.Init)
	}
	return t, nil
}

func (gralora) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	scale := float32(s.Scale())
	h := b.BlockMatMul(site.Module+".gralora_A", x, params[0], graph.BlockMatMul{Blocks: s.Terms, Shuffle: true, Alpha: 1})
	y = b.BlockMatMul(site.Module+".gralora_B", h, params[1], graph.BlockMatMul{Blocks: s.Terms, Alpha: scale, C: y})
	if s.HybridRank == 0 {
		return y
	}
	h = b.MatMul(site.Module+".gralora_A_general", x, params[2], false, true, 1, graph.None)
	return b.MatMul(site.Module+".gralora_B_general", h, params[3], false, true, scale, y)
}

// Delta is the product of A and B with their blocks in place: rank k·r + h.
func (g gralora) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	if err := lengths(site, g, s, t); err != nil {
		return nil, err
	}
	k, r, h := s.Terms, s.Rank.R1, s.HybridRank
	q, in, out, full := r/k, site.In/k, site.Out/k, k*r+h
	d := &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), R: full, A: make([]float64, site.In*full), B: make([]float64, full*site.Out)}
	for n := range k {
		for i := range in {
			for c, v := range t[0][(n*in+i)*r:][:r] {
				d.A[(n*in+i)*full+n*r+c] = float64(v)
			}
		}
		// Column c = jq + p of block n of A meets row nq + p of block j of B.
		for c := range r {
			j, p := c/q, c%q
			for o, v := range t[1][(j*r+n*q+p)*out:][:out] {
				d.B[(n*r+c)*site.Out+j*out+o] = float64(v)
			}
		}
	}
	if h == 0 {
		return d, nil
	}
	for c := range h {
		for i, v := range t[2][c*site.In:][:site.In] {
			d.A[i*full+k*r+c] = float64(v)
		}
		for o := range site.Out {
			d.B[(k*r+c)*site.Out+o] = float64(t[3][o*h+c])
		}
	}
	return d, nil
}
