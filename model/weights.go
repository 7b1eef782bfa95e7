package model

import (
	"fmt"
	"maps"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// weights implements graph.WeightSource over the checkpoint and tensors held
// in memory (a frozen head that the checkpoint lacks).
type weights struct {
	ckpt  *formats.Checkpoint
	extra map[string][]float32
}

// Sources gives the programs of one model the places that their frozen tensors come
// from. It is safe for concurrent use.
type Sources struct {
	plain *weights
	mu    sync.Mutex
	last  *weights // the latest with tensors from elsewhere
	added map[string][]float32
}

// NewSources reads frozen tensors from a checkpoint, converted to float32, or from
// own, which goes first: row-major elements by name.
func NewSources(c *formats.Checkpoint, own map[string][]float32) *Sources {
	return &Sources{plain: &weights{c, own}}
}

// Plain is the source of a program without tensors from elsewhere. It is always
// the same, so that engines see that programs share weights.
func (s *Sources) Plain() graph.WeightSource { return s.plain }

// With is the source of a program with tensors from elsewhere. Programs whose
// extra tensors are the same memory, as those that train and evaluate one
// adapter, get one source, so that engines hold their common weights once.
func (s *Sources) With(extra map[string][]float32) graph.WeightSource {
	if len(extra) == 0 {
		return s.plain
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || !sameMemory(s.added, extra) {
		all := maps.Clone(extra)
		maps.Copy(all, s.plain.extra)
		s.last, s.added = &weights{s.plain.ckpt, all}, extra
	}
	return s.last
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
	from, to := int64(lo)*int64(cols), int64(hi)*int64(cols)
	if err := s.ckpt.ReadF32(t, from, to, dst); err != nil {
		return err
	}
	// Engines read frozen tensors once, into forms of their own.
	s.ckpt.Forget(t, from, to)
	return nil
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
