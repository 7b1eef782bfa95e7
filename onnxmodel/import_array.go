package onnxmodel

import (
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// elemKind is what arithmetic does with the elements of an array.
type elemKind uint8

const (
	kindFloat elemKind = iota
	kindInt
	kindBool
)

// array is a tensor whose elements are known under the probe: what follows
// from shapes, constants, token positions and masks. Integers are exact up to
// 2^53; larger ones only serve as "to the end" in slices.
type array struct {
	dims []int
	data []float64
	kind elemKind
}

func newArray(kind elemKind, dims ...int) *array {
	return &array{dims: slices.Clone(dims), data: make([]float64, product(dims)), kind: kind}
}

func scalar(kind elemKind, v float64) *array { return &array{data: []float64{v}, kind: kind} }

func vector(kind elemKind, v ...float64) *array {
	return &array{dims: []int{len(v)}, data: v, kind: kind}
}

func intVector(v []int) *array {
	a := newArray(kindInt, len(v))
	for i, x := range v {
		a.data[i] = float64(x)
	}
	return a
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

// ints returns the elements as whole numbers, those out of range at the ends of it.
func (a *array) ints() []int {
	out := make([]int, len(a.data))
	for i, v := range a.data {
		out[i] = int(max(min(v, 1<<53), -(1 << 53)))
	}
	return out
}

// uniform returns the value that all elements have.
func (a *array) uniform() (float64, bool) {
	if len(a.data) == 0 {
		return 0, false
	}
	for _, v := range a.data[1:] {
		if v != a.data[0] {
			return 0, false
		}
	}
	return a.data[0], true
}

// reshaped is a with other dimensions.
func (a *array) reshaped(dims []int) *array {
	return &array{dims: slices.Clone(dims), data: a.data, kind: a.kind}
}

// strides are the row-major strides of dims.
func stridesOf(dims []int) []int {
	s := make([]int, len(dims))
	n := 1
	for i := len(dims) - 1; i >= 0; i-- {
		s[i] = n
		n *= dims[i]
	}
	return s
}

// broadcastDims is the shape of an elementwise operation on a and b.
func broadcastDims(a, b []int) ([]int, error) {
	out := make([]int, max(len(a), len(b)))
	for i := range out {
		x, y := 1, 1
		if j := i - (len(out) - len(a)); j >= 0 {
			x = a[j]
		}
		if j := i - (len(out) - len(b)); j >= 0 {
			y = b[j]
		}
		switch {
		case x == y, y == 1:
			out[i] = x
		case x == 1:
			out[i] = y
		default:
			return nil, fmt.Errorf("shapes %v and %v do not fit", a, b)
		}
	}
	return out, nil
}

// broadcast repeats a to dims.
func (a *array) broadcast(dims []int) (*array, error) {
	if slices.Equal(a.dims, dims) {
		return a, nil
	}
	if d, err := broadcastDims(a.dims, dims); err != nil || !slices.Equal(d, dims) || product(dims) > maxElements {
		return nil, fmt.Errorf("shape %v does not spread to %v", a.dims, dims)
	}
	src := stridesOf(a.dims)
	step := make([]int, len(dims))
	for i, d := range a.dims {
		if d != 1 {
			step[i+len(dims)-len(a.dims)] = src[i]
		}
	}
	return a.gather(dims, step, 0), nil
}

// gather makes an array of dims whose element at index i is a.data[from + i·step].
func (a *array) gather(dims, step []int, from int) *array {
	out := newArray(a.kind, dims...)
	index := make([]int, len(dims))
	at := from
	for i := range out.data {
		out.data[i] = a.data[at]
		for k := len(dims) - 1; k >= 0; k-- {
			index[k]++
			at += step[k]
			if index[k] < dims[k] {
				break
			}
			at -= index[k] * step[k]
			index[k] = 0
		}
	}
	return out
}

// zip applies f elementwise with broadcasting.
func zip(kind elemKind, a, b *array, f func(x, y float64) float64) (*array, error) {
	dims, err := broadcastDims(a.dims, b.dims)
	if err != nil {
		return nil, err
	}
	if a, err = a.broadcast(dims); err != nil {
		return nil, err
	}
	if b, err = b.broadcast(dims); err != nil {
		return nil, err
	}
	out := newArray(kind, dims...)
	for i := range out.data {
		out.data[i] = f(a.data[i], b.data[i])
	}
	return out, nil
}

func (a *array) mapped(kind elemKind, f func(float64) float64) *array {
	out := newArray(kind, a.dims...)
	for i, v := range a.data {
		out.data[i] = f(v)
	}
	return out
}

// transposed permutes the dimensions; nil reverses them.
func (a *array) transposed(perm []int) *array {
	n := len(a.dims)
	if perm == nil {
		for i := range n {
			perm = append(perm, n-1-i)
		}
	}
	src := stridesOf(a.dims)
	dims, step := make([]int, n), make([]int, n)
	for i, p := range perm {
		dims[i], step[i] = a.dims[p], src[p]
	}
	return a.gather(dims, step, 0)
}

// axisOf makes an axis that may count from the end non-negative.
func axisOf(axis, rank int) (int, error) {
	if axis < 0 {
		axis += rank
	}
	if axis < 0 || axis >= rank {
		return 0, fmt.Errorf("axis %d of %d", axis, rank)
	}
	return axis, nil
}

// span is the elements that a slice of an axis takes.
type span struct{ from, step, n int }

// sliceSpan follows ONNX's rules for starts and ends beyond the axis.
func sliceSpan(start, end, step, size int) (span, error) {
	if step == 0 {
		return span{}, fmt.Errorf("a slice of step 0")
	}
	if start < 0 {
		start += size
	}
	if end < 0 {
		end += size
	}
	if step > 0 {
		start, end = min(max(start, 0), size), min(max(end, 0), size)
		return span{start, step, max((end-start+step-1)/step, 0)}, nil
	}
	start, end = min(max(start, 0), size-1), min(max(end, -1), size-1)
	return span{start, step, max((start-end-step-1)/-step, 0)}, nil
}

func (a *array) sliced(axis int, s span) *array {
	step := stridesOf(a.dims)
	from := s.from * step[axis]
	dims := slices.Clone(a.dims)
	dims[axis] = s.n
	step[axis] *= s.step
	if product(dims) == 0 {
		from = 0
	}
	return a.gather(dims, step, from)
}

// taken is ONNX's Gather: the slices of an axis that indices name.
func (a *array) taken(axis int, index *array) (*array, error) {
	outer, inner := product(a.dims[:axis]), product(a.dims[axis+1:])
	dims := slices.Concat(a.dims[:axis], index.dims, a.dims[axis+1:])
	out := newArray(a.kind, dims...)
	at := 0
	for o := range outer {
		for _, i := range index.ints() {
			if i < 0 {
				i += a.dims[axis]
			}
			if i < 0 || i >= a.dims[axis] {
				return nil, fmt.Errorf("index %d of %d", i, a.dims[axis])
			}
			at += copy(out.data[at:at+inner], a.data[(o*a.dims[axis]+i)*inner:])
		}
	}
	return out, nil
}

func concat(axis int, list []*array) (*array, error) {
	dims := slices.Clone(list[0].dims)
	dims[axis] = 0
	for _, a := range list {
		if len(a.dims) != len(dims) {
			return nil, fmt.Errorf("shapes %v and %v cannot be joined", list[0].dims, a.dims)
		}
		dims[axis] += a.dims[axis]
	}
	if product(dims) > maxElements {
		return nil, fmt.Errorf("shape %v is too large to compute with", dims)
	}
	out := newArray(list[0].kind, dims...)
	outer, at := product(dims[:axis]), 0
	for o := range outer {
		for _, a := range list {
			n := product(a.dims[axis:])
			if (o+1)*n > len(a.data) {
				return nil, fmt.Errorf("shapes %v and %v cannot be joined", list[0].dims, a.dims)
			}
			at += copy(out.data[at:], a.data[o*n:(o+1)*n])
		}
	}
	if at != len(out.data) {
		return nil, fmt.Errorf("shapes %v and %v cannot be joined", list[0].dims, list[len(list)-1].dims)
	}
	return out, nil
}

// decodeArray decodes raw data.
func decodeArray(t *onnx.Tensor, raw []byte) (*array, error) {
	a := newArray(kindFloat, t.Dims...)
	if d := t.Type.DType(); d.IsFloat() && tensor.Convertible(d) {
		return a, tensor.DecodeF64(a.data, raw, d)
	}
	a.kind = kindInt
	size := t.Type.Bits() / 8
	if size == 0 || len(raw) != size*len(a.data) {
		return nil, fmt.Errorf("elements of type %s are not read", t.Type)
	}
	for i := range a.data {
		v := uint64(0)
		for k := range size {
			v |= uint64(raw[i*size+k]) << (8 * k)
		}
		switch t.Type {
		case onnx.Bool:
			a.kind = kindBool
			a.data[i] = float64(v)
		case onnx.Uint8, onnx.Uint16, onnx.Uint32, onnx.Uint64:
			a.data[i] = float64(v)
		case onnx.Int8, onnx.Int16, onnx.Int32, onnx.Int64:
			shift := 64 - 8*size
			a.data[i] = float64(int64(v<<shift) >> shift)
		default:
			return nil, fmt.Errorf("elements of type %s are not read", t.Type)
		}
	}
	return a, nil
}

// kindOfType is the arithmetic of an element type.
func kindOfType(t onnx.DataType) elemKind {
	switch {
	case t == onnx.Bool:
		return kindBool
	case t.DType().IsFloat():
		return kindFloat
	}
	return kindInt
}

// cast converts to an element type.
func (a *array) cast(t onnx.DataType) *array {
	k := kindOfType(t)
	return a.mapped(k, func(v float64) float64 {
		switch {
		case k == kindBool:
			return truth(v != 0)
		case k == kindInt && a.kind == kindFloat:
			return math.Trunc(v)
		}
		return v
	})
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
