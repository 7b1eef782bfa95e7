package cuda

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// executable implements [graph.Executable] and [graph.Profiler].
type executable struct {
	*device
	e      *Engine
	p      *graph.Program // in the order of schedule
	source graph.WeightSource
	trains bool // there are gradients and moments

	weights  []*storedWeight // by WeightID
	transfer pinned          // for copies between host and device

	plan    *graph.Plan
	layout  layout
	arena   buffer
	batch   buffer // struct Head and the streams of the batch
	scratch buffer // of one operation at a time
	losses  buffer // float64 per row
	krons   buffer // table of struct Kron
	tables  buffer // rotary tables
	freqs   buffer // their frequencies
	ropes   []ropeTable
	slots   [2]slot
	next    int

	state  buffer // parameters, gradients, first and second moments
	pieces buffer // jobs of AdamW
	jobs   int
	norms  buffer // partial sums of squares, then the norm

	pass     pass
	bound    graph.Dims // sizes that grids are made for
	need     int64      // scratch, found by the pass that measures
	kronList []kronArgs
	kronAt   int

	graphs  map[graph.Dims]uintptr
	dims    graph.Dims // of the last run
	ran     bool
	profile *profile
}

// pass says what running the operations does.
type pass int

const (
	measure pass = iota // find the scratch and tables needed
	record              // fill the tables
	enqueue             // launch kernels
)

// transferBytes is the pinned memory for copies.
const transferBytes = 4 << 20

// build loads the weights and allocates for batches up to d.
func (x *executable) build(d graph.Dims) error {
	if err := x.supported(); err != nil {
		return err
	}
	x.describeWeights()
	if err := x.fits(d); err != nil {
		return err
	}
	widest := 0
	for i := range x.p.Weights {
		widest = max(widest, x.p.Weights[i].StoredCols())
	}
	var err error
	if x.transfer, err = x.pin(max(transferBytes, 4*widest)); err != nil {
		return err
	}
	if err := x.loadWeights(); err != nil {
		return x.explain(err, d)
	}
	if err := x.openParams(); err != nil {
		return x.explain(err, d)
	}
	return x.explain(x.place(d), d)
}

// supported refuses what the kernels cannot do.
func (x *executable) supported() error {
	for _, op := range x.p.Ops {
		need, hd := 0, 0
		switch o := op.(type) {
		case *graph.Attention:
			hd = o.HeadDim
			need = x.e.attnKernels(attnForward, hd)[0].shared
		case *graph.AttentionGrad:
			hd = o.Fwd.HeadDim
			need = max(x.e.attnKernels(attnQueries, hd)[0].shared, x.e.attnKernels(attnKeys, hd)[0].shared)
		}
		if hd > maxHeadDim {
			return fmt.Errorf("attention with heads of %d; at most %d are supported", hd, maxHeadDim)
		}
		if need > x.info.SharedMemory {
			return fmt.Errorf("%s with heads of %d needs %d KiB of shared memory and %s has %d KiB", op.Name(), hd, need>>10, x.info.Name, x.info.SharedMemory>>10)
		}
	}
	return nil
}

// place allocates everything whose size depends on the batch, for batches up
// to d, after giving back what was there.
func (x *executable) place(d graph.Dims) error {
	if err := x.displace(); err != nil {
		return err
	}
	d = bucket(d)
	x.plan = graph.NewPlan(x.p, d)
	x.layout = layoutOf(x.p, d)
	x.graphs = map[graph.Dims]uintptr{}
	x.findRopes()
	if err := x.runPass(measure, d); err != nil {
		return err
	}
	for _, b := range []struct {
		to *buffer
		n  int64
	}{
		{&x.arena, x.plan.ArenaBytes}, {&x.scratch, x.need}, {&x.losses, 8 * int64(max(d.S, d.R, 1))},
		{&x.krons, int64(len(x.kronList)) * kronBytes}, {&x.tables, x.ropeBytes(d)}, {&x.freqs, x.freqBytes()},
	} {
		var err error
		if *b.to, err = x.allocate(b.n); err != nil {
			return err
		}
	}
	if err := x.openSlots(); err != nil {
		return err
	}
	if err := x.runPass(record, d); err != nil {
		return err
	}
	if err := x.uploadKrons(); err != nil {
		return err
	}
	return x.uploadFreqs()
}

// displace gives back what place allocated.
func (x *executable) displace() error {
	x.ran = false
	if err := x.dropGraphs(); err != nil {
		return err
	}
	for _, b := range []*buffer{&x.arena, &x.scratch, &x.losses, &x.krons, &x.tables, &x.freqs} {
		if err := x.release(b); err != nil {
			return err
		}
	}
	return x.closeSlots()
}

// runPass goes over the operations without running them.
func (x *executable) runPass(p pass, d graph.Dims) error {
	x.pass, x.bound, x.kronAt = p, d, 0
	if p == measure {
		x.need, x.kronList = 0, nil
	}
	err := x.operations()
	x.pass, x.kronAt = enqueue, 0
	return err
}

// PeakBytes implements [graph.Executable]: weights, of which shared ones count
// for each executable, arena, parameters, scratch and batches.
func (x *executable) PeakBytes() int64 {
	n := x.ownBytes()
	seen := map[*storedWeight]bool{nil: true}
	for _, w := range x.weights {
		if !seen[w] {
			n += w.n
		}
		seen[w] = true
	}
	return n
}

