package model

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// embed sums the embedding tables, with norm and dropout after them.
func (w *builder) embed() graph.Value {
	c, l := &w.m.config, &w.m.layout
	var tables []graph.WeightID
	var streams []graph.Stream
	var offsets []int
	add := func(name string, entries int, s graph.Stream, offset int) {
		if name != "" {
			tables = append(tables, w.b.Weight(w.m.tensorName(w.m.prefix+name), entries, c.HiddenSize, false))
			streams, offsets = append(streams, s), append(offsets, offset)
		}
	}
	add(l.Word, c.VocabSize, graph.StreamIDs, 0)
	add(l.Position, c.MaxLength+c.PositionOffset, graph.StreamPositions, c.PositionOffset)
	add(l.Type, c.TypeVocabSize, graph.StreamTypes, 0)
	x := w.b.Embed("embeddings", tables, streams, offsets)
	if l.EmbedNorm != "" {
		x = w.norm(l.EmbedNorm, x)
	}
	return w.b.Dropout("embeddings.dropout", x, w.embedDrop, graph.None)
}

// norm is the layer norm or RMS norm of a module of the base model.
func (w *builder) norm(module string, x graph.Value) graph.Value {
	c, l := &w.m.config, &w.m.layout
	name := w.m.prefix + module
	beta := graph.NoWeight
	if !l.RMS {
		beta = w.b.Vector(w.m.tensorName(name+".bias"), c.HiddenSize)
	}
	return w.b.Norm(name, x, w.b.Vector(w.m.tensorName(name+".weight"), c.HiddenSize), beta, float32(c.NormEps), l.RMS)
}

// pick takes rows of x, once per x and pick.
func (w *builder) pick(name string, x graph.Value, p graph.Pick) graph.Value {
	key := selection{x, p}
	if v, ok := w.selects[key]; ok {
		return v
	}
	v := w.b.Select(name, x, p)
	w.selects[key] = v
	return v
}

// epilogue is what follows a linear layer: y = dropout(act(xW + b + Δ)) + residual.
type epilogue struct {
	act      graph.Act
	drop     float32
	residual graph.Value
}

// linear is a linear layer of the base model, its adapter's delta and the
// epilogue. Activation and residual go into the linear operation where neither
// a delta nor dropout stands between.
func (w *builder) linear(l linear, x graph.Value, e epilogue) (graph.Value, error) {
	bias := graph.NoWeight
	if l.bias {
		bias = w.b.Vector(l.biasName(), l.out)
	}
	weight := w.b.Weight(l.weight(), l.in, l.out, l.transposed)
	return w.frozen(l, weight, bias, x, e)
}

// frozen is linear for a weight that is declared already.
func (w *builder) frozen(l linear, weight, bias graph.WeightID, x graph.Value, e epilogue) (graph.Value, error) {
	mod := w.modules[l.module]
	// The activation applies to the sum with the delta, dropout to its result,
	// and the residual comes last.
	fuseAct := mod == nil || e.act == graph.ActNone
	fuseResidual := fuseAct && e.drop == 0
	act, residual := graph.ActNone, graph.None
	if fuseAct {
		act = e.act
	}
	if fuseResidual {
		residual = e.residual
	}
	y := w.b.Linear(l.module, x, weight, bias, act, residual)
	if mod != nil {
		var err error
		if y, err = w.adapt(mod, l, x, y); err != nil {
			return graph.None, err
		}
	}
	if !fuseAct {
		y = w.b.Activate(l.module+".act", y, e.act)
	}
	if !fuseResidual {
		y = w.b.Dropout(l.module+".dropout", y, e.drop, e.residual)
	}
	return y, nil
}

// adapt adds the delta of an adapter module to y.
func (w *builder) adapt(mod *adapter.Module, l linear, x, y graph.Value) (graph.Value, error) {
	if mod.In != l.in || mod.Out != l.out {
		return graph.None, fmt.Errorf("adapter module %s is made for (%d, %d), the model has (%d, %d)", l.module, mod.In, mod.Out, l.in, l.out)
	}
	kind, err := adapter.Lookup(mod.Method)
	if err != nil {
		return graph.None, err
	}
	w.placed[l.module] = true
	params := make([]graph.Value, len(mod.Specs))
	for i, s := range mod.Specs {
		rows, cols := matrixOf(s.Shape)
		params[i] = w.b.Param(s.Name, s.Shape, rows, cols)
		if len(mod.Tensors[i]) != rows*cols {
			return graph.None, fmt.Errorf("adapter tensor %s has %d elements, its shape %v has %d", s.Name, len(mod.Tensors[i]), s.Shape, rows*cols)
		}
		w.initial[s.Name] = mod.Tensors[i]
	}
	if w.o.Train {
		x = w.b.Dropout(l.module+".adapter_dropout", x, float32(mod.Dropout), graph.None)
	}
	return kind.Lower(w.b, x, y, mod.Site, mod.Settings, params), nil
}

