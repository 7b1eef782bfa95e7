package onnxmodel

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// update is ΔW of one module as tensors of the graph.
type update interface {
	form() Form
	// rounding is the largest relative error of a tensor's element.
	rounding() float64
	// emit adds nodes for what is to be added to y, the layer's result with the
	// bias ("" for none), and returns its name: scale·x ΔW, of the shape of y.
	emit(l *nodeList, module, x, y, bias string) string
}

// update makes a module's tensors in the form asked for, and with AsInputs the
// graph's inputs.
func (x *injector) update(m *adapter.Module, d onnx.DataType) (update, error) {
	if k, err := adapter.Lookup(m.Method); err != nil {
		return nil, err
	} else if r, ok := k.(adapter.Rescaler); ok {
		return x.rescaled(m, r, d)
	}
	delta, err := deltaOf(m)
	if err != nil {
		return nil, err
	}
	form := x.o.Form
	if form == FormAuto {
		form = FormThin
		if delta.Kron != nil {
			form = FormKronecker
		}
	}
	factors, err := m.Factors()
	if err != nil {
		return nil, err
	}
	switch {
	case form == FormThin && delta.Kron != nil:
		return nil, noThin(m)
	case form == FormKronecker && len(factors) == 0:
		return nil, fmt.Errorf("%w: module %s: %s has no kronecker form; use thin", adapter.ErrMismatch, m.Module, m.Method)
	case form == FormKronecker && x.o.As == AsInputs:
		return nil, &formats.Error{Reason: "ONNX Runtime's adapters hold two matrices for each layer", Hint: "use the thin form for inputs, or the kronecker form with nodes", Err: formats.ErrUnsupported}
	case form == FormKronecker:
		return x.kronecker(m, factors, delta.Scale, d)
	case form != FormThin:
		return nil, fmt.Errorf("form %q: there are auto, thin and kronecker", form)
	case x.o.As == AsInputs:
		return x.inputs(m, d)
	}
	return x.thin(m, delta, d)
}

// factorNames are the names of the tensors A and B in thin form.
func factorNames(module string) (a, b string) {
	return module + ".lora_A.weight", module + ".lora_B.weight"
}

// deltaOf is ΔW of a module.
func deltaOf(m *adapter.Module) (*adapter.Delta, error) {
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		return nil, err
	}
	d, err := k.Delta(m.Site, m.Settings, m.Tensors)
	if err == nil && d.Kron == nil && (len(d.A) != d.In*d.R || len(d.B) != d.R*d.Out || d.R == 0) {
		err = fmt.Errorf("%w: module %s: the update of %s is no product of two factors; merge it", adapter.ErrMismatch, m.Module, m.Method)
	}
	return d, err
}

func noThin(m *adapter.Module) error {
	return fmt.Errorf("%w: module %s: %s has full rank and no thin form; use kronecker, or merge it", adapter.ErrMismatch, m.Module, m.Method)
}

// ThinParameters are A (in, r) and scale·B (r, out) of a low-rank module in an
// element type, as the inputs of [AsInputs] take them, and the largest relative
// error of an element. Updates of full rank are an error wrapping
// [adapter.ErrMismatch].
func ThinParameters(m *adapter.Module, d onnx.DataType) (params []Parameter, rounding float64, err error) {
	delta, err := deltaOf(m)
	if err != nil {
		return nil, 0, err
	}
	if delta.Kron != nil {
		return nil, 0, noThin(m)
	}
	a, b := factorNames(m.Module)
	for _, p := range []struct {
		name       string
		rows, cols int
		data       []float64
	}{{a, delta.In, delta.R, delta.A}, {b, delta.R, delta.Out, scaled(delta.B, delta.Scale)}} {
		raw, err := encode(p.name, d, p.data)
		if err != nil {
			return nil, 0, err
		}
		rounding = max(rounding, relativeError(p.data, raw, d))
		params = append(params, Parameter{Name: p.name, Type: d, Dims: []int{p.rows, p.cols}, Data: raw})
	}
	return params, rounding, nil
}

