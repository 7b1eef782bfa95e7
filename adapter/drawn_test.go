package adapter_test

import (
	"fmt"
	"math/rand/v2"

	"gonum.org/v1/gonum/mat"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// drawn is a base model whose weights follow from the module's name.
type drawn struct{}

func (drawn) Weight(s adapter.Site) ([]float64, error) {
	var seed uint64
	for _, c := range []byte(s.Module) {
		seed = seed*131 + uint64(c)
	}
	rng := rand.New(rand.NewPCG(seed, 5))
	w := make([]float64, s.In*s.Out)
	for i := range w {
		w[i] = float64(float32(rng.NormFloat64()))
	}
	return w, nil
}

func (d drawn) Principal(s adapter.Site, r int) (u, sv, v []float64, err error) {
	w, err := d.Weight(s)
	if err != nil {
		return nil, nil, nil, err
	}
	var svd mat.SVD
	if !svd.Factorize(mat.NewDense(s.In, s.Out, w), mat.SVDThin) {
		return nil, nil, nil, fmt.Errorf("no singular values")
	}
	var um, vm mat.Dense
	svd.UTo(&um)
	svd.VTo(&vm)
	first := func(m *mat.Dense, rows int) []float64 {
		return mat.DenseCopyOf(m.Slice(0, rows, 0, r)).RawMatrix().Data
	}
	return first(&um, s.In), svd.Values(nil)[:r], first(&vm, s.Out), nil
}

func (drawn) NearestKronecker(k []float64, terms, a1, r1, a2, r2 int) (p, q []float64, err error) {
	return nil, nil, fmt.Errorf("not asked for")
}
