package graph

import "fmt"

// isLoss reports whether op computes a loss: an operation whose gradient needs
// no incoming one, because the loss is what is differentiated.
func isLoss(op Op) bool {
	switch op.(type) {
	case *CrossEntropy, *LMLoss, *MSE, *BCE:
		return true
	}
	return false
}

// Accumulates reports whether op can write a ParamGrad, where it adds to what
// is there. Differentiate gives ParamGrads to no other operation.
func Accumulates(op Op) bool {
	switch op.(type) {
	case *MatMul, *ColSum, *ColDot, *Axpby, *KronSumGrad, *KronApplyGrad, *RowOuterGrad, *BlockMatMulGrad:
		return true
	}
	return false
}

// rule emits the gradient of one forward operation. In the comments y is the
// output, dy its gradient.
func (d *differ) rule(op Op) error {
	switch o := op.(type) {
	case *CrossEntropy:
		x := d.saved(o.Logits)
		d.emit(&CrossEntropyGrad{Logits: x, DLogits: d.put(o.Logits, false)})
	case *MSE:
		x := d.saved(o.Pred)
		d.emit(&MSEGrad{Pred: x, DPred: d.put(o.Pred, false)})
	case *BCE:
		x := d.saved(o.Logits)
		d.emit(&BCEGrad{Logits: x, DLogits: d.put(o.Logits, false)})
	case *LMLoss:
		d.p.Weight(o.W).Backward = true
		o.DX = d.put(o.X, false)
	case *Linear:
		d.linear(o)
	case *MatMul:
		d.matmul(o)
	case *AddBias:
		dy := d.of(o.Y)
		d.add(o.Bias, func(dst, c Value) Op { return &ColSum{X: dy, Alpha: 1, C: c, Y: dst} })
		d.pass(o.X, dy)
	case *Axpby:
		d.scaled(o.A, o.Alpha, d.of(o.Y))
		d.scaled(o.B, o.Beta, d.of(o.Y))
	case *ColScale:
		d.colScale(o)
	case *Activate:
		x, dy := d.saved(o.X), d.of(o.Y)
		d.add(o.X, func(dst, c Value) Op { return &ActivateGrad{X: x, DY: dy, Act: o.Act, C: c, DX: dst} })
	case *Gated:
		gate, up := d.saved(o.Gate), d.saved(o.Up)
		d.emit(&GatedGrad{Gate: gate, Up: up, DY: d.of(o.Y), Act: o.Act, DGate: d.put(o.Gate, false), DUp: d.put(o.Up, false)})
	default:
		return d.ruleRows(op)
	}
	d.flush()
	return nil
}

// ruleRows continues rule: norms, dropout, attention, row selections, and the
// Kronecker operations.
func (d *differ) ruleRows(op Op) error {
	switch o := op.(type) {
	case *Norm:
		d.norm(o)
	case *Dropout:
		dy := d.of(o.Y)
		d.pass(o.Residual, dy)
		d.add(o.X, func(dst, c Value) Op { return &DropoutGrad{DY: dy, P: o.P, Site: o.Site, C: c, DX: dst} })
	case *Rope:
		back := *o
		back.X, back.Inverse = d.of(o.Y), !o.Inverse
		back.Y = d.put(o.X, false)
		d.emit(&back)
	case *Attention:
		d.attention(o)
	case *Select:
		dy := d.of(o.Y)
		d.add(o.X, func(dst, c Value) Op { return &SelectGrad{DY: dy, Pick: o.Pick, C: c, DX: dst} })
	case *MeanPool:
		dy := d.of(o.Y)
		d.add(o.X, func(dst, c Value) Op { return &MeanPoolGrad{DY: dy, C: c, DX: dst} })
	case *KronSum:
		f1, f2 := d.saved(o.F1), d.saved(o.F2)
		d.emit(&KronSumGrad{F1: f1, F2: f2, DY: d.of(o.Y), Terms: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2,
			DF1: d.put(o.F1, true), DF2: d.put(o.F2, true)})
	case *KronApply:
		d.kronApply(o)
	case *BlockMatMul:
		d.blockMatMul(o)
	case *RowOuter:
		u, v := d.saved(o.U), d.saved(o.V)
		d.emit(&RowOuterGrad{U: u, V: v, DY: d.of(o.Y), DU: d.put(o.U, true), DV: d.put(o.V, true)})
	default:
		return fmt.Errorf("%s has no gradient rule, and a parameter lies before it", op.Name())
	}
	d.flush()
	return nil
}

// linear: dpre = dy·act'(pre), dx = dpre Wᵀ, dresidual = dy.
func (d *differ) linear(o *Linear) {
	dy := d.of(o.Y)
	d.pass(o.Residual, dy)
	if !d.wants(o.X) {
		return
	}
	if o.Act != ActNone {
		dpre := d.temp(o.Y)
		d.emit(&ActivateGrad{X: d.pre(o), DY: dy, Act: o.Act, DX: dpre})
		dy = dpre
	}
	d.p.Weight(o.W).Backward = true
	d.add(o.X, func(dst, c Value) Op { return &LinearGrad{DY: dy, W: o.W, C: c, DX: dst} })
}

// pre returns the value of o before its activation.
func (d *differ) pre(o *Linear) Value {
	if o.Pre == None {
		in := d.p.Info(o.Y)
		o.Pre = d.p.NewValue(Info{Name: in.Name + ".pre", Rows: in.Rows, Cols: in.Cols})
	}
	return o.Pre
}

