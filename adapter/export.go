package adapter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// Form is a form that PEFT reads.
type Form string

// The forms of PEFT.
const (
	FormLoRA Form = "lora"
	FormLoKr Form = "lokr"
	// FormGraLoRA is of gralora alone.
	FormGraLoRA Form = "gralora"
)

// ParseForm reads a form.
func ParseForm(s string) (Form, error) { return parseEnum("form", s, FormLoRA, FormLoKr, FormGraLoRA) }

// ExportOptions are options of ExportPEFT.
type ExportOptions struct {
	Form    Form
	Replace bool // an existing directory
	// Finish is as in SaveOptions.
	Finish func(dir string) error
	// Prefix is put before the paths of adapted modules and of a trained
	// pooler, with a dot at its end: "bert." when the checkpoint is a bare
	// encoder and PEFT will wrap a model with a head.
	Prefix string
}

// ExportPEFT writes the adapter as one that PEFT loads.
//
// FormLoRA: lsr as the LoRA of rank r1·r2 that it is, its factors A and B
// summed in float64 and rounded once; gralora as that of rank k·r, diffora with
// its gates multiplied in; lora and dora as themselves, lsr-dora as the dora that
// it is. FormGraLoRA: gralora as itself. FormLoKr: lsr of one
// term, (P1 ⊗ Q1)(P2 ⊗ Q2) = (P1 P2) ⊗ (Q1 Q2), and krona of one term, with
// alpha = r and the scale in the first factor. PEFT chooses LoKr's shapes by
// one decompose_factor for all modules; where none gives the adapter's shapes,
// or a dimension was padded, it is an error. Every scaling rule comes out
// exactly: lora and rslora are PEFT's, alpha is changed for paper.
func ExportPEFT(a *Adapter, dir string, o ExportOptions) error {
	if err := a.Finite(); err != nil {
		return err
	}
	b := *a
	b.Modules = slices.Clone(a.Modules)
	for i := range b.Modules {
		if m := &b.Modules[i]; !m.Output {
			m.Site.Module = o.Prefix + m.Module
		}
	}
	b.Head = slices.Clone(a.Head)
	for i := range b.Head {
		if t := &b.Head[i]; strings.HasPrefix(t.Name, "pooler.") {
			t.Name = o.Prefix + t.Name
		}
	}
	if err := b.saveHead(); err != nil {
		return err
	}
	switch o.Form {
	case FormLoRA:
		return b.exportLoRA(dir, o)
	case FormLoKr:
		return b.exportLoKr(dir, o)
	case FormGraLoRA:
		if b.Method != MethodGraLoRA {
			return fmt.Errorf("%s has no gralora form", b.Method)
		}
		b.renamed(o.Prefix)
		return b.SaveWith(dir, SaveOptions{Replace: o.Replace, Finish: o.Finish})
	}
	_, err := ParseForm(string(o.Form))
	return err
}

func (a *Adapter) exportLoRA(dir string, o ExportOptions) error {
	l, err := a.asPEFT()
	if err != nil {
		return err
	}
	if l.Method == a.Method && o.Prefix == "" {
		return l.SaveWith(dir, SaveOptions{Replace: o.Replace, Finish: o.Finish})
	}
	l.Config = explicit(l.Config, l.Modules)
	return l.SaveWith(dir, SaveOptions{Replace: o.Replace, Finish: o.Finish})
}

// renamed makes names and targets agree with modules whose paths have a prefix.
func (a *Adapter) renamed(prefix string) {
	if prefix == "" {
		return
	}
	for i := range a.Modules {
		m := &a.Modules[i]
		if k, err := Lookup(m.Method); err == nil {
			m.Specs, _ = k.Params(m.Site, m.Settings) // as for the shorter path
		}
	}
	a.Targets = Targets{}
	for _, m := range a.Modules {
		a.Targets.Modules = append(a.Targets.Modules, m.Module)
	}
}

