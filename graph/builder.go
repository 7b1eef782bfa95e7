package graph

import (
	"fmt"
	"slices"
)

// Builder appends forward operations to a program. Shape mistakes are
// mistakes of the calling Go code and panic with both shapes.
type Builder struct {
	P *Program

	weights map[string]WeightID
	sites   uint32
}

// NewBuilder returns a builder over an empty program.
func NewBuilder() *Builder {
	p := &Program{Values: []Info{{Name: "none"}}}
	return &Builder{P: p, weights: map[string]WeightID{}}
}

// value adds an activation.
func (b *Builder) value(name string, rows Rows, cols int) Value {
	return b.P.NewValue(Info{Name: name, Rows: rows, Cols: cols})
}

// add appends op and returns y.
func (b *Builder) add(op Op, y Value) Value {
	b.P.Ops = append(b.P.Ops, op)
	b.P.Forward = len(b.P.Ops)
	return y
}

func (b *Builder) info(v Value) *Info { return b.P.Info(v) }

// need panics unless ok.
func need(ok bool, format string, args ...any) {
	if !ok {
		panic("graph: " + fmt.Sprintf(format, args...))
	}
}

// same panics unless a and b have one shape.
func (b *Builder) same(op string, x, y Value) {
	i, j := b.info(x), b.info(y)
	need(i.Rows == j.Rows && i.Cols == j.Cols, "%s: %s (%v, %d) and %s (%v, %d) differ", op, i.Name, i.Rows, i.Cols, j.Name, j.Rows, j.Cols)
}

// BeginLayer says that the next operation begins a layer, see
// [Program.Layers].
func (b *Builder) BeginLayer() {
	if n := len(b.P.Ops); !slices.Contains(b.P.Layers, n) {
		b.P.Layers = append(b.P.Layers, n)
	}
}

// NextSite returns a fresh dropout site. Sites are numbered in building order,
// so the same model draws the same masks on every engine.
func (b *Builder) NextSite() uint32 { b.sites++; return b.sites }

// Weight declares a frozen tensor and returns its id; the same name and shape give
// the same id. See [Weight] for the meaning of the fields.
func (b *Builder) Weight(name string, in, out int, transposed bool) WeightID {
	if id, ok := b.weights[name]; ok {
		w := b.P.Weight(id)
		if w.In == in && w.Out == out && w.Transposed == transposed {
			return id
		}
		// The same tensor read both ways (a tied output layer): another entry.
		name2 := name + "\x00t"
		if id, ok := b.weights[name2]; ok {
			return id
		}
		return b.newWeight(name2, Weight{Name: name, In: in, Out: out, Transposed: transposed})
	}
	return b.newWeight(name, Weight{Name: name, In: in, Out: out, Transposed: transposed})
}

func (b *Builder) newWeight(key string, w Weight) WeightID {
	b.P.Weights = append(b.P.Weights, w)
	id := WeightID(len(b.P.Weights))
	b.weights[key] = id
	return id
}

// Vector declares a frozen vector (bias, norm scale) of n elements.
func (b *Builder) Vector(name string, n int) WeightID { return b.Weight(name, 1, n, false) }

// Param declares a trainable tensor seen as (rows, cols), rows·cols elements.
// The same name gives the same value, so layers can share it.
func (b *Builder) Param(name string, shape []int, rows, cols int) Value {
	for i := range b.P.Params {
		if b.P.Params[i].Name != name {
			continue
		}
		for v := range b.P.Values {
			if in := &b.P.Values[v]; in.Kind == ParamValue && in.Param == i {
				need(in.Rows.N == rows && in.Cols == cols, "parameter %s used as (%d, %d) and (%d, %d)", name, in.Rows.N, in.Cols, rows, cols)
				return Value(v)
			}
		}
	}
	size := 1
	for _, d := range shape {
		size *= d
	}
	need(size == rows*cols, "parameter %s: shape %v is not %d x %d", name, shape, rows, cols)
	b.P.Params = append(b.P.Params, Param{Name: name, Shape: slices.Clone(shape), Offset: b.P.ParamSize, Size: size, LRScale: 1})
	b.P.ParamSize += size
	return b.P.NewValue(Info{Name: name, Kind: ParamValue, Rows: FixedRows(rows), Cols: cols, Param: len(b.P.Params) - 1})
}

// View returns columns [col, col+cols) of x without copying. For the gradient
// of x to exist, the views of x must tile it and each may have one use.
func (b *Builder) View(x Value, col, cols int) Value {
	in := *b.info(x)
	need(col >= 0 && cols > 0 && col+cols <= in.Cols, "view [%d, %d) of %d columns", col, col+cols, in.Cols)
	base := b.P.Root(x)
	return b.P.NewValue(Info{Name: fmt.Sprintf("%s[%d:%d]", in.Name, col, col+cols), Kind: ViewValue, Rows: in.Rows, Cols: cols, Base: base, Col: in.Col + col})
}

