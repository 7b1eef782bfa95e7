package onnxmodel

import (
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// op is what a term computes.
type op uint8

const (
	opEmbed     op = iota // Σ tables[stream + offset]
	opLinear              // in[0] W + bias
	opNorm                // layer norm or RMS norm
	opAct                 // act(in[0])
	opMul                 // act(in[0]) ∘ in[1]
	opSum                 // mul·in[0] + mul2·in[1]
	opScale               // mul·in[0]
	opRope                // rotary positions
	opScores              // q kᵀ, in = q, k; never written alone
	opProbs               // softmax of scores, never written alone
	opAttention           // softmax(scale·q kᵀ + mask) v, in = q, k, v
	opSelect              // one row of each sequence
	opMean                // mean of each sequence
	opColumns             // columns [col, col+cols) of in[0]
)

// term is a matrix of the program to be, with a row per token or per sequence.
// Terms are made in the order of the graph's nodes: what a term reads comes
// before it. Rules make new terms instead of changing old ones, so that terms
// that nothing reads any more are simply not written.
type term struct {
	id   int
	op   op
	in   []*term
	seq  bool // a row per sequence
	cols int
	node string // for messages

	tables  []lookup // opEmbed
	weight  weightRef
	bias    string // opLinear and opNorm (beta), "" for none
	gamma   string // opNorm
	site    *adapter.Site
	act     graph.Act
	eps     float64
	rms     bool
	mul     float64 // opScale, opSum, opAttention
	mul2    float64 // opSum
	pick    graph.Pick
	rope    *graph.Rope
	heads   headSizes
	causal  bool
	window  int
	visible []bool // opScores and opProbs: which keys a query sees under the probe, nil for all
	col     int    // opColumns
}

// headSizes are the sizes of an attention.
type headSizes struct{ heads, kv, dim int }

// lookup is a table of an embedding with what it is indexed by.
type lookup struct {
	table   string
	entries int
	stream  graph.Stream
	offset  int
	fixed   bool // row 0, whatever the token
}

// weightRef is a matrix of a linear layer.
type weightRef struct {
	name       string
	in, out    int
	transposed bool // stored (out, in)
}

// dim is what an atom of an axis counts.
type dim uint8

const (
	dimCol   dim = iota // columns of the term
	dimBatch            // sequences
	dimToken            // tokens of a sequence
	dimKey              // tokens of a sequence, as the keys of scores
)

// atom is a factor of an axis. Those of columns have a stride.
type atom struct {
	dim    dim
	size   int
	stride int
}

// axis is one axis of an ONNX tensor: the product of its atoms, row-major. An
// axis of size 1 has none.
type axis []atom

func (a axis) size() int {
	n := 1
	for _, x := range a {
		n *= x.size
	}
	return n
}

func (a axis) is(d dim) bool { return len(a) == 1 && a[0].dim == d }

// mat is a value of the graph that depends on the weights: a term as the graph
// sees it. Element (i, j, …) is mul·term[row][off + Σ stride·index].
type mat struct {
	t    *term
	axes []axis
	off  int
	mul  float64
}

func (m *mat) dims() []int {
	d := make([]int, len(m.axes))
	for i, a := range m.axes {
		d[i] = a.size()
	}
	return d
}

// with returns m with other axes, in which neighbours that are one are joined.
func (m *mat) with(axes []axis) *mat {
	c := *m
	c.axes = make([]axis, len(axes))
	for i, a := range axes {
		for _, x := range a {
			if x.size == 1 && x.dim == dimCol {
				continue
			}
			if n := len(c.axes[i]); n > 0 {
				y := &c.axes[i][n-1]
				if x.dim == dimCol && y.dim == dimCol && y.stride == x.stride*x.size && x.stride > 0 {
					y.size, y.stride = y.size*x.size, x.stride
					continue
				}
			}
			c.axes[i] = append(c.axes[i], x)
		}
	}
	return &c
}

// columns lists the atoms of columns in the order of the axes.
func (m *mat) columns() []atom {
	var out []atom
	for _, a := range m.axes {
		for _, x := range a {
			if x.dim == dimCol {
				out = append(out, x)
			}
		}
	}
	return out
}

// block says whether m's columns are, in their order, the columns
// [off, off+n) of the term.
func (m *mat) block() (n int, ok bool) {
	n = 1
	for _, x := range slices.Backward(m.columns()) {
		if x.stride != n {
			return 0, false
		}
		n *= x.size
	}
	return n, true
}

// rowAxes are the axes but the last n; ok tells that these have no columns and the
// last n nothing else.
func (m *mat) rowAxes(n int) (rows []axis, ok bool) {
	if len(m.axes) < n {
		return nil, false
	}
	cut := len(m.axes) - n
	for i, a := range m.axes {
		for _, x := range a {
			if (x.dim == dimCol) != (i >= cut) {
				return nil, false
			}
		}
	}
	return m.axes[:cut], true
}

// sameView says whether a and b are the same but for the factor.
func sameView(a, b *mat) bool {
	return a.t == b.t && a.off == b.off && sameAxes(a.axes, b.axes)
}

// same says whether a and b are the same.
func same(a, b *mat) bool { return sameView(a, b) && a.mul == b.mul }

func sameAxes(a, b []axis) bool {
	return slices.EqualFunc(a, b, func(x, y axis) bool { return slices.Equal(x, y) })
}

// reshape gives m other dimensions, or says that they cut through rows.
func (m *mat) reshape(dims []int) (*mat, bool) {
	var flat []atom
	for _, a := range m.axes {
		flat = append(flat, a...)
	}
	axes := make([]axis, len(dims))
	for i, need := range dims {
		for need > 1 {
			if len(flat) == 0 {
				return nil, false
			}
			x := flat[0]
			switch {
			case need%x.size == 0:
				axes[i] = append(axes[i], x)
				need /= x.size
				flat = flat[1:]
			case x.dim == dimCol && x.size%need == 0:
				rest := x.size / need
				axes[i] = append(axes[i], atom{dimCol, need, x.stride * rest})
				flat[0] = atom{dimCol, rest, x.stride}
				need = 1
			default:
				return nil, false
			}
		}
	}
	if len(flat) != 0 {
		return nil, false
	}
	return m.with(axes), true
}

// slice takes a span of an axis of columns.
func (m *mat) slice(at int, s span) (*mat, bool) {
	a := m.axes[at]
	if s.step == 1 && s.n == a.size() {
		return m, true
	}
	if !a.is(dimCol) {
		// A span of whole slices of the first atom.
		if len(a) < 2 || a[0].dim != dimCol || s.step != 1 {
			return nil, false
		}
		rest := axis(a[1:]).size()
		if s.from%rest != 0 || s.n%rest != 0 {
			return nil, false
		}
		c := *m
		c.off += s.from / rest * a[0].stride
		axes := slices.Clone(m.axes)
		axes[at] = slices.Concat(axis{{dimCol, s.n / rest, a[0].stride}}, a[1:])
		return c.with(axes), true
	}
	c := *m
	c.off += s.from * a[0].stride
	axes := slices.Clone(m.axes)
	axes[at] = axis{{dimCol, s.n, a[0].stride * s.step}}
	if s.n == 0 {
		return nil, false
	}
	return c.with(axes), true
}
