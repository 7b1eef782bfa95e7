package decompose

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// On convex ladders of steps of one size the choice is the best: compared with
// every choice of three modules. With steps of several sizes it misses at most
// one step's fall.
func TestSpreadIsOptimalOnConvexLadders(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for n := range 200 {
		var ls []*ladder
		common := 1 + rng.IntN(5)
		for range 3 {
			l := &ladder{norm2: 100}
			price, e := common, 100.0
			if n%2 == 1 {
				price = 1 + rng.IntN(5)
			}
			gain := 10 + 20*rng.Float64()
			for r := 1; r <= 4; r++ {
				e -= gain
				gain *= rng.Float64()
				l.rungs = append(l.rungs, rung{params: r * price, error2: e})
			}
			ls = append(ls, l)
		}
		budget := int64(rng.IntN(40))
		at := spread(ls, budget)
		total := func(at []int) (cost int, e float64) {
			for i, l := range ls {
				p, x := l.state(at[i])
				cost += p
				e += x
			}
			return cost, e
		}
		cost, e := total(at)
		if int64(cost) > budget {
			t.Fatalf("%d parameters, budget %d", cost, budget)
		}
		best := math.Inf(1)
		for i := -1; i < 4; i++ {
			for j := -1; j < 4; j++ {
				for k := -1; k < 4; k++ {
					if c, x := total([]int{i, j, k}); int64(c) <= budget {
						best = min(best, x)
					}
				}
			}
		}
		slack := 1e-9
		if n%2 == 1 {
			slack = 30
		}
		if e > best+slack {
			t.Errorf("budget %d: error %v, best %v", budget, e, best)
		}
	}
	if at := spread([]*ladder{{norm2: 1, rungs: []rung{{params: 9}}}}, 8); at[0] != -1 {
		t.Errorf("a rung beyond the budget: %v", at)
	}
	// Not convex: the step is one over the hull, past the flat rung.
	l := &ladder{norm2: 10, rungs: []rung{{params: 1, error2: 9.9}, {params: 2, error2: 1}}}
	if at := spread([]*ladder{l}, 2); at[0] != 1 {
		t.Errorf("rung %d", at[0])
	}
}

func TestFallingDropsWhatIsNoBetter(t *testing.T) {
	got := falling([]rung{{params: 1, error2: 5}, {params: 2, error2: 5}, {params: 3, error2: 6}, {params: 4, error2: 1}})
	if len(got) != 2 || got[0].params != 1 || got[1].params != 4 {
		t.Errorf("%+v", got)
	}
	l := &ladder{norm2: 100, rungs: got}
	if i, ok := l.reach(0.1); i != 1 || !ok {
		t.Errorf("rung %d, %v", i, ok)
	}
	if i, ok := l.reach(0.01); i != 1 || ok {
		t.Errorf("rung %d, %v", i, ok)
	}
}

// With other forms beside plain factors, no budget leaves more than plain factors alone
// would; here the others lure the steepest step into dead ends.
func TestSpreadMixedIsNeverWorseThanPlain(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	better, lured := 0, 0
	for range 500 {
		var ls, plain []*ladder
		for range 4 {
			l := &ladder{norm2: 100}
			e, gain := 100.0, 40*rng.Float64()
			for r := 1; r <= 5; r++ {
				e -= gain
				gain *= rng.Float64()
				l.plain = append(l.plain, rung{params: 10 * r, error2: e})
			}
			l.rungs = slices.Clone(l.plain)
			for range 3 {
				l.rungs = append(l.rungs, rung{params: 1 + rng.IntN(50), error2: 100 * rng.Float64()})
			}
			slices.SortFunc(l.rungs, func(a, b rung) int { return a.params - b.params })
			l.rungs = falling(l.rungs)
			ls, plain = append(ls, l), append(plain, &ladder{norm2: l.norm2, rungs: l.plain})
		}
		budget := int64(rng.IntN(200))
		at := spreadMixed(ls, budget)
		cost := 0
		for i, l := range ls {
			p, _ := l.state(at[i])
			cost += p
		}
		if int64(cost) > budget {
			t.Fatalf("%d parameters, budget %d", cost, budget)
		}
		got, want := remains(ls, at), remains(plain, spread(plain, budget))
		if got > want+1e-6 {
			t.Errorf("budget %d: error %v, plain factors %v", budget, got, want)
		}
		if got < want-1e-6 {
			better++
		}
		if remains(ls, spread(ls, budget)) > want+1e-6 {
			lured++
		}
	}
	if better == 0 || lured == 0 {
		t.Errorf("%d times better than plain factors, %d times worse without them: nothing was tested", better, lured)
	}
}
