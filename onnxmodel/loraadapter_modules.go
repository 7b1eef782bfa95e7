package onnxmodel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// LoRA returns the file's parameters as a LoRA adapter for a model's linear
// layers: those called MODULE.lora_A.weight (in, r) and MODULE.lora_B.weight
// (r, out), the scale being 1 because B holds it. Parameters of other names are
// tensors of a head if head knows them.
//
// The result is exact: each element type is widened to float32 (DOUBLE, which
// would be rounded, is an error). A module that is not among the sites, half a
// pair, and shapes that do not fit are errors wrapping [adapter.ErrMismatch].
func (a *LoraAdapter) LoRA(path string, sites []adapter.Site, head func(name string) (shape []int, ok bool)) (*adapter.Adapter, error) {
	mismatch := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", path, adapter.ErrMismatch, fmt.Sprintf(format, args...))
	}
	bySite := map[string]int{}
	for i, s := range sites {
		bySite[s.Module] = i
	}
	pairs := map[string]*[2]*Parameter{}
	out := &adapter.Adapter{}
	for i := range a.Parameters {
		p := &a.Parameters[i]
		module, side := sideOf(p.Name)
		if side < 0 {
			shape, ok := head(p.Name)
			if !ok || !slices.Equal(shape, p.Dims) {
				return nil, mismatch("parameter %q %v is neither one side of a module's update nor a tensor of the model's head", p.Name, p.Dims)
			}
			data, err := p.float32s(path)
			if err != nil {
				return nil, err
			}
			out.Head = append(out.Head, adapter.Tensor{Name: p.Name, Shape: shape, Data: data})
			continue
		}
		if _, ok := bySite[module]; !ok {
			return nil, mismatch("the model has no linear layer %q of parameter %q", module, p.Name)
		}
		if pairs[module] == nil {
			pairs[module] = &[2]*Parameter{}
		}
		pairs[module][side] = p
	}
	for _, s := range sites {
		pair := pairs[s.Module]
		if pair == nil {
			continue
		}
		if pair[0] == nil || pair[1] == nil {
			return nil, mismatch("module %s has one side of its update only", s.Module)
		}
		m, err := loraModule(path, s, pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		out.Modules = append(out.Modules, *m)
	}
	if len(out.Modules) == 0 {
		return nil, mismatch("it holds no update of a linear layer")
	}
	out.Settings = out.Modules[0].Settings
	for _, m := range out.Modules {
		out.Targets.Modules = append(out.Targets.Modules, m.Module)
	}
	out.Overrides = adapter.OverridesFor(out.Settings, out.Modules)
	return out, nil
}

// sideOf takes a parameter's name apart: the module, and 0 for A, 1 for B, or -1.
func sideOf(name string) (module string, side int) {
	for i, suffix := range []string{".lora_A.weight", ".lora_B.weight"} {
		if m, ok := strings.CutSuffix(name, suffix); ok {
			return m, i
		}
	}
	return "", -1
}

// loraModule is one module, its tensors transposed as PEFT stores them.
func loraModule(path string, s adapter.Site, a, b *Parameter) (*adapter.Module, error) {
	if len(a.Dims) != 2 || len(b.Dims) != 2 || a.Dims[0] != s.In || b.Dims[1] != s.Out || a.Dims[1] != b.Dims[0] || a.Dims[1] < 1 {
		return nil, fmt.Errorf("%s: %w: module %s is (%d, %d), its update %v times %v", path, adapter.ErrMismatch, s.Module, s.In, s.Out, a.Dims, b.Dims)
	}
	k, err := adapter.Lookup(adapter.MethodLoRA)
	if err != nil {
		return nil, err
	}
	r := a.Dims[1]
	set := k.Defaults()
	set.Method, set.Init, set.Scaling = adapter.MethodLoRA, adapter.InitZero, adapter.ScaleLoRA
	set.Rank, set.Alpha = adapter.Rank{R1: r, R2: 1}, float64(r)
	m := &adapter.Module{Site: s, Settings: set}
	if m.Specs, err = k.Params(s, set); err != nil {
		return nil, err
	}
	for _, p := range []*Parameter{a, b} {
		data, err := p.float32s(path)
		if err != nil {
			return nil, err
		}
		m.Tensors = append(m.Tensors, turn(data, p.Dims[0], p.Dims[1]))
	}
	return m, nil
}

// float32s are the elements.
func (p *Parameter) float32s(path string) ([]float32, error) {
	if p.Type != onnx.Float && p.Type != onnx.Float16 && p.Type != onnx.BFloat16 {
		return nil, &formats.Error{Path: path, Tensor: p.Name, Reason: fmt.Sprintf("has element type %v", p.Type), Hint: "adapters are read in FLOAT, FLOAT16 and BFLOAT16", Err: formats.ErrUnsupported}
	}
	dt := p.Type.DType()
	data := make([]float32, len(p.Data)*8/dt.Bits())
	return data, tensor.DecodeF32(data, p.Data, dt)
}

// turn transposes x (rows, cols).
func turn(x []float32, rows, cols int) []float32 {
	y := make([]float32, len(x))
	for i := range rows {
		for j := range cols {
			y[j*rows+i] = x[i*cols+j]
		}
	}
	return y
}
