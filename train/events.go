package train

import (
	"encoding/json"
	"math"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// EventType says what happened.
type EventType string

// The events.
const (
	EventStart       EventType = "start"       // before the first step, or the first after resuming
	EventStep        EventType = "step"        // a step is done
	EventEval        EventType = "eval"        // an evaluation is done
	EventSaved       EventType = "saved"       // the state is on disk
	EventEarlyStop   EventType = "early_stop"  // patience is at its end
	EventInterrupted EventType = "interrupted" // the state is saved, the run ends
	EventDone        EventType = "done"        // the adapter is on disk
)

// Event reports progress.
type Event struct {
	Type  EventType
	Step  int // steps done
	Steps int // steps in all
	Epoch int // the epoch that the step belongs to, from 0

	// Of a step: the mean loss, the learning rate, the gradient's global norm
	// before clipping, and the speed.
	Loss, LR, GradNorm, TokensPerSecond float64
	// ETA is the time left at the speed so far.
	ETA time.Duration

	// Of an evaluation, and at the end of the parameters that were kept.
	Metrics []task.Metric
	Best    bool // the parameters are the best so far
	// BestStep is the step of the best parameters so far; 0 without evaluation.
	BestStep int

	// Resumed, of a start: the run continues an older one.
	Resumed bool
}

// value is a number in JSON; what is not finite becomes null.
type value float64

func (v value) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(v))
}

// metricMap turns metrics into what encodes as a JSON object.
func metricMap(m []task.Metric) map[string]value {
	out := map[string]value{}
	for _, v := range m {
		out[v.Name] = value(v.Value)
	}
	return out
}

// MarshalJSON writes the fields that the event's type has.
func (e Event) MarshalJSON() ([]byte, error) {
	line := map[string]any{"event": e.Type, "step": e.Step, "steps": e.Steps, "epoch": e.Epoch}
	switch e.Type {
	case EventStart:
		line["resumed"] = e.Resumed
	case EventStep:
		line["loss"], line["lr"], line["grad_norm"] = value(e.Loss), value(e.LR), value(e.GradNorm)
		line["tokens_per_second"], line["eta_seconds"] = value(e.TokensPerSecond), value(e.ETA.Seconds())
	case EventEval:
		line["metrics"], line["best"], line["best_step"] = metricMap(e.Metrics), e.Best, e.BestStep
	case EventDone:
		line["metrics"], line["best_step"] = metricMap(e.Metrics), e.BestStep
	}
	return json.Marshal(line)
}