func scaled(x []float64, by float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * by
	}
	return y
}

// relativeError is the largest relative difference of an element from what was
// meant.
func relativeError(want []float64, raw []byte, d onnx.DataType) float64 {
	got := make([]float64, len(want))
	if err := tensor.DecodeF64(got, raw, d.DType()); err != nil {
		return math.Inf(1) // not reached: encode has decoded it
	}
	worst := 0.0
	for i, v := range want {
		if v != got[i] {
			worst = math.Max(worst, math.Abs(got[i]-v)/math.Abs(v))
		}
	}
	return worst
}

// thin is scale·(x A) B.
type thin struct {
	a, b  string
	scale string // name of a scalar, or "" where B has it
	error float64
}

func (t *thin) form() Form        { return FormThin }
func (t *thin) rounding() float64 { return t.error }

func (t *thin) emit(l *nodeList, module, x, _, _ string) string {
	h := l.node(module+".lora_A", "MatMul", []string{x, t.a})
	y := l.node(module+".lora_B", "MatMul", []string{h, t.b})
	if t.scale == "" {
		return y
	}
	return l.node(module+".adapter", "Mul", []string{y, t.scale})
}

// thin makes initializers A, B and the scale.
func (x *injector) thin(m *adapter.Module, delta *adapter.Delta, d onnx.DataType) (_ update, err error) {
	u := &thin{}
	a, b := factorNames(m.Module)
	for _, p := range []struct {
		to         *string
		name       string
		rows, cols int
		data       []float64
	}{{&u.a, a, delta.In, delta.R, delta.A}, {&u.b, b, delta.R, delta.Out, delta.B}} {
		t, err := x.list.tensor(p.name, d, []int{p.rows, p.cols}, p.data)
		if err != nil {
			return nil, err
		}
		*p.to = t.Name
		u.error = max(u.error, relativeError(p.data, t.Value, d))
	}
	if delta.Scale != 1 {
		u.scale, err = x.list.number(d, delta.Scale)
	}
	return u, err
}

// inputs makes optional inputs of free rank.
func (x *injector) inputs(m *adapter.Module, d onnx.DataType) (update, error) {
	params, rounding, err := ThinParameters(m, d)
	if err != nil {
		return nil, err
	}
	u := &thin{a: params[0].Name, b: params[1].Name, error: rounding}
	rank := x.list.fresh(m.Module + ".rank")
	for i, dims := range [][]any{{m.In, rank}, {rank, m.Out}} {
		p := &params[i]
		if x.list.used[p.Name] {
			return nil, fmt.Errorf("%w: the graph has a value %q already: it holds an adapter for module %s; start from the base model", adapter.ErrMismatch, p.Name, m.Module)
		}
		x.list.used[p.Name] = true
		none := []int{m.In, 0}
		if i == 1 {
			none = []int{0, m.Out}
		}
		x.out.Edit.AddInput(onnx.TensorInfo(p.Name, d, dims...))
		x.out.Edit.AddInitializer(onnx.NewTensor(p.Name, d, none, nil))
		x.out.Inputs++
	}
	x.out.Adapter.Parameters = append(x.out.Adapter.Parameters, params...)
	return u, nil
}

// sandwich is scale·x K_1 … K_n for Kronecker factors K = Σ F1_k ⊗ F2_k, none of
// which is multiplied out.
type sandwich struct {
	factors []kronFactor
	scale   string
	error   float64
}

// kronFactor is K with its tensors in the layout that emit multiplies by:
// f2 (A2, S·R2), f1 (S·A1, R1).
type kronFactor struct {
	kron.Shape
	name   string
	f1, f2 string
}

func (s *sandwich) form() Form        { return FormKronecker }
func (s *sandwich) rounding() float64 { return s.error }

