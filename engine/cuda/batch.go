package cuda

import (
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// head mirrors struct Head of kernels/common.cu.
type head struct {
	t, s, r, tiles int32
	train          int32
	step           uint32
	lossScale      float32
	_              int32
	seed           uint64

	ids, types, positions, cu, picked, labels, seqs, targets, inputs, tile ptr
}

// tileLen is the number of queries or keys of a tile of attention.
const tileLen = 32

// layout says where the streams of a batch lie behind its head, in bytes.
// Inputs come last, from streams on: they are large, so kernels read them
// where they arrive and not in the copy of the rest.
type layout struct {
	ids, types, positions, cu, picked, labels, seqs, targets, tile, streams, total int
}

// layoutOf makes room for batches up to d.
func layoutOf(p *graph.Program, d graph.Dims) layout {
	var l layout
	at := int(unsafe.Sizeof(head{}))
	take := func(n int) int {
		at = (at + 15) &^ 15
		start := at
		at += 4 * n
		return start
	}
	l.ids, l.types, l.positions, l.seqs = take(d.T), take(d.T), take(d.T), take(d.T)
	l.cu, l.picked, l.labels = take(d.S+1), take(d.R), take(max(d.S, d.R))
	targets, inputs := 0, 0
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Input:
			inputs = d.T * p.Info(o.Y).Cols
		case *graph.MSE:
			targets = max(targets, p.Info(o.Pred).Rows.Count(d)*p.Info(o.Pred).Cols)
		case *graph.BCE:
			targets = max(targets, p.Info(o.Logits).Rows.Count(d)*p.Info(o.Logits).Cols)
		}
	}
	l.targets = take(targets)
	l.tile = take(4 * maxTiles(d))
	l.streams = (at + 15) &^ 15
	l.total = l.streams + (4*inputs+15)&^15
	return l
}

// bytes is the device memory of the streams and of both slots.
func (l layout) bytes() int64 { return int64(l.streams) + 2*int64(l.total) }

// maxTiles bounds the number of tiles of batches up to d.
func maxTiles(d graph.Dims) int { return d.T/tileLen + d.S }

// pack writes b as the kernels see it: streams for device address base, inputs
// for where the image itself is copied to. It returns the bytes in use.
func (l layout) pack(image []byte, base, inputs ptr, b *graph.Batch) int {
	d := b.Dims()
	h := (*head)(unsafe.Pointer(&image[0]))
	*h = head{t: int32(d.T), s: int32(d.S), r: int32(d.R), step: uint32(b.Step), lossScale: b.LossScale, seed: b.Seed,
		ids: base + ptr(l.ids), types: base + ptr(l.types), positions: base + ptr(l.positions), cu: base + ptr(l.cu), picked: base + ptr(l.picked),
		labels: base + ptr(l.labels), seqs: base + ptr(l.seqs), targets: base + ptr(l.targets), inputs: inputs + ptr(l.streams), tile: base + ptr(l.tile)}
	if b.Train {
		h.train = 1
	}
	ints := func(at, n int) []int32 {
		if n == 0 {
			return nil
		}
		return unsafe.Slice((*int32)(unsafe.Pointer(&image[at])), n)
	}
	copy(ints(l.ids, d.T), b.IDs)
	if b.TypeIDs == nil {
		clear(ints(l.types, d.T))
	}
	copy(ints(l.types, d.T), b.TypeIDs)
	copy(ints(l.positions, d.T), b.Positions)
	copy(ints(l.cu, d.S+1), b.CuSeqlens)
	copy(ints(l.picked, d.R), b.Rows)
	copy(ints(l.labels, len(b.Labels)), b.Labels)
	if n := len(b.Targets); n > 0 && l.tile > l.targets {
		copy(floats(image[l.targets:l.tile]), b.Targets)
	}
	seqs, tiles := ints(l.seqs, d.T), ints(l.tile, 4*maxTiles(d))
	for s := range d.S {
		lo, hi := b.CuSeqlens[s], b.CuSeqlens[s+1]
		for t := lo; t < hi; t++ {
			seqs[t] = int32(s)
		}
		for off := int32(0); off < hi-lo; off += tileLen {
			copy(tiles[4*h.tiles:], []int32{lo, hi - lo, off, int32(s)})
			h.tiles++
		}
	}
	if l.total == l.streams {
		return l.streams // the program has no input: what a batch brings is not read
	}
	return l.streams + 4*copy(floats(image[l.streams:l.total]), b.Inputs)
}

// slot is one of two places through which batches travel, so that a batch is
// copied while the one before it runs.
type slot struct {
	host         pinned
	staging      buffer
	copied, used uintptr // events
}

// openSlots allocates for the layout.
func (x *executable) openSlots() error {
	var err error
	if x.batch, err = x.allocate(int64(x.layout.streams)); err != nil {
		return err
	}
	for i := range x.slots {
		s := &x.slots[i]
		if s.host, err = x.pin(x.layout.total); err != nil {
			return err
		}
		if s.staging, err = x.allocate(int64(x.layout.total)); err != nil {
			return err
		}
		for _, e := range []*uintptr{&s.copied, &s.used} {
			const noTiming = 2
			if err := x.check("cuEventCreate", x.newEvent(e, noTiming)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *executable) closeSlots() error {
	for i := range x.slots {
		s := &x.slots[i]
		for _, e := range []*uintptr{&s.copied, &s.used} {
			if *e == 0 {
				continue
			}
			if err := x.check("cuEventDestroy", x.destroyEvent(*e)); err != nil {
				return err
			}
			*e = 0
		}
		if err := x.unpin(&s.host); err != nil {
			return err
		}
		if err := x.release(&s.staging); err != nil {
			return err
		}
	}
	return x.release(&x.batch)
}

// send queues the copy of b: to its slot's memory on the copying stream, from
// there to where the kernels look on the computing one. The slot is in use
// until its event used is recorded, which is the caller's: after the kernels,
// since they read inputs in it.
func (x *executable) send(b *graph.Batch) (*slot, error) {
	s := &x.slots[x.next]
	x.next = 1 - x.next
	// The last copy out of the pinned memory must be over.
	if err := x.check("cuEventSynchronize", x.waitEvent(s.copied)); err != nil {
		return nil, err
	}
	n := uintptr(x.layout.pack(s.host.bytes, x.batch.p, s.staging.p, b))
	for _, step := range []struct {
		call string
		code func() int32
	}{
		{"cuStreamWaitEvent", func() int32 { return x.streamWaitEvent(x.copies, s.used, 0) }},
		{"cuMemcpyHtoD", func() int32 { return x.toDevice(s.staging.p, s.host.p, n, x.copies) }},
		{"cuEventRecord", func() int32 { return x.recordEvent(s.copied, x.copies) }},
		{"cuStreamWaitEvent", func() int32 { return x.streamWaitEvent(x.stream, s.copied, 0) }},
		{"cuMemcpyDtoD", func() int32 { return x.onDevice(x.batch.p, s.staging.p, uintptr(x.layout.streams), x.stream) }},
	} {
		if err := x.check(step.call, step.code()); err != nil {
			return nil, err
		}
	}
	return s, nil
}
