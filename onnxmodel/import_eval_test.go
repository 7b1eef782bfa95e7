package onnxmodel

import (
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// TestEvaluators compares operators with results from the ONNX specification's
// own examples and definitions.
func TestEvaluators(t *testing.T) {
	ints := func(dims []int, v ...float64) *array { return &array{dims: dims, data: v, kind: kindInt} }
	m23 := ints([]int{2, 3}, 1, 2, 3, 4, 5, 6)
	for _, c := range []struct {
		name, op string
		attrs    []onnx.Attribute
		in       []*array
		want     *array
	}{
		{"slice backwards", "Slice", nil, []*array{m23, vector(kindInt, -1), vector(kindInt, -1000), vector(kindInt, 1), vector(kindInt, -1)}, ints([]int{2, 3}, 3, 2, 1, 6, 5, 4)},
		{"slice beyond the end", "Slice", nil, []*array{m23, vector(kindInt, 1), vector(kindInt, 1<<62), vector(kindInt, 1), vector(kindInt, 2)}, ints([]int{2, 1}, 2, 5)},
		{"gather", "Gather", []onnx.Attribute{onnx.IntAttr("axis", 1)}, []*array{m23, vector(kindInt, 2, -3)}, ints([]int{2, 2}, 3, 1, 6, 4)},
		{"gather elements", "GatherElements", []onnx.Attribute{onnx.IntAttr("axis", 1)}, []*array{m23, ints([]int{2, 1}, 2, -3)}, ints([]int{2, 1}, 3, 4)},
		{"gather by places", "GatherND", nil, []*array{m23, ints([]int{2, 2}, 0, 2, 1, 0)}, ints([]int{2}, 3, 4)},
		{"gather rows", "GatherND", nil, []*array{m23, ints([]int{1, 1}, 1)}, ints([]int{1, 3}, 4, 5, 6)},
		{"scatter", "ScatterND", nil, []*array{m23, ints([]int{1, 1}, 0), ints([]int{1, 3}, 7, 8, 9)}, ints([]int{2, 3}, 7, 8, 9, 4, 5, 6)},
		{"cumulative", "CumSum", nil, []*array{m23, scalar(kindInt, 1)}, ints([]int{2, 3}, 1, 3, 6, 4, 9, 15)},
		{"cumulative, exclusive and reverse", "CumSum", []onnx.Attribute{onnx.IntAttr("exclusive", 1), onnx.IntAttr("reverse", 1)}, []*array{m23, scalar(kindInt, 1)}, ints([]int{2, 3}, 5, 3, 0, 11, 6, 0)},
		{"lower triangle", "Trilu", []onnx.Attribute{onnx.IntAttr("upper", 0)}, []*array{m23, scalar(kindInt, 1)}, ints([]int{2, 3}, 1, 2, 0, 4, 5, 6)},
		{"upper triangle", "Trilu", nil, []*array{m23, scalar(kindInt, 1)}, ints([]int{2, 3}, 0, 2, 3, 0, 0, 6)},
		{"range", "Range", nil, []*array{scalar(kindInt, 10), scalar(kindInt, 3), scalar(kindInt, -3)}, ints([]int{3}, 10, 7, 4)},
		{"where", "Where", nil, []*array{{dims: []int{2, 1}, data: []float64{1, 0}, kind: kindBool}, m23, scalar(kindInt, 0)}, ints([]int{2, 3}, 1, 2, 3, 0, 0, 0)},
		{"whole division", "Div", nil, []*array{vector(kindInt, 7, -7), scalar(kindInt, 2)}, ints([]int{2}, 3, -3)},
		{"remainder", "Mod", nil, []*array{vector(kindInt, 7, -7), scalar(kindInt, 3)}, ints([]int{2}, 1, 2)},
		{"places that are not 0", "NonZero", nil, []*array{ints([]int{2, 2}, 1, 0, 1, 1)}, ints([]int{2, 3}, 0, 1, 1, 0, 0, 1)},
		{"last maximum", "ArgMax", []onnx.Attribute{onnx.IntAttr("axis", 1), onnx.IntAttr("keepdims", 0), onnx.IntAttr("select_last_index", 1)}, []*array{ints([]int{2, 3}, 1, 1, 0, 0, 2, 2)}, ints([]int{2}, 1, 2)},
		{"reshape", "Reshape", nil, []*array{m23, vector(kindInt, 0, -1, 1)}, ints([]int{2, 3, 1}, 1, 2, 3, 4, 5, 6)},
		{"transpose", "Transpose", nil, []*array{m23}, ints([]int{3, 2}, 1, 4, 2, 5, 3, 6)},
		{"tile", "Tile", nil, []*array{m23, vector(kindInt, 1, 2)}, ints([]int{2, 6}, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6)},
		{"sum", "ReduceSum", []onnx.Attribute{onnx.IntAttr("keepdims", 0)}, []*array{m23, vector(kindInt, 0)}, ints([]int{3}, 5, 7, 9)},
		{"product", "MatMul", nil, []*array{m23, ints([]int{3, 1}, 1, 0, -1)}, ints([]int{2, 1}, -2, -2)},
		{"outer product", "Einsum", []onnx.Attribute{onnx.TextAttr("equation", "i,j->ij")}, []*array{vector(kindInt, 1, 2), vector(kindInt, 3, 4)}, ints([]int{2, 2}, 3, 4, 6, 8)},
		{"truncation", "Cast", []onnx.Attribute{onnx.IntAttr("to", int64(onnx.Int64))}, []*array{vector(kindFloat, 1.9, -1.9)}, ints([]int{2}, 1, -1)},
		{"dequantised rows", "DequantizeLinear", []onnx.Attribute{onnx.IntAttr("axis", 0)}, []*array{m23, vector(kindInt, 2, 3), vector(kindInt, 1, 4)}, ints([]int{2, 3}, 0, 2, 4, 0, 3, 6)},
	} {
		got, err := evaluators[c.op](&call{n: &onnx.Node{Op: c.op, Attributes: c.attrs}, in: c.in})
		if err != nil || !slices.Equal(got.dims, c.want.dims) || !slices.Equal(got.data, c.want.data) {
			t.Errorf("%s: %+v, %v; want %v %v", c.name, got, err, c.want.dims, c.want.data)
		}
	}
	for _, c := range []struct {
		op string
		in []*array
	}{
		{"Gather", []*array{m23, vector(kindInt, 2)}}, {"Reshape", []*array{m23, vector(kindInt, 4, 2)}}, {"Add", []*array{m23, vector(kindInt, 1, 2)}},
		{"Range", []*array{scalar(kindInt, 0), scalar(kindInt, 1), scalar(kindInt, 0)}}, {"Concat", []*array{m23, vector(kindInt, 1)}},
		{"GatherND", []*array{m23, ints([]int{1, 2}, 0, 3)}},
	} {
		if got, err := evaluators[c.op](&call{n: &onnx.Node{Op: c.op}, in: c.in}); err == nil {
			t.Errorf("%s of shapes that do not fit gives %+v", c.op, got)
		}
	}
}
