package model

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// mergedTolerance is for logits of a weight that is rounded to float32 once, of
// the largest element.
const mergedTolerance = 2e-5

// The merged model computes what base and adapter compute, for every method that
// has a merged model.
func TestMergedLogits(t *testing.T) {
	for _, m := range methods(t) {
		t.Run(m.name+"/"+m.base, func(t *testing.T) {
			g := openGolden(t, filepath.Join("testdata", m.base))
			a := m.trained(t, g)
			source, err := merge.FromAdapter(a, 1)
			if adapter.OnBlocks(m.config.Method) {
				if !errors.Is(err, adapter.ErrNoDelta) {
					t.Errorf("a connection around blocks: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			plan, err := merge.NewPlan(g.model.Checkpoint(), []merge.Source{source}, merge.Options{DType: tensor.F32})
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "merged")
			if _, err := plan.Run(context.Background(), out, nil); err != nil {
				t.Fatal(err)
			}
			merged := *g
			merged.model = openModel(t, out)
			near(t, "logits", logits(t, &merged, engines[1].engine, nil), logits(t, g, engines[1].engine, a), mergedTolerance)
		})
	}
}
