package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// run is a run under way.
type run struct {
	*Trainer
	config map[string]string
	s      state
	exe    graph.Executable
	eval   *Evaluator
	prefix *prefixRun   // nil without one
	cache  *prefixCache // of the training data
	log    *os.File
	dir    string // of the files

	replaces bool            // the directory holds another run, to be replaced
	next     *atomicfile.Dir // the directory that will take its place; nil once it has

	plan      *task.Plan // of epoch planEpoch
	planEpoch int
	batch     task.Batch

	start, began, lastSave time.Time
	beganAt                int // step
	savedStep              int
}

func (r *run) close() {
	if r.exe != nil {
		r.exe.Close()
	}
	if r.eval != nil {
		r.eval.Close()
	}
	if r.prefix != nil {
		r.prefix.close()
	}
	if r.log != nil {
		r.log.Close()
	}
	if r.next != nil {
		r.next.Abort()
	}
}

// compile prepares the device and gives it the state.
func (r *run) compile() error {
	var err error
	if r.exe, err = r.job.Engine.Compile(r.job.Train.Program, r.job.Train.Weights, maxDims(r.dims)); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := r.exe.SetParams(r.s.params); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := r.exe.SetMoments(r.s.moment1, r.s.moment2); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.job.Prefix != nil {
		if r.prefix, err = newPrefixRun(r.job.Engine, r.job.Prefix, r.o.Prefix, r.dims); err != nil {
			return fmt.Errorf("train: %w", err)
		}
		r.cache = r.prefix.cache(r.job.Data)
	}
	if r.job.EvalData != nil {
		if r.eval, err = NewEvaluator(r.job.Engine, r.job.Eval, r.job.EvalData, r.o.EvalBatch); err != nil {
			return fmt.Errorf("train: %w", err)
		}
		if r.prefix != nil {
			r.eval.cache = r.prefix.cache(r.job.EvalData)
		}
	}
	return nil
}

// loop runs steps and evaluations until the end, from wherever the state is.
func (r *run) loop(ctx context.Context) error {
	for {
		if r.evaluationDue() {
			if err := r.evaluate(ctx); err != nil {
				if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
					return r.interrupted()
				}
				return err
			}
			if err := r.save(); err != nil {
				return err
			}
		}
		if r.s.Step >= r.steps || r.s.Stopped {
			return nil
		}
		if ctx.Err() != nil {
			return r.interrupted()
		}
		if err := r.step(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if r.saveDue() {
			if err := r.save(); err != nil {
				return err
			}
		}
	}
}

// interrupted saves the state and returns ErrInterrupted.
func (r *run) interrupted() error {
	if r.savedStep != r.s.Step || r.s.Step == 0 {
		if err := r.save(); err != nil {
			return err
		}
	}
	r.o.Event(Event{Type: EventInterrupted, Step: r.s.Step, Steps: r.steps, Epoch: r.s.Epoch, BestStep: r.s.BestStep})
	return fmt.Errorf("%w after step %d of %d: the state is saved in %s", ErrInterrupted, r.s.Step, r.steps, r.o.Dir)
}

func (r *run) saveDue() bool {
	return r.o.SaveEvery > 0 && r.s.Step%r.o.SaveEvery == 0 || r.o.SaveInterval > 0 && r.o.Now().Sub(r.lastSave) >= r.o.SaveInterval
}

// evaluationDue reports whether an evaluation follows the last step.
func (r *run) evaluationDue() bool {
	s := &r.s
	if r.job.EvalData == nil || s.Step == 0 || s.LastEval == s.Step {
		return false
	}
	if r.o.EvalEvery > 0 && s.Step%r.o.EvalEvery == 0 || s.Step >= r.steps {
		return true
	}
	return r.o.EvalEvery == 0 && s.Cursor == 0 // an epoch has just ended
}

// epochPlan returns the plan of the state's epoch.
func (r *run) epochPlan() (*task.Plan, error) {
	if r.plan == nil || r.planEpoch != r.s.Epoch {
		p := r.first
		if r.s.Epoch > 0 {
			var err error
			if p, err = r.job.Data.Plan(r.s.Epoch, r.o.Batch); err != nil {
				return nil, fmt.Errorf("train: %w", err)
			}
		}
		r.plan, r.planEpoch = p, r.s.Epoch
	}
	return r.plan, nil
}

