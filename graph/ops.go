package graph

// Op is one operation. Its fields are operands; None or NoWeight marks an
// absent one. In the comments, lower-case letters are matrices named after
// the fields, shapes follow in parentheses, and f32 accumulation is implied
// unless an operation says otherwise.
//
// An operation writes each of its outputs whole, except where the output is a
// ParamGrad (or a view of one): there it adds, so that gradients accumulate
// over uses and over micro-batches. Only the operations for which
// [Accumulates] holds are given ParamGrads, and then without a C. The field C, where present, is an addend of the same shape
// as the output, or None; where it dies, the plan may put the output in its
// place, see [InPlace].
type Op interface {
	// Inputs appends the values read, C included.
	Inputs([]Value) []Value
	// Outputs appends the values written.
	Outputs([]Value) []Value
	// Name is a short lower-case name for profiles and messages.
	Name() string
}

// Act is an activation function.
type Act uint8

// The activation functions. GELU is x·Φ(x); GELUTanh its tanh approximation.
const (
	ActNone Act = iota
	ActGELU
	ActGELUTanh
	ActReLU
	ActSiLU
	ActTanh
)

func (a Act) String() string {
	return [...]string{"none", "gelu", "gelu_tanh", "relu", "silu", "tanh"}[a]
}

// Stream is a vector of integers that comes with the batch.
type Stream uint8

// The integer streams of a batch.
const (
	StreamIDs       Stream = iota // token ids (T)
	StreamTypes                   // token type ids (T)
	StreamPositions               // position within the sequence, from 0 (T)
)

func (s Stream) String() string { return [...]string{"ids", "types", "positions"}[s] }

// Pick says which rows of a token matrix an operation takes.
type Pick uint8

// The row selections.
const (
	PickAll   Pick = iota // every token
	PickFirst             // the first token of each sequence: S rows
	PickLast              // the last token of each sequence: S rows
	PickRows              // rows Batch.Rows: R rows
)

// Rows is the number of rows that p takes.
func (p Pick) Rows() Rows { return [...]Rows{PerToken, PerSeq, PerSeq, PerPick}[p] }

func (p Pick) String() string { return [...]string{"all", "first", "last", "rows"}[p] }

// Input: y[t] = Batch.Inputs[t·cols : (t+1)·cols], activations that come with
// the batch, as those of a frozen prefix that ran before. They are constants:
// no gradient reaches them. y (T, cols).
type Input struct{ Y Value }

// Embed: y[t] = Σ_j Tables[j][Streams[j][t] + Offsets[j]].
// y (T, hidden); tables (entries, hidden), frozen.
type Embed struct {
	Tables  []WeightID
	Streams []Stream
	Offsets []int // added to the index, as RoBERTa's positions want
	Y       Value
}

// Linear: pre = x W + b; y = act(pre) + residual.
// x (n, in), W (in, out) frozen, b (out) frozen, y, pre, residual (n, out).
// Pre is None unless the backward pass needs it.
type Linear struct {
	X        Value
	W        WeightID
	Bias     WeightID
	Act      Act
	Residual Value
	Pre      Value
	Y        Value
}

// LinearGrad: dx = dy Wᵀ + c. dy (n, out), dx, c (n, in).
type LinearGrad struct {
	DY Value
	W  WeightID
	C  Value
	DX Value
}

// MatMul: y = alpha·op(a) op(b) + c, op transposing where asked.
type MatMul struct {
	A, B           Value
	TransA, TransB bool
	Alpha          float32
	C              Value
	Y              Value
}

// AddBias: y = x + bias, bias (1, cols) a parameter.
type AddBias struct {
	X, Bias Value
	Y       Value
}

// ColSum: y (1, cols) = alpha·Σ_rows x + c.
type ColSum struct {
	X     Value
	Alpha float32
	C     Value
	Y     Value
}

// Axpby: y = alpha·a + beta·b. B may be None.
type Axpby struct {
	A, B        Value
	Alpha, Beta float32
	Y           Value
}

// ColScale: y[i, j] = x[i, j]·s[j] + bias[j]. s (1, cols); bias (cols) frozen,
// or NoWeight.
type ColScale struct {
	X, S Value
	Bias WeightID
	Y    Value
}

// ColDot: y[j] = Σ_i a[i, j]·b[i, j] + c[j]: the gradient of ColScale's s.
type ColDot struct {
	A, B Value
	C    Value
	Y    Value
}

// Activate: y = act(x).
type Activate struct {
	X   Value
	Act Act
	Y   Value
}

// ActivateGrad: dx = dy·act'(x) + c.
type ActivateGrad struct {
	X, DY Value
	Act   Act
	C     Value
	DX    Value
}

// Gated: y = act(gate)·up, as SwiGLU and GeGLU.
type Gated struct {
	Gate, Up Value
	Act      Act
	Y        Value
}

// GatedGrad is the gradient of Gated with respect to both operands.
type GatedGrad struct {
	Gate, Up, DY Value
	Act          Act
	DGate, DUp   Value
}

