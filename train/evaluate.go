package train

import (
	"context"
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// Evaluator runs a net forward over a dataset. It is not safe for concurrent
// use.
type Evaluator struct {
	net    Net
	data   *task.Dataset
	plan   *task.Plan
	exe    graph.Executable
	logits []float32
	cache  *prefixCache // nil unless net begins above a prefix
}

// NewEvaluator compiles net on e for the batches of data. Sequences of like
// length share a batch; the results do not depend on it.
func NewEvaluator(e graph.Engine, net Net, data *task.Dataset, o task.BatchOptions) (*Evaluator, error) {
	o.Shuffle, o.Bucket, o.Accumulate = false, true, 1
	plan, err := data.Plan(0, o)
	if err != nil {
		return nil, err
	}
	if data.Kind() == task.LM {
		if net.Program.Loss == graph.None {
			return nil, fmt.Errorf("evaluate: the program of a language model has no loss")
		}
	} else if net.Logits == graph.None {
		return nil, fmt.Errorf("evaluate: the program has no logits")
	}
	exe, err := e.Compile(net.Program, net.Weights, maxDims(plan.Max(data)))
	if err != nil {
		return nil, err
	}
	if err := exe.SetParams(net.Params); err != nil {
		exe.Close()
		return nil, err
	}
	return &Evaluator{net: net, data: data, plan: plan, exe: exe}, nil
}

// Close frees the device memory.
func (v *Evaluator) Close() error { return v.exe.Close() }

// SetParams replaces the flat parameter buffer.
func (v *Evaluator) SetParams(p []float32) error { return v.exe.SetParams(p) }

// Run returns an output for each sequence of the dataset, in its order.
//
// Losses of classifications are -log softmax(logits)[label], of regressions
// (logit - target)², in float64. A language model's program computes the loss of
// a batch: it is counted with the batch's first sequence. Cancelling ctx stops
// between batches. Progress, if not nil, is called after each batch with the
// sequences done so far.
func (v *Evaluator) Run(ctx context.Context, progress func(done, total int)) ([]task.Output, error) {
	out := make([]task.Output, v.data.Len())
	var b task.Batch
	gb := graph.Batch{LossScale: 1}
	done := 0
	for i := range v.plan.Batches() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v.data.Fill(&b, v.plan.Batch(i))
		batch(&gb, &b)
		if v.cache != nil {
			var err error
			if gb.Inputs, err = v.cache.fill(ctx, &b); err != nil {
				return nil, fmt.Errorf("evaluate batch %d: %w", i, err)
			}
		}
		if err := v.exe.Run(ctx, &gb); err != nil {
			return nil, fmt.Errorf("evaluate batch %d: %w", i, err)
		}
		if err := v.collect(out, &b); err != nil {
			return nil, fmt.Errorf("evaluate batch %d: %w", i, err)
		}
		done += len(b.Sequences)
		if progress != nil {
			progress(done, v.data.Len())
		}
	}
	return out, nil
}

// collect writes the outputs of the last run.
func (v *Evaluator) collect(out []task.Output, b *task.Batch) error {
	if v.data.Kind() == task.LM {
		var loss [1]float32
		if err := v.exe.Read(v.net.Program.Loss, loss[:]); err != nil {
			return err
		}
		out[b.Sequences[0]] = task.Output{Loss: float64(loss[0]), Count: b.LossCount}
		return nil
	}
	cols := v.net.Program.Info(v.net.Logits).Cols
	if n := cols * len(b.Sequences); cap(v.logits) < n {
		v.logits = make([]float32, n)
	}
	logits := v.logits[:cols*len(b.Sequences)]
	if err := v.exe.Read(v.net.Logits, logits); err != nil {
		return err
	}
	for i, s := range b.Sequences {
		o := &out[s]
		o.Logits = append([]float32(nil), logits[i*cols:(i+1)*cols]...)
		if v.data.LossCount(int(s)) == 0 {
			continue
		}
		o.Count = 1
		if v.data.Kind() == task.Regression {
			d := float64(o.Logits[0]) - float64(b.Targets[i])
			o.Loss = d * d
		} else {
			o.Loss = task.LogSumExp(o.Logits) - float64(o.Logits[b.Labels[i]])
		}
	}
	return nil
}
