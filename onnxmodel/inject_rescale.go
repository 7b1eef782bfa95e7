package onnxmodel

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// rescaled is DoRA in a graph (arXiv 2402.09353): with c_j = m_j/‖(W + ΔW)_j‖,
// a constant once the adapter is trained, the layer is
//
//	c ∘ (x W + x ΔW) + bias = y + (c - 1) ∘ (y - bias) + x A (scale·B diag(c))
//
// so that the update is a thin one, and a vector that multiplies the product.
type rescaled struct {
	thin
	less string // c - 1 (out)
}

func (r *rescaled) emit(l *nodeList, module, x, y, bias string) string {
	delta := r.thin.emit(l, module, x, y, bias)
	if bias != "" {
		y = l.node(module+".adapter", "Sub", []string{y, bias})
	}
	return l.node(module+".adapter", "Add", []string{delta, l.node(module+".adapter", "Mul", []string{y, r.less})})
}

// rescaled makes the tensors of a kind that rescales the adapted weight.
func (x *injector) rescaled(m *adapter.Module, k adapter.Rescaler, d onnx.DataType) (update, error) {
	if x.o.As == AsInputs || x.o.Form == FormKronecker {
		return nil, fmt.Errorf("%w: module %s: %s rescales the weight and goes into a graph as nodes of the thin form", adapter.ErrMismatch, m.Module, m.Method)
	}
	for _, l := range x.uses[m.Weight] {
		if n := &x.m.Graph.Nodes[l.Node]; n.Op == "Gemm" && n.Float("beta", 1) != 1 {
			return nil, &formats.Error{Tensor: m.Weight, Reason: fmt.Sprintf("node %q scales its bias, and %s rescales the product without it", n.Name, m.Method), Hint: "merge the adapter", Err: formats.ErrUnsupported}
		}
	}
	delta, mag, err := k.Rescaled(m.Site, m.Settings, m.Tensors)
	if err != nil {
		return nil, err
	}
	if delta.Kron != nil {
		return nil, noThin(m)
	}
	c, err := x.columnScales(m, delta, mag)
	if err != nil {
		return nil, err
	}
	scaledB := make([]float64, len(delta.B))
	less := make([]float64, len(c))
	for i, v := range delta.B {
		scaledB[i] = v * c[i%m.Out]
	}
	for j, v := range c {
		less[j] = v - 1
	}
	dd := *delta
	dd.B = scaledB
	u, err := x.thin(m, &dd, d)
	if err != nil {
		return nil, err
	}
	r := &rescaled{thin: *u.(*thin)}
	t, err := x.list.tensor(m.Module+"."+m.Method+"_scale", d, []int{m.Out}, less)
	if err != nil {
		return nil, err
	}
	r.less, r.error = t.Name, max(r.error, relativeError(less, t.Value, d))
	return r, nil
}

// columnScales is m_j/‖(W + ΔW)_j‖ for every output.
func (x *injector) columnScales(m *adapter.Module, delta *adapter.Delta, mag []float64) ([]float64, error) {
	w, err := x.matrix(m)
	if err != nil {
		return nil, err
	}
	sums := make([]float64, m.Out)
	row := make([]float64, m.Out)
	for i := range m.In {
		delta.Rows(row, i, i+1)
		for j, v := range row {
			v += w(i, j)
			sums[j] += v * v
		}
	}
	c := make([]float64, m.Out)
	for j, s := range sums {
		if s == 0 {
			return nil, fmt.Errorf("%w: module %s: all adapted weights of output %d are 0, so it has no direction to rescale", adapter.ErrMismatch, m.Module, j)
		}
		c[j] = mag[j] / math.Sqrt(s)
	}
	return c, nil
}

// matrix reads W (in, out) of a module.
func (x *injector) matrix(m *adapter.Module) (func(i, j int) float64, error) {
	t := x.m.Graph.Initializer(m.Weight)
	if t == nil || !t.Type.DType().IsFloat() || !tensor.Convertible(t.Type.DType()) {
		return nil, &formats.Error{Tensor: m.Weight, Reason: "is no initializer of floats, and " + m.Method + " needs the norms of its columns", Hint: "merge the adapter into the safetensors model", Err: formats.ErrUnsupported}
	}
	raw, err := x.m.Data(t)
	if err != nil {
		return nil, err
	}
	w := make([]float64, m.In*m.Out)
	if err := tensor.DecodeF64(w, raw, t.Type.DType()); err != nil {
		return nil, err
	}
	if m.Transposed {
		return func(i, j int) float64 { return w[j*m.In+i] }, nil
	}
	return func(i, j int) float64 { return w[i*m.Out+j] }, nil
}
