package train

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

func TestSchedulesMatchTransformers(t *testing.T) {
	b, err := os.ReadFile("testdata/schedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Cases []struct {
			Schedule      Schedule
			Warmup, Steps int
			Factors       []float64
		}
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) != 21 {
		t.Fatalf("%d cases", len(g.Cases))
	}
	for _, c := range g.Cases {
		for step, want := range c.Factors {
			// Both compute in double precision; only the cosine may differ in its
			// last bits.
			if got := c.Schedule.Factor(step, c.Warmup, c.Steps); math.Abs(got-want) > 1e-15 {
				t.Errorf("%s, warm-up %d of %d, step %d: %v, want %v", c.Schedule, c.Warmup, c.Steps, step, got, want)
			}
		}
	}
}

func TestWarmupSteps(t *testing.T) {
	for _, c := range []struct {
		warmup float64
		steps  int
		want   int
	}{{0, 100, 0}, {0.06, 345, 21}, {0.06, 100, 6}, {0.001, 10, 1}, {1, 100, 1}, {50, 100, 50}} {
		if got := WarmupSteps(c.warmup, c.steps); got != c.want {
			t.Errorf("WarmupSteps(%v, %d) = %d, want %d", c.warmup, c.steps, got, c.want)
		}
	}
}
