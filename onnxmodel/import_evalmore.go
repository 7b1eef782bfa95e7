package onnxmodel

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

func evalGather(c *call) (*array, error) {
	axis, err := axisOf(int(c.n.Int("axis", 0)), len(c.in[0].dims))
	if err != nil {
		return nil, err
	}
	return c.in[0].taken(axis, c.in[1])
}

func evalGatherElements(c *call) (*array, error) {
	a, index := c.in[0], c.in[1]
	axis, err := axisOf(int(c.n.Int("axis", 0)), len(a.dims))
	if err != nil || len(index.dims) != len(a.dims) {
		return nil, fmt.Errorf("shapes %v and %v", a.dims, index.dims)
	}
	out := newArray(a.kind, index.dims...)
	s, to := stridesOf(a.dims), stridesOf(index.dims)
	for i, v := range index.ints() {
		at := 0
		for d := range index.dims {
			k := i / to[d] % index.dims[d]
			if d == axis {
				if k = v; k < 0 {
					k += a.dims[d]
				}
			}
			if k < 0 || k >= a.dims[d] {
				return nil, fmt.Errorf("index %d of %d", k, a.dims[d])
			}
			at += k * s[d]
		}
		out.data[i] = a.data[at]
	}
	return out, nil
}

// gatherNDPlaces are the offsets of the slices that GatherND and ScatterND
// name, of the returned size.
func gatherNDPlaces(dims []int, index *array) (places []int, size int, err error) {
	if len(index.dims) == 0 || index.dims[len(index.dims)-1] > len(dims) {
		return nil, 0, fmt.Errorf("indices of shape %v into %v", index.dims, dims)
	}
	depth := index.dims[len(index.dims)-1]
	s, v := stridesOf(dims), index.ints()
	for i := 0; i+depth <= len(v) && depth > 0; i += depth {
		at := 0
		for d := range depth {
			k := v[i+d]
			if k < 0 {
				k += dims[d]
			}
			if k < 0 || k >= dims[d] {
				return nil, 0, fmt.Errorf("index %d of %d", k, dims[d])
			}
			at += k * s[d]
		}
		places = append(places, at)
	}
	return places, product(dims[depth:]), nil
}

func evalGatherND(c *call) (*array, error) {
	if c.n.Int("batch_dims", 0) != 0 {
		return nil, fmt.Errorf("batch_dims is not supported")
	}
	places, size, err := gatherNDPlaces(c.in[0].dims, c.in[1])
	if err != nil {
		return nil, err
	}
	d := c.in[1].dims
	out := newArray(c.in[0].kind, slices.Concat(d[:len(d)-1], c.in[0].dims[d[len(d)-1]:])...)
	for i, at := range places {
		copy(out.data[i*size:(i+1)*size], c.in[0].data[at:])
	}
	return out, nil
}

func evalScatterND(c *call) (*array, error) {
	if r := c.n.Text("reduction", "none"); r != "none" {
		return nil, fmt.Errorf("reduction %s is not supported", r)
	}
	places, size, err := gatherNDPlaces(c.in[0].dims, c.in[1])
	if err != nil {
		return nil, err
	}
	out := c.in[0].mapped(c.in[0].kind, func(x float64) float64 { return x })
	for i, at := range places {
		if (i+1)*size > len(c.in[2].data) {
			return nil, fmt.Errorf("updates of shape %v for indices of shape %v", c.in[2].dims, c.in[1].dims)
		}
		copy(out.data[at:at+size], c.in[2].data[i*size:])
	}
	return out, nil
}

func evalConcat(c *call) (*array, error) {
	axis, err := axisOf(int(c.n.Int("axis", 0)), len(c.in[0].dims))
	if err != nil {
		return nil, err
	}
	return concat(axis, c.in)
}

// maxElements bounds the arrays that the probe makes.
const maxElements = 1 << 26

func evalRange(c *call) (*array, error) {
	if len(c.in[0].data) != 1 || len(c.in[1].data) != 1 || len(c.in[2].data) != 1 {
		return nil, fmt.Errorf("a range of vectors")
	}
	from, to, step := c.in[0].data[0], c.in[1].data[0], c.in[2].data[0]
	n := math.Max(math.Ceil((to-from)/step), 0)
	if !(n <= maxElements) {
		return nil, fmt.Errorf("a range of %v elements", n)
	}
	a := newArray(c.in[0].kind, int(n))
	for i := range a.data {
		a.data[i] = from + float64(i)*step
	}
	return a, nil
}

func evalWhere(c *call) (*array, error) {
	dims, err := broadcastDims(c.in[1].dims, c.in[2].dims)
	if err == nil {
		dims, err = broadcastDims(c.in[0].dims, dims)
	}
	if err != nil {
		return nil, err
	}
	var in [3]*array
	for i := range in {
		if in[i], err = c.in[i].broadcast(dims); err != nil {
			return nil, err
		}
	}
	out := newArray(c.in[1].kind, dims...)
	for i := range out.data {
		if out.data[i] = in[2].data[i]; in[0].data[i] != 0 {
			out.data[i] = in[1].data[i]
		}
	}
	return out, nil
}

