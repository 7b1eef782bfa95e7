package reference

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

func (x *Executable) runLoss(op graph.Op) error {
	scale := float64(x.batch.LossScale)
	switch o := op.(type) {
	case *graph.CrossEntropy:
		x.put(o.Loss, x.crossEntropy(x.get(o.Logits)), none)
	case *graph.CrossEntropyGrad:
		x.put(o.DLogits, x.crossEntropyGrad(x.get(o.Logits)), none)
	case *graph.LMLoss:
		w := x.weight(o.W)
		logits := x.get(o.X).times(w)
		if o.Bias != graph.NoWeight {
			bias := x.weight(o.Bias)
			logits = each(logits.rows, logits.cols, func(i, j int) float64 { return logits.at(i, j) + bias.at(0, j) })
		}
		x.put(o.Loss, x.crossEntropy(logits), none)
		if o.DX != none {
			x.put(o.DX, x.crossEntropyGrad(logits).times(w.t(true)), none)
		}
	case *graph.MSE:
		x.put(o.Loss, x.total(o.Pred, func(p, t float64) float64 { return scale * sq(p-t) }), none)
	case *graph.MSEGrad:
		x.put(o.DPred, x.targets(o.Pred, func(p, t float64) float64 { return 2 * scale * (p - t) }), none)
	case *graph.BCE:
		// -t log σ(p) - (1-t) log(1-σ(p)) = log(1+exp(p)) - t·p
		x.put(o.Loss, x.total(o.Logits, func(p, t float64) float64 {
			return scale * (max(p, 0) + math.Log1p(math.Exp(-math.Abs(p))) - t*p)
		}), none)
	case *graph.BCEGrad:
		x.put(o.DLogits, x.targets(o.Logits, func(p, t float64) float64 { return scale * (sigmoid(p) - t) }), none)
	default:
		return errUnknown
	}
	return nil
}

// logSumExp is log Σ exp of row i.
func logSumExp(m matrix, i int) float64 {
	largest := math.Inf(-1)
	for _, l := range m.row(i) {
		largest = max(largest, l)
	}
	return largest + math.Log(sum(m.cols, func(j int) float64 { return math.Exp(m.at(i, j) - largest) }))
}

func (x *Executable) crossEntropy(logits matrix) matrix {
	loss := newMatrix(1, 1)
	for i, label := range x.batch.Labels {
		if label >= 0 {
			loss.add(0, 0, float64(x.batch.LossScale)*(logSumExp(logits, i)-logits.at(i, int(label))))
		}
	}
	return loss
}

func (x *Executable) crossEntropyGrad(logits matrix) matrix {
	d := newMatrix(logits.rows, logits.cols)
	for i, label := range x.batch.Labels {
		if label < 0 {
			continue
		}
		lse := logSumExp(logits, i)
		for j := range d.cols {
			d.set(i, j, float64(x.batch.LossScale)*math.Exp(logits.at(i, j)-lse))
		}
		d.add(i, int(label), -float64(x.batch.LossScale))
	}
	return d
}

// targets is f of every prediction and its target.
func (x *Executable) targets(pred graph.Value, f func(p, t float64) float64) matrix {
	p := x.get(pred)
	return each(p.rows, p.cols, func(i, j int) float64 { return f(p.at(i, j), float64(x.batch.Targets[i*p.cols+j])) })
}

// total is the sum of f over predictions and targets.
func (x *Executable) total(pred graph.Value, f func(p, t float64) float64) matrix {
	all := x.targets(pred, f)
	loss := newMatrix(1, 1)
	for _, l := range all.a {
		loss.add(0, 0, l)
	}
	return loss
}