// asPEFT is AsLoRA, or for a kind that rescales weights the DoRA that it is.
func (a *Adapter) asPEFT() (*Adapter, error) {
	if a.Method != MethodDoRA && a.Method != MethodLSRDoRA {
		return a.AsLoRA()
	}
	inner := *a
	inner.Modules = make([]Module, len(a.Modules))
	for i, m := range a.Modules {
		last := len(m.Tensors) - 1
		m.Method, m.Tensors = MethodLoRA, m.Tensors[:last:last]
		if a.Method == MethodLSRDoRA {
			m.Method = MethodLSR
		}
		inner.Modules[i] = m
	}
	l, err := inner.AsLoRA()
	if err != nil {
		return nil, err
	}
	k, err := Lookup(MethodDoRA)
	if err != nil {
		return nil, err
	}
	l.Method = MethodDoRA
	for i := range l.Modules {
		m := &l.Modules[i]
		m.Method = MethodDoRA
		m.Tensors = append(slices.Clone(m.Tensors), a.Modules[i].Tensors[len(a.Modules[i].Tensors)-1])
		if m.Specs, err = k.Params(m.Site, m.Settings); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// AsLoRA returns the adapter as a LoRA with the same ΔW: itself, or lsr, gralora,
// diffora and a LoRA that started from W with their factors made in float64 and
// rounded to float32. Kinds of full rank have none, and kinds without ΔW make an
// error that wraps [ErrNoDelta].
func (a *Adapter) AsLoRA() (*Adapter, error) {
	a = a.plain()
	l := *a
	l.Modules = make([]Module, len(a.Modules))
	l.Settings = loraSettings(a.Settings)
	for i := range a.Modules {
		m := &a.Modules[i]
		n := Module{Site: m.Site, Settings: loraSettings(m.Settings), Tensors: m.Tensors}
		k, err := Lookup(m.Method)
		if err != nil {
			return nil, err
		}
		if m.Method != MethodLoRA {
			d, err := k.Delta(m.Site, m.Settings, m.Tensors)
			if err != nil {
				return nil, err
			}
			if d.Kron != nil {
				return nil, fmt.Errorf("%s: %s is of full rank and no lora; choose another form", m.Module, m.Method)
			}
			n.fromDelta(d)
		}
		if n.Specs, err = (lora{}).Params(n.Site, n.Settings); err != nil {
			return nil, err
		}
		l.Modules[i] = n
	}
	if a.Method != MethodLoRA {
		l.Config = explicit(l.Config, l.Modules)
	}
	return &l, nil
}

// fromDelta takes over A and B; what of the scale is not in the settings, as a
// gate, goes into B.
func (m *Module) fromDelta(d *Delta) {
	b := transpose(d.B, d.R, d.Out)
	if s := m.Scale(); s != d.Scale {
		for i := range b {
			b[i] *= d.Scale / s
		}
	}
	m.Tensors = [][]float32{narrow(transpose(d.A, d.In, d.R)), narrow(b)}
}

// loraSettings turns rank r1·r2 to one number, keeping the scale:
// alpha/r1 = (alpha·r2)/(r1·r2).
func loraSettings(s Settings) Settings {
	if s.Scaling == ScalePaper {
		s.Alpha, s.Scaling = s.Alpha*float64(s.Rank.R2), ScaleLoRA
	}
	if s.Method == MethodGraLoRA { // rank k·r + h at the scale of rank r + h
		r := s.Rank.R1*s.Terms + s.HybridRank
		s.Alpha, s.Scaling = s.Scale()*float64(r), ScaleLoRA
		s.Rank, s.HybridRank = Rank{r, 1}, 0
	}
	s.Rank, s.Terms = Rank{s.Rank.R(), 1}, 1
	s.Method, s.Split, s.SplitOut = MethodLoRA, [2]int{}, [2]int{}
	return s
}

// lokrShape is the shape of a module in PEFT's LoKr form, ΔWᵀ = w1 ⊗ w2 with
// w1 (l, m), w2 (k, n).
type lokrShape struct{ l, k, m, n, in, out int }

func (a *Adapter) exportLoKr(dir string, o ExportOptions) error {
	ms := make([]lokrShape, len(a.Modules))
	names := make([]string, len(a.Modules))
	r := 1
	var ts []fileTensor
	for i := range a.Modules {
		m := &a.Modules[i]
		f, err := oneTerm(m)
		if err != nil {
			return err
		}
		w := lokrShape{l: f.R1, k: f.R2, m: f.A1, n: f.A2, in: m.In, out: m.Out}
		p := transpose(f.F1, f.A1, f.R1)
		for j := range p {
			p[j] *= m.Scale()
		}
		ts = append(ts,
			fileTensor{m.tensorName("lokr_w1"), []int{w.l, w.m}, narrow(p)},
			fileTensor{m.tensorName("lokr_w2"), []int{w.k, w.n}, narrow(transpose(f.F2, f.A2, f.R2))})
		ms[i], names[i] = w, m.Module
		// PEFT keeps w2 whole from this rank on.
		r = max(r, (max(w.k, w.n)+1)/2)
	}
	factor, err := decomposeFactor(ms, names)
	if err != nil {
		return err
	}
	for _, t := range a.Head {
		ts = append(ts, fileTensor{filePrefix + t.Name, t.Shape, t.Data})
	}
	c := peftHead(a, "LOKR")
	c.set("r", r)
	c.set("alpha", r)
	c.set("decompose_both", false)
	c.set("decompose_factor", factor)
	c.set("target_modules", names)
	c.set("rank_pattern", object{})
	c.set("alpha_pattern", object{})
	c.set("init_weights", true)
	config, err := c.encode()
	if err != nil {
		return err
	}
	return writeDir(dir, SaveOptions{Replace: o.Replace, Finish: o.Finish}, config, ts, []safetensors.KV{{Key: "format", Value: "pt"}})
}

// oneTerm returns ΔW without scale as one uncut Kronecker product.
func oneTerm(m *Module) (kron.Factor[float64], error) {
	var f kron.Factor[float64]
	if m.Method != MethodLSR && m.Method != MethodKronA {
		return f, fmt.Errorf("%s: %s has no lokr form", m.Module, m.Method)
	}
	if m.Terms != 1 {
		return f, fmt.Errorf("%s: %d terms; lokr is one kronecker product (the lora form is exact)", m.Module, m.Terms)
	}
	k, err := Lookup(m.Method)
	if err != nil {
		return f, err
	}
	if err := lengths(m.Site, k, m.Settings, m.Tensors); err != nil {
		return f, err
	}
	f = *kroneckerForm(k, m)
	if f.N != f.A1*f.A2 || f.M != f.R1*f.R2 {
		return f, fmt.Errorf("%s: (%d, %d) is padded to (%d, %d), which lokr cannot express (the lora form is exact)", m.Module, f.N, f.M, f.A1*f.A2, f.R1*f.R2)
	}
	return f, nil
}

// decomposeFactor finds the decompose_factor under which PEFT makes every
// module's shapes.
func decomposeFactor(ms []lokrShape, names []string) (int, error) {
	candidates := []int{-1}
	limit := 0
	for _, m := range ms {
		limit = max(limit, m.l, m.m)
	}
	for f := 1; f <= limit; f++ {
		candidates = append(candidates, f)
	}
	for _, f := range candidates {
		if !slices.ContainsFunc(ms, func(m lokrShape) bool { return !m.fits(f) }) {
			return f, nil
		}
	}
	return 0, fmt.Errorf("no decompose_factor of PEFT gives the shapes of %s and the other modules (w1 (%d, %d), w2 (%d, %d)); the lora form is exact", names[0], ms[0].l, ms[0].m, ms[0].k, ms[0].n)
}

func (m *lokrShape) fits(factor int) bool {
	l, k := factorization(m.out, factor)
	p, n := factorization(m.in, factor)
	return l == m.l && k == m.k && p == m.m && n == m.n
}

// factorization is how PEFT's LoKr splits a dimension: the factor and the
// cofactor where it divides, else the divisor pair first <= second found by
// going up from 1 while the sum shrinks and first stays within the factor
// (-1: no bound).
func factorization(n, factor int) (first, second int) {
	if factor > 0 && n%factor == 0 {
		return factor, n / factor
	}
	if factor == -1 {
		factor = n
	}
	first, second = 1, n
	sum := first + second
	for first < second {
		d := first + 1
		for n%d != 0 {
			d++
		}
		if d+n/d > sum || d > factor {
			break
		}
		first, second = d, n/d
	}
	return min(first, second), max(first, second)
}
