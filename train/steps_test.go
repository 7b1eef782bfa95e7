package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// TestStepsMatchPyTorch compares whole runs, shuffling, accumulation, clipping,
// schedule and AdamW together, with those of testdata/gen_steps.py.
func TestStepsMatchPyTorch(t *testing.T) {
	b, err := os.ReadFile("testdata/steps.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Runs []struct {
			Kind       string
			Losses, LR []float64
			GradNorms  []float64 `json:"grad_norms"`
			Params     []float64
		}
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Runs) != 3 {
		t.Fatalf("%d runs", len(g.Runs))
	}
	kinds := map[string]task.Kind{"classification": task.Classification, "regression": task.Regression, "lm": task.LM}
	for _, e := range []struct {
		name   string
		engine graph.Engine
		// The reference engine computes in float64 but holds parameters and
		// moments in float32 between steps; the CPU engine is float32 throughout.
		tolerance float64
	}{{"reference", rounded{reference.New()}, 2e-6}, {"cpu", cpuEngine(t, 2), 2e-5}} {
		for _, want := range g.Runs {
			j := job(t, kinds[want.Kind], 0)
			j.Engine, j.EvalData = e.engine, nil
			o := options(filepath.Join(t.TempDir(), "run"))
			steps := 0
			o.Event = func(ev Event) {
				if ev.Type != EventStep {
					return
				}
				for _, v := range []struct {
					name      string
					got, want float64
				}{{"loss", ev.Loss, want.Losses[steps]}, {"gradient norm", ev.GradNorm, want.GradNorms[steps]}, {"learning rate", ev.LR, want.LR[steps]}} {
					if math.Abs(v.got-v.want) > e.tolerance*math.Max(1, math.Abs(v.want)) {
						t.Errorf("%s, %s, step %d: %s %v, PyTorch has %v", e.name, want.Kind, ev.Step, v.name, v.got, v.want)
					}
				}
				steps++
			}
			runJob(t, j, o)
			if steps != len(want.Losses) {
				t.Errorf("%s, %s: %d steps, PyTorch did %d", e.name, want.Kind, steps, len(want.Losses))
			}
			var last []float32
			for _, v := range want.Params {
				last = append(last, float32(v))
			}
			if d := distance(adapterBytes(t, o.Dir), string(rawFloats(last))); d > e.tolerance {
				t.Errorf("%s, %s: the last parameters differ by %v", e.name, want.Kind, d)
			}
		}
	}
}
