package cuda

import (
	"fmt"
	"reflect"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// weightKey identifies a frozen tensor among the executables of an engine. A
// tensor that is read both ways is stored once.
type weightKey struct {
	source     graph.WeightSource
	name       string
	rows, cols int
}

// storedWeight is a frozen tensor on the device, rows as in the checkpoint.
type storedWeight struct {
	buffer
	half   bool // bfloat16, otherwise float32
	users  int
	key    weightKey
	cached bool
}

// halved reports whether w is kept as bfloat16: matrices under "bf16".
func (e *Engine) halved(w *graph.Weight) bool { return e.opt.Precision == "bf16" && w.In > 1 }

// weightBytes is the memory of w.
func (e *Engine) weightBytes(w *graph.Weight) int64 {
	n := int64(w.In) * int64(w.Out)
	if e.halved(w) {
		return 2 * n
	}
	return 4 * n
}

// used lists the weights that operations read.
func used(p *graph.Program) []bool {
	use := make([]bool, len(p.Weights)+1)
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Embed:
			for _, t := range o.Tables {
				use[t] = true
			}
		case *graph.Linear:
			use[o.W], use[o.Bias] = true, true
		case *graph.LinearGrad:
			use[o.W] = true
		case *graph.Norm:
			use[o.Gamma], use[o.Beta] = true, true
		case *graph.NormGrad:
			use[o.Gamma] = true
		case *graph.ColScale:
			use[o.Bias] = true
		case *graph.ColNorm:
			use[o.W] = true
		case *graph.LMLoss:
			use[o.W], use[o.Bias] = true, true
		}
	}
	use[graph.NoWeight] = false
	return use
}

// describeWeights says how weights will be stored, before any is there.
func (x *executable) describeWeights() {
	x.weights = make([]*storedWeight, len(x.p.Weights)+1)
	for id, use := range used(x.p) {
		if use {
			x.weights[id] = &storedWeight{half: x.e.halved(x.p.Weight(graph.WeightID(id)))}
		}
	}
}

// loadWeights brings the weights of the program to the device.
func (x *executable) loadWeights() error {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	for id, use := range used(x.p) {
		if !use {
			continue
		}
		w := x.p.Weight(graph.WeightID(id))
		key, cacheable := x.weightKey(w)
		s := x.e.cache[key]
		if s == nil || !cacheable {
			var err error
			if s, err = x.upload(w); err != nil {
				return fmt.Errorf("weight %s: %w", w.Name, err)
			}
			if s.key, s.cached = key, cacheable; cacheable {
				x.e.cache[key] = s
			}
		}
		s.users++
		x.weights[id] = s
	}
	return nil
}

// weightKey is the key of w, and whether its source can be told from another.
func (x *executable) weightKey(w *graph.Weight) (key weightKey, cacheable bool) {
	key = weightKey{name: w.Name, rows: w.StoredRows(), cols: w.StoredCols()}
	if x.source != nil && reflect.TypeOf(x.source).Comparable() {
		key.source = x.source
	}
	return key, key.source != nil
}

// upload copies w to the device through pinned memory, as many rows at a time
// as it holds.
func (x *executable) upload(w *graph.Weight) (*storedWeight, error) {
	s := &storedWeight{half: x.e.halved(w)}
	var err error
	if s.buffer, err = x.allocate(x.e.weightBytes(w)); err != nil {
		return nil, err
	}
	var wide buffer // a piece in float32 on its way to bfloat16
	if s.half {
		if wide, err = x.allocate(int64(len(x.transfer.bytes))); err != nil {
			return nil, x.giveUp(err, &s.buffer)
		}
	}
	rows, cols := w.StoredRows(), w.StoredCols()
	buf := floats(x.transfer.bytes)
	if cols > len(buf) {
		return nil, x.giveUp(fmt.Errorf("rows of %d elements; at most %d fit", cols, len(buf)), &s.buffer, &wide)
	}
	for lo := 0; lo < rows; lo += len(buf) / cols {
		hi := min(lo+len(buf)/cols, rows)
		part := buf[:(hi-lo)*cols]
		if err := x.source.ReadRows(w, lo, hi, part); err != nil {
			return nil, x.giveUp(err, &s.buffer, &wide)
		}
		if err := x.uploadPart(s, wide, lo*cols, len(part)); err != nil {
			return nil, x.giveUp(err, &s.buffer, &wide)
		}
	}
	return s, x.release(&wide)
}

// uploadPart copies n floats of the pinned memory to element at of s.
func (x *executable) uploadPart(s *storedWeight, wide buffer, at, n int) error {
	to := s.p + ptr(4*at)
	if s.half {
		to = wide.p
	}
	if err := x.check("cuMemcpyHtoD", x.toDevice(to, x.transfer.p, uintptr(4*n), x.stream)); err != nil {
		return err
	}
	if s.half {
		if err := x.launch("cast_bf16", flat(int64(n)), 256, 0, wide.p, s.p+ptr(2*at), int64(n)); err != nil {
			return err
		}
	}
	return x.wait()
}

// giveUp releases buffers and returns err.
func (x *executable) giveUp(err error, buffers ...*buffer) error {
	for _, b := range buffers {
		if e := x.release(b); e != nil {
			return fmt.Errorf("%w; then %w", err, e)
		}
	}
	return err
}

// releaseWeights gives back what no other executable holds.
func (x *executable) releaseWeights() error {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	for i, s := range x.weights {
		if s == nil {
			continue
		}
		x.weights[i] = nil
		if s.users--; s.users > 0 {
			continue
		}
		if s.cached {
			delete(x.e.cache, s.key)
		}
		if err := x.release(&s.buffer); err != nil {
			return err
		}
	}
	return nil
}

// vector is the address of a bias or a norm's scale; 0 for NoWeight.
func (x *executable) vector(w graph.WeightID) ptr {
	if w == graph.NoWeight {
		return 0
	}
	return x.weights[w].p
}
