package train

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

func TestEvaluatorOutputs(t *testing.T) {
	for _, kind := range []task.Kind{task.Classification, task.Regression} {
		j := job(t, kind, 0)
		var first []task.Output
		for _, size := range []int{1, 7, 100} {
			v, err := NewEvaluator(j.Engine, j.Eval, j.EvalData, task.BatchOptions{Size: size})
			if err != nil {
				t.Fatal(err)
			}
			var calls []int
			out, err := v.Run(context.Background(), func(done, total int) { calls = append(calls, done) })
			if err != nil {
				t.Fatal(err)
			}
			v.Close()
			if calls[len(calls)-1] != len(out) || len(calls) != (40+size-1)/size {
				t.Errorf("progress %v", calls)
			}
			if first == nil {
				first = out
			}
			for i := range out {
				if out[i].Count != 1 || math.Abs(out[i].Loss-first[i].Loss) > 1e-6 || !slices.Equal(out[i].Logits, first[i].Logits) {
					t.Fatalf("%s, batches of %d, example %d: %+v, want %+v", kind, size, i, out[i], first[i])
				}
			}
		}
	}
}

// TestEvaluatorLossIsThatOfTheProgram compares the losses computed from logits
// with the training program's own.
func TestEvaluatorLossIsThatOfTheProgram(t *testing.T) {
	for _, kind := range []task.Kind{task.Classification, task.Regression} {
		j := job(t, kind, 0)
		v, err := NewEvaluator(j.Engine, j.Eval, j.EvalData, task.BatchOptions{Size: 100})
		if err != nil {
			t.Fatal(err)
		}
		out, err := v.Run(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, o := range out {
			sum += o.Loss
		}
		exe, err := j.Engine.Compile(j.Train.Program, j.Train.Weights, graph.Dims{})
		if err != nil {
			t.Fatal(err)
		}
		if err := exe.SetParams(j.Train.Params); err != nil {
			t.Fatal(err)
		}
		plan, err := j.EvalData.Plan(0, task.BatchOptions{Size: 100})
		if err != nil {
			t.Fatal(err)
		}
		var b task.Batch
		j.EvalData.Fill(&b, plan.Batch(0))
		gb := graph.Batch{LossScale: 1}
		batch(&gb, &b)
		if err := exe.Run(context.Background(), &gb); err != nil {
			t.Fatal(err)
		}
		var want [1]float32
		if err := exe.Read(j.Train.Program.Loss, want[:]); err != nil {
			t.Fatal(err)
		}
		if math.Abs(sum-float64(want[0])) > 1e-5*math.Abs(sum) {
			t.Errorf("%s: loss %v, the program says %v", kind, sum, want[0])
		}
	}
}