// matmul: with y = alpha·A B + c, dA = alpha·dy Bᵀ and dB = alpha·Aᵀ dy, and
// the same transposed where an operand is.
func (d *differ) matmul(o *MatMul) {
	dy := d.of(o.Y)
	if d.wants(o.B) {
		a := d.saved(o.A)
		d.add(o.B, func(dst, c Value) Op {
			if o.TransB {
				return &MatMul{A: dy, B: a, TransA: true, TransB: o.TransA, Alpha: o.Alpha, C: c, Y: dst}
			}
			return &MatMul{A: a, B: dy, TransA: !o.TransA, Alpha: o.Alpha, C: c, Y: dst}
		})
	}
	if d.wants(o.A) {
		b := d.saved(o.B)
		d.add(o.A, func(dst, c Value) Op {
			if o.TransA {
				return &MatMul{A: b, B: dy, TransA: o.TransB, TransB: true, Alpha: o.Alpha, C: c, Y: dst}
			}
			return &MatMul{A: dy, B: b, TransB: !o.TransB, Alpha: o.Alpha, C: c, Y: dst}
		})
	}
	d.pass(o.C, dy)
}

// scaled contributes alpha·dy to the gradient of v.
func (d *differ) scaled(v Value, alpha float32, dy Value) {
	if alpha == 1 {
		d.pass(v, dy)
		return
	}
	d.add(v, func(dst, c Value) Op {
		o := &Axpby{A: dy, Alpha: alpha, B: c, Y: dst}
		if c != None {
			o.Beta = 1
		}
		return o
	})
}

// colScale: dx = dy·s, ds[j] = Σ_i x[i, j] dy[i, j].
func (d *differ) colScale(o *ColScale) {
	dy := d.of(o.Y)
	if d.wants(o.S) {
		x := d.saved(o.X)
		d.add(o.S, func(dst, c Value) Op { return &ColDot{A: x, B: dy, C: c, Y: dst} })
	}
	if d.wants(o.X) {
		s := d.saved(o.S)
		d.emit(&ColScale{X: dy, S: s, Y: d.put(o.X, false)})
	}
}

func (d *differ) norm(o *Norm) {
	if o.Stats == None {
		in := d.p.Info(o.Y)
		o.Stats = d.p.NewValue(Info{Name: in.Name + ".stats", Rows: in.Rows, Cols: 2 * o.Parts()})
	}
	x, dy := d.saved(o.X), d.of(o.Y)
	d.add(o.X, func(dst, c Value) Op {
		return &NormGrad{X: x, Stats: o.Stats, DY: dy, Gamma: o.Gamma, RMS: o.RMS, Heads: o.Heads, C: c, DX: dst}
	})
}

func (d *differ) attention(o *Attention) {
	if o.LSE == None {
		in := d.p.Info(o.Y)
		o.LSE = d.p.NewValue(Info{Name: in.Name + ".lse", Rows: in.Rows, Cols: o.Heads})
	}
	fwd := o
	if q, k, v := d.saved(o.Q), d.saved(o.K), d.saved(o.V); q != o.Q || k != o.K || v != o.V {
		again := *o
		again.Q, again.K, again.V = q, k, v
		fwd = &again
	}
	d.emit(&AttentionGrad{Fwd: fwd, DY: d.of(o.Y), DQ: d.put(o.Q, false), DK: d.put(o.K, false), DV: d.put(o.V, false)})
}

// kronApply: with y = alpha·x K + c, dx = alpha·dy Kᵀ: the same operation
// with Trans flipped.
func (d *differ) kronApply(o *KronApply) {
	dy := d.of(o.Y)
	f1, f2 := d.saved(o.F1), d.saved(o.F2)
	if d.wants(o.F1) || d.wants(o.F2) {
		x := d.saved(o.X)
		d.emit(&KronApplyGrad{X: x, F1: f1, F2: f2, DY: dy, Terms: o.Terms, A1: o.A1, R1: o.R1, A2: o.A2, R2: o.R2,
			N: o.N, M: o.M, Trans: o.Trans, Alpha: o.Alpha, DF1: d.put(o.F1, true), DF2: d.put(o.F2, true)})
		d.flush()
	}
	d.add(o.X, func(dst, c Value) Op {
		back := *o
		back.X, back.F1, back.F2, back.Trans, back.C, back.Y = dy, f1, f2, !o.Trans, c, dst
		return &back
	})
	d.pass(o.C, dy)
}

// blockMatMul: with y = alpha·x D + c, dx = alpha·dy Dᵀ: the same operation
// with Trans flipped.
func (d *differ) blockMatMul(o *BlockMatMul) {
	dy := d.of(o.Y)
	if d.wants(o.W) {
		x := d.saved(o.X)
		d.emit(&BlockMatMulGrad{X: x, DY: dy, Blocks: o.Blocks, Trans: o.Trans, Shuffle: o.Shuffle, Alpha: o.Alpha, DW: d.put(o.W, true)})
		d.flush()
	}
	if d.wants(o.X) {
		w := d.saved(o.W)
		d.add(o.X, func(dst, c Value) Op {
			back := *o
			back.X, back.W, back.Trans, back.C, back.Y = dy, w, !o.Trans, c, dst
			return &back
		})
	}
	d.pass(o.C, dy)
}