// Norm: layer norm y = γ·(x-μ)/sqrt(σ²+eps) + β with the biased σ², or with RMS
// set y = γ·x/sqrt(mean(x²)+eps) (+ β when given). Statistics per row, or with
// Heads > 1 per head: the columns are as many equal parts, each a row of its own
// for which the same γ and β of that length hold.
// Stats (n, 2·heads) receives mean (0 for RMS) and 1/sqrt(...) of each, or is None.
type Norm struct {
	X           Value
	Gamma, Beta WeightID
	Eps         float32
	RMS         bool
	Heads       int // 0 is 1
	Stats       Value
	Y           Value
}

// Parts is how many rows of statistics a row of x has.
func (o *Norm) Parts() int { return max(o.Heads, 1) }

// NormGrad: dx = ∂Norm/∂x·dy + c.
type NormGrad struct {
	X, Stats, DY Value
	Gamma        WeightID
	RMS          bool
	Heads        int
	C            Value
	DX           Value
}

// Parts is that of the Norm.
func (o *NormGrad) Parts() int { return max(o.Heads, 1) }

// Dropout: y = x·mask/(1-p) + residual. Element (i, j) of the mask depends
// only on (Batch.Seed, Site, Batch.Step, i·cols + j), so the backward pass
// draws it again instead of storing it. With Batch.Train false it is
// y = x + residual. Residual may be None.
type Dropout struct {
	X        Value
	P        float32
	Site     uint32
	Residual Value
	Y        Value
}

// DropoutGrad: dx = dy·mask/(1-p) + c with the mask of the Dropout of the
// same Site.
type DropoutGrad struct {
	DY   Value
	P    float32
	Site uint32
	C    Value
	DX   Value
}

// Rope rotates pairs of every head by the position's angle:
// halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), angle = position·Freq[i].
// The pair of i is i + len(Freq), or 2i and 2i+1 when Interleaved. Only the
// first 2·len(Freq) of HeadDim are rotated. Inverse rotates back: it is
// the gradient. Scale multiplies cos and sin (YaRN); 1 otherwise. The rest of a
// head is copied. Pick says which token a row of x stands for: PickAll for
// (T, ·), PickFirst or PickLast for (S, ·), PickRows for (R, ·).
type Rope struct {
	X           Value
	Heads       int
	HeadDim     int
	Freq        []float32 // radians per position
	Scale       float32
	Interleaved bool
	Inverse     bool
	Pick        Pick
	Y           Value
}

// Attention: for each sequence and head, y = softmax(scale·q kᵀ + mask) v.
// q (n, heads·head_dim), k, v (T, kv_heads·head_dim), y as q. Query head h
// reads key/value head h/(heads/kv_heads). n is T, or S when QueryPick is
// PickFirst or PickLast: then one query per sequence, standing at that
// position. Causal hides later keys; Window > 0 hides keys further back than
// Window-1 positions. The score matrix is never stored beyond a tile: LSE
// (n, heads) keeps log Σ exp for the backward pass, or is None.
// DropP is dropout on the probabilities, its mask drawn like Dropout's with
// element index (row·heads + head)·2^20 + key position (row = query row of
// the batch).
type Attention struct {
	Q, K, V   Value
	Heads     int
	KVHeads   int
	HeadDim   int
	Scale     float32
	Causal    bool
	Window    int
	QueryPick Pick
	DropP     float32
	Site      uint32
	LSE       Value
	Y         Value
}

// AttentionGrad is the gradient of Attention (its fields in Fwd).
type AttentionGrad struct {
	Fwd        *Attention
	DY         Value
	DQ, DK, DV Value // any may be None when nobody needs it
}

// Select: y = the picked rows of x (T, cols).
type Select struct {
	X    Value
	Pick Pick
	Y    Value
}

// SelectGrad: dx = dy at the picked rows, 0 elsewhere, + c.
type SelectGrad struct {
	DY   Value
	Pick Pick
	C    Value
	DX   Value
}

// MeanPool: y[s] = mean of the rows of sequence s. x (T, cols), y (S, cols).
type MeanPool struct {
	X Value
	Y Value
}

// MeanPoolGrad: dx[t] = dy[s(t)]/len(s) + c.
type MeanPoolGrad struct {
	DY Value
	C  Value
	DX Value
}

// KronSum materialises a low-separation-rank factor:
// y = Σ_{k<Terms} f1[k] ⊗ f2[k], cut to the first rows and columns of y.
// f1 (Terms, A1·R1), f2 (Terms, A2·R2): row k is the row-major A1 x R1 (A2 x
// R2) matrix of term k. y (n ≤ A1·A2, m ≤ R1·R2).
// Source: arXiv 2502.13568, the factor A = Σ A1_k ⊗ A2_k.
type KronSum struct {
	F1, F2         Value
	Terms          int
	A1, R1, A2, R2 int
	Y              Value
}

