package model

import (
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

// linear is a linear layer of the base model, its adapter's delta and the
// epilogue. Activation and residual go into the linear operation where neither
// a delta nor dropout stands between.
func (w *builder) linear(l linear, x graph.Value, e Epilogue) (graph.Value, error) {
	bias := graph.NoWeight
	if l.bias {
		bias = w.b.Vector(l.biasName(), l.out)
	}
	weight := w.b.Weight(l.weight(), l.in, l.out, l.transposed)
	return w.Linear(l.module, weight, bias, x, e)
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
	if l.PreNorm || i == w.o.From {
		w.b.BeginLayer()
	}
	if l.PreNorm {
		in = w.norm(attnNorm, x)
	}
	ctx, err := w.attention(i, in, pick, at)
	if err != nil {
		return graph.None, err
	}
	x = w.Pick("rows", x, pick)
	x, err = w.linear(at(l.AttnOut), ctx, Epilogue{Drop: w.hiddenDrop, Residual: x})
	if err != nil {
		return graph.None, err
	}
	if !l.PreNorm {
		x = w.norm(attnNorm, x)
		if x, err = w.feedForward(x, x, at); err != nil {
			return graph.None, err
		}
		if i < w.m.config.Layers-1 {
			// The sum crosses to the next layer rather than its norm, so that
			// a layer's last product need not be computed again for it.
			w.b.BeginLayer()
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
		h, err = w.linear(at(l.Up), x, Epilogue{Act: act})
	} else {
		var gate, up graph.Value
		if gate, err = w.linear(at(l.Gate), x, Epilogue{}); err != nil {
			return graph.None, err
		}
		if up, err = w.linear(at(l.Up), x, Epilogue{}); err != nil {
			return graph.None, err
		}
		h = w.b.Gated(at(l.Up).module+".gated", gate, up, act)
	}
	if err != nil {
		return graph.None, err
	}
	return w.linear(at(l.Down), h, Epilogue{Drop: w.hiddenDrop, Residual: residual})
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
	q, k = w.headNorm(i, l.QNorm, q, c.Heads), w.headNorm(i, l.KNorm, k, c.KVHeads)
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
		y = w.Pick(name+".rows", y, pick)
	}
	return y, nil
}

// headNorm is the norm of the heads of query or key in layer i, x itself where the
// family has none.
func (w *builder) headNorm(i int, part string, x graph.Value, heads int) graph.Value {
	if part == "" {
		return x
	}
	name := w.m.prefix + w.m.layout.layerName(i, part)
	return w.b.HeadNorm(name, x, w.b.Vector(w.m.tensorName(name+".weight"), w.m.config.HeadDim), float32(w.m.config.NormEps), heads)
}

// projections are query, key and value, the query for the picked rows. A fused
// projection computes all of them first.
func (w *builder) projections(x graph.Value, queries graph.Pick, at func(string) linear) (q, k, v graph.Value, err error) {
	c, l := &w.m.config, &w.m.layout
	if l.QKV != "" {
		all, err := w.linear(at(l.QKV), x, Epilogue{})
		if err != nil {
			return 0, 0, 0, err
		}
		width, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		q = w.Pick("rows", w.b.View(all, 0, width), queries)
		return q, w.b.View(all, width, kv), w.b.View(all, width+kv, kv), nil
	}
	if y, ok := w.given[at(l.Q).module]; ok {
		w.given[at(l.Q).module] = w.Pick("query.rows", y, queries)
	}
	if q, err = w.linear(at(l.Q), w.Pick("rows", x, queries), Epilogue{}); err != nil {
		return 0, 0, 0, err
	}
	if k, err = w.linear(at(l.K), x, Epilogue{}); err != nil {
		return 0, 0, 0, err
	}
	v, err = w.linear(at(l.V), x, Epilogue{})
	return q, k, v, err
}
