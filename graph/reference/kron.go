package reference

import "github.com/lsrsurgeon/lsrsurgeon/graph"

// kron is the layout of Σ_k f1_k ⊗ f2_k, f1_k (a1, r1), f2_k (a2, r2).
type kron struct{ terms, a1, r1, a2, r2 int }

// factors returns, for element (i, j) of the sum, the columns of f1 and f2
// whose products are added: (f1 ⊗ f2)[i, j] = f1[i/a2, j/r2]·f2[i%a2, j%r2].
func (k kron) factors(i, j int) (c1, c2 int) {
	return i/k.a2*k.r1 + j/k.r2, i%k.a2*k.r2 + j%k.r2
}

// matrix is the sum cut to (n, m).
func (k kron) matrix(f1, f2 matrix, n, m int) matrix {
	return each(n, m, func(i, j int) float64 {
		c1, c2 := k.factors(i, j)
		return sum(k.terms, func(t int) float64 { return f1.at(t, c1) * f2.at(t, c2) })
	})
}

// kronGrad adds up dy over the elements that each factor entry went into.
func (x *Executable) kronGrad(k kron, v1, v2 graph.Value, dy matrix, d1, d2 graph.Value) {
	f1, f2 := x.get(v1), x.get(v2)
	df1, df2 := newMatrix(f1.rows, f1.cols), newMatrix(f2.rows, f2.cols)
	for i := range dy.rows {
		for j := range dy.cols {
			c1, c2 := k.factors(i, j)
			for t := range k.terms {
				df1.add(t, c1, dy.at(i, j)*f2.at(t, c2))
				df2.add(t, c2, dy.at(i, j)*f1.at(t, c1))
			}
		}
	}
	x.put(d1, df1, none)
	x.put(d2, df2, none)
}

// blockRows is the number of rows of a block of D (rows, cols), or of Dᵀ
// (rows, cols).
func blockRows(trans bool, blocks, rows, cols int) int {
	if trans {
		rows = cols
	}
	return rows / blocks
}

// blockColumn is where column c of block k, of b columns, lies.
func blockColumn(k, c, b, blocks int, shuffle bool) int {
	if !shuffle {
		return k*b + c
	}
	q := b / blocks
	return c/q*b + k*q + c%q
}

// blockDiagonal forms the matrix whose blocks, of a rows each, are the rows of w.
func blockDiagonal(w matrix, blocks, a int, shuffle bool) matrix {
	b := w.cols / a
	d := newMatrix(blocks*a, blocks*b)
	for k := range blocks {
		for e, v := range w.row(k) {
			d.set(k*a+e/b, blockColumn(k, e%b, b, blocks, shuffle), v)
		}
	}
	return d
}
