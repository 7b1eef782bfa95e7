package graph

import "fmt"

// shape is the size of a matrix.
type shape struct {
	rows Rows
	cols int
}

func (s shape) String() string { return fmt.Sprintf("(%v, %d)", s.rows, s.cols) }

// shapes collects the first disagreement of an operation.
type shapes struct {
	p   *Program
	err error
}

// of is the shape of v; that of None is the zero shape.
func (c *shapes) of(v Value) shape {
	if v == None {
		return shape{}
	}
	in := c.p.Info(v)
	return shape{in.Rows, in.Cols}
}

// is requires v, if present, to be rows x cols.
func (c *shapes) is(v Value, rows Rows, cols int) {
	if got, want := c.of(v), (shape{rows, cols}); v != None && got != want && c.err == nil {
		c.err = fmt.Errorf("%s is %v, want %v", c.p.Info(v).Name, got, want)
	}
}

// like requires vs, where present, to have the shape s.
func (c *shapes) like(s shape, vs ...Value) {
	for _, v := range vs {
		c.is(v, s.rows, s.cols)
	}
}

// that requires a condition.
func (c *shapes) that(ok bool, format string, args ...any) {
	if !ok && c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// given requires operands to be present.
func (c *shapes) given(vs ...Value) bool {
	for _, v := range vs {
		c.that(v != None, "an operand is missing")
	}
	return c.err == nil
}

// vector requires w, if present, to be a weight of n elements.
func (c *shapes) vector(w WeightID, n int) {
	if c.weight(w) && w != NoWeight {
		wt := c.p.Weight(w)
		c.that(wt.In == 1 && wt.Out == n, "%s is (%d, %d), want a vector of %d", wt.Name, wt.In, wt.Out, n)
	}
}

func (c *shapes) weight(w WeightID) bool {
	ok := w >= 0 && int(w) <= len(c.p.Weights)
	c.that(ok, "weight %d does not exist", w)
	return ok
}

// matrix returns the size of a weight that must be there.
func (c *shapes) matrix(w WeightID) (in, out int) {
	c.that(w != NoWeight, "a weight is missing")
	if c.err != nil || !c.weight(w) {
		return 0, 0
	}
	return c.p.Weight(w).In, c.p.Weight(w).Out
}

// checkShapes compares the operands of op with its formula.
func checkShapes(p *Program, op Op) error {
	c := &shapes{p: p}
	switch o := op.(type) {
	case *Input:
		c.is(o.Y, PerToken, c.of(o.Y).cols)
	case *Embed:
		y := c.of(o.Y)
		c.that(y.rows == PerToken && len(o.Tables) > 0 && len(o.Tables) == len(o.Streams) && len(o.Tables) == len(o.Offsets), "tables, streams and offsets differ in number")
		for _, t := range o.Tables {
			_, out := c.matrix(t)
			c.that(out == y.cols, "a table has %d columns, the result %d", out, y.cols)
		}
	case *Linear:
		in, out := c.matrix(o.W)
		c.is(o.X, c.of(o.X).rows, in)
		c.like(shape{c.of(o.X).rows, out}, o.Residual, o.Pre, o.Y)
		c.vector(o.Bias, out)
	case *LinearGrad:
		in, out := c.matrix(o.W)
		c.is(o.DY, c.of(o.DY).rows, out)
		c.like(shape{c.of(o.DY).rows, in}, o.C, o.DX)
	case *MatMul:
		c.matmul(o)
	case *AddBias:
		c.like(c.of(o.Y), o.X)
		c.is(o.Bias, FixedRows(1), c.of(o.Y).cols)
	case *ColSum:
		c.like(shape{FixedRows(1), c.of(o.X).cols}, o.C, o.Y)
	case *Axpby:
		c.like(c.of(o.Y), o.A, o.B)
	case *ColScale:
		c.like(c.of(o.Y), o.X)
		c.is(o.S, FixedRows(1), c.of(o.Y).cols)
		c.vector(o.Bias, c.of(o.Y).cols)
	case *ColDot:
		c.like(c.of(o.A), o.B)
		c.like(shape{FixedRows(1), c.of(o.A).cols}, o.C, o.Y)
	case *Activate:
		c.like(c.of(o.Y), o.X)
	case *ActivateGrad:
		c.like(c.of(o.DX), o.X, o.DY, o.C)
	case *Gated:
		c.like(c.of(o.Y), o.Gate, o.Up)
	case *GatedGrad:
		c.like(c.of(o.DY), o.Gate, o.Up, o.DGate, o.DUp)
	case *Norm:
		y := c.of(o.Y)
		c.like(y, o.X)
		c.norm(y, o.Parts(), o.Stats, o.Gamma, o.Beta)
	case *NormGrad:
		y := c.of(o.DY)
		c.like(y, o.X, o.C, o.DX)
		c.given(o.Stats)
		c.norm(y, o.Parts(), o.Stats, o.Gamma, NoWeight)
	case *Dropout:
		c.like(c.of(o.Y), o.X, o.Residual)
		c.that(o.P >= 0 && o.P < 1, "dropout probability %v", o.P)
	case *DropoutGrad:
		c.like(c.of(o.DX), o.DY, o.C)
	default:
		c.rest(op)
	}
	return c.err
}

func (c *shapes) norm(y shape, parts int, stats Value, gamma, beta WeightID) {
	c.that(y.cols%parts == 0, "%d columns are no whole number for each of %d heads", y.cols, parts)
	c.is(stats, y.rows, 2*parts)
	c.vector(gamma, y.cols/parts)
	c.vector(beta, y.cols/parts)
}

func (c *shapes) rest(op Op) {
	switch o := op.(type) {
	case *Rope:
		c.like(c.of(o.Y), o.X)
		c.is(o.X, o.Pick.Rows(), o.Heads*o.HeadDim)
		c.that(2*len(o.Freq) <= o.HeadDim, "%d frequencies for heads of %d", len(o.Freq), o.HeadDim)
	case *Attention:
		c.attention(o)
	case *AttentionGrad:
		c.that(o.Fwd != nil && o.Fwd.LSE != None, "the forward operation kept no log-sum-exp")
		if c.err == nil {
			c.attention(o.Fwd)
			c.like(c.of(o.Fwd.Y), o.DY, o.DQ)
			c.like(c.of(o.Fwd.K), o.DK, o.DV)
		}
	case *Select:
		c.is(o.X, PerToken, c.of(o.Y).cols)
		c.is(o.Y, o.Pick.Rows(), c.of(o.Y).cols)
	case *SelectGrad:
		c.is(o.DY, o.Pick.Rows(), c.of(o.DX).cols)
		c.like(shape{PerToken, c.of(o.DX).cols}, o.C, o.DX)
	case *MeanPool:
		c.is(o.X, PerToken, c.of(o.Y).cols)
		c.is(o.Y, PerSeq, c.of(o.Y).cols)
	case *MeanPoolGrad:
		c.is(o.DY, PerSeq, c.of(o.DX).cols)
		c.like(shape{PerToken, c.of(o.DX).cols}, o.C, o.DX)
	case *KronSum:
		c.kron(o.Terms, o.A1, o.R1, o.A2, o.R2, c.of(o.Y), o.F1, o.F2)
	case *KronSumGrad:
		c.kron(o.Terms, o.A1, o.R1, o.A2, o.R2, c.of(o.DY), o.F1, o.F2)
		c.like(c.of(o.F1), o.DF1)
		c.like(c.of(o.F2), o.DF2)
	case *KronApply:
		c.kron(o.Terms, o.A1, o.R1, o.A2, o.R2, shape{FixedRows(o.N), o.M}, o.F1, o.F2)
		c.kronRows(o.X, o.Y, o.N, o.M, o.Trans)
		c.like(c.of(o.Y), o.C)
	case *KronApplyGrad:
		c.kron(o.Terms, o.A1, o.R1, o.A2, o.R2, shape{FixedRows(o.N), o.M}, o.F1, o.F2)
		c.kronRows(o.X, o.DY, o.N, o.M, o.Trans)
		c.like(c.of(o.F1), o.DF1)
		c.like(c.of(o.F2), o.DF2)
	case *RowOuter:
		c.outer(o.U, o.V, o.Y)
	case *RowOuterGrad:
		c.outer(o.U, o.V, o.DY)
		c.like(c.of(o.U), o.DU)
		c.like(c.of(o.V), o.DV)
	case *BlockMatMul:
		c.blocks(o.X, o.W, o.Y, o.Blocks, o.Trans, o.Shuffle)
		c.like(c.of(o.Y), o.C)
	case *BlockMatMulGrad:
		c.blocks(o.X, o.DW, o.DY, o.Blocks, o.Trans, o.Shuffle)
	case *ColNorm:
		c.colNorm(o)
	default:
		c.loss(op)
	}
}

func (c *shapes) loss(op Op) {
	one := shape{FixedRows(1), 1}
	switch o := op.(type) {
	case *CrossEntropy:
		c.like(one, o.Loss)
	case *CrossEntropyGrad:
		c.like(c.of(o.Logits), o.DLogits)
	case *LMLoss:
		in, out := c.matrix(o.W)
		c.is(o.X, c.of(o.X).rows, in)
		c.like(c.of(o.X), o.DX)
		c.vector(o.Bias, out)
		c.like(one, o.Loss)
	case *MSE:
		c.like(one, o.Loss)
	case *MSEGrad:
		c.like(c.of(o.Pred), o.DPred)
	case *BCE:
		c.like(one, o.Loss)
	case *BCEGrad:
		c.like(c.of(o.Logits), o.DLogits)
	default:
		c.that(false, "the operation is unknown to Validate")
	}
}

func (c *shapes) matmul(o *MatMul) {
	if !c.given(o.A, o.B, o.Y) {
		return
	}
	a, b, y := c.of(o.A), c.of(o.B), c.of(o.Y)
	// Rows are symbolic and columns numbers, so the three sizes are compared
	// as Rows.
	n, k := a.rows, FixedRows(a.cols)
	if o.TransA {
		n, k = k, n
	}
	k2, m := b.rows, FixedRows(b.cols)
	if o.TransB {
		k2, m = m, k2
	}
	c.that(k == k2, "the inner sizes are %v and %v", k, k2)
	c.that(y.rows == n && FixedRows(y.cols) == m, "the result is %v, want (%v, %v)", y, n, m)
	c.like(y, o.C)
}

func (c *shapes) attention(o *Attention) {
	c.that(o.KVHeads > 0 && o.Heads%o.KVHeads == 0, "%d heads on %d key/value heads", o.Heads, o.KVHeads)
	n := o.QueryPick.Rows()
	c.like(shape{n, o.Heads * o.HeadDim}, o.Q, o.Y)
	c.like(shape{PerToken, o.KVHeads * o.HeadDim}, o.K, o.V)
	c.is(o.LSE, n, o.Heads)
	c.that(o.DropP >= 0 && o.DropP < 1, "dropout probability %v", o.DropP)
}

func (c *shapes) kron(terms, a1, r1, a2, r2 int, k shape, f1, f2 Value) {
	c.is(f1, FixedRows(terms), a1*r1)
	c.is(f2, FixedRows(terms), a2*r2)
	c.that(k.rows.Kind == Fixed && k.rows.N <= a1*a2 && k.cols <= r1*r2, "(%d·%d, %d·%d) does not hold %v", a1, a2, r1, r2, k)
}

func (c *shapes) kronRows(x, y Value, n, m int, trans bool) {
	if trans {
		n, m = m, n
	}
	c.is(x, c.of(x).rows, n)
	c.is(y, c.of(x).rows, m)
}

func (c *shapes) outer(u, v, y Value) {
	c.is(v, c.of(u).rows, c.of(v).cols)
	c.is(y, c.of(u).rows, c.of(u).cols*c.of(v).cols)
}

// blocks checks the operands of a product with a block-diagonal matrix.
func (c *shapes) blocks(x, w, y Value, k int, trans, shuffle bool) {
	if !c.given(x, w, y) {
		return
	}
	if trans {
		x, y = y, x
	}
	a, b := c.of(x).cols, c.of(y).cols
	c.that(k > 0 && a%k == 0 && b%k == 0 && (!shuffle || b/k%k == 0), "%d blocks do not divide (%d, %d)", k, a, b)
	c.is(y, c.of(x).rows, b)
	if c.err == nil {
		c.is(w, FixedRows(k), a/k*(b/k))
	}
}

func (c *shapes) colNorm(o *ColNorm) {
	in, out := c.matrix(o.W)
	if !c.given(o.A, o.B, o.Y) {
		return
	}
	a, b := c.of(o.A), c.of(o.B)
	if o.TransA {
		a = shape{FixedRows(a.cols), a.rows.N}
	}
	if o.TransB {
		b = shape{FixedRows(b.cols), b.rows.N}
	}
	c.that(a.rows == FixedRows(in) && b.rows == FixedRows(a.cols) && b.cols == out, "%v and %v do not multiply to (%d, %d)", a, b, in, out)
	c.is(o.Y, FixedRows(1), out)
}