// KronSumGrad: df1 = mat(f2) R(dy)ᵀ, df2 = mat(f1) R(dy), R the Van
// Loan–Pitsianis rearrangement; adds when the outputs are ParamGrads.
type KronSumGrad struct {
	F1, F2, DY     Value
	Terms          int
	A1, R1, A2, R2 int
	DF1, DF2       Value
}

// KronApply: y = alpha·x K + c with K = KronSum(f1, f2) (n, m), or its
// transpose, never formed. x (rows, n), y (rows, m); swapped when Trans.
type KronApply struct {
	X, F1, F2      Value
	Terms          int
	A1, R1, A2, R2 int
	N, M           int // K's size after cutting: N ≤ A1·A2, M ≤ R1·R2
	Trans          bool
	Alpha          float32
	C              Value
	Y              Value
}

// KronApplyGrad: gradients of KronApply with respect to f1 and f2 (the
// gradient with respect to x is KronApply with Trans flipped).
type KronApplyGrad struct {
	X, F1, F2, DY  Value
	Terms          int
	A1, R1, A2, R2 int
	N, M           int
	Trans          bool
	Alpha          float32
	DF1, DF2       Value
}

// RowOuter: y[i] = vec(u[i] v[i]ᵀ). u (n, a), v (n, b), y (n, a·b).
type RowOuter struct {
	U, V Value
	Y    Value
}

// RowOuterGrad: du[i] = dY[i] v[i], dv[i] = dY[i]ᵀ u[i]; adds to ParamGrads.
type RowOuterGrad struct {
	U, V, DY Value
	DU, DV   Value
}

// BlockMatMul: y = alpha·x D + c, D block-diagonal and never formed: its blocks
// are the matrices of w, or their transposes with Trans. w (Blocks, a·b): row i
// is the row-major (a, b) matrix of block i. x (n, Blocks·a), y (n, Blocks·b);
// swapped with Trans.
//
// With Shuffle the side of Blocks·b columns is stored with blocks and columns
// exchanged, so that the next such product mixes the blocks: with q = b/Blocks,
// column j·q + p of block i (j < Blocks, p < q) lies at j·b + i·q + p.
// Source: GraLoRA, arXiv 2505.20355.
type BlockMatMul struct {
	X, W    Value
	Blocks  int
	Trans   bool
	Shuffle bool
	Alpha   float32
	C       Value
	Y       Value
}

// BlockMatMulGrad: the gradient of BlockMatMul with respect to w: dW_i =
// alpha·x_iᵀ dy_i, or its transpose with Trans; adds when DW is a ParamGrad.
// (The gradient with respect to x is BlockMatMul with Trans flipped.)
type BlockMatMulGrad struct {
	X, DY   Value
	Blocks  int
	Trans   bool
	Shuffle bool
	Alpha   float32
	DW      Value
}

// ColNorm: y[j] = sqrt(Σ_i (W[i, j] + alpha·(a b)[i, j])²) for frozen W: the
// column norms of DoRA's adapted weight, or with Inverse one over them.
// a (in, r), or (r, in) with TransA; b (r, out), or (out, r) with TransB;
// y (1, out). Not differentiated: DoRA treats the norm as a constant.
type ColNorm struct {
	W              WeightID
	A, B           Value
	TransA, TransB bool
	Alpha          float32
	Inverse        bool
	Y              Value
}

// CrossEntropy: loss = LossScale·Σ_i -log softmax(logits[i])[label[i]] over
// rows whose label is not negative. logits (S, classes); labels
// Batch.Labels. loss (1, 1).
type CrossEntropy struct {
	Logits Value
	Loss   Value
}

// CrossEntropyGrad: dlogits = LossScale·(softmax(logits) - onehot).
type CrossEntropyGrad struct {
	Logits  Value
	DLogits Value
}

// LMLoss is the language model's head and loss in one, without ever holding
// the (R, vocab) logits: loss = LossScale·Σ_i -log softmax(x[i] W)[label[i]].
// x (R, hidden), W (hidden, vocab), labels Batch.Labels (R). When DX is set
// the gradient with respect to x is computed in the same pass.
type LMLoss struct {
	X    Value
	W    WeightID
	Bias WeightID
	Loss Value
	DX   Value
}

// MSE: loss = LossScale·Σ (pred - target)². pred (n, c), n being S or R;
// Batch.Targets (n·c), row by row.
type MSE struct {
	Pred Value
	Loss Value
}

// MSEGrad: dpred = 2·LossScale·(pred - target).
type MSEGrad struct {
	Pred  Value
	DPred Value
}

// BCE: loss = LossScale·Σ binary cross-entropy with logits: softplus(x) - x·target.
// logits (n, c) and Batch.Targets as in [MSE].
type BCE struct {
	Logits Value
	Loss   Value
}

// BCEGrad: dlogits = LossScale·(sigmoid(logits) - target).
type BCEGrad struct {
	Logits  Value
	DLogits Value
}
