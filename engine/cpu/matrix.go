package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// matrix is a value as the kernels see it: row i is data[i·ld : i·ld+cols].
type matrix struct {
	data           []float32
	rows, cols, ld int
}

// row returns row i.
func (m matrix) row(i int) []float32 { return m.data[i*m.ld:][:m.cols] }

// span returns n rows from row i as one vector; n is 1 unless m is
// contiguous.
func (m matrix) span(i, n int) []float32 { return m.data[i*m.ld:][:n*m.cols] }

// contiguous reports whether no gaps lie between rows.
func (m matrix) contiguous() bool { return m.ld == m.cols || m.rows <= 1 }

// flat returns all elements of a contiguous matrix.
func (m matrix) flat() []float32 { return m.data[:m.rows*m.cols] }

// sameMemory reports whether two matrices start at the same element: the plan
// makes values coincide whole or not at all.
func sameMemory(a, b matrix) bool {
	return len(a.data) > 0 && len(b.data) > 0 && &a.data[0] == &b.data[0]
}

// matrix returns the memory of v under the sizes of the current batch. That of
// None is empty.
func (x *executable) matrix(v graph.Value) matrix {
	if v == graph.None {
		return matrix{}
	}
	in := &x.p.Values[v]
	base, col := in, 0
	if in.Kind == graph.ViewValue {
		base, col = &x.p.Values[in.Base], in.Col
	}
	m := matrix{rows: in.Rows.Count(x.dims), cols: in.Cols, ld: base.Cols}
	n := m.rows * m.ld
	switch base.Kind {
	case graph.ParamValue:
		o := x.p.Params[base.Param].Offset
		m.data = x.params[o : o+n]
	case graph.ParamGrad:
		o := x.p.Params[base.Param].Offset
		m.data = x.grads[o : o+n]
	default:
		o := int(x.plan.Offset[x.p.Root(v)])
		m.data = x.arena[o : o+n]
	}
	if n > 0 {
		m.data = m.data[col:]
	}
	return m
}

// accumulates reports whether v is (part of) a parameter's gradient, to which
// operations add.
func (x *executable) accumulates(v graph.Value) bool {
	return v != graph.None && x.p.Info(x.p.Root(v)).Kind == graph.ParamGrad
}

// jobElems is the number of elements of an elementwise job: enough to hide the
// cost of handing it out, few enough to stay in the second-level cache with
// its operands.
const jobElems = 8192

// rowsPerJob is how many rows of cols elements make a job.
func rowsPerJob(cols int) int { return max(1, jobElems/max(cols, 1)) }

// eachRows calls fn for groups of rows [lo, hi) of n rows with cols elements
// of work each, on all threads.
func (x *executable) eachRows(n, cols int, fn func(worker, lo, hi int)) {
	per := rowsPerJob(cols)
	x.pool.Run((n+per-1)/per, func(w, j int) { fn(w, j*per, min((j+1)*per, n)) })
}

// eachSpan calls fn for spans (n rows from row i) that cover the rows of ms,
// all of one shape, on all threads. A span has at most jobElems elements, or
// one row.
func (x *executable) eachSpan(fn func(worker, i, n int), ms ...matrix) {
	whole := true
	for _, m := range ms {
		whole = whole && (m.data == nil || m.contiguous())
	}
	x.eachRows(ms[0].rows, ms[0].cols, func(w, lo, hi int) {
		if whole {
			fn(w, lo, hi-lo)
			return
		}
		for i := lo; i < hi; i++ {
			fn(w, i, 1)
		}
	})
}

// packed returns the elements of m in sequence, in buf if m has gaps.
func packed(m matrix, buf []float32) []float32 {
	if m.contiguous() {
		return m.flat()
	}
	buf = buf[:m.rows*m.cols]
	for i := range m.rows {
		copy(buf[i*m.cols:], m.row(i))
	}
	return buf
}
