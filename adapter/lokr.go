package adapter

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// readLoKr reads a module of PEFT's LoKr,
//
//	ΔWᵀ = alpha/r · w1 ⊗ w2,  w1 (out_l, in_m), w2 (out_k, in_n),
//
// each factor whole or as a product w_a w_b, as a krona module of one term:
// C = w1ᵀ, D = w2ᵀ, alpha the quotient.
func (l *loader) readLoKr(m Matched) (Module, error) {
	w1, r1, c1, err := l.lokrFactor(m, "lokr_w1")
	if err != nil {
		return Module{}, err
	}
	w2, r2, c2, err := l.lokrFactor(m, "lokr_w2")
	if err != nil {
		return Module{}, err
	}
	if r1*r2 != m.Out || c1*c2 != m.In {
		return Module{}, l.mismatch(filePrefix+m.Module+".lokr_w1", fmt.Sprintf("(%d, %d) ⊗ (%d, %d) is not (%d, %d)", r1, c1, r2, c2, m.Out, m.In), "the adapter belongs to another model")
	}
	s := m.Settings
	s.Method, s.Alpha, s.Scaling = MethodKronA, m.Alpha/float64(m.Rank.R()), ScaleLoRA
	s.Rank, s.Terms = Rank{1, 1}, 1
	s.Split, s.SplitOut = [2]int{c1, c2}, [2]int{r1, r2}
	mod := Module{Site: m.Site, Settings: s}
	if mod.Specs, err = (krona{}).Params(m.Site, s); err != nil {
		return mod, err
	}
	mod.Tensors = [][]float32{narrow(transpose(w1, r1, c1)), narrow(transpose(w2, r2, c2))}
	return mod, lengths(m.Site, krona{}, s, mod.Tensors)
}

// lokrFactor reads w, or the product of w_a and w_b in float64.
func (l *loader) lokrFactor(m Matched, suffix string) (w []float64, rows, cols int, err error) {
	base := filePrefix + m.Module + "." + suffix
	if t, ok := l.tensors[base]; ok && len(t.Shape) == 2 {
		x, err := l.read(base, t.Shape, m)
		return widen(x), t.Shape[0], t.Shape[1], err
	}
	a, b := l.tensors[base+"_a"], l.tensors[base+"_b"]
	r := m.Rank.R1
	if len(a.Shape) != 2 || len(b.Shape) != 2 || a.Shape[1] != r || b.Shape[0] != r {
		return nil, 0, 0, l.mismatch(base, fmt.Sprintf("neither the matrix nor a pair of rank %d is there", r), "the file is incomplete, or the rank in its configuration is wrong")
	}
	xa, err := l.read(base+"_a", a.Shape, m)
	if err != nil {
		return nil, 0, 0, err
	}
	xb, err := l.read(base+"_b", b.Shape, m)
	if err != nil {
		return nil, 0, 0, err
	}
	rows, cols = a.Shape[0], b.Shape[1]
	w = make([]float64, rows*cols)
	kernel.GemmF64(nil, false, false, rows, cols, r, 1, widen(xa), r, widen(xb), cols, 0, w, cols)
	return w, rows, cols, nil
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}