// step does one optimizer step and moves the state's position.
func (r *run) step(ctx context.Context) error {
	begin := r.o.Now()
	plan, err := r.epochPlan()
	if err != nil {
		return err
	}
	epoch := r.s.Epoch
	loss, tokens, err := r.accumulate(ctx, plan)
	if err != nil {
		return err
	}
	lr := r.o.LR * r.o.Schedule.Factor(r.s.Step, r.warmup, r.steps)
	if !finite(loss) {
		return r.diverged("loss", loss, lr)
	}
	norm, err := r.exe.Step(graph.AdamW{
		LR: float32(lr), Beta1: float32(r.o.Beta1), Beta2: float32(r.o.Beta2), Eps: float32(r.o.Eps),
		WeightDecay: float32(r.o.WeightDecay), ClipNorm: float32(r.o.Clip), T: r.s.Step + 1,
	})
	if err != nil {
		return fmt.Errorf("train: step %d: %w", r.s.Step+1, err)
	}
	if !finite(norm) {
		return r.diverged("gradient norm", norm, lr)
	}
	r.s.Step++
	if r.s.Cursor++; r.s.Cursor == plan.Steps() {
		r.s.Cursor = 0
		r.s.Epoch++
	}
	now := r.o.Now()
	perStep := now.Sub(r.began) / time.Duration(r.s.Step-r.beganAt)
	return r.emit(Event{
		Type: EventStep, Step: r.s.Step, Steps: r.steps, Epoch: epoch, Loss: loss, LR: lr, GradNorm: norm,
		TokensPerSecond: float64(tokens) / max(now.Sub(begin).Seconds(), 1e-9), ETA: perStep * time.Duration(r.steps-r.s.Step),
	})
}

// accumulate runs the batches of the step at hand. The loss is the mean over
// all their labels.
func (r *run) accumulate(ctx context.Context, plan *task.Plan) (loss float64, tokens int, err error) {
	from, to := plan.Step(r.s.Cursor)
	labels := 0
	for b := from; b < to; b++ {
		for _, s := range plan.Batch(b) {
			labels += r.job.Data.LossCount(int(s))
		}
	}
	gb := graph.Batch{LossScale: float32(1 / float64(labels)), Train: true, Seed: r.o.Seed}
	var part [1]float32
	for b := from; b < to; b++ {
		r.job.Data.Fill(&r.batch, plan.Batch(b))
		batch(&gb, &r.batch)
		if r.cache != nil {
			if gb.Inputs, err = r.cache.fill(ctx, &r.batch); err != nil {
				return 0, 0, fmt.Errorf("train: step %d: %w", r.s.Step+1, err)
			}
		}
		gb.Step = r.s.Micro
		r.s.Micro++
		if err := r.exe.Run(ctx, &gb); err != nil {
			return 0, 0, fmt.Errorf("train: step %d: %w", r.s.Step+1, err)
		}
		if err := r.exe.Read(r.job.Train.Program.Loss, part[:]); err != nil {
			return 0, 0, fmt.Errorf("train: step %d: %w", r.s.Step+1, err)
		}
		loss += float64(part[0])
		tokens += len(r.batch.IDs)
	}
	return loss, tokens, nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (r *run) diverged(what string, v, lr float64) error {
	remedy := "lower the learning rate, lengthen the warm-up"
	if r.o.Clip == 0 {
		remedy += ", clip the gradient"
	}
	if r.s.Step == 0 {
		remedy = "the model gives it before any update: check the checkpoint for NaN or infinite values"
	}
	return fmt.Errorf("%w: the %s of step %d (epoch %d) is %v at learning rate %.3g; %s", ErrDiverged, what, r.s.Step+1, r.s.Epoch, v, lr, remedy)
}

// evaluate scores the parameters and keeps them if they are the best.
func (r *run) evaluate(ctx context.Context) error {
	params := make([]float32, r.job.Train.Program.ParamSize)
	if err := r.exe.Params(params); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	values := make([]float32, r.job.Eval.Program.ParamSize)
	if err := copyParams(r.job.Eval.Program, values, r.job.Train.Program, params); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := r.eval.SetParams(values); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	out, err := r.eval.Run(ctx, nil)
	if err != nil {
		return fmt.Errorf("train: after step %d: %w", r.s.Step, err)
	}
	metrics, err := task.Score(r.job.Spec, r.job.EvalExamples, out)
	if err != nil {
		return fmt.Errorf("train: after step %d: %w", r.s.Step, err)
	}
	s := &r.s
	s.LastEval = s.Step
	best := s.better(metrics, r.o.Metric)
	if best {
		s.BestStep, s.BestMetrics, s.best, s.Stale = s.Step, metrics, params, 0
	} else {
		s.Stale++
	}
	if r.o.KeepLast {
		s.LastMetrics = metrics
	}
	if err := r.emit(Event{Type: EventEval, Step: s.Step, Steps: r.steps, Epoch: r.lastEpoch(), Metrics: metrics, Best: best, BestStep: s.BestStep}); err != nil {
		return err
	}
	if r.o.Patience > 0 && s.Stale >= r.o.Patience && s.Step < r.steps {
		s.Stopped = true
		return r.emit(Event{Type: EventEarlyStop, Step: s.Step, Steps: r.steps, Epoch: r.lastEpoch(), BestStep: s.BestStep})
	}
	return nil
}

// lastEpoch is the epoch of the last step.
func (r *run) lastEpoch() int {
	if r.s.Cursor == 0 && r.s.Epoch > 0 {
		return r.s.Epoch - 1
	}
	return r.s.Epoch
}