// ownBytes is PeakBytes without weights.
func (x *executable) ownBytes() int64 {
	n := x.arena.n + x.batch.n + x.scratch.n + x.losses.n + x.krons.n + x.tables.n + x.freqs.n + x.state.n + x.pieces.n + x.norms.n
	for _, s := range x.slots {
		n += s.staging.n
	}
	return n
}

// Close implements [graph.Executable]. Nothing may be called afterwards.
func (x *executable) Close() error {
	return x.do(func() error {
		err := errors.Join(x.displace(), x.releaseWeights(), x.unpin(&x.transfer))
		for _, b := range []*buffer{&x.state, &x.pieces, &x.norms} {
			err = errors.Join(err, x.release(b))
		}
		return errors.Join(err, x.profile.close(x))
	})
}

// Run implements [graph.Executable]. It returns when the work is queued; an
// error of the device may come with a later call. A run is not interrupted
// once it is queued.
func (x *executable) Run(ctx context.Context, b *graph.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: not started: %w", x.e.Name(), err)
	}
	if err := b.Validate(x.p); err != nil {
		return fmt.Errorf("%s: %w", x.e.Name(), err)
	}
	d := b.Dims()
	err := x.do(func() error {
		x.ran = false
		if m := larger(bucket(d), x.plan.Dims); m != x.plan.Dims {
			if err := x.place(m); err != nil {
				err = x.explain(err, d)
				x.plan = &graph.Plan{} // nothing is placed: the next run tries again
				return err
			}
		}
		s, err := x.send(b)
		if err != nil {
			return err
		}
		x.dims, x.bound = d, bucket(d)
		x.bound.MaxLen = 0 // grids do not depend on it
		if err := x.compute(); err != nil {
			return err
		}
		x.ran = true
		return x.check("cuEventRecord", x.recordEvent(s.used, x.stream))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", x.e.Name(), err)
	}
	return nil
}

// compute queues the operations: as a graph that was captured for the bucket,
// or one by one.
func (x *executable) compute() error {
	x.kronAt = 0
	if x.e.opt.NoGraphs || x.profile != nil {
		return x.operations()
	}
	g, seen := x.graphs[x.bound]
	if !seen {
		// The first run of a bucket loads code, which a capture must not do.
		x.graphs[x.bound] = 0
		return x.operations()
	}
	if g == 0 {
		var err error
		if g, err = x.capture(); err != nil {
			return err
		}
		x.graphs[x.bound] = g
	}
	return x.check("cuGraphLaunch", x.launchGraph(g, x.stream))
}

// capture records the operations as a graph.
func (x *executable) capture() (uintptr, error) {
	if err := x.check("cuStreamBeginCapture", x.beginCapture(x.stream, captureLocal)); err != nil {
		return 0, err
	}
	failed := x.operations()
	var g, exec uintptr
	err := x.check("cuStreamEndCapture", x.endCapture(x.stream, &g))
	if failed != nil || err != nil {
		return 0, errors.Join(failed, err)
	}
	err = x.check("cuGraphInstantiate", x.instantiate(&exec, g, 0))
	return exec, errors.Join(err, x.check("cuGraphDestroy", x.destroyGraph(g)))
}

func (x *executable) dropGraphs() error {
	var err error
	for _, g := range x.graphs {
		if g == 0 {
			continue
		}
		err = errors.Join(err, x.wait(), x.check("cuGraphExecDestroy", x.destroyExec(g)))
	}
	x.graphs = nil
	return err
}

// Read implements [graph.Executable].
func (x *executable) Read(v graph.Value, dst []float32) error {
	if v == graph.None || v != x.p.Loss && !slices.Contains(x.p.Outputs, v) {
		return fmt.Errorf("%s: value %d is neither an output nor the loss of the program; mark it with Builder.Output", x.e.Name(), v)
	}
	if !x.ran {
		return fmt.Errorf("%s: nothing to read: no run has finished", x.e.Name())
	}
	in := x.p.Info(v)
	rows := in.Rows.Count(x.dims)
	if len(dst) != rows*in.Cols {
		return fmt.Errorf("%s: reading %s (%d, %d) into %d floats", x.e.Name(), in.Name, rows, in.Cols, len(dst))
	}
	m := x.mat(v)
	err := x.do(func() error {
		if int(m.ld) == in.Cols {
			return x.download(dst, m.p)
		}
		for i := range rows {
			if err := x.download(dst[i*in.Cols:][:in.Cols], m.p+ptr(4*i*int(m.ld))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", x.e.Name(), err)
	}
	return nil
}

// download copies floats from the device and waits for them.
func (x *executable) download(dst []float32, from ptr) error {
	buf := floats(x.transfer.bytes)
	for len(dst) > 0 {
		n := min(len(dst), len(buf))
		if err := x.check("cuMemcpyDtoH", x.toHost(x.transfer.p, from, uintptr(4*n), x.stream)); err != nil {
			return err
		}
		if err := x.wait(); err != nil {
			return err
		}
		copy(dst[:n], buf)
		dst, from = dst[n:], from+ptr(4*n)
	}
	return nil
}

// uploadBytes copies bytes to the device and waits until they are there.
func (x *executable) uploadBytes(to ptr, src []byte) error {
	for len(src) > 0 {
		n := copy(x.transfer.bytes, src)
		if err := x.check("cuMemcpyHtoD", x.toDevice(to, x.transfer.p, uintptr(n), x.stream)); err != nil {
			return err
		}
		if err := x.wait(); err != nil {
			return err
		}
		src, to = src[n:], to+ptr(n)
	}
	return nil
}
