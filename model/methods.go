package model

import (
	"fmt"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// rescaler is the kind of a module that computes its whole layer.
func rescaler(mod *adapter.Module) (adapter.Rescaler, bool) {
	k, err := adapter.Lookup(mod.Method)
	if err != nil {
		return nil, false
	}
	r, ok := k.(adapter.Rescaler)
	return r, ok
}

// rescaled is the output of a layer whose weight a module rescales.
func (w *Assembly) rescaled(mod *adapter.Module, r adapter.Rescaler, weight, bias graph.WeightID, x graph.Value) (graph.Value, error) {
	frozen := w.b.P.Weight(weight)
	if err := fits(mod, frozen.In, frozen.Out); err != nil {
		return graph.None, err
	}
	params, err := w.params(mod)
	if err != nil {
		return graph.None, err
	}
	l := adapter.Layer{X: x, Dropped: w.dropped(mod, x), W: weight, Bias: bias}
	return r.LowerLayer(w.b, l, mod.Site, mod.Settings, params), nil
}

// span is a connection around blocks whose end is still to come.
type span struct {
	mod *adapter.Module
	x   graph.Value // the input of its first block
	end int         // its last block
}

// open remembers x, the input of layer i, where a connection begins.
func (w *builder) open(i int, x graph.Value) error {
	mod := w.modules[strings.TrimSuffix(w.m.prefix+w.m.layout.layerName(i, ""), ".")]
	if mod == nil {
		return nil
	}
	h := w.m.config.HiddenSize
	if err := fits(mod, h, h); err != nil {
		return err
	}
	end := i + mod.Terms - 1
	if end >= w.m.config.Layers {
		return fmt.Errorf("adapter module %s spans %d blocks, and the model has %d from there", mod.Module, mod.Terms, w.m.config.Layers-i)
	}
	w.spans = append(w.spans, span{mod, x, end})
	return nil
}

// close adds the connections that end with layer i to its output y, of which
// pick says the rows.
func (w *builder) close(i int, y graph.Value, pick graph.Pick) (graph.Value, error) {
	for _, o := range w.spans {
		if o.end != i {
			continue
		}
		kind, err := adapter.Lookup(o.mod.Method)
		if err != nil {
			return graph.None, err
		}
		params, err := w.params(o.mod)
		if err != nil {
			return graph.None, err
		}
		x := w.dropped(o.mod, w.Pick("rows", o.x, pick))
		y = kind.Lower(w.b, x, y, o.mod.Site, o.mod.Settings, params)
	}
	return y, nil
}
