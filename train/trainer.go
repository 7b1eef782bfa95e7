package train

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// ErrInterrupted is wrapped by the error of a run whose context was cancelled:
// the state is saved, and the run can be resumed.
var ErrInterrupted = errors.New("interrupted")

// ErrDiverged is wrapped by the error of a run whose loss or gradient is not a
// finite number.
var ErrDiverged = errors.New("training diverged")

// Trainer is a planned job.
type Trainer struct {
	job    Job
	o      Options
	steps  int // in all
	warmup int
	dims   task.Dims // of the largest batch of the first epoch
	first  *task.Plan
}

// New plans a job: it completes and checks the options and adds the backward
// pass to the training program, which then belongs to the trainer. Nothing is
// loaded or written.
func New(j Job, o Options) (*Trainer, error) {
	t := &Trainer{job: j, o: o}
	if j.Data == nil || j.Train.Program == nil {
		return nil, errors.New("train: a job needs a program and data")
	}
	if j.EvalData != nil && j.Eval.Program == nil {
		return nil, errors.New("train: evaluation data need a program to evaluate")
	}
	if err := t.o.check(&t.job); err != nil {
		return nil, &task.OptionError{Reason: "train: " + err.Error()}
	}
	plan, err := j.Data.Plan(0, t.o.Batch)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	t.first, t.dims, t.steps = plan, plan.Max(j.Data), t.o.Steps
	for epoch := range t.o.Epochs {
		n := plan.Steps()
		if t.o.Batch.Tokens > 0 && epoch > 0 { // else every epoch has as many
			if plan, err = j.Data.Plan(epoch, t.o.Batch); err != nil {
				return nil, fmt.Errorf("train: %w", err)
			}
			n = plan.Steps()
		}
		t.steps += n
	}
	t.warmup = WarmupSteps(t.o.Warmup, t.steps)
	if err := t.differentiate(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if len(j.Train.Params) != j.Train.Program.ParamSize {
		return nil, fmt.Errorf("train: %d initial values for %d parameters", len(j.Train.Params), j.Train.Program.ParamSize)
	}
	if j.EvalData != nil {
		if err := copyParams(j.Eval.Program, make([]float32, j.Eval.Program.ParamSize), j.Train.Program, j.Train.Params); err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
	}
	return t, nil
}

// differentiate adds the backward pass, with checkpoints where they were asked
// for or nothing else fits.
func (t *Trainer) differentiate() error {
	if f, ok := t.job.Engine.(graph.Fitter); ok && t.o.CheckpointLayers == 0 && len(t.job.Train.Program.Layers) > 1 {
		try := t.job.Train.Program.Clone()
		if err := graph.Differentiate(try); err != nil {
			return err
		}
		if f.Fits(try, maxDims(t.dims)) != nil {
			t.o.CheckpointLayers = 1
		}
	}
	return graph.DifferentiateWith(t.job.Train.Program, graph.DiffOptions{CheckpointLayers: t.o.CheckpointLayers})
}

// Result is what a run came to.
type Result struct {
	Steps    int
	BestStep int           // the step of the parameters that were kept
	Metrics  []task.Metric // of them; nil without evaluation
	// Complete says that the directory held the finished run already.
	Complete bool
	Seconds  float64
}

func joined(names []string) string { return strings.Join(names, ", ") }

// Run trains, and leaves the run's directory behind.
//
// When ctx is cancelled the step at hand is finished, the state saved, and
// ErrInterrupted returned. A loss or gradient that is not finite is an error
// that wraps ErrDiverged and names the step; the last state saved before it is
// kept.
func (t *Trainer) Run(ctx context.Context) (*Result, error) {
	r := &run{Trainer: t, dir: realDir(t.o.Dir), start: t.o.Now(), config: t.config()}
	unlock, err := lockRun(r.dir)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	defer unlock()
	done, err := r.open()
	if err != nil {
		return nil, err
	}
	if done != nil {
		epoch, err := t.epochOf(done.Steps)
		if err != nil {
			return nil, err
		}
		t.o.Event(Event{Type: EventDone, Step: done.Steps, Steps: t.steps, Epoch: epoch, Metrics: done.Metrics, BestStep: done.BestStep})
		return done, nil
	}
	defer r.close()
	if err := r.compile(); err != nil {
		return nil, err
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	t.o.Event(Event{Type: EventStart, Step: r.s.Step, Steps: t.steps, Epoch: r.s.Epoch, Resumed: r.s.Step > 0})
	r.began, r.beganAt = t.o.Now(), r.s.Step
	r.lastSave = r.began
	if err := r.loop(ctx); err != nil {
		return nil, err
	}
	return r.finish()
}

// epochOf is the epoch that a step, counted from 1, belongs to.
func (t *Trainer) epochOf(step int) (int, error) {
	plan := t.first
	for epoch := 0; ; epoch++ {
		if step -= plan.Steps(); step <= 0 {
			return epoch, nil
		}
		var err error
		if plan, err = t.job.Data.Plan(epoch+1, t.o.Batch); err != nil {
			return 0, fmt.Errorf("train: %w", err)
		}
	}
}

// elapsed is the time spent on the run, before a resumption too.
func (r *run) elapsed() time.Duration {
	return time.Duration(r.s.Seconds*float64(time.Second)) + r.o.Now().Sub(r.start)
}
