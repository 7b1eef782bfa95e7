package onnxmodel

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// errNoRule marks operators without a rule.
var errNoRule = errors.New("the operator is not known here")

// call is a node with its inputs as arrays; absent ones are nil.
type call struct {
	n    *onnx.Node
	in   []*array
	load func(*onnx.Tensor) (*array, error)
}

// arg is input i, or nil.
func (c *call) arg(i int) *array {
	if i < len(c.in) {
		return c.in[i]
	}
	return nil
}

// list gives a list of integers that is an attribute in old operator sets and
// input i in new ones.
func (c *call) list(name string, i int) ([]int, bool) {
	if a := c.arg(i); a != nil {
		return a.ints(), true
	}
	if a := c.n.Attribute(name); a != nil && a.Type == onnx.AttrInts {
		out := make([]int, len(a.Ints))
		for k, v := range a.Ints {
			out[k] = int(v)
		}
		return out, true
	}
	return nil, false
}

type evaluator func(c *call) (*array, error)

// evaluators compute the operators that lead to shapes, indices, masks and
// rotary tables.
var evaluators map[string]evaluator

func init() {
	evaluators = map[string]evaluator{
		"Shape": evalShape, "Size": evalSize, "Cast": evalCast, "CastLike": evalCastLike, "Reshape": evalReshape, "Flatten": evalFlatten,
		"Transpose": evalTranspose, "Squeeze": evalSqueeze, "Unsqueeze": evalUnsqueeze, "Expand": evalExpand, "Tile": evalTile,
		"Slice": evalSlice, "Gather": evalGather, "GatherElements": evalGatherElements, "GatherND": evalGatherND, "Concat": evalConcat,
		"Range": evalRange, "ConstantOfShape": evalFill, "Where": evalWhere, "CumSum": evalCumSum, "Trilu": evalTrilu, "NonZero": evalNonZero,
		"ArgMax": evalArgMax, "ArgMin": evalArgMax, "MatMul": evalMatMul, "Einsum": evalOuter, "ScatterND": evalScatterND, "EyeLike": evalEyeLike,
		"Clip": evalClip, "DequantizeLinear": evalDequantize, "Identity": first, "Dropout": first,
		"ReduceSum": reducer(0, func(x, y float64) float64 { return x + y }), "ReduceProd": reducer(1, func(x, y float64) float64 { return x * y }),
		"ReduceMax": reducer(math.Inf(-1), math.Max), "ReduceMin": reducer(math.Inf(1), math.Min), "ReduceMean": evalReduceMean,
	}
	for op, f := range unaryOps {
		evaluators[op] = func(c *call) (*array, error) { return c.in[0].mapped(c.in[0].kind, f), nil }
	}
	for op, f := range binaryOps {
		evaluators[op] = func(c *call) (*array, error) { return fold(c, c.in[0].kind, f) }
	}
	for op, f := range relationOps {
		evaluators[op] = func(c *call) (*array, error) { return zip(kindBool, c.in[0], c.in[1], f) }
	}
	for op, f := range testOps {
		evaluators[op] = func(c *call) (*array, error) { return c.in[0].mapped(kindBool, f), nil }
	}
	evaluators["Div"] = evalDiv
}

var unaryOps = map[string]func(float64) float64{
	"Neg": func(x float64) float64 { return -x }, "Abs": math.Abs, "Sqrt": math.Sqrt, "Reciprocal": func(x float64) float64 { return 1 / x },
	"Exp": math.Exp, "Log": math.Log, "Sin": math.Sin, "Cos": math.Cos, "Floor": math.Floor, "Ceil": math.Ceil, "Round": math.RoundToEven,
	"Sign": func(x float64) float64 { return truth(x > 0) - truth(x < 0) }, "Tanh": math.Tanh, "Relu": func(x float64) float64 { return max(x, 0) },
}

