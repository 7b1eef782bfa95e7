package onnxmodel

import (
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// plan finds which rows of which terms the rows pick of root need. A term of
// which different rows are needed computes all.
func (w *writer) plan(root *term, pick graph.Pick) {
	n := len(w.m.terms)
	w.mode, w.needed, w.uses, w.user = make([]graph.Pick, n), make([]bool, n), make([]int, n), make([]*term, n)
	want := make([]uint8, n)
	want[root.id] = 1 << pick
	for id := root.id; id >= 0; id-- {
		if want[id] == 0 {
			continue
		}
		t := w.m.terms[id]
		w.needed[id] = true
		mode := graph.PickAll
		for p := graph.PickFirst; p <= graph.PickRows; p++ {
			if want[id] == 1<<p {
				mode = p
			}
		}
		if t.op == opEmbed || t == w.from || t.seq || t.op == opAttention && mode == graph.PickRows {
			mode = graph.PickAll
		}
		w.mode[id] = mode
		if t == w.from {
			continue
		}
		for i, x := range t.in {
			p := mode
			switch {
			case t.op == opSelect:
				p = t.pick
			case t.op == opAttention && i > 0, t.op == opMean, t.seq:
				p = graph.PickAll
			}
			want[x.id] |= 1 << p
			w.uses[x.id]++
			w.user[x.id] = t
		}
	}
}

// emit writes what root's rows need and returns them.
func (w *writer) emit(root *term, pick graph.Pick) (graph.Value, error) {
	w.plan(root, pick)
	after, ends := w.embeddingDropout(root), w.m.layerEnds(root)
	begin := w.from != nil
	for id := 0; id <= root.id; id++ {
		t := w.m.terms[id]
		if !w.needed[id] || w.fusible(t) {
			continue
		}
		if begin && t != w.from {
			w.b.BeginLayer()
			begin = false
		}
		v, err := w.operation(t)
		if err != nil {
			return graph.None, err
		}
		begin = begin || ends[t]
		if t == after {
			v = w.b.Dropout("embeddings.dropout", v, w.embedDrop, graph.None)
		}
		w.done[t] = v
	}
	return w.value(root, pick), nil
}

// embeddingDropout is the term that dropout of embeddings follows: the sum of
// the tables, or the norm that alone reads it.
func (w *writer) embeddingDropout(root *term) *term {
	if w.embedDrop == 0 {
		return nil
	}
	for id := 0; id <= root.id; id++ {
		if t := w.m.terms[id]; w.needed[id] && t.op == opEmbed {
			if u := w.user[id]; w.uses[id] == 1 && u.op == opNorm {
				return u
			}
			return t
		}
	}
	return nil
}

// fusible says whether a linear layer is written with the activation or the sum
// that alone reads it.
func (w *writer) fusible(t *term) bool {
	u := w.user[t.id]
	return t.op == opLinear && t != w.from && w.uses[t.id] == 1 && (u.op == opAct || w.residual(u) == t)
}

// residual is the linear layer that is written together with a sum, or nil.
func (w *writer) residual(sum *term) *term {
	if sum.op != opSum || sum.mul != 1 || sum.mul2 != 1 {
		return nil
	}
	for i := 1; i >= 0; i-- {
		if t := sum.in[i]; t.op == opLinear && t != w.from && w.uses[t.id] == 1 {
			return t
		}
	}
	return nil
}

// value is the rows pick of a term that was written.
func (w *writer) value(t *term, pick graph.Pick) graph.Value {
	if v := w.done[t]; w.mode[t.id] == pick {
		return v
	} else {
		return w.Pick("rows", v, pick)
	}
}

// linear writes a linear layer on the rows of its consumer.
func (w *writer) linear(t *term, e model.Epilogue) (graph.Value, error) {
	weight, bias := w.weights(t)
	return w.Linear(t.module(), weight, bias, w.value(t.in[0], w.mode[t.id]), e)
}

// operation writes a term.
func (w *writer) operation(t *term) (graph.Value, error) {
	mode := w.mode[t.id]
	in := func(i int) graph.Value { return w.value(t.in[i], mode) }
	if t == w.from {
		return w.b.Input("hidden", t.cols), nil
	}
	switch t.op {
	case opEmbed:
		return w.embed(t)
	case opLinear:
		return w.linear(t, model.Epilogue{})
	case opNorm:
		return w.norm(t, in(0)), nil
	case opAct:
		if x := t.in[0]; w.fusible(x) {
			return w.linear(x, model.Epilogue{Act: t.act})
		}
		return w.b.Activate(t.node, in(0), t.act), nil
	case opMul:
		return w.b.Gated(t.node, in(0), in(1), t.act), nil
	case opSum:
		if x := w.residual(t); x != nil {
			other := 0
			if t.in[0] == x {
				other = 1
			}
			return w.linear(x, model.Epilogue{Drop: w.hiddenDrop, Residual: in(other)})
		}
		return w.b.Axpby(t.node, float32(t.mul), in(0), float32(t.mul2), in(1)), nil
	case opScale:
		return w.b.Axpby(t.node, float32(t.mul), in(0), 0, graph.None), nil
	case opRope:
		r := *t.rope
		r.Pick = mode
		return w.b.Rope(t.node, in(0), r), nil
	case opAttention:
		return w.b.Attention(t.node, in(0), w.value(t.in[1], graph.PickAll), w.value(t.in[2], graph.PickAll), graph.Attention{
			Heads: t.heads.heads, KVHeads: t.heads.kv, HeadDim: t.heads.dim, Scale: float32(t.mul), Causal: t.causal, Window: t.window, QueryPick: mode, DropP: w.attnDrop}), nil
	case opColumns:
		base := t.in[0]
		v := w.b.View(w.done[base], t.col, t.cols)
		if w.mode[base.id] != mode {
			v = w.Pick("rows", v, mode)
		}
		return v, nil
	}
	return graph.None, fmt.Errorf("node %q: a row of each sequence below the hidden states: %w", t.node, model.ErrUnsupported)
}

func (w *writer) embed(t *term) (graph.Value, error) {
	var tables []graph.WeightID
	var streams []graph.Stream
	var offsets []int
	for _, l := range t.tables {
		if l.fixed {
			return graph.None, fmt.Errorf("node %q: a row of %s that all tokens get has no table of positions to go to: %w", t.node, l.table, model.ErrUnsupported)
		}
		tables = append(tables, w.b.Weight(l.table, l.entries, t.cols, false))
		streams, offsets = append(streams, l.stream), append(offsets, l.offset)
	}
	return w.b.Embed("embeddings", tables, streams, offsets), nil
}

func (w *writer) norm(t *term, x graph.Value) graph.Value {
	beta := graph.NoWeight
	if t.bias != "" {
		beta = w.b.Vector(t.bias, t.cols)
	}
	return w.b.Norm(t.node, x, w.b.Vector(t.gamma, t.cols), beta, float32(t.eps), t.rms)
}

// waists lists, in order, the matrices that all above them is made of: below
// root, as wide as the hidden states.
func (m *Model) waists(root *term) (list []*term, used []bool) {
	used = m.reachable(root)
	last := make([]int, len(m.terms)) // the last term that reads it
	for id, t := range m.terms {
		if used[id] {
			for _, x := range t.in {
				last[x.id] = id
			}
		}
	}
	open := 0 // the last use of what came before
	for id := 0; id <= root.id; id++ {
		t := m.terms[id]
		if !used[id] {
			continue
		}
		if open <= id && t.cols == m.config.HiddenSize && !t.seq {
			list = append(list, t)
		}
		open = max(open, last[id])
	}
	return list, used
}

// cut is the last waist below the first linear layer of a layer: what a program of the
// layers from there up begins with.
func (m *Model) cut(layer int) (*term, error) {
	waists, used := m.waists(m.hidden)
	for id, t := range m.terms {
		if !used[id] || t.op != opLinear || t.site == nil || t.site.Layer < layer {
			continue
		}
		for _, x := range slices.Backward(waists) {
			if x.id < id {
				return x, nil
			}
		}
		break
	}
	return nil, fmt.Errorf("there is no place to cut the graph below layer %d", layer)
}

// layerEnds are the waists after which a layer begins: the last ones below each
// attention. Of a sum and its norm it is the sum, so that a layer's last
// product need not be computed again for it.
func (m *Model) layerEnds(root *term) map[*term]bool {
	waists, used := m.waists(root)
	ends := map[*term]bool{}
	next, done := 0, false // the first waist not below, and whether this layer has begun
	for id := 0; id <= root.id; id++ {
		t := m.terms[id]
		if !used[id] {
			continue
		}
		if t.op == opLinear && !done {
			for next < len(waists) && waists[next].id < id {
				next++
			}
			if done = next > 0; done {
				end := waists[next-1]
				if end.op == opNorm && next > 1 && waists[next-2] == end.in[0] && end.in[0].op != opEmbed {
					end = end.in[0]
				}
				ends[end] = true
			}
		}
		done = done && t.op != opAttention
	}
	return ends
}

// headError is an error about a head of another width.
func (m *Model) headError(module string, have, want int) error {
	return &formats.Error{Path: m.ckpt.Path(), Tensor: module, Reason: fmt.Sprintf("the head has %d outputs, %d labels are wanted", have, want),
		Hint: "keep the graph's number of labels or start with a new head", Err: formats.ErrMalformed}
}
