package train

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

func TestTrainingLearns(t *testing.T) {
	for _, kind := range []task.Kind{task.Classification, task.Regression, task.LM} {
		var losses []float64
		o := options(filepath.Join(t.TempDir(), "run"))
		o.Epochs = 25
		o.Event = func(e Event) {
			if e.Type == EventStep {
				losses = append(losses, e.Loss)
			}
		}
		res := runJob(t, job(t, kind, 0.1), o)
		first, last := mean(losses[:4]), mean(losses[len(losses)-4:])
		most := map[task.Kind]float64{task.Classification: 0.5, task.Regression: 0.6, task.LM: 0.99}[kind]
		if !(last < most*first) {
			t.Errorf("%s: loss from %v to %v", kind, first, last)
		}
		if res.Steps != 100 || len(losses) != 100 || res.Complete || len(res.Metrics) < 2 {
			t.Errorf("%s: %d losses, %+v", kind, len(losses), res)
		}
		if kind == task.Classification && valueOf(res.Metrics, task.MetricAccuracy) < 0.8 {
			t.Errorf("accuracy %v", res.Metrics)
		}
		want := []string{"adapter_config.json", "adapter_model.safetensors", MetricsFile, RunFile}
		if got := names(t, o.Dir); !slices.Equal(got, want) {
			t.Errorf("%s: files %q, want %q", kind, got, want)
		}
	}
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// TestAccumulationEqualsOneLargeBatch compares the first step's loss, gradient
// norm and parameters for batches of several sizes with unequal numbers of
// labels.
func TestAccumulationEqualsOneLargeBatch(t *testing.T) {
	for _, kind := range []task.Kind{task.Classification, task.LM} {
		type first struct {
			loss, norm float64
			params     string
		}
		var want first
		for _, b := range []task.BatchOptions{{Size: 24}, {Size: 12, Accumulate: 2}, {Size: 8, Accumulate: 3}, {Size: 1, Accumulate: 24}} {
			o := options(filepath.Join(t.TempDir(), "run"))
			o.Epochs, o.Steps, o.Batch, o.Warmup, o.KeepLast = 0, 1, b, 0, true
			var got first
			o.Event = func(e Event) {
				if e.Type == EventStep {
					got.loss, got.norm = e.Loss, e.GradNorm
				}
			}
			runJob(t, job(t, kind, 0), o)
			got.params = adapterBytes(t, o.Dir)
			if want.params == "" {
				want = got
				continue
			}
			// The sums of float64 gradients differ in order alone, the loss scale is
			// the same: only rounding to float32 may differ.
			if math.Abs(got.loss-want.loss) > 1e-6 || math.Abs(got.norm-want.norm) > 1e-6*want.norm || distance(got.params, want.params) > 1e-6 {
				t.Errorf("%s, %+v: loss %v, norm %v, parameters differ by %v; want %v, %v", kind, b, got.loss, got.norm, distance(got.params, want.params), want.loss, want.norm)
			}
		}
	}
}

// distance is the largest difference of two lists of float32.
func distance(a, b string) float64 {
	d := 0.0
	for i := 0; i+4 <= len(a); i += 4 {
		x := math.Float32frombits(uint32(a[i]) | uint32(a[i+1])<<8 | uint32(a[i+2])<<16 | uint32(a[i+3])<<24)
		y := math.Float32frombits(uint32(b[i]) | uint32(b[i+1])<<8 | uint32(b[i+2])<<16 | uint32(b[i+3])<<24)
		d = max(d, math.Abs(float64(x)-float64(y)))
	}
	return d
}

func TestEarlyStopKeepsTheBest(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "run"))
	o.Epochs, o.EvalEvery, o.Patience, o.Metric, o.LR, o.Clip = 100, 2, 3, task.MetricLoss, 0.3, 0
	type eval struct {
		step int
		loss float64
		best bool
	}
	var evals []eval
	stopped := false
	o.Event = func(e Event) {
		switch e.Type {
		case EventEval:
			evals = append(evals, eval{e.Step, valueOf(e.Metrics, task.MetricLoss), e.Best})
		case EventEarlyStop:
			stopped = true
		}
	}
	res := runJob(t, job(t, task.Classification, 0), o)
	best := slices.MinFunc(evals, func(a, b eval) int {
		if a.loss < b.loss {
			return -1
		}
		return 1
	})
	last := evals[len(evals)-1]
	if !stopped || last.step != best.step+6 || res.BestStep != best.step || res.Steps != last.step || valueOf(res.Metrics, task.MetricLoss) != best.loss {
		t.Errorf("stopped %v at %+v, best %+v, result %+v", stopped, last, best, res)
	}

	// The adapter is that of the best step: evaluating it gives its loss again.
	j := job(t, task.Classification, 0)
	v, err := NewEvaluator(j.Engine, j.Eval, j.EvalData, task.BatchOptions{Size: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	raw := adapterBytes(t, o.Dir)
	params := make([]float32, len(raw)/4)
	for i := range params {
		params[i] = math.Float32frombits(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
	}
	if err := v.SetParams(params); err != nil {
		t.Fatal(err)
	}
	out, err := v.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := task.Score(j.Spec, j.EvalExamples, out)
	if err != nil {
		t.Fatal(err)
	}
	if got := valueOf(m, task.MetricLoss); math.Abs(got-best.loss) > 1e-6 {
		t.Errorf("the adapter's loss is %v, want %v", got, best.loss)
	}
}

// broken gives NaN from a step on.
type broken struct {
	graph.Engine
	from int
}

type brokenExe struct {
	graph.Executable
	runs, from int
}

func (e broken) Compile(p *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	x, err := e.Engine.Compile(p, w, d)
	return &brokenExe{Executable: x, from: e.from}, err
}

func (x *brokenExe) Run(ctx context.Context, b *graph.Batch) error {
	x.runs++
	return x.Executable.Run(ctx, b)
}

func (x *brokenExe) Read(v graph.Value, dst []float32) error {
	err := x.Executable.Read(v, dst)
	if x.runs > x.from {
		dst[0] = float32(math.NaN())
	}
	return err
}

func TestNaNLossNamesTheStep(t *testing.T) {
	for from, want := range map[int]string{0: "the model gives it before any update", 6: "lower the learning rate"} {
		j := job(t, task.Classification, 0)
		j.Engine, j.EvalData = broken{reference.New(), from}, nil
		o := options(filepath.Join(t.TempDir(), "run"))
		tr, err := New(j, o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tr.Run(context.Background())
		step := map[int]string{0: "step 1 ", 6: "step 4 "}[from]
		if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), step) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
		if slices.Contains(names(t, o.Dir), "adapter_model.safetensors") {
			t.Error("a diverged run left an adapter")
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"epochs and steps":  func(o *Options) { o.Steps = 5 },
		"no length":         func(o *Options) { o.Epochs = 0 },
		"no directory":      func(o *Options) { o.Dir = "" },
		"learning rate":     func(o *Options) { o.LR = 0 },
		"learning rate NaN": func(o *Options) { o.LR = math.NaN() },
		"weight decay":      func(o *Options) { o.WeightDecay = -1 },
		"schedule":          func(o *Options) { o.Schedule = "step" },
		"metric":            func(o *Options) { o.Metric = "bleu" },
		"batch":             func(o *Options) { o.Batch.Size = 0 },
		"patience":          func(o *Options) { o.Patience = -1 },
		"beta":              func(o *Options) { o.Beta1 = 1 },
	} {
		o := options("run")
		change(&o)
		if _, err := New(job(t, task.Classification, 0), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	j := job(t, task.Classification, 0)
	j.EvalData = nil
	o := options("run")
	o.Patience = 2
	if _, err := New(j, o); err == nil {
		t.Error("patience without evaluation data: no error")
	}
}

func TestEstimate(t *testing.T) {
	j := job(t, task.Classification, 0)
	tr, err := New(j, options("run"))
	if err != nil {
		t.Fatal(err)
	}
	e := tr.Estimate()
	parameters := hidden*2 + 2*hidden + hidden*2 + 2
	if e.Parameters != parameters || e.Frozen != vocab*hidden+hidden*hidden || e.Steps != 12 || e.StepsPerEpoch != 4 || e.WarmupSteps != 2 || e.Sequences != 60 {
		t.Errorf("got %+v", e)
	}
	// 16 bytes a parameter (value, gradient, two moments) are the least.
	if e.PlanBytes < int64(16*parameters) || e.FrozenBytes < 4*e.Frozen || e.EvalPlanBytes == 0 || e.LargestBatch == 0 || e.PeakBytes() <= e.PlanBytes+e.FrozenBytes {
		t.Errorf("got %+v", e)
	}
	if _, err := os.Stat("run"); !os.IsNotExist(err) {
		t.Error("planning wrote something")
	}
}

func TestSavesByStepsAndByTime(t *testing.T) {
	var saved []int
	count := func(e Event) {
		if e.Type == EventSaved {
			saved = append(saved, e.Step)
		}
	}
	j := job(t, task.Classification, 0)
	j.EvalData = nil
	o := options(filepath.Join(t.TempDir(), "steps"))
	o.SaveEvery, o.Event = 5, count
	runJob(t, j, o)
	if !slices.Equal(saved, []int{5, 10}) {
		t.Errorf("saved after the steps %v", saved)
	}
	saved = nil
	j = job(t, task.Classification, 0)
	j.EvalData = nil
	o = options(filepath.Join(t.TempDir(), "time"))
	clock := time.Unix(0, 0)
	o.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
	o.SaveInterval, o.Event = 10*time.Second, count
	runJob(t, j, o)
	if len(saved) < 3 || len(saved) > 6 {
		t.Errorf("saved after the steps %v", saved)
	}
}

func TestEventsAsJSON(t *testing.T) {
	for want, e := range map[string]Event{
		`{"epoch":1,"eta_seconds":2,"event":"step","grad_norm":0.5,"loss":null,"lr":0.001,"step":3,"steps":9,"tokens_per_second":10}`: {Type: EventStep, Step: 3, Steps: 9, Epoch: 1, Loss: math.NaN(), LR: 0.001, GradNorm: 0.5, TokensPerSecond: 10, ETA: 2 * time.Second},
		`{"best":true,"best_step":3,"epoch":0,"event":"eval","metrics":{"accuracy":0.5,"pearson":null},"step":3,"steps":9}`:           {Type: EventEval, Step: 3, Steps: 9, Best: true, BestStep: 3, Metrics: []task.Metric{{Name: "accuracy", Value: 0.5}, {Name: "pearson", Value: math.NaN()}}},
		`{"epoch":0,"event":"start","resumed":true,"step":3,"steps":9}`:                                                               {Type: EventStart, Step: 3, Steps: 9, Resumed: true},
	} {
		if got, err := json.Marshal(e); err != nil || string(got) != want {
			t.Errorf("got  %s\nwant %s (%v)", got, want, err)
		}
	}
}