var binaryOps = map[string]func(x, y float64) float64{
	"Add": func(x, y float64) float64 { return x + y }, "Sub": func(x, y float64) float64 { return x - y }, "Mul": func(x, y float64) float64 { return x * y },
	"Pow": math.Pow, "Min": math.Min, "Max": math.Max, "Sum": func(x, y float64) float64 { return x + y },
	"Mod": func(x, y float64) float64 { return x - math.Floor(x/y)*y }, "And": math.Min, "Or": math.Max,
	"Xor": func(x, y float64) float64 { return truth(x != y) }, "BitwiseAnd": func(x, y float64) float64 { return float64(int64(x) & int64(y)) },
	"BitwiseOr": func(x, y float64) float64 { return float64(int64(x) | int64(y)) },
}

var relationOps = map[string]func(x, y float64) float64{
	"Equal": func(x, y float64) float64 { return truth(x == y) }, "Less": func(x, y float64) float64 { return truth(x < y) },
	"LessOrEqual": func(x, y float64) float64 { return truth(x <= y) }, "Greater": func(x, y float64) float64 { return truth(x > y) },
	"GreaterOrEqual": func(x, y float64) float64 { return truth(x >= y) },
}

var testOps = map[string]func(float64) float64{
	"Not": func(x float64) float64 { return truth(x == 0) }, "IsNaN": func(x float64) float64 { return truth(math.IsNaN(x)) },
	"IsInf": func(x float64) float64 { return truth(math.IsInf(x, 0)) },
}

func first(c *call) (*array, error) { return c.in[0], nil }

