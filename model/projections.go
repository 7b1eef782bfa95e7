package model

import "github.com/lsrsurgeon/lsrsurgeon/graph"

// attentionInputs are the linear layers of layer i that read the hidden states
// that enter its attention: query, key and value, or one for all three.
func (w *builder) attentionInputs(i int) []linear {
	n := 3
	if w.m.layout.QKV != "" {
		n = 1
	}
	return w.m.layerLinears(i)[:n]
}

// input is the hidden states that a program with From begins with. Products
// that come with them are noted as given.
func (w *builder) input() graph.Value {
	h := w.m.config.HiddenSize
	if !w.o.Projections {
		return w.b.Input("hidden", h)
	}
	layers, width := w.attentionInputs(w.o.From), h
	for _, l := range layers {
		width += l.out
	}
	all, col := w.b.Input("hidden", width), h
	for _, l := range layers {
		w.given[l.module] = w.b.View(all, col, l.out)
		col += l.out
	}
	return w.b.View(all, 0, h)
}

// projectUntil computes the products that a program from layer Until is given.
func (w *builder) projectUntil(x graph.Value) error {
	if !w.o.Projections {
		return nil
	}
	if w.m.layout.PreNorm {
		x = w.norm(w.m.layout.layerName(w.o.Until, w.m.layout.AttnNorm), x)
	}
	for _, l := range w.attentionInputs(w.o.Until) {
		y, err := w.linear(l, x, Epilogue{})
		if err != nil {
			return err
		}
		w.b.Output(y)
		w.built.Projections = append(w.built.Projections, y)
	}
	return nil
}