// Output marks v as readable after a run.
func (b *Builder) Output(v Value) {
	if !slices.Contains(b.P.Outputs, v) {
		b.P.Outputs = append(b.P.Outputs, v)
	}
}

// SetLoss names the scalar to differentiate.
func (b *Builder) SetLoss(v Value) { b.P.Loss = v }

// Input is the (T, cols) matrix Batch.Inputs; see [Input].
func (b *Builder) Input(name string, cols int) Value {
	y := b.value(name, PerToken, cols)
	return b.add(&Input{Y: y}, y)
}

// Embed sums rows of tables; see [Embed].
func (b *Builder) Embed(name string, tables []WeightID, streams []Stream, offsets []int) Value {
	need(len(tables) > 0 && len(tables) == len(streams) && len(tables) == len(offsets), "embed: %d tables, %d streams, %d offsets", len(tables), len(streams), len(offsets))
	cols := b.P.Weight(tables[0]).Out
	for _, t := range tables {
		w := b.P.Weight(t)
		need(w.Out == cols, "embed: widths %d and %d", cols, w.Out)
		w.Gathered = true
	}
	y := b.value(name, PerToken, cols)
	return b.add(&Embed{Tables: tables, Streams: streams, Offsets: offsets, Y: y}, y)
}

// Linear is act(x W + bias) + residual; bias and residual may be absent.
func (b *Builder) Linear(name string, x Value, w, bias WeightID, act Act, residual Value) Value {
	in, wt := b.info(x), b.P.Weight(w)
	need(in.Cols == wt.In, "linear %s: x has %d columns, W is (%d, %d)", name, in.Cols, wt.In, wt.Out)
	need(bias == NoWeight || b.P.Weight(bias).Out == wt.Out, "linear %s: bias length", name)
	wt.Forward = true
	y := b.value(name, in.Rows, wt.Out)
	if residual != None {
		b.same("linear residual", y, residual)
	}
	return b.add(&Linear{X: x, W: w, Bias: bias, Act: act, Residual: residual, Y: y}, y)
}

// MatMul is alpha·op(a) op(c) + c; c may be None.
func (b *Builder) MatMul(name string, a, m Value, transA, transB bool, alpha float32, c Value) Value {
	i, j := b.info(a), b.info(m)
	rows, inner := i.Rows, i.Cols
	if transA {
		need(i.Rows.Kind == Fixed, "matmul %s: transposed a must have fixed rows", name)
		rows, inner = FixedRows(i.Cols), i.Rows.N
	}
	cols, inner2 := j.Cols, j.Rows.N
	if transB {
		cols, inner2 = j.Rows.N, j.Cols
	}
	need(j.Rows.Kind == Fixed && inner == inner2, "matmul %s: inner sizes %d and %d", name, inner, inner2)
	y := b.value(name, rows, cols)
	if c != None {
		b.same("matmul addend", y, c)
	}
	return b.add(&MatMul{A: a, B: m, TransA: transA, TransB: transB, Alpha: alpha, C: c, Y: y}, y)
}

// AddBias adds a (1, cols) parameter to every row of x.
func (b *Builder) AddBias(x, bias Value) Value {
	in := *b.info(x)
	need(b.info(bias).Cols == in.Cols, "add_bias: %d and %d columns", in.Cols, b.info(bias).Cols)
	y := b.value(in.Name+"+b", in.Rows, in.Cols)
	return b.add(&AddBias{X: x, Bias: bias, Y: y}, y)
}

// Axpby is alpha·x + beta·z; z may be None.
func (b *Builder) Axpby(name string, alpha float32, x Value, beta float32, z Value) Value {
	in := *b.info(x)
	if z != None {
		b.same("axpby", x, z)
	}
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Axpby{A: x, B: z, Alpha: alpha, Beta: beta, Y: y}, y)
}

// Add is x + z.
func (b *Builder) Add(name string, x, z Value) Value { return b.Axpby(name, 1, x, 1, z) }

// ColScale multiplies column j of x by s[j].
func (b *Builder) ColScale(name string, x, s Value) Value {
	in := *b.info(x)
	need(b.info(s).Cols == in.Cols && b.info(s).Rows == FixedRows(1), "col_scale: s must be (1, %d)", in.Cols)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&ColScale{X: x, S: s, Y: y}, y)
}

// ColScaleBias is ColScale with a frozen vector added to every row.
func (b *Builder) ColScaleBias(name string, x, s Value, bias WeightID) Value {
	need(bias == NoWeight || b.P.Weight(bias).Out == b.info(x).Cols, "col_scale %s: bias length", name)
	y := b.ColScale(name, x, s)
	b.P.Ops[len(b.P.Ops)-1].(*ColScale).Bias = bias
	return y
}

