package adapter

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// diffora searches for the modules that are worth an adapter, after DiffoRA
// (arXiv 2502.08905): every module has a LoRA and a gate, both are trained, and
// then [SelectModules] keeps the modules whose gates are largest.
//
//	ΔW = g·scale·A B,  g = tanh(a),  A (in, r), B (r, out)
//
// The paper's abstract fixes this much: a matrix of module choices, learnt by
// continuous relaxation and then made discrete. The form of the gate, its start
// at g = 1/2, and training it together with A and B on the same data are a
// reconstruction, not the paper's.
//
// Tensors: diffora_A (r, in), the transpose of A; diffora_B (1, out, r), that of
// B; diffora_gate (1), a.
type diffora struct{}

// openGate is where a gate starts: tanh(a) = 1/2.
var openGate = math.Atanh(0.5)

func (diffora) Method() string     { return MethodDiffoRA }
func (diffora) PEFTType() string   { return "DIFFORA" }
func (diffora) Defaults() Settings { return lora{}.Defaults() }

func (diffora) Params(site Site, s Settings) ([]ParamSpec, error) {
	if _, err := (lora{}).Params(site, s); err != nil {
		return nil, err
	}
	return []ParamSpec{
		{Name: site.tensorName("diffora_A"), Shape: []int{s.Rank.R1, site.In}},
		{Name: site.tensorName("diffora_B"), Shape: []int{1, site.Out, s.Rank.R1}},
		{Name: site.tensorName("diffora_gate"), Shape: []int{1}},
	}, nil
}

// Init: A and B as LoRA's, the gate half open.
func (k diffora) Init(site Site, s Settings, src Source, w WeightReader) ([][]float32, error) {
	if s.rebased() {
		return nil, fmt.Errorf("init %q is of lora; diffora starts from zero, paper or svd", s.Init)
	}
	if _, err := k.Params(site, s); err != nil {
		return nil, err
	}
	t, err := lora{}.Init(site, s, src, w)
	return append(t, []float32{float32(openGate)}), err
}

// Lower multiplies B by the gate as a Kronecker product with a 1 x 1 matrix.
func (diffora) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	r := s.Rank.R1
	g := b.Activate(site.Module+".diffora_gate", params[2], graph.ActTanh)
	gated := b.KronSum(site.Module+".diffora_gB", g, params[1], 1, 1, 1, site.Out, r, site.Out, r)
	h := b.MatMul(site.Module+".diffora_A", x, params[0], false, true, 1, graph.None)
	return b.MatMul(site.Module+".diffora_B", h, gated, false, true, float32(s.Scale()), y)
}

func (k diffora) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	d, err := lora{}.Delta(site, s, t[:2])
	if err != nil {
		return nil, err
	}
	d.Scale *= math.Tanh(float64(t[2][0]))
	return d, nil
}

// Choice is a module of a search with its score |g|.
type Choice struct {
	Module string
	Score  float64
	Kept   bool
}

// SelectModules ends a search: it returns the LoRA adapter of the modules with
// the largest gates, the share keep of all (0 < keep <= 1, at least one), as they
// were trained, with g in B; and all scores |g|, descending. Ties go to the
// earlier module.
func SelectModules(a *Adapter, keep float64) (*Adapter, []Choice, error) {
	if a.Method != MethodDiffoRA {
		return nil, nil, fmt.Errorf("%s: modules are selected from an adapter of method %s", a.Method, MethodDiffoRA)
	}
	if !(keep > 0 && keep <= 1) {
		return nil, nil, fmt.Errorf("share %v of modules to keep: want more than 0 and at most 1", keep)
	}
	choices := make([]Choice, len(a.Modules))
	for i, m := range a.Modules {
		choices[i] = Choice{Module: m.Module, Score: math.Abs(math.Tanh(float64(m.Tensors[2][0])))}
	}
	slices.SortStableFunc(choices, func(x, y Choice) int { return cmp.Compare(y.Score, x.Score) })
	kept := map[string]bool{}
	for i := range max(1, int(math.Round(keep*float64(len(choices))))) {
		choices[i].Kept = true
		kept[choices[i].Module] = true
	}
	b := *a
	b.Modules = slices.DeleteFunc(slices.Clone(a.Modules), func(m Module) bool { return !kept[m.Module] })
	l, err := b.AsLoRA()
	return l, choices, err
}
