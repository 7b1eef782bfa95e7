package decompose

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// rung is one size that a module's update can have.
type rung struct {
	rank   adapter.Rank
	terms  int
	params int
	// split and splitOut are those of in and out, or zero for the settings'.
	split, splitOut [2]int
	error2          float64 // ‖ΔW - scale·A B‖²
	// tensors are the module's tensors, or nil where make has them.
	tensors [][]float32
}

// ladder are the sizes on offer for one module, by number of parameters, the
// squared error falling strictly.
type ladder struct {
	norm2, base2 float64 // of ΔW and of W
	rungs        []rung
	bounds       []float64   // of lsr: squared errors of keeping 0, 1, ... triplets
	triplets     *triplets32 // of lsr with plain factors
	plain        []rung      // those alone
	// build returns the tensors of rung i.
	build func(i int) [][]float32
}

// falling drops rungs that cost more than another without being better.
func falling(rungs []rung) []rung {
	best := math.Inf(1)
	kept := rungs[:0]
	for _, r := range rungs {
		if r.error2 < best*(1-1e-9) {
			best = r.error2
			kept = append(kept, r)
		}
	}
	return kept
}

// reach returns the cheapest rung with an error of at most share of the norm,
// or the last and false.
func (l *ladder) reach(share float64) (int, bool) {
	for i, r := range l.rungs {
		if r.error2 <= share*share*l.norm2 {
			return i, true
		}
	}
	return len(l.rungs) - 1, false
}

// spread chooses a rung for every ladder, or -1 for none, so that the total
// number of parameters is at most budget and the total squared error small: it
// always takes the step with the largest fall of the error per parameter that
// the rest of the budget pays, over the lower convex hulls of the ladders. Where
// they are convex, as those of singular values, no other choice is better until
// a step is too large for the rest.
func spread(ladders []*ladder, budget int64) []int {
	at := make([]int, len(ladders))
	for i := range at {
		at[i] = -1
	}
	climb(ladders, at, budget)
	return at
}

// spreadMixed is spread where ladders have plain factors too. What plain factors alone
// would get of the budget, exchanged for rungs that cost no more and leave no more, is
// the start of a second try, so that no budget leaves more than LoRA's.
func spreadMixed(ladders []*ladder, budget int64) []int {
	plain := make([]*ladder, len(ladders))
	for i, l := range ladders {
		plain[i] = &ladder{norm2: l.norm2, rungs: l.plain}
	}
	second := spread(plain, budget)
	left := budget
	for i, l := range ladders {
		params, _ := plain[i].state(second[i])
		second[i] = l.within(params)
		params, _ = l.state(second[i])
		left -= int64(params)
	}
	climb(ladders, second, left)
	first := spread(ladders, budget)
	if remains(ladders, second) < remains(ladders, first) {
		return second
	}
	return first
}

// within is the last rung of so many parameters, or -1.
func (l *ladder) within(params int) int {
	at := -1
	for i, r := range l.rungs {
		if r.params <= params {
			at = i
		}
	}
	return at
}

// remains is the squared error of a choice.
func remains(ladders []*ladder, at []int) float64 {
	sum := 0.0
	for i, l := range ladders {
		_, error2 := l.state(at[i])
		sum += error2
	}
	return sum
}

// climb is what spread does from a choice on, with what is left of the budget.
func climb(ladders []*ladder, at []int, left int64) {
	for {
		best, to, rate := -1, 0, 0.0
		for i, l := range ladders {
			params, error2 := l.state(at[i])
			j, g := l.steepest(at[i], params, error2, left)
			if g > rate {
				best, to, rate = i, j, g
			}
		}
		if best < 0 {
			return
		}
		before, _ := ladders[best].state(at[best])
		left -= int64(ladders[best].rungs[to].params - before)
		at[best] = to
	}
}

// state is the number of parameters and the squared error at rung i.
func (l *ladder) state(i int) (int, float64) {
	if i < 0 {
		return 0, l.norm2
	}
	return l.rungs[i].params, l.rungs[i].error2
}

// steepest returns the affordable rung above i whose fall per parameter is
// largest, and that rate; 0 if there is none.
func (l *ladder) steepest(i, params int, error2 float64, left int64) (to int, rate float64) {
	for j := i + 1; j < len(l.rungs); j++ {
		r := l.rungs[j]
		if int64(r.params-params) > left {
			break
		}
		if g := (error2 - r.error2) / float64(r.params-params); g > rate {
			to, rate = j, g
		}
	}
	return to, rate
}
