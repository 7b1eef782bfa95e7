package onnxmodel

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// parameter is the name of a parameter, an initializer (rows, cols), or of its
// transpose.
func (x *exporter) parameter(v graph.Value, transposed bool) (string, error) {
	in := x.p.Info(v)
	p := &x.p.Params[in.Param]
	if len(x.o.Params) != x.p.ParamSize {
		return "", fmt.Errorf("onnxmodel: the program has %d parameters and %d values of them", x.p.ParamSize, len(x.o.Params))
	}
	name := x.shared("parameter "+p.Name, func() string {
		raw := make([]byte, 4*p.Size)
		if err := tensor.EncodeF32(raw, x.o.Params[p.Offset:p.Offset+p.Size], tensor.F32); err != nil {
			panic("onnxmodel: " + err.Error()) // not reached: the sizes agree
		}
		t := onnx.NewTensor(x.list.fresh(p.Name), onnx.Float, []int{in.Rows.N, in.Cols}, raw)
		x.list.inits = append(x.list.inits, t)
		return t.Name
	})
	if !transposed {
		return name, nil
	}
	return x.shared("transposed "+p.Name, func() string {
		return x.list.node(p.Name, "Transpose", []string{name}, onnx.IntsAttr("perm", 1, 0))
	}), nil
}

// matMul is alpha·a op(b) + c, b a parameter: what adapters multiply with.
func (x *exporter) matMul(o *graph.MatMul) error {
	if x.p.Info(o.B).Kind != graph.ParamValue || x.p.Info(o.A).Kind == graph.ParamValue || o.TransA {
		return unsupported("operation matmul but with a parameter (%s)", x.scope(o.Y))
	}
	if x.o.Params == nil {
		return unsupported("operation matmul with a parameter without value (%s)", x.scope(o.Y))
	}
	b, err := x.parameter(o.B, o.TransB)
	if err != nil {
		return err
	}
	scope, l := x.scope(o.Y), x.list
	y := l.node(scope, "MatMul", []string{x.value(o.A), b})
	if o.Alpha != 1 {
		y = l.node(scope, "Mul", []string{y, x.float(float64(o.Alpha))})
	}
	if o.C != graph.None {
		y = l.node(scope, "Add", []string{x.value(o.C), y})
	}
	x.values[o.Y] = y
	return nil
}
