package model

import (
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// weights implements graph.WeightSource over the checkpoint and tensors held
// in memory (a frozen head that the checkpoint lacks).
type weights struct {
	ckpt  *formats.Checkpoint
	extra map[string][]float32
}

// NewWeights reads frozen tensors from a checkpoint, converted to float32, or from
// extra, which goes first: row-major elements by name.
func NewWeights(c *formats.Checkpoint, extra map[string][]float32) graph.WeightSource {
	return &weights{c, extra}
}

// ReadRows implements graph.WeightSource.
func (s *weights) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	cols := w.StoredCols()
	if lo < 0 || hi < lo || hi > w.StoredRows() || len(dst) != (hi-lo)*cols {
		return fmt.Errorf("model: rows [%d, %d) of %s (%d, %d) into %d floats", lo, hi, w.Name, w.StoredRows(), cols, len(dst))
	}
	if data, ok := s.extra[w.Name]; ok {
		copy(dst, data[lo*cols:hi*cols])
		return nil
	}
	t, ok := s.ckpt.Lookup(w.Name)
	if !ok {
		return &formats.Error{Path: s.ckpt.Path(), Tensor: w.Name, Reason: "missing", Hint: "use the weights that came with the program", Err: formats.ErrNotFound}
	}
	return s.ckpt.ReadF32(t, int64(lo)*int64(cols), int64(hi)*int64(cols), dst)
}

// sourceOf reads the checkpoint and extra. Programs whose extra tensors are the
// same memory, as those that train and evaluate one adapter, get one source, so
// that engines hold their common weights once.
func (m *Model) sourceOf(extra map[string][]float32) graph.WeightSource {
	if len(extra) == 0 {
		return m.source
	}
	m.last.Lock()
	defer m.last.Unlock()
	if m.last.weights == nil || !sameMemory(m.last.extra, extra) {
		m.last.weights = &weights{m.ckpt, extra}
	}
	return m.last.weights
}

func sameMemory(a, b map[string][]float32) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		if y := b[name]; len(x) != len(y) || len(x) > 0 && &x[0] != &y[0] {
			return false
		}
	}
	return true
}