func evalFill(c *call) (*array, error) {
	a := scalar(kindFloat, 0)
	if v := c.n.Attribute("value"); v != nil && v.T != nil {
		var err error
		if a, err = c.load(v.T); err != nil {
			return nil, err
		}
	}
	dims := c.in[0].ints()
	if product(dims) > maxElements {
		return nil, fmt.Errorf("shape %v", dims)
	}
	out := newArray(a.kind, dims...)
	for i := range out.data {
		out.data[i] = a.data[0]
	}
	return out, nil
}

// lines calls f for each line of a along an axis, with the places of its elements.
func (a *array) lines(axis int, f func(places []int)) {
	outer, n, inner := product(a.dims[:axis]), a.dims[axis], product(a.dims[axis+1:])
	places := make([]int, n)
	for o := range outer {
		for i := range inner {
			for k := range n {
				places[k] = (o*n+k)*inner + i
			}
			f(places)
		}
	}
}

func evalCumSum(c *call) (*array, error) {
	if len(c.in[1].data) != 1 {
		return nil, fmt.Errorf("axis of shape %v", c.in[1].dims)
	}
	axis, err := axisOf(int(c.in[1].data[0]), len(c.in[0].dims))
	if err != nil {
		return nil, err
	}
	out := newArray(c.in[0].kind, c.in[0].dims...)
	exclusive, reverse := c.n.Int("exclusive", 0) != 0, c.n.Int("reverse", 0) != 0
	c.in[0].lines(axis, func(places []int) {
		if reverse {
			slices.Reverse(places)
		}
		sum := 0.0
		for _, p := range places {
			v := c.in[0].data[p]
			if out.data[p] = sum + v; exclusive {
				out.data[p] = sum
			}
			sum += v
		}
	})
	return out, nil
}

func evalTrilu(c *call) (*array, error) {
	k := 0
	if a := c.arg(1); a != nil && len(a.data) == 1 {
		k = int(a.data[0])
	}
	n := len(c.in[0].dims)
	if n < 2 {
		return nil, fmt.Errorf("a triangle of shape %v", c.in[0].dims)
	}
	rows, cols := c.in[0].dims[n-2], c.in[0].dims[n-1]
	upper := c.n.Int("upper", 1) != 0
	out := newArray(c.in[0].kind, c.in[0].dims...)
	for i, v := range c.in[0].data {
		r, col := i/cols%rows, i%cols
		if upper && col-r >= k || !upper && col-r <= k {
			out.data[i] = v
		}
	}
	return out, nil
}

func evalEyeLike(c *call) (*array, error) {
	a := newArray(kindFloat, c.in[0].dims...)
	for i := range a.data {
		a.data[i] = truth(i%a.dims[1]-i/a.dims[1] == int(c.n.Int("k", 0)))
	}
	return a, nil
}

func evalNonZero(c *call) (*array, error) {
	a := c.in[0]
	var at []int
	for i, v := range a.data {
		if v != 0 {
			at = append(at, i)
		}
	}
	out := newArray(kindInt, len(a.dims), len(at))
	for d, s := range stridesOf(a.dims) {
		for k, i := range at {
			out.data[d*len(at)+k] = float64(i / s % a.dims[d])
		}
	}
	return out, nil
}

// reduceAxes are the axes of a reduction, and whether they stay with size 1.
func reduceAxes(c *call, rank int) (axes []int, keep bool, err error) {
	list, given := c.list("axes", 1)
	if !given || len(list) == 0 {
		if c.n.Int("noop_with_empty_axes", 0) != 0 {
			return nil, true, nil
		}
		for i := range rank {
			list = append(list, i)
		}
	}
	for _, a := range list {
		if a, err = axisOf(a, rank); err != nil {
			return nil, false, err
		}
		axes = append(axes, a)
	}
	slices.Sort(axes)
	return axes, c.n.Int("keepdims", 1) != 0, nil
}

func reducer(start float64, f func(x, y float64) float64) evaluator {
	return func(c *call) (*array, error) {
		axes, keep, err := reduceAxes(c, len(c.in[0].dims))
		if err != nil {
			return nil, err
		}
		out := c.in[0]
		for _, axis := range axes {
			dims := slices.Clone(out.dims)
			dims[axis] = 1
			next, i := newArray(out.kind, dims...), 0
			out.lines(axis, func(places []int) {
				next.data[i] = start
				for _, p := range places {
					next.data[i] = f(next.data[i], out.data[p])
				}
				i++
			})
			out = next
		}
		return dropAxes(out, axes, keep), nil
	}
}

func dropAxes(a *array, axes []int, keep bool) *array {
	if keep {
		return a
	}
	var dims []int
	for i, d := range a.dims {
		if !slices.Contains(axes, i) {
			dims = append(dims, d)
		}
	}
	return a.reshaped(dims)
}

