package graph

// The operand lists of every operation, in the order of their fields.

// list appends the values that are present.
func list(dst []Value, vs ...Value) []Value {
	for _, v := range vs {
		if v != None {
			dst = append(dst, v)
		}
	}
	return dst
}

// Inputs implements Op.
func (o *Input) Inputs(d []Value) []Value { return d }

// Outputs implements [Op].
func (o *Input) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements [Op].
func (o *Input) Name() string { return "input" }

// Inputs implements [Op].
func (o *Embed) Inputs(d []Value) []Value { return d }

// Outputs implements Op.
func (o *Embed) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Embed) Name() string { return "embed" }

// Inputs implements Op.
func (o *Linear) Inputs(d []Value) []Value { return list(d, o.X, o.Residual) }

// Outputs implements Op.
func (o *Linear) Outputs(d []Value) []Value { return list(d, o.Pre, o.Y) }

// Name implements Op.
func (o *Linear) Name() string { return "linear" }

// Inputs implements Op.
func (o *LinearGrad) Inputs(d []Value) []Value { return list(d, o.DY, o.C) }

// Outputs implements Op.
func (o *LinearGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *LinearGrad) Name() string { return "linear_grad" }

// Inputs implements Op.
func (o *MatMul) Inputs(d []Value) []Value { return list(d, o.A, o.B, o.C) }

// Outputs implements Op.
func (o *MatMul) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *MatMul) Name() string { return "matmul" }

// Inputs implements Op.
func (o *AddBias) Inputs(d []Value) []Value { return list(d, o.X, o.Bias) }

// Outputs implements Op.
func (o *AddBias) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *AddBias) Name() string { return "add_bias" }

// Inputs implements Op.
func (o *ColSum) Inputs(d []Value) []Value { return list(d, o.X, o.C) }

// Outputs implements Op.
func (o *ColSum) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *ColSum) Name() string { return "col_sum" }

// Inputs implements Op.
func (o *Axpby) Inputs(d []Value) []Value { return list(d, o.A, o.B) }

// Outputs implements Op.
func (o *Axpby) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Axpby) Name() string { return "axpby" }

// Inputs implements Op.
func (o *ColScale) Inputs(d []Value) []Value { return list(d, o.X, o.S) }

// Outputs implements Op.
func (o *ColScale) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *ColScale) Name() string { return "col_scale" }

// Inputs implements Op.
func (o *ColDot) Inputs(d []Value) []Value { return list(d, o.A, o.B, o.C) }

// Outputs implements Op.
func (o *ColDot) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *ColDot) Name() string { return "col_dot" }

// Inputs implements Op.
func (o *Activate) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *Activate) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Activate) Name() string { return "activate" }

// Inputs implements Op.
func (o *ActivateGrad) Inputs(d []Value) []Value { return list(d, o.X, o.DY, o.C) }

// Outputs implements Op.
func (o *ActivateGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *ActivateGrad) Name() string { return "activate_grad" }

// Inputs implements Op.
func (o *Gated) Inputs(d []Value) []Value { return list(d, o.Gate, o.Up) }

// Outputs implements Op.
func (o *Gated) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Gated) Name() string { return "gated" }

// Inputs implements Op.
func (o *GatedGrad) Inputs(d []Value) []Value { return list(d, o.Gate, o.Up, o.DY) }

// Outputs implements Op.
func (o *GatedGrad) Outputs(d []Value) []Value { return list(d, o.DGate, o.DUp) }

// Name implements Op.
func (o *GatedGrad) Name() string { return "gated_grad" }

// Inputs implements Op.
func (o *Norm) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *Norm) Outputs(d []Value) []Value { return list(d, o.Stats, o.Y) }

// Name implements Op.
func (o *Norm) Name() string { return "norm" }

// Inputs implements Op.
func (o *NormGrad) Inputs(d []Value) []Value { return list(d, o.X, o.Stats, o.DY, o.C) }

// Outputs implements Op.
func (o *NormGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *NormGrad) Name() string { return "norm_grad" }

// Inputs implements Op.
func (o *Dropout) Inputs(d []Value) []Value { return list(d, o.X, o.Residual) }

// Outputs implements Op.
func (o *Dropout) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Dropout) Name() string { return "dropout" }

// Inputs implements Op.
func (o *DropoutGrad) Inputs(d []Value) []Value { return list(d, o.DY, o.C) }

// Outputs implements Op.
func (o *DropoutGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *DropoutGrad) Name() string { return "dropout_grad" }

// Inputs implements Op.
func (o *Rope) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *Rope) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Rope) Name() string { return "rope" }

// Inputs implements Op.
func (o *Attention) Inputs(d []Value) []Value { return list(d, o.Q, o.K, o.V) }

// Outputs implements Op.
func (o *Attention) Outputs(d []Value) []Value { return list(d, o.LSE, o.Y) }

// Name implements Op.
func (o *Attention) Name() string { return "attention" }

// Inputs implements Op.
func (o *AttentionGrad) Inputs(d []Value) []Value {
	return list(d, o.Fwd.Q, o.Fwd.K, o.Fwd.V, o.Fwd.Y, o.Fwd.LSE, o.DY)
}

// Outputs implements Op.
func (o *AttentionGrad) Outputs(d []Value) []Value { return list(d, o.DQ, o.DK, o.DV) }

// Name implements Op.
func (o *AttentionGrad) Name() string { return "attention_grad" }

// Inputs implements Op.
func (o *Select) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *Select) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *Select) Name() string { return "select" }

// Inputs implements Op.
func (o *SelectGrad) Inputs(d []Value) []Value { return list(d, o.DY, o.C) }

// Outputs implements Op.
func (o *SelectGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *SelectGrad) Name() string { return "select_grad" }