// kronecker makes initializers of the factors.
func (x *injector) kronecker(m *adapter.Module, fs []kron.Factor[float64], scale float64, d onnx.DataType) (_ update, err error) {
	names := []string{m.Method}
	if len(fs) == 2 {
		names = []string{m.Method + "_A", m.Method + "_B"}
	}
	u := &sandwich{}
	for i, f := range fs {
		if v := x.m.Opset(""); v < 11 && (f.N < f.A1*f.A2 || f.M < f.R1*f.R2) {
			return nil, &formats.Error{Reason: fmt.Sprintf("the factors of module %s are padded, which needs operator set 11; the graph uses %d", m.Module, v), Hint: "use the thin form, or bring the model up to date with onnx.version_converter", Err: formats.ErrUnsupported}
		}
		k := kronFactor{Shape: f.Shape, name: names[i]}
		for _, p := range []struct {
			to         *string
			name       string
			rows, cols int
			data       []float64
		}{
			{&k.f1, names[i] + "1", f.S * f.A1, f.R1, f.F1},
			{&k.f2, names[i] + "2", f.A2, f.S * f.R2, sideBySide(f)},
		} {
			t, err := x.list.tensor(m.Module+"."+p.name, d, []int{p.rows, p.cols}, p.data)
			if err != nil {
				return nil, err
			}
			*p.to = t.Name
			u.error = max(u.error, relativeError(p.data, t.Value, d))
		}
		u.factors = append(u.factors, k)
	}
	if scale != 1 {
		u.scale, err = x.list.number(d, scale)
	}
	return u, err
}

// sideBySide lays the terms F2_k (A2, R2) side by side: (A2, S·R2).
func sideBySide(f kron.Factor[float64]) []float64 {
	y := make([]float64, 0, len(f.F2))
	for u := range f.A2 {
		for k := range f.S {
			y = append(y, f.F2[(k*f.A2+u)*f.R2:][:f.R2]...)
		}
	}
	return y
}

func (s *sandwich) emit(l *nodeList, module, x, y, _ string) string {
	h := x
	for i := range s.factors {
		h = s.factors[i].emit(l, module, h)
	}
	shape := l.node(module+".adapter", "Shape", []string{y})
	h = l.node(module+".adapter", "Reshape", []string{h, shape})
	if s.scale != "" {
		h = l.node(module+".adapter", "Mul", []string{h, s.scale})
	}
	return h
}

// emit multiplies rows by K. A row x is seen as X (A1, A2), and the result as
//
//	Y = Σ_k F1_kᵀ X F2_k  (R1, R2),
//
// whose sums over k and a1 are one product once X F2 lies as (R2, S·A1). The
// result is (rows, M).
func (k *kronFactor) emit(l *nodeList, module, x string) string {
	scope := module + "." + k.name
	step := func(op string, in ...string) string { return l.node(scope, op, in) }
	shape := func(v string, dims ...int64) string { return step("Reshape", v, l.ints(false, dims...)) }
	turn := func(v string, perm ...int64) string {
		return l.node(scope, "Transpose", []string{v}, onnx.IntsAttr("perm", perm...))
	}
	s, a1, a2, r1, r2 := int64(k.S), int64(k.A1), int64(k.A2), int64(k.R1), int64(k.R2)
	if k.N < k.A1*k.A2 { // the columns that padding adds
		x = l.pad(scope, shape(x, -1, int64(k.N)), k.A1*k.A2-k.N)
	}
	h := step("MatMul", shape(x, -1, a1, a2), k.f2) // (rows, A1, S·R2)
	h = turn(shape(h, -1, a1, s, r2), 0, 3, 2, 1)   // (rows, R2, S, A1)
	h = step("MatMul", shape(h, -1, r2, s*a1), k.f1)
	h = shape(turn(h, 0, 2, 1), -1, r1*r2)
	if k.M < k.R1*k.R2 {
		h = l.columns(scope, h, 0, int64(k.M))
	}
	return h
}