func evalReduceMean(c *call) (*array, error) {
	sum, err := reducer(0, func(x, y float64) float64 { return x + y })(c)
	if err != nil {
		return nil, err
	}
	n := float64(len(c.in[0].data)) / float64(max(len(sum.data), 1))
	return sum.mapped(sum.kind, func(x float64) float64 { return x / n }), nil
}

func evalArgMax(c *call) (*array, error) {
	axis, err := axisOf(int(c.n.Int("axis", 0)), len(c.in[0].dims))
	if err != nil {
		return nil, err
	}
	sign := 1.0
	if c.n.Op == "ArgMin" {
		sign = -1
	}
	last := c.n.Int("select_last_index", 0) != 0
	dims := slices.Clone(c.in[0].dims)
	dims[axis] = 1
	out, i := newArray(kindInt, dims...), 0
	c.in[0].lines(axis, func(places []int) {
		best := 0
		for k, p := range places {
			v, b := sign*c.in[0].data[p], sign*c.in[0].data[places[best]]
			if v > b || last && v == b {
				best = k
			}
		}
		out.data[i] = float64(best)
		i++
	})
	return dropAxes(out, []int{axis}, c.n.Int("keepdims", 1) != 0), nil
}

// evalMatMul serves small products such as positions by frequencies.
func evalMatMul(c *call) (*array, error) {
	a, b := c.in[0], c.in[1]
	if len(a.dims) < 2 || len(b.dims) < 2 {
		return nil, fmt.Errorf("a product of shapes %v and %v", a.dims, b.dims)
	}
	n, k, m := a.dims[len(a.dims)-2], a.dims[len(a.dims)-1], b.dims[len(b.dims)-1]
	outer, err := broadcastDims(a.dims[:len(a.dims)-2], b.dims[:len(b.dims)-2])
	if err != nil || b.dims[len(b.dims)-2] != k {
		return nil, fmt.Errorf("a product of shapes %v and %v", a.dims, b.dims)
	}
	if a, err = a.broadcast(slices.Concat(outer, []int{n, k})); err != nil {
		return nil, err
	}
	if b, err = b.broadcast(slices.Concat(outer, []int{k, m})); err != nil {
		return nil, err
	}
	out := newArray(a.kind, slices.Concat(outer, []int{n, m})...)
	if len(out.data)*max(k, 1) > maxElements {
		return nil, fmt.Errorf("a product of shapes %v and %v is too large to follow", a.dims, b.dims)
	}
	for o := range product(outer) {
		for i := range n {
			for j := range m {
				sum := 0.0
				for x := range k {
					sum += a.data[(o*n+i)*k+x] * b.data[(o*k+x)*m+j]
				}
				out.data[(o*n+i)*m+j] = sum
			}
		}
	}
	return out, nil
}

// evalOuter is Einsum for outer products, as "i,j->ij" of positions and frequencies.
func evalOuter(c *call) (*array, error) {
	eq := strings.ReplaceAll(c.n.Text("equation", ""), " ", "")
	in, out, ok := strings.Cut(eq, "->")
	x, y, two := strings.Cut(in, ",")
	if !ok || !two || x+y != out || strings.Contains(eq, ".") || len(c.in) != 2 {
		return nil, fmt.Errorf("equation %q: %w", eq, errNoRule)
	}
	a := c.in[0].reshaped(slices.Concat(c.in[0].dims, slices.Repeat([]int{1}, len(y))))
	return zip(a.kind, a, c.in[1], func(x, y float64) float64 { return x * y })
}

func evalClip(c *call) (*array, error) {
	lo, hi := math.Inf(-1), math.Inf(1)
	lo, hi = float64(c.n.Float("min", float32(lo))), float64(c.n.Float("max", float32(hi)))
	if a := c.arg(1); a != nil && len(a.data) == 1 {
		lo = a.data[0]
	}
	if a := c.arg(2); a != nil && len(a.data) == 1 {
		hi = a.data[0]
	}
	return c.in[0].mapped(c.in[0].kind, func(x float64) float64 { return min(max(x, lo), hi) }), nil
}

// evalDequantize is (x - zero)·scale, per tensor or per slice of an axis.
func evalDequantize(c *call) (*array, error) {
	if c.n.Int("block_size", 0) != 0 {
		return nil, fmt.Errorf("quantisation in blocks is not supported")
	}
	spread := func(a *array) *array {
		if len(a.data) == 1 || len(a.dims) != 1 {
			return a
		}
		axis, err := axisOf(int(c.n.Int("axis", 1)), len(c.in[0].dims))
		if err != nil {
			return a
		}
		dims := slices.Repeat([]int{1}, len(c.in[0].dims))
		dims[axis] = len(a.data)
		return a.reshaped(dims)
	}
	x := c.in[0]
	var err error
	if z := c.arg(2); z != nil {
		if x, err = zip(kindFloat, x, spread(z), func(x, y float64) float64 { return x - y }); err != nil {
			return nil, err
		}
	}
	return zip(kindFloat, x, spread(c.in[1]), func(x, y float64) float64 { return x * y })
}
