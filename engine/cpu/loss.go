package cpu

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// rowLosses returns a place for the loss of each of n rows.
func (x *executable) rowLosses(n int) []float64 {
	if cap(x.losses) < n {
		x.losses = make([]float64, n)
	}
	x.losses = x.losses[:n]
	clear(x.losses)
	return x.losses
}

// setLoss writes LossScale·Σ losses.
func (x *executable) setLoss(v graph.Value, losses []float64) {
	var s float64
	for _, l := range losses {
		s += l
	}
	x.matrix(v).data[0] = float32(float64(x.batch.LossScale) * s)
}

func (x *executable) crossEntropy(o *graph.CrossEntropy) {
	logits := x.matrix(o.Logits)
	losses := x.rowLosses(logits.rows)
	x.eachRows(logits.rows, logits.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			if l := x.batch.Labels[i]; l >= 0 {
				row := logits.row(i)
				losses[i] = float64(kernel.LogSumExp(row)) - float64(row[l])
			}
		}
	})
	x.setLoss(o.Loss, losses)
}

func (x *executable) crossEntropyGrad(o *graph.CrossEntropyGrad) {
	logits, d := x.matrix(o.Logits), x.matrix(o.DLogits)
	x.eachRows(logits.rows, logits.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			if l := x.batch.Labels[i]; l >= 0 {
				kernel.SoftmaxGrad(d.row(i), logits.row(i), kernel.LogSumExp(logits.row(i)), x.batch.LossScale, int(l))
			} else {
				clear(d.row(i))
			}
		}
	})
}

// lmLogits is the number of logits that LMLoss holds at a time: 64 MiB.
const lmLogits = 1 << 24

// lmRows is how many rows of logits over a vocabulary LMLoss holds; a product
// with fewer than 16 would spend its time reading W.
func (x *executable) lmRows(vocab int) int { return max(16, x.e.lmLogits/max(vocab, 1)) }

// lmLoss goes over the rows in chunks: logits, their log-sum-exp, the
// gradient in place of the logits, and its product with Wᵀ.
func (x *executable) lmLoss(o *graph.LMLoss) {
	in, dx := x.matrix(o.X), x.matrix(o.DX)
	vocab := x.p.Weight(o.W).Out
	losses := x.rowLosses(in.rows)
	e := kernel.Epilogue{Bias: x.vectorOf(o.Bias)}
	chunk := x.lmRows(vocab)
	for r0 := 0; r0 < in.rows; r0 += chunk {
		n := min(chunk, in.rows-r0)
		logits := matrix{data: x.shared, rows: n, cols: vocab, ld: vocab}
		x.packedOf(o.W, forward).Mul(x.pool, n, in.data[r0*in.ld:], in.ld, logits.data, vocab, &e)
		x.pool.Run(n, func(_, i int) {
			row, l := logits.row(i), int(x.batch.Labels[r0+i])
			if l < 0 {
				clear(row)
				return
			}
			lse := kernel.LogSumExp(row)
			losses[r0+i] = float64(lse) - float64(row[l])
			if o.DX != graph.None {
				kernel.SoftmaxGrad(row, row, lse, x.batch.LossScale, l)
			}
		})
		if o.DX != graph.None {
			x.packedOf(o.W, backward).Mul(x.pool, n, logits.data, vocab, dx.data[r0*dx.ld:], dx.ld, nil)
		}
	}
	x.setLoss(o.Loss, losses)
}

// eachTarget calls fn for every prediction with its target, on the caller: such
// losses have few elements.
func (x *executable) eachTarget(pred graph.Value, fn func(i, j int, p, t float64)) {
	m := x.matrix(pred)
	for i := range m.rows {
		for j, p := range m.row(i) {
			fn(i, j, float64(p), float64(x.batch.Targets[i*m.cols+j]))
		}
	}
}

func (x *executable) mse(o *graph.MSE) {
	losses := x.rowLosses(1)
	x.eachTarget(o.Pred, func(_, _ int, p, t float64) { losses[0] += (p - t) * (p - t) })
	x.setLoss(o.Loss, losses)
}

func (x *executable) mseGrad(o *graph.MSEGrad) {
	d := x.matrix(o.DPred)
	x.eachTarget(o.Pred, func(i, j int, p, t float64) {
		d.row(i)[j] = float32(2 * float64(x.batch.LossScale) * (p - t))
	})
}

func (x *executable) bce(o *graph.BCE) {
	losses := x.rowLosses(1)
	x.eachTarget(o.Logits, func(_, _ int, p, t float64) {
		losses[0] += max(p, 0) + math.Log1p(math.Exp(-math.Abs(p))) - p*t
	})
	x.setLoss(o.Loss, losses)
}

func (x *executable) bceGrad(o *graph.BCEGrad) {
	d := x.matrix(o.DLogits)
	x.eachTarget(o.Logits, func(i, j int, p, t float64) {
		d.row(i)[j] = float32(float64(x.batch.LossScale) * (1/(1+math.Exp(-p)) - t))
	})
}
