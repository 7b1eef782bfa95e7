package adapter

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// lor2c is a low-rank connection around blocks, arXiv 2503.00572: with x the
// input of block l and y the output of block l+s-1, both (n, hidden),
//
//	y += scale·x A B,  A (hidden, r), B (r, hidden)
//
// after the block's last norm where it has one. s is Terms: 1, or more after
// [MergeConnections]. Its sites are blocks ([Blocks]), and it is no ΔW of any
// weight: it cannot be merged.
//
// Tensors: lor2c_A (r, hidden), the transpose of A, and lor2c_B (hidden, r). With
// share (ShareLoR2C) all blocks have one A, base_model.shared.lor2c_A.
type lor2c struct{ share bool }

func (k lor2c) Method() string {
	if k.share {
		return MethodShareLoR2C
	}
	return MethodLoR2C
}

func (k lor2c) PEFTType() string { return strings.ToUpper(k.Method()) }

// Defaults are those of the authors' runs on GLUE.
func (lor2c) Defaults() Settings { return Settings{Rank: Rank{8, 1}, Terms: 1, Alpha: 16} }

func (k lor2c) Params(site Site, s Settings) ([]ParamSpec, error) {
	switch {
	case !site.Block:
		return nil, fmt.Errorf("%s: %s goes around blocks, and this is a layer", site.Module, k.Method())
	case s.Rank.R2 != 1:
		return nil, fmt.Errorf("rank %v: %s takes one number", s.Rank, k.Method())
	case s.Split != [2]int{} || s.SplitOut != [2]int{}:
		return nil, fmt.Errorf("split %dx%d: %s has no split", s.Split[0], s.Split[1], k.Method())
	}
	a := ParamSpec{Name: site.tensorName("lor2c_A"), Shape: []int{s.Rank.R1, site.In}}
	if k.share {
		a.Name, a.Shared = sharedPrefix+"lor2c_A", true
	}
	return []ParamSpec{a, {Name: site.tensorName("lor2c_B"), Shape: []int{site.Out, s.Rank.R1}}}, nil
}

// Init: zero draws A as LoRA's and sets B = 0; paper draws both from N(0, 0.01²).
func (k lor2c) Init(site Site, s Settings, src Source, _ WeightReader) ([][]float32, error) {
	specs, err := k.Params(site, s)
	if err != nil {
		return nil, err
	}
	t := zeros(specs)
	switch s.Init {
	case InitPaper:
		src.Normal(specs[0].Name, t[0], 0.01)
		src.Normal(specs[1].Name, t[1], 0.01)
	case InitZero:
		src.Uniform(specs[0].Name, t[0], 1/math.Sqrt(float64(site.In)))
	default:
		return nil, fmt.Errorf("init %q: %s starts from zero or paper", s.Init, k.Method())
	}
	return t, nil
}

func (lor2c) Lower(b *graph.Builder, x, y graph.Value, site Site, s Settings, params []graph.Value) graph.Value {
	h := b.MatMul(site.Module+".lor2c_A", x, params[0], false, true, 1, graph.None)
	return b.MatMul(site.Module+".lor2c_B", h, params[1], false, true, float32(s.Scale()), y)
}

func (k lor2c) Delta(site Site, _ Settings, _ [][]float32) (*Delta, error) {
	return nil, fmt.Errorf("%s: %w: %s is a connection around a block and changes no weight; keep it as an adapter, or convert it with its base to a graph (onnx)", site.Module, ErrNoDelta, k.Method())
}

// connection is the map x -> y - y₀ of the connection.
func (k lor2c) connection(site Site, s Settings, t [][]float32) (*Delta, error) {
	if err := lengths(site, k, s, t); err != nil {
		return nil, err
	}
	r := s.Rank.R1
	return &Delta{In: site.In, Out: site.Out, Scale: s.Scale(), R: r, A: transpose(t[0], r, site.In), B: transpose(t[1], site.Out, r)}, nil
}

// OnBlocks reports whether a method's sites are blocks instead of linear layers.
func OnBlocks(method string) bool { return method == MethodLoR2C || method == MethodShareLoR2C }

// Blocks returns the blocks that linear layers belong to, in order: a numbered
// layer of the model, from its path up to the number. in and out are the width
// of its first linear layer's input, which is the model's hidden size.
func Blocks(sites []Site) []Site {
	var blocks []Site
	seen := map[string]bool{}
	for _, s := range sites {
		loc := numbered.FindStringSubmatchIndex(s.Module)
		if loc == nil || s.Layer < 0 {
			continue
		}
		path := s.Module[:loc[3]]
		if !seen[path] {
			seen[path] = true
			blocks = append(blocks, Site{Module: path, In: s.In, Out: s.In, Layer: s.Layer, Kind: "block", Block: true, DType: s.DType})
		}
	}
	return blocks
}

