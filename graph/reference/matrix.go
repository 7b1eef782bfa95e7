package reference

import "github.com/lsrsurgeon/lsrsurgeon/graph"

// matrix is a row-major matrix, or columns of one.
type matrix struct {
	rows, cols, ld int
	a              []float64
}

func newMatrix(rows, cols int) matrix {
	return matrix{rows: rows, cols: cols, ld: cols, a: make([]float64, rows*cols)}
}

func (m matrix) at(i, j int) float64     { return m.a[i*m.ld+j] }
func (m matrix) set(i, j int, x float64) { m.a[i*m.ld+j] = x }
func (m matrix) add(i, j int, x float64) { m.a[i*m.ld+j] += x }
func (m matrix) row(i int) []float64     { return m.a[i*m.ld : i*m.ld+m.cols] }

// t returns a transposed copy if trans is set, otherwise m.
func (m matrix) t(trans bool) matrix {
	if !trans {
		return m
	}
	y := newMatrix(m.cols, m.rows)
	for i := range m.rows {
		for j := range m.cols {
			y.set(j, i, m.at(i, j))
		}
	}
	return y
}

// times is m n.
func (m matrix) times(n matrix) matrix {
	y := newMatrix(m.rows, n.cols)
	for i := range m.rows {
		for k, a := range m.row(i) {
			for j, b := range n.row(k) {
				y.add(i, j, a*b)
			}
		}
	}
	return y
}

// each returns the matrix of f(i, j).
func each(rows, cols int, f func(i, j int) float64) matrix {
	y := newMatrix(rows, cols)
	for i := range rows {
		for j := range cols {
			y.set(i, j, f(i, j))
		}
	}
	return y
}

// get returns the value v of the current run; None is an empty matrix.
func (x *Executable) get(v graph.Value) matrix {
	if v == graph.None {
		return matrix{}
	}
	in := x.p.Info(v)
	if in.Kind != graph.ViewValue {
		return x.values[v]
	}
	m := x.values[in.Base]
	m.cols = in.Cols
	m.a = m.a[min(in.Col, len(m.a)):]
	return m
}

// weight returns a frozen tensor (in, out); NoWeight is an empty matrix.
func (x *Executable) weight(w graph.WeightID) matrix {
	if w == graph.NoWeight {
		return matrix{}
	}
	return x.weights[w-1]
}

// put stores m + c in v, or adds it where v is a parameter's gradient. v and c
// may be None.
func (x *Executable) put(v graph.Value, m matrix, c graph.Value) {
	if v == graph.None {
		return
	}
	y, addend := x.get(v), x.get(c)
	grad := x.p.Info(x.p.Root(v)).Kind == graph.ParamGrad
	for i := range y.rows {
		for j := range y.cols {
			s := m.at(i, j)
			if c != graph.None {
				s += addend.at(i, j)
			}
			if grad {
				s += y.at(i, j)
			}
			y.set(i, j, s)
		}
	}
}
