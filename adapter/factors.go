package adapter

import "github.com/lsrsurgeon/lsrsurgeon/kron"

// Factors returns the Kronecker factors whose product, times the scale of its
// [Delta], is ΔW: A (in, r) and B (r, out) of lsr, one (in, out) where the delta
// is a Kronecker sum, none otherwise.
func (m *Module) Factors() ([]kron.Factor[float64], error) {
	k, err := Lookup(m.Method)
	if err != nil {
		return nil, err
	}
	if l, ok := k.(lsr); ok {
		a, b, err := l.factors(m.Site, m.Settings, m.Tensors)
		return []kron.Factor[float64]{a, b}, err
	}
	d, err := k.Delta(m.Site, m.Settings, m.Tensors)
	if err != nil || d.Kron == nil {
		return nil, err
	}
	return []kron.Factor[float64]{*d.Kron}, nil
}
