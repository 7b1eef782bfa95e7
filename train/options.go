package train

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// Options say how a job is trained.
type Options struct {
	// Dir is the directory of the run. Without Resume it must not exist or be
	// empty, unless Replace: then it is replaced as a whole, when the state is first
	// saved or the run is done. Until then it stays as it is.
	Dir             string
	Resume, Replace bool

	// Epochs or Steps is the length of the run; one of them is 0.
	Epochs, Steps int
	// Batch cuts the training data; Shuffle and Seed are set by the trainer.
	Batch task.BatchOptions
	// EvalBatch cuts the evaluation data; the zero value takes Batch's sizes.
	EvalBatch task.BatchOptions

	LR       float64
	Schedule Schedule
	// Warmup is a share of all steps below 1, a number of steps from 1 on.
	Warmup       float64
	WeightDecay  float64
	Beta1, Beta2 float64 // AdamW's; both 0 means 0.9 and 0.999
	Eps          float64 // AdamW's; 0 means 1e-8
	Clip         float64 // largest global norm of the gradient; 0 means no limit

	// Seed decides the order of the data and the dropout masks.
	Seed uint64

	// EvalEvery is the number of steps between evaluations; 0 means after each
	// epoch. The last step is always followed by one.
	EvalEvery int
	// Metric decides which parameters are the best; "" means the task's first.
	Metric string
	// Patience stops the run after so many evaluations without a better value
	// than the best; 0 means never.
	Patience int
	// KeepLast makes the adapter that of the last step instead of the best.
	KeepLast bool

	// SaveEvery is the number of steps, SaveInterval the time between two saves
	// of the state; 0 means no limit of that kind. The state is saved besides
	// after each evaluation and when the run is interrupted.
	SaveEvery    int
	SaveInterval time.Duration

	// Prefix says where the results of the job's prefix are kept, if it has one.
	Prefix PrefixOptions

	// CheckpointLayers, if positive, computes the activations of groups of so
	// many layers a second time in the backward pass instead of keeping them, see
	// [graph.DiffOptions]: the same losses in less memory. 0 leaves it to the
	// trainer, which does it (with groups of one) where the engine says that
	// memory will not do otherwise.
	CheckpointLayers int

	// Identity is what else must be the same for a run to be resumed, as the
	// hash of the base model; it is kept in run.json.
	Identity map[string]string

	// Event receives the events, on the goroutine of Run; it may be nil.
	Event func(Event)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// check completes o and refuses what cannot be.
func (o *Options) check(j *Job) error {
	if o.Beta1 == 0 && o.Beta2 == 0 {
		o.Beta1, o.Beta2 = 0.9, 0.999
	}
	if o.Eps == 0 {
		o.Eps = 1e-8
	}
	if o.Schedule == "" {
		o.Schedule = Linear
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	if o.EvalBatch.Size == 0 && o.EvalBatch.Tokens == 0 {
		o.EvalBatch.Size, o.EvalBatch.Tokens = o.Batch.Size, o.Batch.Tokens
	}
	o.Batch.Shuffle, o.Batch.Seed = true, o.Seed
	if o.Dir == "" {
		return errors.New("no directory for the run")
	}
	if (o.Epochs > 0) == (o.Steps > 0) || o.Epochs < 0 || o.Steps < 0 {
		return fmt.Errorf("either epochs or steps must be above 0, but they are %d and %d", o.Epochs, o.Steps)
	}
	if !slices.Contains(Schedules, o.Schedule) {
		return fmt.Errorf("unknown schedule %q", o.Schedule)
	}
	for _, v := range []struct {
		name     string
		value    float64
		low, top float64
	}{
		{"learning rate", o.LR, math.SmallestNonzeroFloat64, math.MaxFloat32},
		{"weight decay", o.WeightDecay, 0, math.MaxFloat32},
		{"warm-up", o.Warmup, 0, math.MaxInt32},
		{"clip", o.Clip, 0, math.MaxFloat32},
		{"beta1", o.Beta1, 0, 1 - 1e-9},
		{"beta2", o.Beta2, 0, 1 - 1e-9},
		{"eps", o.Eps, math.SmallestNonzeroFloat64, math.MaxFloat32},
	} {
		if !(v.value >= v.low && v.value <= v.top) {
			return fmt.Errorf("%s %v is out of range", v.name, v.value)
		}
	}
	if o.EvalEvery < 0 || o.Patience < 0 || o.SaveEvery < 0 || o.SaveInterval < 0 || o.CheckpointLayers < 0 {
		return errors.New("intervals, patience and checkpoint layers may not be negative")
	}
	if o.Prefix.Limit < 0 {
		return fmt.Errorf("the limit of the prefix cache, %d bytes, is negative", o.Prefix.Limit)
	}
	if d := o.Prefix.Dir; d != "" && j.Prefix != nil {
		if st, err := os.Stat(d); err != nil {
			return fmt.Errorf("directory of the prefix cache: %w", err)
		} else if !st.IsDir() {
			return fmt.Errorf("the prefix cache needs a directory, and %s is a file", d)
		}
	}
	if o.Metric == "" && len(j.Spec.Metrics) > 0 {
		o.Metric = j.Spec.Metrics[0]
	}
	if o.Metric != task.MetricLoss && !slices.Contains(j.Spec.Metrics, o.Metric) {
		return fmt.Errorf("unknown metric %q: task %s has loss, %s", o.Metric, j.Spec.Name, joined(j.Spec.Metrics))
	}
	if j.EvalData == nil && (o.Patience > 0 || o.EvalEvery > 0) {
		return errors.New("patience and evaluation need evaluation data")
	}
	return nil
}

// config is everything that decides what a run computes, by name. A resumed run
// must have the same.
func (t *Trainer) config() map[string]string {
	o, j := &t.o, &t.job
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	c := map[string]string{
		"epochs": strconv.Itoa(o.Epochs), "steps": strconv.Itoa(o.Steps),
		"batch size": strconv.Itoa(o.Batch.Size), "batch tokens": strconv.Itoa(o.Batch.Tokens),
		"accumulate": strconv.Itoa(max(o.Batch.Accumulate, 1)), "bucket": strconv.FormatBool(o.Batch.Bucket),
		"lr": number(o.LR), "schedule": string(o.Schedule), "warmup": number(o.Warmup), "weight decay": number(o.WeightDecay),
		"beta1": number(o.Beta1), "beta2": number(o.Beta2), "eps": number(o.Eps), "clip": number(o.Clip),
		"seed": strconv.FormatUint(o.Seed, 10), "eval every": strconv.Itoa(o.EvalEvery), "metric": o.Metric,
		"patience": strconv.Itoa(o.Patience), "keep last": strconv.FormatBool(o.KeepLast),
		"task": j.Spec.Name, "training data": fingerprint(j.Data), "evaluation data": fingerprint(j.EvalData),
		"program": programHash(j.Train.Program), "starting parameters": valuesHash(j.Train.Params),
	}
	if j.Prefix != nil {
		c["cached prefix"] = fmt.Sprintf("%d layers, %s", j.Prefix.Layers, programHash(j.Prefix.Program))
	}
	for k, v := range o.Identity {
		c[k] = v
	}
	return c
}
