package onnxmodel_test

import (
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// axis runs the operators that work along an axis.
func (e *interpreter) axis(n *onnx.Node, in []array) array {
	x := in[0]
	switch n.Op {
	case "Softmax", "LayerNormalization":
		return e.normal(n, in)
	case "ReduceMean":
		y := e.sum(x, (int(n.Ints("axes")[0])+len(x.dims))%len(x.dims))
		for i := range y.data {
			y.data[i] /= float64(len(x.data) / len(y.data))
		}
		return y
	case "ReduceSum":
		return e.sum(x, int(in[1].data[0]))
	case "CumSum":
		y := array{x.dims, slices.Clone(x.data)}
		lanes(x, int(in[1].data[0]), func(at, step, n int) {
			for i := 1; i < n; i++ {
				y.data[at+i*step] += y.data[at+(i-1)*step]
			}
		})
		return y
	case "ArgMax":
		axis := int(n.Int("axis", 0))
		y := array{dims: slices.Clone(x.dims)}
		y.dims[axis] = 1
		lanes(x, axis, func(at, step, n int) {
			best := 0
			for i := range n {
				if x.data[at+i*step] > x.data[at+best*step] {
					best = i
				}
			}
			y.data = append(y.data, float64(best))
		})
		return y
	case "Gather":
		row := size(x.dims[1:])
		y := array{dims: append(slices.Clone(in[1].dims), x.dims[1:]...)}
		for _, i := range in[1].data {
			y.data = append(y.data, x.data[int(i)*row:][:row]...)
		}
		return y
	case "GatherND":
		k := in[1].dims[1]
		row, st := size(x.dims[k:]), x.strides()
		y := array{dims: append([]int{in[1].dims[0]}, x.dims[k:]...)}
		for i := 0; i < len(in[1].data); i += k {
			at := 0
			for j, v := range in[1].data[i : i+k] {
				at += int(v) * st[j]
			}
			y.data = append(y.data, x.data[at:at+row]...)
		}
		return y
	case "Expand":
		ones := array{dims: make([]int, len(in[1].data))}
		for i, d := range in[1].data {
			ones.dims[i] = int(d)
		}
		ones.data = make([]float64, size(ones.dims))
		return e.broadcast([]array{x, ones}, func(v []float64) float64 { return v[0] })
	case "Concat":
		return e.concat(in, (int(n.Int("axis", 0))+len(x.dims))%len(x.dims))
	case "Slice":
		if in[3].data[0] != -1 {
			return e.fail(n)
		}
		from, to, last := int(in[1].data[0]), int(in[2].data[0]), len(x.dims)-1
		y := array{dims: slices.Clone(x.dims)}
		y.dims[last] = to - from
		for at := 0; at < len(x.data); at += x.dims[last] {
			y.data = append(y.data, x.data[at+from:at+to]...)
		}
		return y
	case "Pad":
		extra := int(in[1].data[3])
		y := array{dims: []int{x.dims[0], x.dims[1] + extra}}
		for at := 0; at < len(x.data); at += x.dims[1] {
			y.data = append(append(y.data, x.data[at:at+x.dims[1]]...), make([]float64, extra)...)
		}
		return y
	}
	return e.fail(n)
}

func (e *interpreter) sum(x array, axis int) array {
	y := array{dims: slices.Clone(x.dims)}
	y.dims[axis] = 1
	lanes(x, axis, func(at, step, n int) {
		s := 0.0
		for i := range n {
			s += x.data[at+i*step]
		}
		y.data = append(y.data, s)
	})
	return y
}

func (e *interpreter) concat(in []array, axis int) array {
	y := array{dims: slices.Clone(in[0].dims)}
	y.dims[axis] = 0
	for _, a := range in {
		y.dims[axis] += a.dims[axis]
	}
	for k := range size(y.dims[:axis]) {
		for _, a := range in {
			n := size(a.dims[axis:])
			y.data = append(y.data, a.data[k*n:][:n]...)
		}
	}
	return y
}

// normal is softmax and layer norm over the last axis.
func (e *interpreter) normal(n *onnx.Node, in []array) array {
	x := in[0]
	y := array{x.dims, make([]float64, len(x.data))}
	lanes(x, len(x.dims)-1, func(at, _, k int) {
		row, out := x.data[at:at+k], y.data[at:at+k]
		if n.Op == "Softmax" {
			top, sum := slices.Max(row), 0.0
			for i, v := range row {
				out[i] = math.Exp(v - top)
				sum += out[i]
			}
			for i := range out {
				out[i] /= sum
			}
			return
		}
		mean, square := 0.0, 0.0
		for _, v := range row {
			mean += v / float64(k)
		}
		for _, v := range row {
			square += (v - mean) * (v - mean) / float64(k)
		}
		root := math.Sqrt(square + float64(n.Float("epsilon", 1e-5)))
		for i, v := range row {
			out[i] = (v-mean)/root*in[1].data[i] + in[2].data[i]
		}
	})
	return y
}
