package train

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// Estimate is what a job will take.
type Estimate struct {
	Parameters    int     // trainable
	Frozen        int64   // values of the frozen tensors
	Steps         int     // optimizer steps
	WarmupSteps   int     // of them
	StepsPerEpoch int     // of the first epoch
	Sequences     int     // of the training data
	Tokens        int     // of the training data
	LargestBatch  int     // tokens
	Truncated     int     // training texts cut off at the maximal length
	Dropped       int     // training sequences without loss
	LabelsPerStep float64 // labels that carry loss, on average
	Checkpoint    int     // layers of a group whose activations are computed again, 0 if none are

	// Memory of the device in bytes, see [graph.SizeOf].
	FrozenBytes    int64 // frozen tensors, of evaluation too
	ParameterBytes int64 // parameters, their gradients and both moments
	PlanBytes      int64 // activations and ParameterBytes
	EvalPlanBytes  int64 // activations and parameters of the evaluation
	ScratchBytes   int64 // working memory
	CacheBytes     int64 // of a prefix cache that holds every sequence; it may lie elsewhere
}

// PeakBytes is the device memory for training and evaluation together, without
// the prefix cache.
func (e Estimate) PeakBytes() int64 {
	return e.FrozenBytes + e.PlanBytes + e.EvalPlanBytes + e.ScratchBytes
}

// ActivationBytes is the part of PlanBytes that depends on the batch.
func (e Estimate) ActivationBytes() int64 { return e.PlanBytes - e.ParameterBytes }

// Estimate returns what the job will take. It costs no device time.
func (t *Trainer) Estimate() Estimate {
	d := t.job.Data
	n := t.job.Train.Program.ParamSize
	e := Estimate{
		Parameters: n, Steps: t.steps, WarmupSteps: t.warmup, StepsPerEpoch: t.first.Steps(),
		Sequences: d.Len(), Tokens: d.Tokens(), LargestBatch: t.dims.Tokens, Truncated: d.Truncated(), Dropped: d.Dropped(),
		LabelsPerStep:  float64(d.Labels()) / float64(t.first.Steps()),
		Checkpoint:     t.o.CheckpointLayers,
		ParameterBytes: graph.NewPlan(t.job.Train.Program, maxDims(t.dims)).ParamBytes,
	}
	seen := map[string]bool{}
	add := func(p *graph.Program, dims task.Dims, plan *int64) {
		m := graph.SizeOf(t.job.Engine, p, maxDims(dims))
		*plan += m.Plan
		e.FrozenBytes += m.Weights
		e.ScratchBytes += m.Scratch
		e.Frozen += frozen(p, seen)
	}
	add(t.job.Train.Program, t.dims, &e.PlanBytes)
	if p := t.job.Prefix; p != nil {
		add(p.Program, t.dims, &e.PlanBytes)
		e.CacheBytes = 4 * int64(t.job.tokens()) * int64(p.Width)
	}
	if t.job.EvalData != nil {
		if p, err := t.job.EvalData.Plan(0, t.o.EvalBatch); err == nil {
			// Its frozen tensors are among those of the training program.
			m := graph.SizeOf(t.job.Engine, t.job.Eval.Program, maxDims(p.Max(t.job.EvalData)))
			e.EvalPlanBytes, e.ScratchBytes = m.Plan, e.ScratchBytes+m.Scratch
		}
	}
	return e
}

// Fits returns the error with which the engine would refuse the job for want of
// memory, as far as it knows before anything is loaded.
func (t *Trainer) Fits() error {
	f, ok := t.job.Engine.(graph.Fitter)
	if !ok {
		return nil
	}
	if err := f.Fits(t.job.Train.Program, maxDims(t.dims)); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// frozen counts the values of the frozen tensors of p whose names are not in seen. A
// tensor that is tied, as embeddings and output layer often are, counts once.
func frozen(p *graph.Program, seen map[string]bool) (values int64) {
	for i := range p.Weights {
		if w := &p.Weights[i]; !seen[w.Name] {
			seen[w.Name] = true
			values += int64(w.In) * int64(w.Out)
		}
	}
	return values
}
