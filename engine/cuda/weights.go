package cuda

import (
	"fmt"
	"reflect"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// storage is how a frozen tensor lies on the device.
type storage uint8

const (
	storeF32 storage = iota
	storeBF16
	storeInt8 // and a scale per output channel behind the matrix
)

func (s storage) String() string { return [...]string{"f32", "bf16", "int8"}[s] }

// weightKey identifies a frozen tensor among the executables of an engine. A
// tensor that is read both ways is stored once, except that a table to look up
// is never int8.
type weightKey struct {
	source     graph.WeightSource
	name       string
	rows, cols int
	as         storage
}

// storedWeight is a frozen tensor on the device, rows as in the checkpoint.
type storedWeight struct {
	buffer
	as     storage
	scales ptr // of int8, by output channel
	users  int
	key    weightKey
	cached bool
}

// use says how the operations of a program read a weight.
type use struct{ read, gathered bool }

// storageOf is how w is stored: vectors as float32, matrices by the base dtype,
// tables to look up as bfloat16 where the base is int8.
func (e *Engine) storageOf(w *graph.Weight, u use) storage {
	switch {
	case w.In <= 1 || e.opt.BaseDType == "f32":
		return storeF32
	case e.opt.BaseDType == "int8" && !u.gathered:
		return storeInt8
	}
	return storeBF16
}

// weightBytes is the memory of w stored as s.
func weightBytes(w *graph.Weight, s storage) int64 {
	n := int64(w.In) * int64(w.Out)
	switch s {
	case storeBF16:
		return 2 * n
	case storeInt8:
		return scalesAt(w) + 4*int64(w.Out)
	}
	return 4 * n
}

// scalesAt is where the scales of an int8 matrix begin, in bytes.
func scalesAt(w *graph.Weight) int64 { return (int64(w.In)*int64(w.Out) + 255) &^ 255 }

// used lists how operations read the weights.
func used(p *graph.Program) []use {
	list := make([]use, len(p.Weights)+1)
	read := func(ws ...graph.WeightID) {
		for _, w := range ws {
			list[w].read = true
		}
	}
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Embed:
			for _, t := range o.Tables {
				list[t] = use{read: true, gathered: true}
			}
		case *graph.Linear:
			read(o.W, o.Bias)
		case *graph.LinearGrad:
			read(o.W)
		case *graph.Norm:
			read(o.Gamma, o.Beta)
		case *graph.NormGrad:
			read(o.Gamma)
		case *graph.ColScale:
			read(o.Bias)
		case *graph.ColNorm:
			read(o.W)
		case *graph.LMLoss:
			read(o.W, o.Bias)
		}
	}
	list[graph.NoWeight] = use{}
	return list
}

// describeWeights says how weights will be stored, before any is there.
func (x *executable) describeWeights() {
	x.weights = make([]*storedWeight, len(x.p.Weights)+1)
	for id, u := range used(x.p) {
		if u.read {
			x.weights[id] = &storedWeight{as: x.e.storageOf(x.p.Weight(graph.WeightID(id)), u)}
		}
	}
}

// loadWeights brings the weights of the program to the device.
func (x *executable) loadWeights() error {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	for id, u := range used(x.p) {
		if !u.read {
			continue
		}
		w := x.p.Weight(graph.WeightID(id))
		key, cacheable := x.weightKey(w, u)
		s := x.e.cache[key]
		if s == nil || !cacheable {
			var err error
			if s, err = x.upload(w, key.as); err != nil {
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
func (x *executable) weightKey(w *graph.Weight, u use) (key weightKey, cacheable bool) {
	key = weightKey{name: w.Name, rows: w.StoredRows(), cols: w.StoredCols(), as: x.e.storageOf(w, u)}
	if x.source != nil && reflect.TypeOf(x.source).Comparable() {
		key.source = x.source
	}
	return key, key.source != nil
}

// upload copies w to the device through pinned memory, as many rows at a time
// as it holds. The scales of int8 are those of output channels: of rows as they
// are stored, which come whole, or of columns, for which all rows are read
// once before.
func (x *executable) upload(w *graph.Weight, as storage) (*storedWeight, error) {
	s := &storedWeight{as: as}
	var err error
	if s.buffer, err = x.allocate(weightBytes(w, as)); err != nil {
		return nil, err
	}
	var wide buffer // a piece in float32 on its way to another type
	if as != storeF32 {
		if wide, err = x.allocate(int64(len(x.transfer.bytes))); err != nil {
			return nil, x.giveUp(err, &s.buffer)
		}
	}
	if as == storeInt8 {
		s.scales = s.p + ptr(scalesAt(w))
		err = x.check("cuMemset", x.fill(s.scales, 0, uintptr(4*w.Out), x.stream))
	}
	if err == nil && as == storeInt8 && !w.Transposed {
		err = x.eachPiece(w, func(_, rows, cols int) error {
			if err := x.uploadPiece(wide.p, rows*cols); err != nil {
				return err
			}
			return x.launch("int8_scales", grid{x: (cols + 255) / 256}, 256, 0, wide.p, rows, cols, 0, s.scales)
		})
	}
	if err == nil {
		err = x.eachPiece(w, func(at, rows, cols int) error { return x.store(s, w, wide.p, at, rows, cols) })
	}
	if err != nil {
		return nil, x.giveUp(err, &s.buffer, &wide)
	}
	return s, x.release(&wide)
}

// eachPiece reads w in pieces of rows into the pinned memory, for which f queues
// the copy.
func (x *executable) eachPiece(w *graph.Weight, f func(at, rows, cols int) error) error {
	rows, cols := w.StoredRows(), w.StoredCols()
	buf := floats(x.transfer.bytes)
	if cols > len(buf) {
		return fmt.Errorf("rows of %d elements; at most %d fit", cols, len(buf))
	}
	for lo := 0; lo < rows; lo += len(buf) / cols {
		hi := min(lo+len(buf)/cols, rows)
		if err := x.source.ReadRows(w, lo, hi, buf[:(hi-lo)*cols]); err != nil {
			return err
		}
		if err := f(lo, hi-lo, cols); err != nil {
			return err
		}
		if err := x.wait(); err != nil {
			return err
		}
	}
	return nil
}

// uploadPiece queues the copy of n floats of the pinned memory.
func (x *executable) uploadPiece(to ptr, n int) error {
	return x.check("cuMemcpyHtoD", x.toDevice(to, x.transfer.p, uintptr(4*n), x.stream))
}

// store brings rows of w from the pinned memory to row at of s.
func (x *executable) store(s *storedWeight, w *graph.Weight, wide ptr, at, rows, cols int) error {
	n := rows * cols
	if s.as == storeF32 {
		return x.uploadPiece(s.p+ptr(4*at*cols), n)
	}
	if err := x.uploadPiece(wide, n); err != nil {
		return err
	}
	if s.as == storeBF16 {
		return x.launch("cast_bf16", flat(int64(n)), 256, 0, wide, s.p+ptr(2*at*cols), int64(n))
	}
	scales := s.scales
	if w.Transposed {
		scales += ptr(4 * at)
		if err := x.launch("int8_scales", grid{x: rows}, 256, 0, wide, rows, cols, 1, scales); err != nil {
			return err
		}
	}
	return x.launch("int8_round", flat(int64(n)), 256, 0, wide, rows, cols, int(bit(w.Transposed)), scales, s.p+ptr(at*cols))
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