// Inputs implements Op.
func (o *MeanPool) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *MeanPool) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *MeanPool) Name() string { return "mean_pool" }

// Inputs implements Op.
func (o *MeanPoolGrad) Inputs(d []Value) []Value { return list(d, o.DY, o.C) }

// Outputs implements Op.
func (o *MeanPoolGrad) Outputs(d []Value) []Value { return list(d, o.DX) }

// Name implements Op.
func (o *MeanPoolGrad) Name() string { return "mean_pool_grad" }

// Inputs implements Op.
func (o *KronSum) Inputs(d []Value) []Value { return list(d, o.F1, o.F2) }

// Outputs implements Op.
func (o *KronSum) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *KronSum) Name() string { return "kron_sum" }

// Inputs implements Op.
func (o *KronSumGrad) Inputs(d []Value) []Value { return list(d, o.F1, o.F2, o.DY) }

// Outputs implements Op.
func (o *KronSumGrad) Outputs(d []Value) []Value { return list(d, o.DF1, o.DF2) }

// Name implements Op.
func (o *KronSumGrad) Name() string { return "kron_sum_grad" }

// Inputs implements Op.
func (o *KronApply) Inputs(d []Value) []Value { return list(d, o.X, o.F1, o.F2, o.C) }

// Outputs implements Op.
func (o *KronApply) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *KronApply) Name() string { return "kron_apply" }

// Inputs implements Op.
func (o *KronApplyGrad) Inputs(d []Value) []Value { return list(d, o.X, o.F1, o.F2, o.DY) }

// Outputs implements Op.
func (o *KronApplyGrad) Outputs(d []Value) []Value { return list(d, o.DF1, o.DF2) }

// Name implements Op.
func (o *KronApplyGrad) Name() string { return "kron_apply_grad" }

// Inputs implements Op.
func (o *RowOuter) Inputs(d []Value) []Value { return list(d, o.U, o.V) }

// Outputs implements Op.
func (o *RowOuter) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *RowOuter) Name() string { return "row_outer" }

// Inputs implements Op.
func (o *RowOuterGrad) Inputs(d []Value) []Value { return list(d, o.U, o.V, o.DY) }

// Outputs implements Op.
func (o *RowOuterGrad) Outputs(d []Value) []Value { return list(d, o.DU, o.DV) }

// Name implements Op.
func (o *RowOuterGrad) Name() string { return "row_outer_grad" }

// Inputs implements Op.
func (o *BlockMatMul) Inputs(d []Value) []Value { return list(d, o.X, o.W, o.C) }

// Outputs implements Op.
func (o *BlockMatMul) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *BlockMatMul) Name() string { return "block_matmul" }

// Inputs implements Op.
func (o *BlockMatMulGrad) Inputs(d []Value) []Value { return list(d, o.X, o.DY) }

// Outputs implements Op.
func (o *BlockMatMulGrad) Outputs(d []Value) []Value { return list(d, o.DW) }

// Name implements Op.
func (o *BlockMatMulGrad) Name() string { return "block_matmul_grad" }

// Inputs implements Op.
func (o *ColNorm) Inputs(d []Value) []Value { return list(d, o.A, o.B) }

// Outputs implements Op.
func (o *ColNorm) Outputs(d []Value) []Value { return list(d, o.Y) }

// Name implements Op.
func (o *ColNorm) Name() string { return "col_norm" }

// Inputs implements Op.
func (o *CrossEntropy) Inputs(d []Value) []Value { return list(d, o.Logits) }

// Outputs implements Op.
func (o *CrossEntropy) Outputs(d []Value) []Value { return list(d, o.Loss) }

// Name implements Op.
func (o *CrossEntropy) Name() string { return "cross_entropy" }

// Inputs implements Op.
func (o *CrossEntropyGrad) Inputs(d []Value) []Value { return list(d, o.Logits) }

// Outputs implements Op.
func (o *CrossEntropyGrad) Outputs(d []Value) []Value { return list(d, o.DLogits) }

// Name implements Op.
func (o *CrossEntropyGrad) Name() string { return "cross_entropy_grad" }

// Inputs implements Op.
func (o *LMLoss) Inputs(d []Value) []Value { return list(d, o.X) }

// Outputs implements Op.
func (o *LMLoss) Outputs(d []Value) []Value { return list(d, o.Loss, o.DX) }

// Name implements Op.
func (o *LMLoss) Name() string { return "lm_loss" }

// Inputs implements Op.
func (o *MSE) Inputs(d []Value) []Value { return list(d, o.Pred) }

// Outputs implements Op.
func (o *MSE) Outputs(d []Value) []Value { return list(d, o.Loss) }

// Name implements Op.
func (o *MSE) Name() string { return "mse" }

// Inputs implements Op.
func (o *MSEGrad) Inputs(d []Value) []Value { return list(d, o.Pred) }

// Outputs implements Op.
func (o *MSEGrad) Outputs(d []Value) []Value { return list(d, o.DPred) }

// Name implements Op.
func (o *MSEGrad) Name() string { return "mse_grad" }

// Inputs implements Op.
func (o *BCE) Inputs(d []Value) []Value { return list(d, o.Logits) }

// Outputs implements Op.
func (o *BCE) Outputs(d []Value) []Value { return list(d, o.Loss) }

// Name implements Op.
func (o *BCE) Name() string { return "bce" }

// Inputs implements Op.
func (o *BCEGrad) Inputs(d []Value) []Value { return list(d, o.Logits) }

// Outputs implements Op.
func (o *BCEGrad) Outputs(d []Value) []Value { return list(d, o.DLogits) }

// Name implements Op.
func (o *BCEGrad) Name() string { return "bce_grad" }