// BlockMatMul fills in the values of op and appends it; op carries the settings.
func (b *Builder) BlockMatMul(name string, x, w Value, op BlockMatMul) Value {
	in, wi, k := *b.info(x), *b.info(w), op.Blocks
	need(k > 0 && wi.Rows == FixedRows(k) && in.Cols%k == 0 && wi.Cols%(in.Cols/k) == 0, "block_matmul %s: %d blocks of %d elements on %d columns", name, k, wi.Cols, in.Cols)
	cols := wi.Cols / (in.Cols / k)
	side := cols
	if op.Trans {
		side = in.Cols / k
	}
	need(!op.Shuffle || side%k == 0, "block_matmul %s: %d columns of a block among %d blocks", name, side, k)
	op.X, op.W, op.Y = x, w, b.value(name, in.Rows, k*cols)
	if op.C != None {
		b.same("block_matmul addend", op.Y, op.C)
	}
	return b.add(&op, op.Y)
}

// Activate is act(x).
func (b *Builder) Activate(name string, x Value, act Act) Value {
	in := *b.info(x)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Activate{X: x, Act: act, Y: y}, y)
}

// Gated is act(gate)·up.
func (b *Builder) Gated(name string, gate, up Value, act Act) Value {
	b.same("gated", gate, up)
	in := *b.info(up)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Gated{Gate: gate, Up: up, Act: act, Y: y}, y)
}

// Norm is layer norm, or RMS norm when rms is set; beta may be absent.
func (b *Builder) Norm(name string, x Value, gamma, beta WeightID, eps float32, rms bool) Value {
	in := *b.info(x)
	need(b.P.Weight(gamma).Out == in.Cols, "norm %s: scale length", name)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Norm{X: x, Gamma: gamma, Beta: beta, Eps: eps, RMS: rms, Y: y}, y)
}

// HeadNorm is RMS norm of each of the heads of x, with one scale for all.
func (b *Builder) HeadNorm(name string, x Value, gamma WeightID, eps float32, heads int) Value {
	in := *b.info(x)
	need(heads > 0 && b.P.Weight(gamma).Out*heads == in.Cols, "head norm %s: a scale of %d for %d heads of %d columns", name, b.P.Weight(gamma).Out, heads, in.Cols)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Norm{X: x, Gamma: gamma, Eps: eps, RMS: true, Heads: heads, Y: y}, y)
}

// Dropout is x·mask/(1-p) + residual at a fresh site; residual may be None.
// With p = 0 it degenerates to an addition, or to x itself.
func (b *Builder) Dropout(name string, x Value, p float32, residual Value) Value {
	if p == 0 {
		if residual == None {
			return x
		}
		return b.Add(name, x, residual)
	}
	if residual != None {
		b.same("dropout residual", x, residual)
	}
	in := *b.info(x)
	y := b.value(name, in.Rows, in.Cols)
	return b.add(&Dropout{X: x, P: p, Site: b.NextSite(), Residual: residual, Y: y}, y)
}

// Rope rotates the heads of x; see [Rope].
func (b *Builder) Rope(name string, x Value, op Rope) Value {
	in := *b.info(x)
	need(op.Heads*op.HeadDim == in.Cols && 2*len(op.Freq) <= op.HeadDim, "rope %s: %d heads of %d on %d columns", name, op.Heads, op.HeadDim, in.Cols)
	need(in.Rows == op.Pick.Rows(), "rope %s: x has %v rows, its positions %v", name, in.Rows, op.Pick.Rows())
	if op.Scale == 0 {
		op.Scale = 1
	}
	op.X, op.Y = x, b.value(name, in.Rows, in.Cols)
	return b.add(&op, op.Y)
}

// Attention fills in the values of op and appends it; op carries the settings.
func (b *Builder) Attention(name string, q, k, v Value, op Attention) Value {
	qi := *b.info(q)
	b.same("attention k, v", k, v)
	need(qi.Cols == op.Heads*op.HeadDim && b.info(k).Cols == op.KVHeads*op.HeadDim && op.Heads%op.KVHeads == 0,
		"attention %s: q has %d columns, k %d, heads %d/%d of %d", name, qi.Cols, b.info(k).Cols, op.Heads, op.KVHeads, op.HeadDim)
	need(op.QueryPick != PickRows && qi.Rows == op.QueryPick.Rows(), "attention %s: q has %v rows, its positions %v", name, qi.Rows, op.QueryPick.Rows())
	if op.DropP > 0 {
		op.Site = b.NextSite()
	}
	op.Q, op.K, op.V, op.Y = q, k, v, b.value(name, qi.Rows, qi.Cols)
	return b.add(&op, op.Y)
}