// sitesOf returns what a method adapts of a model whose linear layers are sites.
func sitesOf(method string, sites []Site) []Site {
	if !OnBlocks(method) || slices.ContainsFunc(sites, func(s Site) bool { return s.Block }) {
		return sites
	}
	return Blocks(sites)
}

// MergeRule says which pair of neighbouring connections becomes one.
type MergeRule string

// The rules. The singular values of A B tell how much of a connection its
// leading directions carry: share = (Σ of the first r/2)/(Σ of all), at least the first.
const (
	// MergeConcentrated merges the pair with the largest mean share: what the
	// second halves of the singular values carry is smallest. The paper's score
	// 1 - share is smallest there.
	MergeConcentrated MergeRule = "concentrated"
	// MergeSpread merges the pair with the smallest mean share, as the authors'
	// code does.
	MergeSpread MergeRule = "spread"
	// MergeSmallest merges the pair with the smallest mean norm ‖scale·A B‖.
	MergeSmallest MergeRule = "smallest"
)

// ParseMergeRule reads a rule.
func ParseMergeRule(s string) (MergeRule, error) {
	return parseEnum("rule", s, MergeConcentrated, MergeSpread, MergeSmallest)
}

// MergedConnection is a pair that became one.
type MergedConnection struct {
	First, Second string // modules
	Kept          string // whose A and B the result has
	Blocks        int    // that the result spans
	Score         float64
}

// MergeConnections replaces n pairs of neighbouring connections, one after
// another, by one connection each, from the input of the first to the output of
// the second (MergeLoR2C). It starts with the A and B of the pair's larger one, by
// ‖scale·A B‖; the other's are dropped, 2·hidden·r parameters fewer (hidden·r
// where A is shared). Training goes on from there.
func MergeConnections(a *Adapter, n int, rule MergeRule) (*Adapter, []MergedConnection, error) {
	if !OnBlocks(a.Method) {
		return nil, nil, fmt.Errorf("%s: connections are merged in adapters of method %s and %s", a.Method, MethodLoR2C, MethodShareLoR2C)
	}
	if n < 1 {
		return nil, nil, fmt.Errorf("%d merges: want at least 1", n)
	}
	b := *a
	b.Modules = slices.Clone(a.Modules)
	var done []MergedConnection
	for range n {
		m, err := b.mergeBest(rule)
		if err != nil {
			return nil, nil, err
		}
		done = append(done, m)
	}
	b.Config = explicit(b.Config, b.Modules)
	return &b, done, sharedShapes(b.Modules)
}

// mergeBest merges the pair that the rule ranks first.
func (a *Adapter) mergeBest(rule MergeRule) (MergedConnection, error) {
	scores := make([]float64, len(a.Modules))
	norms := make([]float64, len(a.Modules))
	for i := range a.Modules {
		st, err := a.Modules[i].Stats()
		if err != nil {
			return MergedConnection{}, err
		}
		norms[i] = st.Norm
		switch rule {
		case MergeConcentrated:
			scores[i] = 1 - share(st.Singular, a.Modules[i].Rank.R1/2)
		case MergeSpread:
			scores[i] = share(st.Singular, a.Modules[i].Rank.R1/2)
		default:
			scores[i] = st.Norm
		}
	}
	best, score := -1, math.Inf(1)
	for i := 0; i+1 < len(a.Modules); i++ {
		x, y := &a.Modules[i], &a.Modules[i+1]
		if x.Layer+x.Terms != y.Layer || x.Rank != y.Rank {
			continue
		}
		if s := (scores[i] + scores[i+1]) / 2; s < score {
			best, score = i, s
		}
	}
	if best < 0 {
		return MergedConnection{}, fmt.Errorf("no two connections are left that follow each other with one rank")
	}
	first, second := a.Modules[best], a.Modules[best+1]
	merged := first
	kept := first.Module
	if norms[best+1] > norms[best] {
		kept = second.Module
		merged.Tensors, merged.Alpha, merged.Scaling = second.Tensors, second.Alpha, second.Scaling
	}
	merged.Terms = first.Terms + second.Terms
	a.Modules[best] = merged
	a.Modules = slices.Delete(a.Modules, best+1, best+2)
	return MergedConnection{First: first.Module, Second: second.Module, Kept: kept, Blocks: merged.Terms, Score: score}, nil
}

// share is the part of the sum that the first k values make, at least one; that
// of values which are all 0 is 0.
func share(values []float64, k int) float64 {
	var part, all float64
	for i, v := range values {
		if i < max(k, 1) {
			part += v
		}
		all += v
	}
	if all == 0 {
		return 0
	}
	return part / all
}
