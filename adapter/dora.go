package adapter

import (
	"errors"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// ErrNoDelta is wrapped by the error of [Kind.Delta] for kinds whose update is
// no ΔW to be added to W: a [Rescaler], or a connection around a block.
var ErrNoDelta = errors.New("the update is no addend of the weight")

// Layer is a frozen linear layer in a program.
type Layer struct {
	X       graph.Value // its input (n, in)
	Dropped graph.Value // the input of the update: X, or X after dropout
	W, Bias graph.WeightID
}

// Rescaler is a Kind that rescales the adapted weight as DoRA does (arXiv
// 2402.09353): for every output j, a column of W (in, out),
//
//	W'_j = m_j (W + ΔW)_j / ‖(W + ΔW)_j‖
//
// Its Delta is an error that wraps [ErrNoDelta], and so that no caller adds ΔW
// alone, Lower panics: [Rescaler.LowerLayer] computes the whole layer.
type Rescaler interface {
	Kind
	// LowerLayer returns the layer's output x W' + bias. The norm is a constant
	// for gradients.
	LowerLayer(b *graph.Builder, l Layer, site Site, s Settings, params []graph.Value) graph.Value
	// Rescaled returns ΔW and m (out).
	Rescaled(Site, Settings, [][]float32) (d *Delta, m []float64, err error)
}

// lowRank is a kind with ΔW = scale·A B whose factors can be had in a program.
type lowRank interface {
	Kind
	// factorValues returns A (in, r), or its transpose, and B (r, out), or its
	// transpose.
	factorValues(b *graph.Builder, site Site, s Settings, params []graph.Value) (a, bb graph.Value, transA, transB bool)
}

// dora is DoRA over the low-rank update of another kind. Tensors: those of the
// other kind, and m (out) under suffix.
type dora struct {
	inner                    lowRank
	method, peftType, suffix string
}

func (k dora) Method() string     { return k.method }
func (k dora) PEFTType() string   { return k.peftType }
func (k dora) Defaults() Settings { return k.inner.Defaults() }

func (k dora) Params(site Site, s Settings) ([]ParamSpec, error) {
	specs, err := k.inner.Params(site, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.method, err)
	}
	return append(specs, ParamSpec{Name: site.tensorName(k.suffix), Shape: []int{site.Out}}), nil
}

// Init: the other kind's, and m = the norms of W's columns, so that W' = W but
// for the rounding of m to float32.
func (k dora) Init(site Site, s Settings, src Source, w WeightReader) ([][]float32, error) {
	if s.rebased() {
		return nil, fmt.Errorf("init %q is of lora; %s starts from zero, paper or svd", s.Init, k.method)
	}
	t, err := k.inner.Init(site, s, src, w)
	if err != nil {
		return nil, err
	}
	if w == nil {
		return nil, fmt.Errorf("%s: %s starts from the norms of the base model's weights, which are not at hand", site.Module, k.method)
	}
	x, err := w.Weight(site)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", site.Module, err)
	}
	norms := columnNorms(x, site.Out)
	for j, n := range norms {
		if n == 0 {
			return nil, fmt.Errorf("%s: all weights of output %d are 0, so it has no direction to rescale", site.Module, j)
		}
	}
	return append(t, narrow(norms)), nil
}

// columnNorms returns the norm of every column of x (·, cols).
func columnNorms(x []float64, cols int) []float64 {
	n := make([]float64, cols)
	for i := 0; i < len(x); i += cols {
		for j, v := range x[i:][:cols] {
			n[j] += v * v
		}
	}
	for j := range n {
		n[j] = math.Sqrt(n[j])
	}
	return n
}

func (k dora) Lower(*graph.Builder, graph.Value, graph.Value, Site, Settings, []graph.Value) graph.Value {
	panic("adapter: " + k.method + " computes its whole layer: call LowerLayer")
}

// LowerLayer: with z = x W + scale·x A B and c = m/‖W + scale·A B‖, it is
// c ∘ z + bias. Where dropout changed the input of the update, both products of z
// see the dropped input d, as in PEFT: x W + bias + (c ∘ z - d W).
func (k dora) LowerLayer(b *graph.Builder, l Layer, site Site, s Settings, params []graph.Value) graph.Value {
	name, scale := site.Module+"."+k.method, float32(s.Scale())
	fa, fb, ta, tb := k.inner.factorValues(b, site, s, params)
	inverse := b.ColNorm(name+"_norm", l.W, graph.ColNorm{A: fa, B: fb, TransA: ta, TransB: tb, Alpha: scale, Inverse: true})
	c := b.ColScale(name+"_scale", params[len(params)-1], inverse)
	base := b.Linear(site.Module, l.Dropped, l.W, graph.NoWeight, graph.ActNone, graph.None)
	h := b.MatMul(name+"_A", l.Dropped, fa, false, ta, 1, graph.None)
	z := b.MatMul(name+"_B", h, fb, false, tb, scale, base)
	if l.Dropped == l.X {
		return b.ColScaleBias(name, z, c, l.Bias)
	}
	y := b.Linear(site.Module+".kept", l.X, l.W, l.Bias, graph.ActNone, graph.None)
	return b.Add(name, b.Axpby(name+"_change", 1, y, -1, base), b.ColScale(name+"_scaled", z, c))
}

func (k dora) Delta(site Site, s Settings, t [][]float32) (*Delta, error) {
	return nil, fmt.Errorf("%s: %w: %s rescales the weight itself; merge it into its base, or export it as DoRA", site.Module, ErrNoDelta, k.method)
}

// Rescaled implements Rescaler.
func (k dora) Rescaled(site Site, s Settings, t [][]float32) (d *Delta, m []float64, err error) {
	if err := lengths(site, k, s, t); err != nil {
		return nil, nil, err
	}
	last := len(t) - 1
	d, err = k.inner.Delta(site, s, t[:last])
	return d, widen(t[last]), err
}

func (lora) factorValues(_ *graph.Builder, _ Site, _ Settings, params []graph.Value) (a, bb graph.Value, transA, transB bool) {
	return params[0], params[1], true, true
}

func (k lsr) factorValues(b *graph.Builder, site Site, s Settings, params []graph.Value) (a, bb graph.Value, transA, transB bool) {
	sa, sb, err := k.shapes(site, s)
	if err != nil {
		panic("adapter: " + err.Error())
	}
	n := tensorsOf(sa)
	return factorValue(b, site.Module+".lsr_A", sa, params[:n]), factorValue(b, site.Module+".lsr_B", sb, params[n:]), false, false
}
