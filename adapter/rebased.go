package adapter

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/gonum/mat"
)

// PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) start a LoRA from factors
// A₀ B₀ of W itself and train it against the frozen rest W - scale·A₀ B₀. Relative
// to W the update is
//
//	ΔW = scale·(A B - A₀ B₀)
//
// which is 0 at the start. Here the base stays whole and A₀, B₀ travel with the
// adapter, frozen, as lora_A0.weight (r, in) and lora_B0.weight (out, r), which
// holds -B₀. In a file the update is the plain LoRA of rank 2r that it is, with
// alpha so that the scale stays: A over A₀, B beside -B₀, which is also what PEFT
// makes of such an adapter when it saves it for the unchanged base. That file's
// metadata tell how it started, and by them Load takes it apart again.

// rebased reports whether the start is a part of W that is taken off W.
func (s *Settings) rebased() bool { return s.Init == InitPiSSA || s.Init == InitOLoRA }

// rebasedStart returns A₀ (r, in) and B₀ (out, r).
//
// PiSSA: W = Σ s_i u_i v_iᵀ gives A₀ = √(s/scale) u and B₀ = √(s/scale) v of the
// first r triplets. OLoRA: Wᵀ = Q R (Q (out, ·) orthonormal, R upper triangular)
// gives B₀ = Q[:, :r] and A₀ = R[:r, :]; the scale is not divided out.
func rebasedStart(site Site, s Settings, w WeightReader) (a, b []float64, err error) {
	r := s.Rank.R1
	switch {
	case w == nil:
		return nil, nil, fmt.Errorf("%s: init %q needs the base model's weights", site.Module, s.Init)
	case r > min(site.In, site.Out):
		return nil, nil, fmt.Errorf("%s: init %q has at most rank %d of (%d, %d), not %d", site.Module, s.Init, min(site.In, site.Out), site.In, site.Out, r)
	case s.Scale() <= 0:
		return nil, nil, fmt.Errorf("%s: init %q wants a positive alpha", site.Module, s.Init)
	}
	if s.Init == InitOLoRA {
		a, b, err = triangular(site, r, w)
	} else {
		a, b, err = principal(site, r, s.Scale(), w)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", site.Module, err)
	}
	return a, b, nil
}

func principal(site Site, r int, scale float64, w WeightReader) (a, b []float64, err error) {
	u, sv, v, err := w.Principal(site, r)
	if err != nil {
		return nil, nil, err
	}
	if len(u) != site.In*r || len(sv) != r || len(v) != site.Out*r {
		return nil, nil, fmt.Errorf("%d singular vectors have %d and %d elements", len(sv), len(u), len(v))
	}
	a, b = make([]float64, r*site.In), make([]float64, site.Out*r)
	for k := range r {
		root := math.Sqrt(sv[k] / scale)
		for i := range site.In {
			a[k*site.In+i] = root * u[i*r+k]
		}
		for o := range site.Out {
			b[o*r+k] = root * v[o*r+k]
		}
	}
	return a, b, nil
}

// triangular needs no more of Q than its first r columns, which are those of the
// factorisation of the first r columns of Wᵀ; R[:r, :] = Q[:, :r]ᵀ Wᵀ.
func triangular(site Site, r int, w WeightReader) (a, b []float64, err error) {
	x, err := w.Weight(site)
	if err != nil {
		return nil, nil, err
	}
	weight := mat.NewDense(site.In, site.Out, x)
	var qr mat.QR
	qr.Factorize(weight.Slice(0, r, 0, site.Out).T())
	var q mat.Dense
	qr.QTo(&q)
	basis := mat.DenseCopyOf(q.Slice(0, site.Out, 0, r)) // (out, r)
	var top mat.Dense
	top.Mul(basis.T(), weight.T())
	return slices.Clone(top.RawMatrix().Data), slices.Clone(basis.RawMatrix().Data), nil
}

// plain returns the adapter as its file has it: itself, or for a rebased start
// the LoRA of rank 2r.
func (a *Adapter) plain() *Adapter {
	if a.Method != MethodLoRA || !a.Settings.rebased() {
		return a
	}
	p := *a
	p.Config = rescaleRank(a.Config, func(r int) int { return 2 * r }, 2)
	p.Modules = make([]Module, len(a.Modules))
	for i, m := range a.Modules {
		n := Module{Site: m.Site, Settings: rescaled(m.Settings, func(r int) int { return 2 * r }, 2)}
		r := m.Rank.R1
		n.Tensors = [][]float32{slices.Concat(m.Tensors[0], m.Tensors[2]), make([]float32, 2*r*m.Out)}
		for o := range m.Out {
			copy(n.Tensors[1][2*r*o:], m.Tensors[1][r*o:][:r])
			copy(n.Tensors[1][2*r*o+r:], m.Tensors[3][r*o:][:r])
		}
		n.Specs, _ = lora{}.Params(n.Site, n.Settings) // what held for rank r holds for 2r
		p.Modules[i] = n
	}
	return &p
}

// rescaled changes the rank and keeps the scale; a rebased start becomes zero.
func rescaled(s Settings, rank func(int) int, factor float64) Settings {
	s.Rank.R1 = rank(s.Rank.R1)
	s.Alpha = alphaTimes(s.Alpha, s.Scaling, factor)
	s.Init = InitZero
	return s
}

// alphaTimes is alpha for a rank factor times as large.
func alphaTimes(alpha float64, rule Scaling, factor float64) float64 {
	if rule != ScaleRSLoRA {
		return alpha * factor
	}
	// Short decimals, so that 16·√2/√2 is 16.
	x, err := strconv.ParseFloat(strconv.FormatFloat(alpha*math.Sqrt(factor), 'g', 15, 64), 64)
	if err != nil {
		return alpha * math.Sqrt(factor)
	}
	return x
}

func rescaleRank(c Config, rank func(int) int, factor float64) Config {
	c.Settings = rescaled(c.Settings, rank, factor)
	c.Overrides = slices.Clone(c.Overrides)
	for i := range c.Overrides {
		o := &c.Overrides[i]
		if o.Rank != (Rank{}) {
			o.Rank.R1 = rank(o.Rank.R1)
		}
		if o.Alpha != 0 {
			o.Alpha = alphaTimes(o.Alpha, c.Scaling, factor)
		}
	}
	return c
}

// takeApart undoes plain for an adapter whose metadata say that it started so.
// One whose ranks are odd was changed since, and stays the LoRA that it is.
func (a *Adapter) takeApart(init Init) error {
	if slices.ContainsFunc(a.Modules, func(m Module) bool { return m.Rank.R1%2 != 0 }) || a.Rank.R1%2 != 0 {
		return nil
	}
	half := func(r int) int { return r / 2 }
	a.Config = rescaleRank(a.Config, half, 0.5)
	a.Init = init
	for i := range a.Modules {
		m := &a.Modules[i]
		m.Settings = rescaled(m.Settings, half, 0.5)
		m.Init = init
		r, t := m.Rank.R1, m.Tensors
		n := r * m.In
		m.Tensors = [][]float32{t[0][:n:n], make([]float32, m.Out*r), t[0][n:], make([]float32, m.Out*r)}
		for o := range m.Out {
			copy(m.Tensors[1][r*o:][:r], t[1][2*r*o:])
			copy(m.Tensors[3][r*o:][:r], t[1][2*r*o+r:])
		}
		var err error
		if m.Specs, err = (lora{}).Params(m.Site, m.Settings); err != nil {
			return err
		}
	}
	return nil
}
