package train

import "math"

// Schedule is the course of the learning rate after the warm-up.
type Schedule string

// The schedules. All begin with a linear rise from 0 over the warm-up steps.
const (
	Linear   Schedule = "linear"   // straight down to 0 at the last step
	Cosine   Schedule = "cosine"   // half a cosine down to 0
	Constant Schedule = "constant" // level
)

// Schedules are all of them.
var Schedules = []Schedule{Linear, Cosine, Constant}

// Factor multiplies the learning rate at a step, counted from 0, of steps in
// all. With w warm-up steps and progress p = (step - w)/max(1, steps - w):
//
//	step < w:  step / max(1, w)
//	linear:    max(0, (steps - step)/max(1, steps - w))
//	cosine:    max(0, (1 + cos(π p))/2)
//	constant:  1
//
// These are the formulas of transformers' get_linear_schedule_with_warmup,
// get_cosine_schedule_with_warmup and get_constant_schedule_with_warmup; as
// there, the first step of a warm-up has the factor 0.
func (s Schedule) Factor(step, warmup, steps int) float64 {
	if step < warmup {
		return float64(step) / float64(max(1, warmup))
	}
	left := float64(max(1, steps-warmup))
	switch s {
	case Linear:
		return max(0, float64(steps-step)/left)
	case Cosine:
		return max(0, 0.5*(1+math.Cos(math.Pi*(float64(step-warmup)/left))))
	}
	return 1
}

// WarmupSteps returns the number of warm-up steps: a share of all steps,
// rounded up, where warmup is below 1, else that number itself.
func WarmupSteps(warmup float64, steps int) int {
	if warmup < 1 {
		return int(math.Ceil(warmup * float64(steps)))
	}
	return int(warmup)
}
