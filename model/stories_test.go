package model

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestStoriesTellsItsStory: at temperature 0 the embedded model says what its
// documentation says that it says ("Once upon a time, there was a little girl
// named Lily. She loved to play outside in the park. …"); the ids are those of
// transformers, which decode to that text.
func TestStoriesTellsItsStory(t *testing.T) {
	m := openModel(t, filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k"))
	if err := m.CheckAccounting(); err != nil {
		t.Error(err)
	}
	if tied, err := m.Tied(); err != nil || len(tied) != 1 {
		t.Errorf("tied %v, error %v, want the output layer tied to the embeddings", tied, err)
	}
	want := []int32{1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322,
		265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426, 338, 391, 266, 267, 337, 335, 312, 432, 398, 312, 286, 267, 414, 270, 333, 415}
	b := build(t, m, BuildOptions{Task: TaskLM, LogitsRows: graph.PickLast})
	x := load(t, cpuEngine(), b, &graph.Batch{IDs: make([]int32, len(want)), CuSeqlens: []int32{0, int32(len(want))}})
	ids := []int32{int32(m.Config().BOSTokenID)}
	for len(ids) < len(want) {
		n := int32(len(ids))
		batch := graph.Batch{IDs: ids, CuSeqlens: []int32{0, n}, Positions: make([]int32, n)}
		for i := range batch.Positions {
			batch.Positions[i] = int32(i)
		}
		logits := run(t, x, b.Program, &batch, b.Logits)
		ids = append(ids, int32(slices.Index(logits, slices.Max(logits))))
	}
	if !slices.Equal(ids, want) {
		t.Errorf("ids %v, want %v", ids, want)
	}
}
