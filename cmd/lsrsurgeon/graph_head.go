package main

import (
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// graphHead gives the tensors of a trained head, MODULE.weight (out, in) and
// MODULE.bias, the names and layouts that the layer MODULE has in a graph, whose
// exporter may have renamed and transposed them. Others stay as they are.
func graphHead(head []adapter.Tensor, sites []adapter.Site) []adapter.Tensor {
	out := slices.Clone(head)
	for i := range out {
		t := &out[i]
		for _, s := range sites {
			switch t.Name {
			case s.Module + ".bias":
				if s.Bias != "" {
					t.Name = s.Bias
				}
			case s.Module + ".weight":
				if t.Name = s.Weight; !s.Transposed && len(t.Shape) == 2 {
					*t = transposedTensor(*t)
				}
			default:
				continue
			}
			break
		}
	}
	return out
}

func transposedTensor(t adapter.Tensor) adapter.Tensor {
	rows, cols := t.Shape[0], t.Shape[1]
	data := make([]float32, len(t.Data))
	for i := range rows {
		for j := range cols {
			data[j*rows+i] = t.Data[i*cols+j]
		}
	}
	return adapter.Tensor{Name: t.Name, Shape: []int{cols, rows}, Data: data}
}