func fold(c *call, kind elemKind, f func(x, y float64) float64) (out *array, err error) {
	out = c.in[0]
	for _, b := range c.in[1:] {
		if out, err = zip(kind, out, b, f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func evalDiv(c *call) (*array, error) {
	whole := c.in[0].kind == kindInt
	return zip(c.in[0].kind, c.in[0], c.in[1], func(x, y float64) float64 {
		if whole {
			return math.Trunc(x / y)
		}
		return x / y
	})
}

// shapeSpan is the part of a shape that Shape's attributes take.
func shapeSpan(n *onnx.Node, dims []int) *array {
	s, err := sliceSpan(int(n.Int("start", 0)), int(n.Int("end", math.MaxInt32)), 1, len(dims))
	if err != nil || len(dims) == 0 {
		return newArray(kindInt, 0)
	}
	return intVector(dims[s.from : s.from+s.n])
}

func evalShape(c *call) (*array, error) { return shapeSpan(c.n, c.in[0].dims), nil }

func evalSize(c *call) (*array, error) {
	return scalar(kindInt, float64(product(c.in[0].dims))), nil
}

func evalCast(c *call) (*array, error) {
	return c.in[0].cast(onnx.DataType(c.n.Int("to", int64(onnx.Float)))), nil
}

func evalCastLike(c *call) (*array, error) {
	t := map[elemKind]onnx.DataType{kindFloat: onnx.Float, kindInt: onnx.Int64, kindBool: onnx.Bool}
	return c.in[0].cast(t[c.in[1].kind]), nil
}

// reshapeDims resolves 0 and -1 of Reshape.
func reshapeDims(n *onnx.Node, have, want []int) ([]int, error) {
	out := slices.Clone(want)
	known, open := 1, -1
	for i, d := range out {
		switch {
		case d == 0 && n.Int("allowzero", 0) == 0:
			if i >= len(have) {
				return nil, fmt.Errorf("shape %v from %v", want, have)
			}
			out[i] = have[i]
		case d == -1:
			open = i
			continue
		}
		known *= out[i]
	}
	if open >= 0 {
		out[open] = 0
		if known > 0 {
			out[open] = product(have) / known
		}
	}
	if product(out) != product(have) {
		return nil, fmt.Errorf("shape %v from %v", want, have)
	}
	return out, nil
}

func evalReshape(c *call) (*array, error) {
	want, _ := c.list("shape", 1)
	dims, err := reshapeDims(c.n, c.in[0].dims, want)
	if err != nil {
		return nil, err
	}
	return c.in[0].reshaped(dims), nil
}

func evalFlatten(c *call) (*array, error) {
	d := c.in[0].dims
	axis, err := axisOf(int(c.n.Int("axis", 1)), len(d)+1)
	if err != nil {
		return nil, err
	}
	return c.in[0].reshaped([]int{product(d[:axis]), product(d[axis:])}), nil
}

func permOf(n *onnx.Node) []int {
	var p []int
	for _, v := range n.Ints("perm") {
		p = append(p, int(v))
	}
	return p
}

func evalTranspose(c *call) (*array, error) { return c.in[0].transposed(permOf(c.n)), nil }

// squeezeAxes resolves the axes of Squeeze for dims.
func squeezeAxes(c *call, dims []int) (map[int]bool, error) {
	drop := map[int]bool{}
	axes, given := c.list("axes", 1)
	for i, d := range dims {
		if !given && d == 1 {
			drop[i] = true
		}
	}
	for _, a := range axes {
		a, err := axisOf(a, len(dims))
		if err != nil {
			return nil, err
		}
		drop[a] = true
	}
	return drop, nil
}

// unsqueezeAxes are the places of new axes in a result of the returned rank.
func unsqueezeAxes(c *call, rank int) (map[int]bool, int, error) {
	axes, _ := c.list("axes", 1)
	add := map[int]bool{}
	for _, a := range axes {
		a, err := axisOf(a, rank+len(axes))
		if err != nil {
			return nil, 0, err
		}
		add[a] = true
	}
	return add, rank + len(axes), nil
}

func evalSqueeze(c *call) (*array, error) {
	drop, err := squeezeAxes(c, c.in[0].dims)
	if err != nil {
		return nil, err
	}
	var dims []int
	for i, d := range c.in[0].dims {
		if !drop[i] {
			dims = append(dims, d)
		}
	}
	if product(dims) != len(c.in[0].data) {
		return nil, fmt.Errorf("shape %v from %v", dims, c.in[0].dims)
	}
	return c.in[0].reshaped(dims), nil
}

func evalUnsqueeze(c *call) (*array, error) {
	add, rank, err := unsqueezeAxes(c, len(c.in[0].dims))
	if err != nil {
		return nil, err
	}
	dims, k := make([]int, rank), 0
	for i := range dims {
		if dims[i] = 1; !add[i] {
			dims[i] = c.in[0].dims[k]
			k++
		}
	}
	return c.in[0].reshaped(dims), nil
}

func evalExpand(c *call) (*array, error) {
	dims, err := broadcastDims(c.in[0].dims, c.in[1].ints())
	if err != nil {
		return nil, err
	}
	return c.in[0].broadcast(dims)
}

func evalTile(c *call) (out *array, err error) {
	out = c.in[0]
	for axis, n := range c.in[1].ints() {
		if n != 1 {
			if out, err = concat(axis, slices.Repeat([]*array{out}, n)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// sliceSpans resolves Slice for dims: a span for each axis that is cut.
func sliceSpans(c *call, dims []int) (map[int]span, error) {
	starts, ok1 := c.list("starts", 1)
	ends, ok2 := c.list("ends", 2)
	axes, given := c.list("axes", 3)
	steps, stepped := c.list("steps", 4)
	if !ok1 || !ok2 || len(starts) != len(ends) {
		return nil, fmt.Errorf("starts and ends are not known")
	}
	out := map[int]span{}
	for i := range starts {
		axis, step := i, 1
		if given {
			axis = axes[i]
		}
		if stepped {
			step = steps[i]
		}
		axis, err := axisOf(axis, len(dims))
		if err != nil {
			return nil, err
		}
		if out[axis], err = sliceSpan(starts[i], ends[i], step, dims[axis]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func evalSlice(c *call) (*array, error) {
	spans, err := sliceSpans(c, c.in[0].dims)
	if err != nil {
		return nil, err
	}
	out := c.in[0]
	for axis, s := range spans {
		out = out.sliced(axis, s)
	}
	return out, nil
}
