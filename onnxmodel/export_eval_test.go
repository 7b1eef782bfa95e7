package onnxmodel_test

import (
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// array is a tensor of the interpreter; integers and truth values are numbers.
type array struct {
	dims []int
	data []float64
}

func size(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

func (a array) strides() []int {
	s := make([]int, len(a.dims))
	n := 1
	for i := len(a.dims) - 1; i >= 0; i-- {
		s[i] = n
		n *= a.dims[i]
	}
	return s
}

// interpreter runs a graph in float64, straight from the operators'
// definitions: the oracle for what the graph means.
type interpreter struct {
	t      *testing.T
	values map[string]array
}

// evaluate runs a model and returns all values.
func evaluate(t *testing.T, m *onnx.Model, inputs map[string]array) map[string]array {
	t.Helper()
	e := &interpreter{t: t, values: map[string]array{}}
	for i := range m.Graph.Initializers {
		x := &m.Graph.Initializers[i]
		e.values[x.Name] = e.load(m, x)
	}
	for name, v := range inputs {
		e.values[name] = v
	}
	order, err := m.Order()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range order {
		n := &m.Graph.Nodes[i]
		var in []array
		for _, name := range n.Inputs {
			v, ok := e.values[name]
			if !ok {
				t.Fatalf("node %s reads %s, which is not there", n.Name, name)
			}
			in = append(in, v)
		}
		e.values[n.Outputs[0]] = e.node(n, in)
	}
	return e.values
}

func (e *interpreter) load(m *onnx.Model, x *onnx.Tensor) array {
	raw, err := m.Data(x)
	if err != nil {
		e.t.Fatal(err)
	}
	a := array{slices.Clone(x.Dims), make([]float64, x.Elements())}
	if x.Type == onnx.Int64 {
		for i := range a.data {
			v := uint64(0)
			for j := range 8 {
				v |= uint64(raw[8*i+j]) << (8 * j)
			}
			a.data[i] = float64(int64(v))
		}
		return a
	}
	if err := tensor.DecodeF64(a.data, raw, x.Type.DType()); err != nil {
		e.t.Fatal(err)
	}
	return a
}

// unary and binary are the elementwise operators.
var unary = map[string]func(float64) float64{
	"Sqrt": math.Sqrt, "Tanh": math.Tanh, "Erf": math.Erf, "Cos": math.Cos, "Sin": math.Sin,
	"Neg":     func(x float64) float64 { return -x },
	"Relu":    func(x float64) float64 { return math.Max(x, 0) },
	"Sigmoid": func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
}

var binary2 = map[string]func(x, y float64) float64{
	"Add": func(x, y float64) float64 { return x + y }, "Sub": func(x, y float64) float64 { return x - y },
	"Mul": func(x, y float64) float64 { return x * y }, "Div": func(x, y float64) float64 { return x / y },
	"Max": math.Max, "Pow": math.Pow, "And": func(x, y float64) float64 { return x * y },
	"Less": func(x, y float64) float64 { return truth(x < y) }, "LessOrEqual": func(x, y float64) float64 { return truth(x <= y) },
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (e *interpreter) node(n *onnx.Node, in []array) array {
	if f, ok := unary[n.Op]; ok {
		y := array{in[0].dims, make([]float64, len(in[0].data))}
		for i, v := range in[0].data {
			y.data[i] = f(v)
		}
		return y
	}
	if f, ok := binary2[n.Op]; ok {
		return e.broadcast(in, func(v []float64) float64 { return f(v[0], v[1]) })
	}
	switch n.Op {
	case "Where":
		return e.broadcast(in, func(v []float64) float64 {
			if v[0] != 0 {
				return v[1]
			}
			return v[2]
		})
	case "Cast":
		y := array{in[0].dims, slices.Clone(in[0].data)}
		if onnx.DataType(n.Int("to", 0)) == onnx.Bool {
			for i, v := range y.data {
				y.data[i] = truth(v != 0)
			}
		}
		return y
	case "MatMul":
		return e.matMul(in[0], in[1])
	case "Gemm":
		if n.Int("transB", 0) != 0 {
			in[1] = e.transpose(in[1], []int64{1, 0})
		}
		y := e.matMul(in[0], in[1])
		return e.broadcast([]array{y, in[2]}, func(v []float64) float64 { return v[0] + v[1] })
	case "Transpose":
		return e.transpose(in[0], n.Ints("perm"))
	case "Shape":
		y := array{dims: []int{len(in[0].dims)}}
		for _, d := range in[0].dims {
			y.data = append(y.data, float64(d))
		}
		return y
	case "Range":
		var y array
		for v := in[0].data[0]; v < in[1].data[0]; v += in[2].data[0] {
			y.data = append(y.data, v)
		}
		y.dims = []int{len(y.data)}
		return y
	case "Reshape":
		return e.reshape(in[0], in[1].data)
	case "Unsqueeze", "Squeeze":
		return e.squeeze(n.Op, in[0], in[1].data)
	}
	return e.axis(n, in)
}

func (e *interpreter) reshape(x array, shape []float64) array {
	y := array{data: x.data}
	free := -1
	for i, d := range shape {
		switch d {
		case 0:
			d = float64(x.dims[i])
		case -1:
			free, d = i, 1
		}
		y.dims = append(y.dims, int(d))
	}
	if free >= 0 {
		y.dims[free] = len(x.data) / size(y.dims)
	}
	if size(y.dims) != len(x.data) {
		e.t.Fatalf("reshape %v to %v", x.dims, shape)
	}
	return y
}

func (e *interpreter) squeeze(op string, x array, axes []float64) array {
	dims := slices.Clone(x.dims)
	rank := len(dims)
	if op == "Unsqueeze" {
		rank += len(axes)
	}
	var at []int
	for _, v := range axes {
		at = append(at, (int(v)+rank)%rank)
	}
	slices.Sort(at)
	if op == "Unsqueeze" {
		for _, i := range at {
			dims = slices.Insert(dims, i, 1)
		}
		return array{dims, x.data}
	}
	for _, i := range slices.Backward(at) {
		if dims[i] != 1 {
			e.t.Fatalf("squeeze axis %d of %v", i, dims)
		}
		dims = slices.Delete(dims, i, i+1)
	}
	return array{dims, x.data}
}

// broadcast applies f to all elements by numpy's rule.
func (e *interpreter) broadcast(in []array, f func([]float64) float64) array {
	rank := 0
	for _, a := range in {
		rank = max(rank, len(a.dims))
	}
	dims := make([]int, rank)
	for i := range dims {
		dims[i] = 1
		for _, a := range in {
			if j := i - rank + len(a.dims); j >= 0 && a.dims[j] != 1 {
				if dims[i] != 1 && dims[i] != a.dims[j] {
					e.t.Fatalf("shapes do not broadcast: %v", in)
				}
				dims[i] = a.dims[j]
			}
		}
	}
	y := array{dims, make([]float64, size(dims))}
	at, v := make([]int, rank), make([]float64, len(in))
	for k := range y.data {
		for a := range in {
			off := 0
			s := in[a].strides()
			for j, d := range in[a].dims {
				if i := j + rank - len(in[a].dims); d != 1 {
					off += at[i] * s[j]
				}
			}
			v[a] = in[a].data[off]
		}
		y.data[k] = f(v)
		for i := rank - 1; i >= 0; i-- {
			if at[i]++; at[i] < dims[i] {
				break
			}
			at[i] = 0
		}
	}
	return y
}

func (e *interpreter) matMul(a, b array) array {
	m, k := a.dims[len(a.dims)-2], a.dims[len(a.dims)-1]
	k2, n := b.dims[len(b.dims)-2], b.dims[len(b.dims)-1]
	if k != k2 {
		e.t.Fatalf("product of %v and %v", a.dims, b.dims)
	}
	// The numbers of the matrices broadcast as elements do.
	index := func(dims []int) array {
		x := array{dims: dims[:len(dims)-2]}
		for i := range size(x.dims) {
			x.data = append(x.data, float64(i))
		}
		return x
	}
	var pairs [][2]int
	lead := e.broadcast([]array{index(a.dims), index(b.dims)}, func(v []float64) float64 {
		pairs = append(pairs, [2]int{int(v[0]), int(v[1])})
		return 0
	})
	y := array{append(slices.Clone(lead.dims), m, n), make([]float64, len(pairs)*m*n)}
	for p, q := range pairs {
		for i := range m {
			for j := range n {
				s := 0.0
				for l := range k {
					s += a.data[(q[0]*m+i)*k+l] * b.data[(q[1]*k+l)*n+j]
				}
				y.data[(p*m+i)*n+j] = s
			}
		}
	}
	return y
}

func (e *interpreter) transpose(x array, perm []int64) array {
	if len(perm) != len(x.dims) {
		e.t.Fatalf("transpose %v by %v", x.dims, perm)
	}
	s := x.strides()
	y := array{make([]int, len(perm)), make([]float64, len(x.data))}
	step := make([]int, len(perm))
	for i, p := range perm {
		y.dims[i], step[i] = x.dims[p], s[p]
	}
	at := make([]int, len(perm))
	for k := range y.data {
		off := 0
		for i, v := range at {
			off += v * step[i]
		}
		y.data[k] = x.data[off]
		for i := len(at) - 1; i >= 0; i-- {
			if at[i]++; at[i] < y.dims[i] {
				break
			}
			at[i] = 0
		}
	}
	return y
}

// lanes calls f with every run of elements along an axis: where it begins,
// and how far apart its elements are.
func lanes(x array, axis int, f func(start, step, n int)) {
	step := x.strides()[axis]
	n := x.dims[axis]
	for i := range x.data {
		if i/step%n == 0 {
			f(i, step, n)
		}
	}
}

func (e *interpreter) fail(n *onnx.Node) array {
	e.t.Fatalf("node %s: the interpreter has no %s", n.Name, n.Op)
	return array{}
}
