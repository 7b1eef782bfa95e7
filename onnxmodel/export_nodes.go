package onnxmodel

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// nodeList collects nodes and initializers under names that nothing else has.
type nodeList struct {
	used  map[string]bool // names of values and nodes
	nodes []*onnx.Node
	inits []*onnx.Tensor
	// constants are the small tensors made so far, by content.
	constants map[string]string
}

func newNodeList(used map[string]bool) *nodeList {
	return &nodeList{used: used, constants: map[string]string{}}
}

// fresh returns name, or name with a number where it is taken.
func (l *nodeList) fresh(name string) string {
	s := name
	for i := 2; l.used[s]; i++ {
		s = fmt.Sprintf("%s_%d", name, i)
	}
	l.used[s] = true
	return s
}

// node adds an operation with one output under a path such as
// "encoder.layer.0.attention/Softmax", and returns the output's name.
func (l *nodeList) node(scope, op string, inputs []string, attrs ...onnx.Attribute) string {
	name := "/" + strings.ReplaceAll(scope, ".", "/") + "/" + op
	name = l.fresh(name)
	out := l.fresh(name + "_output_0")
	l.nodes = append(l.nodes, &onnx.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{out}, Attributes: attrs})
	return out
}

// tensor adds an initializer of float64 values, rounded once to d.
func (l *nodeList) tensor(name string, d onnx.DataType, dims []int, data []float64) (*onnx.Tensor, error) {
	b, err := encode(name, d, data)
	if err != nil {
		return nil, err
	}
	t := onnx.NewTensor(l.fresh(name), d, dims, b)
	l.inits = append(l.inits, t)
	return t, nil
}

// encode rounds values to an element type. Finite values that leave its range
// are an error.
func encode(name string, d onnx.DataType, data []float64) ([]byte, error) {
	dt := d.DType()
	b := make([]byte, len(data)*dt.Bits()/8)
	if err := tensor.EncodeF64(b, data, dt); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	back := make([]float64, len(data))
	if err := tensor.DecodeF64(back, b, dt); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", name, err)
	}
	for i, v := range back {
		if (math.IsInf(v, 0) || math.IsNaN(v)) && !math.IsInf(data[i], 0) && !math.IsNaN(data[i]) {
			return nil, &formats.Error{Tensor: name, Reason: fmt.Sprintf("element %d is %g, beyond the range of %v", i, data[i], d), Hint: "use a base model in float32, or merge the adapter", Err: formats.ErrUnsupported}
		}
	}
	return b, nil
}

// ints is a constant of int64, the same one for the same content: a vector, or
// with scalar a single number.
func (l *nodeList) ints(scalar bool, v ...int64) string {
	b := make([]byte, 0, 8*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	dims := []int{len(v)}
	if scalar {
		dims = []int{}
	}
	return l.constant(onnx.Int64, dims, b, fmt.Sprint("ints_", strings.Trim(strings.ReplaceAll(fmt.Sprint(v), " ", "_"), "[]")))
}

// number is a scalar constant.
func (l *nodeList) number(d onnx.DataType, v float64) (string, error) {
	name := fmt.Sprintf("number_%g", v)
	b, err := encode(name, d, []float64{v})
	if err != nil {
		return "", err
	}
	return l.constant(d, []int{}, b, name), nil
}

func (l *nodeList) constant(d onnx.DataType, dims []int, b []byte, name string) string {
	key := fmt.Sprintf("%d %v %x", d, dims, b)
	if n, ok := l.constants[key]; ok {
		return n
	}
	t := onnx.NewTensor(l.fresh("/constant/"+name), d, dims, b)
	l.inits = append(l.inits, t)
	l.constants[key] = t.Name
	return t.Name
}

// pad appends n zero columns to a matrix (opset 11).
func (l *nodeList) pad(scope, x string, n int) string {
	return l.node(scope, "Pad", []string{x, l.ints(false, 0, 0, 0, int64(n))})
}

// columns are columns [from, to) of a value, along its last axis (opset 10).
func (l *nodeList) columns(scope, x string, from, to int64) string {
	return l.node(scope, "Slice", []string{x, l.ints(false, from), l.ints(false, to), l.ints(false, -1)})
}