// Select takes rows of a per-token matrix; PickAll returns x itself.
func (b *Builder) Select(name string, x Value, pick Pick) Value {
	if pick == PickAll {
		return x
	}
	in := *b.info(x)
	need(in.Rows == PerToken, "select %s: x has %v rows", name, in.Rows)
	y := b.value(name, pick.Rows(), in.Cols)
	return b.add(&Select{X: x, Pick: pick, Y: y}, y)
}

// MeanPool averages the rows of each sequence.
func (b *Builder) MeanPool(name string, x Value) Value {
	in := *b.info(x)
	need(in.Rows == PerToken, "mean_pool %s: x has %v rows", name, in.Rows)
	y := b.value(name, PerSeq, in.Cols)
	return b.add(&MeanPool{X: x, Y: y}, y)
}

// KronSum materialises Σ_k f1_k ⊗ f2_k, cut to (n, m); see [KronSum].
func (b *Builder) KronSum(name string, f1, f2 Value, terms, a1, r1, a2, r2, n, m int) Value {
	b.kronShapes(name, f1, f2, terms, a1, r1, a2, r2, n, m)
	y := b.value(name, FixedRows(n), m)
	return b.add(&KronSum{F1: f1, F2: f2, Terms: terms, A1: a1, R1: r1, A2: a2, R2: r2, Y: y}, y)
}

// KronApply is alpha·x K (or x Kᵀ) + c without forming K; see [KronApply].
func (b *Builder) KronApply(name string, x Value, op KronApply) Value {
	b.kronShapes(name, op.F1, op.F2, op.Terms, op.A1, op.R1, op.A2, op.R2, op.N, op.M)
	in := *b.info(x)
	from, to := op.N, op.M
	if op.Trans {
		from, to = to, from
	}
	need(in.Cols == from, "kron_apply %s: x has %d columns, want %d", name, in.Cols, from)
	op.X, op.Y = x, b.value(name, in.Rows, to)
	if op.C != None {
		b.same("kron_apply addend", op.Y, op.C)
	}
	return b.add(&op, op.Y)
}

func (b *Builder) kronShapes(name string, f1, f2 Value, terms, a1, r1, a2, r2, n, m int) {
	i, j := b.info(f1), b.info(f2)
	need(i.Rows == FixedRows(terms) && j.Rows == i.Rows && i.Cols == a1*r1 && j.Cols == a2*r2 && n <= a1*a2 && m <= r1*r2,
		"kron %s: f1 (%v, %d), f2 (%v, %d), terms %d, (%d x %d) and (%d x %d) for (%d, %d)", name, i.Rows, i.Cols, j.Rows, j.Cols, terms, a1, r1, a2, r2, n, m)
}

// RowOuter is y[i] = vec(u[i] v[i]ᵀ).
func (b *Builder) RowOuter(name string, u, v Value) Value {
	i, j := *b.info(u), *b.info(v)
	need(i.Rows == j.Rows, "row_outer %s: %v and %v rows", name, i.Rows, j.Rows)
	y := b.value(name, i.Rows, i.Cols*j.Cols)
	return b.add(&RowOuter{U: u, V: v, Y: y}, y)
}

// ColNorm fills in the weight and the result of op and appends it; see [ColNorm].
func (b *Builder) ColNorm(name string, w WeightID, op ColNorm) Value {
	op.W, op.Y = w, b.value(name, FixedRows(1), b.P.Weight(w).Out)
	if err := checkShapes(b.P, &op); err != nil {
		need(false, "col_norm %s: %v", name, err)
	}
	return b.add(&op, op.Y)
}

// CrossEntropy over classes; sets nothing, see SetLoss.
func (b *Builder) CrossEntropy(logits Value) Value {
	y := b.value("loss", FixedRows(1), 1)
	return b.add(&CrossEntropy{Logits: logits, Loss: y}, y)
}

// LMLoss is the output layer and cross-entropy in one; see [LMLoss].
func (b *Builder) LMLoss(x Value, w, bias WeightID) Value {
	need(b.info(x).Cols == b.P.Weight(w).In, "lm_loss: x has %d columns, W %d rows", b.info(x).Cols, b.P.Weight(w).In)
	b.P.Weight(w).Forward = true
	y := b.value("loss", FixedRows(1), 1)
	return b.add(&LMLoss{X: x, W: w, Bias: bias, Loss: y}, y)
}

// MSE is the squared error against Batch.Targets.
func (b *Builder) MSE(pred Value) Value {
	y := b.value("loss", FixedRows(1), 1)
	return b.add(&MSE{Pred: pred, Loss: y}, y)
}

// BCE is binary cross-entropy with logits against Batch.Targets.
func (b *Builder) BCE(logits Value) Value {
	y := b.value("loss", FixedRows(1), 1)
	return b.add(&BCE{Logits: logits, Loss: y}, y)
}