// matrixOf folds a shape to a matrix: the first dimension by all others, a
// vector to one row.
func matrixOf(shape []int) (rows, cols int) {
	rows, cols = 1, 1
	for i, d := range shape {
		if i == 0 && len(shape) > 1 {
			rows = d
		} else {
			cols *= d
		}
	}
	return rows, cols
}

// layer is one transformer layer that computes the picked rows of its output.
func (w *builder) layer(i int, x graph.Value, pick graph.Pick) (graph.Value, error) {
	l := &w.m.layout
	lin := map[string]linear{}
	for _, p := range w.m.layerLinears(i) {
		lin[p.module] = p
	}
	at := func(part string) linear { return lin[w.m.prefix+l.layerName(i, part)] }
	attnNorm, ffnNorm := l.layerName(i, l.AttnNorm), l.layerName(i, l.FFNNorm)

	in := x
	if l.PreNorm {
		in = w.norm(attnNorm, x)
	}
	ctx, err := w.attention(i, in, pick, at)
	if err != nil {
		return graph.None, err
	}
	x = w.pick("rows", x, pick)
	x, err = w.linear(at(l.AttnOut), ctx, epilogue{drop: w.hiddenDrop, residual: x})
	if err != nil {
		return graph.None, err
	}
	if !l.PreNorm {
		x = w.norm(attnNorm, x)
		if x, err = w.feedForward(x, x, at); err != nil {
			return graph.None, err
		}
		return w.norm(ffnNorm, x), nil
	}
	return w.feedForward(w.norm(ffnNorm, x), x, at)
}

// feedForward is down(act(up(x))) + residual, or with a gate
// down(act(gate(x))·up(x)) + residual.
func (w *builder) feedForward(x, residual graph.Value, at func(string) linear) (graph.Value, error) {
	l, act := &w.m.layout, w.m.config.Act
	var h graph.Value
	var err error
	if l.Gate == "" {
		h, err = w.linear(at(l.Up), x, epilogue{act: act})
	} else {
		var gate, up graph.Value
		if gate, err = w.linear(at(l.Gate), x, epilogue{}); err != nil {
			return graph.None, err
		}
		if up, err = w.linear(at(l.Up), x, epilogue{}); err != nil {
			return graph.None, err
		}
		h = w.b.Gated(at(l.Up).module+".gated", gate, up, act)
	}
	if err != nil {
		return graph.None, err
	}
	return w.linear(at(l.Down), h, epilogue{drop: w.hiddenDrop, residual: residual})
}

// attention is the attention of layer i on x, for the picked rows.
func (w *builder) attention(i int, x graph.Value, pick graph.Pick, at func(string) linear) (graph.Value, error) {
	c, l := &w.m.config, &w.m.layout
	// Attention itself takes one query per sequence or one per token.
	queries := pick
	if pick == graph.PickRows {
		queries = graph.PickAll
	}
	q, k, v, err := w.projections(x, queries, at)
	if err != nil {
		return graph.None, err
	}
	name := w.m.prefix + l.layerName(i, "attention")
	if c.Rope != nil {
		freq, scale := c.Rope.Frequencies(c.HeadDim)
		q = w.b.Rope(name+".q", q, graph.Rope{Heads: c.Heads, HeadDim: c.HeadDim, Freq: freq, Scale: scale, Pick: queries})
		k = w.b.Rope(name+".k", k, graph.Rope{Heads: c.KVHeads, HeadDim: c.HeadDim, Freq: freq, Scale: scale})
	}
	y := w.b.Attention(name, q, k, v, graph.Attention{
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Scale: float32(c.AttentionScale[i]),
		Causal: l.Causal, Window: c.Windows[i], QueryPick: queries, DropP: w.attnDrop,
	})
	if pick == graph.PickRows {
		y = w.pick(name+".rows", y, pick)
	}
	return y, nil
}

// projections are query, key and value, the query for the picked rows. A fused
// projection computes all of them first.
func (w *builder) projections(x graph.Value, queries graph.Pick, at func(string) linear) (q, k, v graph.Value, err error) {
	c, l := &w.m.config, &w.m.layout
	if l.QKV != "" {
		all, err := w.linear(at(l.QKV), x, epilogue{})
		if err != nil {
			return 0, 0, 0, err
		}
		width, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		q = w.pick("rows", w.b.View(all, 0, width), queries)
		return q, w.b.View(all, width, kv), w.b.View(all, width+kv, kv), nil
	}
	if q, err = w.linear(at(l.Q), w.pick("rows", x, queries), epilogue{}); err != nil {
		return 0, 0, 0, err
	}
	if k, err = w.linear(at(l.K), x, epilogue{}); err != nil {
		return 0, 0, 0, err
	}
	v, err = w.linear(at(l.V), x, epilogue{})
	return q, k, v, err
}
