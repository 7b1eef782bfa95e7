package decompose

import (
	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// Reader gives initialisations the decompositions of a checkpoint's weights.
// It implements adapter.WeightReader.
type Reader struct {
	Checkpoint *formats.Checkpoint
	Pool       *kernel.Pool // nil computes on the caller
	Seed       uint64
}

var _ adapter.WeightReader = (*Reader)(nil)

// Weight implements adapter.WeightReader.
func (r *Reader) Weight(site adapter.Site) ([]float64, error) {
	rows, cols := site.In, site.Out
	if site.Transposed {
		rows, cols = cols, rows
	}
	t, ok := r.Checkpoint.Lookup(site.Weight)
	if !ok || len(t.Shape) != 2 || t.Shape[0] != rows || t.Shape[1] != cols {
		return nil, &formats.Error{Path: r.Checkpoint.Path(), Tensor: site.Weight, Reason: "it is not there in the shape of module " + site.Module, Hint: "give the base model of the adapter", Err: formats.ErrMalformed}
	}
	w := make([]float64, rows*cols)
	if err := r.Checkpoint.ReadF64(t, 0, t.Elements(), w); err != nil {
		return nil, err
	}
	if !site.Transposed {
		return w, nil
	}
	x := make([]float64, len(w))
	for i := range rows {
		for j, v := range w[i*cols:][:cols] {
			x[j*rows+i] = v
		}
	}
	return x, nil
}

// Principal implements adapter.WeightReader by [Truncated].
func (r *Reader) Principal(site adapter.Site, n int) (u, s, v []float64, err error) {
	w, err := r.Weight(site)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := Truncated(r.Pool, w, site.In, site.Out, n, r.Seed)
	if err != nil {
		return nil, nil, nil, &formats.Error{Path: r.Checkpoint.Path(), Tensor: site.Weight, Reason: err.Error(), Hint: "choose another initialisation, or repair the checkpoint", Err: formats.ErrMalformed}
	}
	return d.U, d.S, d.V, nil
}

// NearestKronecker implements adapter.WeightReader.
func (r *Reader) NearestKronecker(k []float64, terms, a1, r1, a2, r2 int) (p, q []float64, err error) {
	f, err := NearestKronecker(r.Pool, k, kron.Full(terms, a1, r1, a2, r2), r.Seed)
	return f.F1, f.F2, err
}
