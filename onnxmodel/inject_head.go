package onnxmodel

import (
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// head puts the tensors of a trained head into the graph: initializers of their
// names get other values, or with AsInputs become inputs whose defaults they
// are.
func (x *injector) head(ts []adapter.Tensor) error {
	for _, t := range ts {
		i := slices.IndexFunc(x.m.Graph.Initializers, func(g onnx.Tensor) bool { return g.Name == t.Name })
		if i < 0 {
			return fmt.Errorf("%w: the adapter's head has tensor %q, the graph has no such initializer; export the model with its head", adapter.ErrMismatch, t.Name)
		}
		g := &x.m.Graph.Initializers[i]
		if !slices.Equal(g.Dims, t.Shape) {
			return fmt.Errorf("%w: the adapter's head tensor %q has shape %v, the graph's %v", adapter.ErrMismatch, t.Name, t.Shape, g.Dims)
		}
		dt := g.Type.DType()
		if !dt.IsFloat() || dt.Bits() < 16 {
			return &formats.Error{Tensor: t.Name, Reason: fmt.Sprintf("the head is stored as %v", g.Type), Hint: "a head can be replaced in FLOAT16, BFLOAT16, FLOAT and DOUBLE", Err: formats.ErrUnsupported}
		}
		p, err := HeadParameter(t, g.Type)
		if err != nil {
			return err
		}
		x.out.Head = append(x.out.Head, t.Name)
		if x.o.As != AsInputs {
			x.out.Edit.ReplaceInitializer(i, onnx.NewTensor(p.Name, p.Type, p.Dims, p.Data))
			continue
		}
		x.out.Adapter.Parameters = append(x.out.Adapter.Parameters, p)
		if slices.ContainsFunc(x.m.Graph.Inputs, func(v onnx.ValueInfo) bool { return v.Name == t.Name }) {
			continue // it is an input with a default already
		}
		dims := make([]any, len(g.Dims))
		for j, d := range g.Dims {
			dims[j] = d
		}
		x.out.Edit.AddInput(onnx.TensorInfo(t.Name, g.Type, dims...))
		x.out.Inputs++
	}
	return nil
}

// HeadParameter is a head tensor as the value of an input of a type.
func HeadParameter(t adapter.Tensor, d onnx.DataType) (Parameter, error) {
	data := make([]float64, len(t.Data))
	for i, v := range t.Data {
		data[i] = float64(v)
	}
	raw, err := encode(t.Name, d, data)
	return Parameter{Name: t.Name, Type: d, Dims: slices.Clone(t.Shape), Data: raw}, err
}
