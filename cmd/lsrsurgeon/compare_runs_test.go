package main

import (
	"math"
	"slices"
	"testing"
)

// The best first: what that is depends on the metric; NaN is last.
func TestByMetric(t *testing.T) {
	for name, want := range map[string][]float64{"accuracy": {0.9, 0.8, 0.1}, "loss": {0.1, 0.8, 0.9}} {
		x := []float64{0.8, math.NaN(), 0.1, 0.9}
		slices.SortStableFunc(x, func(a, b float64) int { return byMetric(name, a, b) })
		if !slices.Equal(x[:3], want) || !math.IsNaN(x[3]) {
			t.Errorf("%s: %v", name, x)
		}
	}
}

// Runs are one configuration if only the seed, and what it draws, is another.
func TestGroupRuns(t *testing.T) {
	run := func(name, method, lr, seed string, loss float64) *comparedRun {
		return &comparedRun{Run: name, Method: method, Settings: "r=2", Parameters: 7, Metrics: map[string]*float64{"loss": &loss}, names: []string{"loss"},
			Config: map[string]string{"lr": lr, "seed": seed, "starting parameters": name}}
	}
	groups := groupRuns([]*comparedRun{run("a", "lora", "1", "0", 1), run("b", "lora", "2", "0", 5), run("c", "lora", "1", "1", 3), run("d", "lsr", "1", "1", 9)}, []string{"loss", "f1"})
	if len(groups) != 3 || !slices.Equal(groups[0].Runs, []string{"a", "c"}) || groups[0].Mean["loss"] != 2 || groups[0].SD["loss"] != math.Sqrt2 {
		t.Errorf("groups %+v", groups)
	}
	if _, ok := groups[0].Mean["f1"]; ok || len(groups[1].SD) != 0 {
		t.Errorf("values of nothing: %+v, %+v", groups[0], groups[1])
	}
}
