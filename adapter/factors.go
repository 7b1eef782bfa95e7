package adapter

import "github.com/lsrsurgeon/lsrsurgeon/kron"

// Factors returns the Kronecker factors whose product, times [Settings.Scale],
// is ΔW: A (in, r) and B (r, out) of lsr, one (in, out) of krona and
// kadaptation, none of lora.
func (m *Module) Factors() ([]kron.Factor[float64], error) {
	k, err := Lookup(m.Method)
	if err != nil {
		return nil, err
	}
	switch k := k.(type) {
	case lora:
		return nil, nil
	case lsr:
		a, b, err := k.factors(m.Site, m.Settings, m.Tensors)
		return []kron.Factor[float64]{a, b}, err
	}
	d, err := k.Delta(m.Site, m.Settings, m.Tensors)
	if err != nil || d.Kron == nil {
		return nil, err
	}
	return []kron.Factor[float64]{*d.Kron}, nil
}
