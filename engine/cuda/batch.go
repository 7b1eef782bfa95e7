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

	ids, types, positions, cu, picked, labels, seqs, targets, tile ptr
}

// tileLen is the number of queries or keys of a tile of attention.
const tileLen = 32

// layout says where the streams of a batch lie behind its head, in bytes.
type layout struct {
	ids, types, positions, cu, picked, labels, seqs, targets, tile, total int
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
	targets := 0
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.MSE:
			targets = max(targets, p.Info(o.Pred).Rows.Count(d)*p.Info(o.Pred).Cols)
		case *graph.BCE:
			targets = max(targets, p.Info(o.Logits).Rows.Count(d)*p.Info(o.Logits).Cols)
		}
	}
	l.targets = take(targets)
	l.tile = take(4 * maxTiles(d))
	l.total = (at + 15) &^ 15
	return l
}

// maxTiles bounds the number of tiles of batches up to d.
func maxTiles(d graph.Dims) int { return d.T/tileLen + d.S }

// pack writes b as the kernels see it, for device address base.
func (l layout) pack(image []byte, base ptr, b *graph.Batch) {
	d := b.Dims()
	h := (*head)(unsafe.Pointer(&image[0]))
	*h = head{t: int32(d.T), s: int32(d.S), r: int32(d.R), step: uint32(b.Step), lossScale: b.LossScale, seed: b.Seed,
		ids: base + ptr(l.ids), types: base + ptr(l.types), positions: base + ptr(l.positions), cu: base + ptr(l.cu), picked: base + ptr(l.picked),
		labels: base + ptr(l.labels), seqs: base + ptr(l.seqs), targets: base + ptr(l.targets), tile: base + ptr(l.tile)}
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
	if x.batch, err = x.allocate(int64(x.layout.total)); err != nil {
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
// there to where the kernels look on the computing one.
func (x *executable) send(b *graph.Batch) error {
	s := &x.slots[x.next]
	x.next = 1 - x.next
	n := uintptr(x.layout.total)
	// The last copy out of the pinned memory must be over.
	if err := x.check("cuEventSynchronize", x.waitEvent(s.copied)); err != nil {
		return err
	}
	x.layout.pack(s.host.bytes, x.batch.p, b)
	for _, step := range []struct {
		call string
		code func() int32
	}{
		{"cuStreamWaitEvent", func() int32 { return x.streamWaitEvent(x.copies, s.used, 0) }},
		{"cuMemcpyHtoD", func() int32 { return x.toDevice(s.staging.p, s.host.p, n, x.copies) }},
		{"cuEventRecord", func() int32 { return x.recordEvent(s.copied, x.copies) }},
		{"cuStreamWaitEvent", func() int32 { return x.streamWaitEvent(x.stream, s.copied, 0) }},
		{"cuMemcpyDtoD", func() int32 { return x.onDevice(x.batch.p, s.staging.p, n, x.stream) }},
		{"cuEventRecord", func() int32 { return x.recordEvent(s.used, x.stream) }},
	} {
		if err := x.check(step.call, step.code()); err != nil {
			return err
		}
	}
	return nil
}
