package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// filePrefix stands before tensor names in an adapter file.
const filePrefix = "base_model.model."

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
	logits, err := w.frozen(l, weight, graph.NoWeight, x, epilogue{})
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
			if x, err = w.linear(p, x, epilogue{act: graph.ActTanh}); err != nil {
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

// headLayer is one linear layer of the classification head: parameters, or
// frozen weights.
func (w *builder) headLayer(l linear, x graph.Value, act graph.Act) (graph.Value, error) {
	values := map[string][]float32{}
	for _, t := range l.tensors() {
		data, inCheckpoint, err := w.headTensor(t)
		if err != nil {
			return graph.None, err
		}
		values[t.name] = data
		w.built.Head = append(w.built.Head, adapter.Tensor{Name: t.name, Shape: t.shape, Data: data})
		if w.o.FreezeHead && !inCheckpoint {
			w.extra[t.name] = data
		}
	}
	if w.o.FreezeHead {
		return w.linear(l, x, epilogue{act: act})
	}
	if _, ok := w.modules[l.module]; ok {
		return graph.None, fmt.Errorf("adapter module %s: the head is trained whole; freeze it or leave it out of the targets", l.module)
	}
	name := filePrefix + l.weight()
	w.initial[name] = values[l.weight()]
	y := w.b.MatMul(l.module, x, w.b.Param(name, []int{l.out, l.in}, l.out, l.in), false, true, 1, graph.None)
	if l.bias {
		name := filePrefix + l.biasName()
		w.initial[name] = values[l.biasName()]
		y = w.b.AddBias(y, w.b.Param(name, []int{l.out}, 1, l.out))
		w.b.P.Params[len(w.b.P.Params)-1].NoDecay = true
	}
	if act != graph.ActNone {
		y = w.b.Activate(l.module+".act", y, act)
	}
	return y, nil
}

// headTensor gives the values that a head tensor starts with: the adapter's,
// else the checkpoint's, else drawn anew (weights from N(0,
// initializer_range²), biases 0, as transformers does).
func (w *builder) headTensor(e expected) (data []float32, inCheckpoint bool, err error) {
	size := 1
	for _, d := range e.shape {
		size *= d
	}
	if a := w.o.Adapter; a != nil {
		for _, t := range a.Head {
			if t.Name != e.name {
				continue
			}
			if !slices.Equal(t.Shape, e.shape) || len(t.Data) != size {
				return nil, false, fmt.Errorf("the adapter's head tensor %s has shape %v, %d labels need %v", e.name, t.Shape, w.built.NumLabels, e.shape)
			}
			return t.Data, false, nil
		}
	}
	data = make([]float32, size)
	if t, ok := w.m.find(e.name); ok && !w.o.ResetHead {
		if !slices.Equal(t.Shape, e.shape) {
			return nil, false, &formats.Error{Path: w.m.ckpt.Path(), Tensor: t.Name,
				Reason: fmt.Sprintf("the head has shape %v, %d labels need %v", t.Shape, w.built.NumLabels, e.shape),
				Hint:   "keep the checkpoint's number of labels or start with a new head", Err: formats.ErrMalformed}
		}
		return data, true, w.m.ckpt.ReadF32(t, 0, int64(size), data)
	}
	if strings.HasSuffix(e.name, ".weight") {
		adapter.Source{Seed: w.o.Seed}.Normal(e.name, data, w.m.config.InitializerRange)
	}
	return data, false, nil
}

// numLabels settles the head's width.
func (w *builder) numLabels() (int, error) {
	if n := w.o.NumLabels; n < 0 {
		return 0, fmt.Errorf("%d labels", n)
	} else if n > 0 {
		return n, nil
	}
	head := w.m.layout.Head
	last := head[len(head)-1] + ".weight"
	if a := w.o.Adapter; a != nil {
		for _, t := range a.Head {
			if t.Name == last && len(t.Shape) == 2 {
				return t.Shape[0], nil
			}
		}
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
