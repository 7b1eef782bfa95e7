package onnxmodel

import (
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// writer writes the terms of a model as operations of a program.
type writer struct {
	*model.Assembly
	m *Model
	o model.BuildOptions
	b *graph.Builder

	mode   []graph.Pick // the rows of a term that are computed, by id
	needed []bool
	uses   []int
	user   []*term // the last term that reads it
	done   map[*term]graph.Value
	from   *term // what the program begins with, instead of the embeddings

	hiddenDrop, attnDrop, embedDrop, headDrop float32
}

// Build writes the forward program of a task, as [model.Model.Build] does for a
// checkpoint, with the same options and results. The weights of the graph's own
// classification head are trained where the options do not freeze them; a
// graph without one gets a new head. Projections are never computed.
func (m *Model) Build(o model.BuildOptions) (*model.Built, error) {
	a := model.NewAssembly(o)
	w := &writer{Assembly: a, m: m, o: a.Options(), b: a.Graph(), done: map[*term]graph.Value{}}
	if err := w.options(); err != nil {
		return nil, err
	}
	if err := w.write(); err != nil {
		return nil, fmt.Errorf("%s: %w", m.ckpt.Path(), err)
	}
	w.Result().Weights = m.sources.With(w.Extra())
	return w.Finish(m.sites)
}

// options checks the options and settles the dropout probabilities.
func (w *writer) options() error {
	m, o := w.m, &w.o
	if o.Task == model.TaskLM && m.lm == nil {
		return fmt.Errorf("%s has no output of logits over the vocabulary: %w", m.ckpt.Path(), model.ErrUnsupported)
	}
	if o.Task == model.TaskFeatures && o.Loss {
		return fmt.Errorf("features have no loss to train on")
	}
	if o.Until > 0 && (o.Task != model.TaskFeatures || o.From >= o.Until || o.Pool != model.PoolDefault) {
		return fmt.Errorf("a program that ends before layer %d gives hidden states alone, and begins below", o.Until)
	}
	if o.From > 0 && o.Projections {
		return fmt.Errorf("a program of an imported graph is given hidden states alone, not their products")
	}
	if !o.Train {
		return nil
	}
	hidden, attn, embed, head := m.config.HiddenDropout, m.config.AttentionDropout, m.config.EmbeddingDropout, m.config.ClassifierDropout
	if o.HiddenDropout != nil {
		hidden = *o.HiddenDropout
		embed, head = hidden, hidden
		if m.rms { // Llama and its relatives drop attention weights alone
			hidden, embed = 0, 0
		}
	}
	if o.AttentionDropout != nil {
		attn = *o.AttentionDropout
	}
	for _, p := range []float64{hidden, attn, embed, head} {
		if !(p >= 0 && p < 1) {
			return fmt.Errorf("dropout %v is not a probability in [0, 1)", p)
		}
	}
	w.hiddenDrop, w.attnDrop, w.embedDrop, w.headDrop = float32(hidden), float32(attn), float32(embed), float32(head)
	return nil
}

// write writes the whole program.
func (w *writer) write() error {
	var err error
	if w.o.From > 0 {
		if w.from, err = w.m.cut(w.o.From); err != nil {
			return err
		}
	}
	res := w.Result()
	if w.o.Until > 0 {
		t, err := w.m.cut(w.o.Until)
		if err != nil {
			return err
		}
		if res.Hidden, err = w.emit(t, graph.PickAll); err == nil {
			w.b.Output(res.Hidden)
		}
		return err
	}
	pool, rows := w.rows()
	x, err := w.emit(w.m.hidden, rows)
	if err != nil {
		return err
	}
	res.Hidden = x
	switch w.o.Task {
	case model.TaskLM:
		return w.language(x)
	case model.TaskFeatures:
		w.b.Output(x)
		if w.o.Pool != model.PoolDefault {
			res.Pooled = w.pooled(x, pool, rows)
			w.b.Output(res.Pooled)
		}
		return nil
	}
	return w.classify(w.pooled(x, pool, rows))
}

// rows settles which row of a sequence is read, PickAll for the mean, and the
// rows of the hidden states that are computed.
func (w *writer) rows() (pool, rows graph.Pick) {
	switch w.o.Pool {
	case model.PoolCLS:
		pool = graph.PickFirst
	case model.PoolLast:
		pool = graph.PickLast
	case model.PoolDefault:
		if pool = w.m.pick; len(w.m.chain) == 0 && w.m.causal {
			pool = graph.PickLast
		}
	}
	switch w.o.Task {
	case model.TaskFeatures:
		return pool, graph.PickAll
	case model.TaskLM:
		if w.o.Loss {
			return pool, graph.PickRows
		}
		return pool, w.o.LogitsRows
	}
	return pool, pool
}

// pooled reduces hidden states to a row per sequence.
func (w *writer) pooled(x graph.Value, pool, rows graph.Pick) graph.Value {
	switch {
	case pool == graph.PickAll:
		return w.b.MeanPool("pooled", x)
	case rows != graph.PickAll:
		return x
	}
	return w.Pick("pooled", x, pool)
}

// language writes the output layer, or its loss.
func (w *writer) language(x graph.Value) error {
	t := w.m.lm
	weight, bias := w.weights(t)
	if w.o.Loss && !(t.site != nil && w.Adapted(t.site.Module)) {
		w.b.SetLoss(w.b.LMLoss(x, weight, bias))
		return nil
	}
	logits, err := w.Linear(t.module(), weight, bias, x, model.Epilogue{})
	if err != nil {
		return err
	}
	w.Result().Logits = logits
	w.b.Output(logits)
	if w.o.Loss {
		w.b.SetLoss(w.b.CrossEntropy(logits))
	}
	return nil
}

// module is the name of a linear layer.
func (t *term) module() string {
	if t.site != nil {
		return t.site.Module
	}
	return t.node
}

// weights declares the weight and bias of a linear layer.
func (w *writer) weights(t *term) (weight, bias graph.WeightID) {
	weight = w.b.Weight(t.weight.name, t.weight.in, t.weight.out, t.weight.transposed)
	if t.bias != "" {
		bias = w.b.Vector(t.bias, t.cols)
	}
	return weight, bias
}

// classify writes the head on pooled rows, and its loss.
func (w *writer) classify(x graph.Value) error {
	res := w.Result()
	res.Pooled, res.HeadTrained = x, !w.o.FreezeHead
	head := w.m.head()
	n, err := w.numLabels(head)
	if err != nil {
		return err
	}
	res.NumLabels = n
	chain := w.m.chain
	if w.o.Pool != model.PoolDefault { // the head alone, without a pooler
		if chain = nil; len(head) > 0 {
			chain = w.m.chain[slices.Index(w.m.chain, head[0]):]
		}
	}
	for i, t := range chain {
		switch {
		case t.op == opAct:
			if i == 0 || !slices.Contains(head, chain[i-1]) {
				x = w.b.Activate(t.node, x, t.act)
			}
		case slices.Contains(head, t):
			act := graph.ActNone
			if i+1 < len(chain) && chain[i+1].op == opAct {
				act = chain[i+1].act
			}
			x, err = w.ownHead(t, x, act, n, t == head[len(head)-1])
		default:
			weight, bias := w.weights(t)
			x, err = w.Linear(t.module(), weight, bias, x, model.Epilogue{})
		}
		if err != nil {
			return err
		}
	}
	if len(head) == 0 {
		if x, err = w.newHead(x, n); err != nil {
			return err
		}
	}
	res.Logits = x
	w.b.Output(x)
	switch {
	case !w.o.Loss:
	case w.o.Task == model.TaskRegression:
		w.b.SetLoss(w.b.MSE(x))
	default:
		w.b.SetLoss(w.b.CrossEntropy(x))
	}
	return nil
}

// head are the linear layers of the graph's classification head: those that
// have the usual names of heads, at least the last one.
func (m *Model) head() []*term {
	if !m.logits {
		return nil
	}
	var list []*term
	for _, t := range slices.Backward(m.chain) {
		if t.op == opLinear && t.site != nil && (t.site.Output || len(list) == 0) {
			list = append(list, t)
		}
	}
	slices.Reverse(list)
	return list
}

// newHeadModule is the name of the head that a graph without one gets.
const newHeadModule = "classifier"

// numLabels settles the head's width.
func (w *writer) numLabels(head []*term) (int, error) {
	last := newHeadModule
	if len(head) > 0 {
		last = head[len(head)-1].module()
	}
	if n, err := w.Labels(last); n != 0 || err != nil {
		return n, err
	}
	switch {
	case len(head) > 0 && !w.o.ResetHead:
		return head[len(head)-1].cols, nil
	case w.o.Task == model.TaskRegression:
		return 1, nil
	}
	return w.m.config.NumLabels, nil
}

// ownHead is a layer of the graph's head.
func (w *writer) ownHead(t *term, x graph.Value, act graph.Act, labels int, last bool) (graph.Value, error) {
	h := model.HeadLayer{Module: t.module(), In: t.weight.in, Out: t.cols, Bias: t.bias != "", Act: act, InitializerRange: w.m.config.InitializerRange}
	if last {
		h.Out = labels
	}
	x = w.b.Dropout(h.Module+".dropout", x, w.headDrop, graph.None)
	h.Read = func(name string, shape []int, dst []float32) (bool, error) { return true, w.m.readHead(t, shape, dst) }
	h.Frozen = func() (graph.Value, error) {
		weight, bias := w.weights(t)
		if extra := w.Extra(); extra[h.Module+".weight"] != nil {
			weight = w.b.Weight(h.Module+".weight", h.In, h.Out, true)
			if h.Bias {
				bias = w.b.Vector(h.Module+".bias", h.Out)
			}
		}
		return w.Linear(h.Module, weight, bias, x, model.Epilogue{Act: act})
	}
	return w.HeadLayer(h, x)
}

// readHead reads a tensor of the head as (out, in), or its bias.
func (m *Model) readHead(t *term, shape []int, dst []float32) error {
	if shape[0] != t.cols {
		return m.headError(t.module(), t.cols, shape[0])
	}
	if len(shape) == 1 {
		return m.sources.Plain().ReadRows(&graph.Weight{Name: t.bias, In: 1, Out: t.cols}, 0, 1, dst)
	}
	s := &graph.Weight{Name: t.weight.name, In: t.weight.in, Out: t.weight.out, Transposed: t.weight.transposed}
	if s.Transposed {
		return m.sources.Plain().ReadRows(s, 0, s.Out, dst)
	}
	data := make([]float32, len(dst))
	if err := m.sources.Plain().ReadRows(s, 0, s.In, data); err != nil {
		return err
	}
	for i := range s.In {
		for j := range s.Out {
			dst[j*s.In+i] = data[i*s.Out+j]
		}
	}
	return nil
}

// newHead is a head for a graph without one.
func (w *writer) newHead(x graph.Value, n int) (graph.Value, error) {
	in := w.b.P.Info(x).Cols
	h := model.HeadLayer{Module: newHeadModule, In: in, Out: n, Bias: true, InitializerRange: w.m.config.InitializerRange}
	x = w.b.Dropout(h.Module+".dropout", x, w.headDrop, graph.None)
	h.Read = func(string, []int, []float32) (bool, error) { return false, nil }
	h.Frozen = func() (graph.Value, error) {
		weight, bias := w.b.Weight(h.Module+".weight", in, n, true), w.b.Vector(h.Module+".bias", n)
		return w.Linear(h.Module, weight, bias, x, model.Epilogue{})
	}
	return w.HeadLayer(h, x)
}
