package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// language writes the output layer on the final hidden states, or its loss.
func (w *builder) language(x graph.Value) error {
	l := w.m.lmHead()
	name := l.weight()
	switch {
	case w.m.has(name):
	case w.m.lmHeadFromWord():
		name = w.m.prefix + w.m.layout.Word
	default:
		return &formats.Error{Path: w.m.ckpt.Path(), Tensor: name, Reason: "missing, and config.json says that it is not tied to the word embeddings",
			Hint: "language modelling needs the output layer", Err: formats.ErrMalformed}
	}
	weight := w.b.Weight(name, l.in, l.out, l.transposed)
	if _, adapted := w.modules[l.module]; w.o.Loss && !adapted {
		w.b.SetLoss(w.b.LMLoss(x, weight, graph.NoWeight))
		return nil
	}
	logits, err := w.Linear(l.module, weight, graph.NoWeight, x, Epilogue{})
	if err != nil {
		return err
	}
	w.built.Logits = logits
	w.b.Output(logits)
	if w.o.Loss {
		// LMLoss has no place for a delta on the logits: here they are held.
		w.b.SetLoss(w.b.CrossEntropy(logits))
	}
	return nil
}

// classify writes the classification head on pooled rows, and its loss.
func (w *builder) classify(x graph.Value, pool Pool) error {
	l, h := &w.m.layout, w.m.config.HiddenSize
	n, err := w.numLabels()
	if err != nil {
		return err
	}
	w.built.NumLabels, w.built.Pooled, w.built.HeadTrained = n, x, !w.o.FreezeHead
	if pool == PoolDefault {
		if p, ok := w.m.pooler(); ok {
			if x, err = w.linear(p, x, Epilogue{Act: graph.ActTanh}); err != nil {
				return err
			}
		}
	}
	for i, module := range l.Head {
		if l.HeadInputDropout {
			x = w.b.Dropout(module+".dropout", x, w.headDrop, graph.None)
		}
		last := i == len(l.Head)-1
		lin := linear{module: module, in: h, out: h, bias: true, transposed: true, layer: -1, output: true}
		act := graph.ActTanh
		if last {
			lin.out, lin.bias, act = n, !l.HeadNoBias, graph.ActNone
		}
		if x, err = w.headLayer(lin, x, act); err != nil {
			return err
		}
	}
	w.built.Logits = x
	w.b.Output(x)
	switch {
	case !w.o.Loss:
	case w.o.Task == TaskRegression:
		w.b.SetLoss(w.b.MSE(x))
	default:
		w.b.SetLoss(w.b.CrossEntropy(x))
	}
	return nil
}

// headLayer is one linear layer of the classification head.
func (w *builder) headLayer(l linear, x graph.Value, act graph.Act) (graph.Value, error) {
	return w.HeadLayer(HeadLayer{Module: l.module, In: l.in, Out: l.out, Bias: l.bias, Act: act, InitializerRange: w.m.config.InitializerRange, Read: w.readHead,
		Frozen: func() (graph.Value, error) { return w.linear(l, x, Epilogue{Act: act}) }}, x)
}

// readHead gives a head tensor of the checkpoint.
func (w *builder) readHead(name string, shape []int, dst []float32) (found bool, err error) {
	t, ok := w.m.find(name)
	if !ok {
		return false, nil
	}
	if !slices.Equal(t.Shape, shape) {
		return true, &formats.Error{Path: w.m.ckpt.Path(), Tensor: t.Name,
			Reason: fmt.Sprintf("the head has shape %v, %d labels need %v", t.Shape, w.built.NumLabels, shape),
			Hint:   "keep the checkpoint's number of labels or start with a new head", Err: formats.ErrMalformed}
	}
	return true, w.m.ckpt.ReadF32(t, 0, int64(len(dst)), dst)
}

// numLabels settles the head's width.
func (w *builder) numLabels() (int, error) {
	head := w.m.layout.Head
	if n, err := w.Labels(head[len(head)-1]); n != 0 || err != nil {
		return n, err
	}
	if l, ok := w.m.headLinear(len(head) - 1); ok && !w.o.ResetHead {
		return l.out, nil
	}
	if w.o.Task == TaskRegression {
		return 1, nil
	}
	return w.m.config.NumLabels, nil
}

// ReadParams copies trained values back into a: a parameter whose name is a
// module's tensor into that module, any other (the head) into a.Head, which
// gains the tensors that it lacks. flat is the flat parameter buffer of p.
//
// It panics if flat has not p.ParamSize elements.
func ReadParams(p *graph.Program, flat []float32, a *adapter.Adapter) {
	if len(flat) != p.ParamSize {
		panic(fmt.Sprintf("model: %d values for %d parameters", len(flat), p.ParamSize))
	}
	for _, par := range p.Params {
		data := slices.Clone(flat[par.Offset : par.Offset+par.Size])
		if !setModuleTensor(a, par.Name, data) {
			setHeadTensor(a, adapter.Tensor{Name: strings.TrimPrefix(par.Name, filePrefix), Shape: slices.Clone(par.Shape), Data: data})
		}
	}
}

// setModuleTensor sets every tensor of that name (modules may share one).
func setModuleTensor(a *adapter.Adapter, name string, data []float32) bool {
	found := false
	for i := range a.Modules {
		m := &a.Modules[i]
		for j := range m.Specs {
			if m.Specs[j].Name == name {
				m.Tensors[j], found = data, true
			}
		}
	}
	return found
}

func setHeadTensor(a *adapter.Adapter, t adapter.Tensor) {
	for i := range a.Head {
		if a.Head[i].Name == t.Name {
			a.Head[i] = t
			return
		}
	}
	a.Head = append(a.Head, t)
}
