package cpu

import (
	"context"
	"fmt"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
)

// executable implements graph.Executable and graph.Profiler.
type executable struct {
	e      *engine
	p      *graph.Program
	pool   *kernel.Pool
	source graph.WeightSource

	weights [][numUses]*storedWeight // by WeightID

	plan *graph.Plan
	fusions
	arena  []float32
	shared []float32   // scratch of an operation as a whole
	work   [][]float32 // scratch per worker
	kron   kron.Work[float32]
	turns  map[turnKey]*turns // rotary tables

	params, grads, m, v []float32
	trains              bool      // there are gradients and moments
	norms               []float64 // partial sums of squares
	pieces              []piece   // jobs of the optimizer
	ones                []float32 // a norm's scale where there is none

	batch   *graph.Batch
	dims    graph.Dims
	queries []queryBlock // of the current batch, for attention
	losses  []float64    // per row
	err     error        // of the operation that runs
	ran     bool

	profile *profile
}

// build loads the weights and allocates for batches up to d.
func (x *executable) build(d graph.Dims) error {
	if err := graph.Validate(x.p); err != nil {
		return fmt.Errorf("cpu: %w", err)
	}
	n := x.p.ParamSize
	if err := x.fits(d); err != nil {
		return err
	}
	if err := x.loadWeights(); err != nil {
		return err
	}
	x.params = kernel.Alloc(n)
	if x.trains = hasGrads(x.p); x.trains {
		x.grads, x.m, x.v = kernel.Alloc(n), kernel.Alloc(n), kernel.Alloc(n)
	}
	x.cutParams()
	x.turns = map[turnKey]*turns{}
	x.place(d)
	return nil
}

// place lays out the arena and scratch for batches up to d.
func (x *executable) place(d graph.Dims) {
	x.plan = graph.NewPlan(x.p, d)
	x.fusions = findFusions(x.p, x.plan)
	kernel.Free(x.arena)
	x.arena = kernel.Alloc(int(x.plan.ArenaBytes / 4))
	shared, work := x.scratch(d)
	kernel.Free(x.shared)
	x.shared = kernel.Alloc(shared)
	for i := range x.work {
		kernel.Free(x.work[i])
		x.work[i] = kernel.Alloc(work)
	}
}

// PeakBytes implements graph.Executable. It counts weights in their packed
// form, the arena, parameters with gradients and moments, and scratch;
// weights that executables share count for each of them.
func (x *executable) PeakBytes() int64 {
	n := x.weightBytes() + x.plan.PeakBytes + 4*int64(len(x.shared)) + 8*int64(len(x.losses))
	for _, w := range x.work {
		n += 4 * int64(len(w))
	}
	for _, t := range x.turns {
		n += t.bytes()
	}
	return n
}

// Close implements graph.Executable. Nothing may be called afterwards.
func (x *executable) Close() error {
	x.releaseWeights()
	for _, s := range append([][]float32{x.arena, x.shared, x.params, x.grads, x.m, x.v}, x.work...) {
		kernel.Free(s)
	}
	x.arena, x.shared, x.params, x.grads, x.m, x.v, x.work = nil, nil, nil, nil, nil, nil, nil
	x.pool.Close()
	return nil
}

// Run implements graph.Executable. It stops between operations when ctx ends;
// parameter gradients are then incomplete.
func (x *executable) Run(ctx context.Context, b *graph.Batch) error {
	d := b.Dims()
	if err := b.Validate(x.p); err != nil {
		return fmt.Errorf("cpu: %w", err)
	}
	if m := larger(d, x.plan.Dims); m != x.plan.Dims {
		x.place(m)
	}
	x.batch, x.dims, x.ran, x.err = b, d, false, nil
	x.queries = x.queries[:0]
	for i, op := range x.p.Ops {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cpu: stopped before operation %d of %d: %w", i, len(x.p.Ops), err)
		}
		if x.profile == nil {
			x.run(op)
		} else {
			start := time.Now()
			x.run(op)
			x.profile.add(x, op, time.Since(start))
		}
		if x.err != nil {
			return fmt.Errorf("cpu: %s: %w", op.Name(), x.err)
		}
	}
	x.ran = true
	return nil
}

// larger returns sizes that hold both.
func larger(a, b graph.Dims) graph.Dims {
	return graph.Dims{T: max(a.T, b.T), S: max(a.S, b.S), R: max(a.R, b.R), MaxLen: max(a.MaxLen, b.MaxLen)}
}

// Read implements graph.Executable.
func (x *executable) Read(v graph.Value, dst []float32) error {
	if !x.ran {
		return fmt.Errorf("cpu: nothing to read: no run has finished")
	}
	readable := v != graph.None && v == x.p.Loss
	for _, o := range x.p.Outputs {
		readable = readable || v == o
	}
	if !readable {
		return fmt.Errorf("cpu: value %d is neither an output nor the loss of the program; mark it with Builder.Output", v)
	}
	m := x.matrix(v)
	if len(dst) != m.rows*m.cols {
		return fmt.Errorf("cpu: reading %s (%d, %d) into %d floats", x.p.Info(v).Name, m.rows, m.cols, len(dst))
	}
	for i := range m.rows {
		copy(dst[i*m.cols:], m.row(i))
	}
	return nil
}

// run executes one operation on the current batch.
func (x *executable) run(op graph.Op) {
	switch o := op.(type) {
	case *graph.Embed:
		x.embed(o)
	case *graph.Linear:
		x.linear(o)
	case *graph.LinearGrad:
		x.linearGrad(o)
	case *graph.MatMul:
		x.matMul(o)
	case *graph.AddBias:
		x.addBias(o)
	case *graph.ColSum:
		x.colSum(o)
	case *graph.Axpby:
		x.axpby(o)
	case *graph.ColScale:
		x.colScale(o)
	case *graph.ColDot:
		x.colDot(o)
	case *graph.Activate:
		x.activate(o)
	case *graph.ActivateGrad:
		x.activateGrad(o)
	case *graph.Gated:
		x.gated(o)
	case *graph.GatedGrad:
		x.gatedGrad(o)
	case *graph.Norm:
		x.norm(o)
	case *graph.NormGrad:
		x.normGrad(o)
	case *graph.Dropout:
		x.dropout(o)
	case *graph.DropoutGrad:
		x.dropoutGrad(o)
	case *graph.Rope:
		x.rope(o)
	case *graph.Attention:
		x.attention(o)
	case *graph.AttentionGrad:
		x.attentionGrad(o)
	default:
		x.runRest(op)
	}
}

// runRest continues run: inputs, row selections, Kronecker sums and losses.
func (x *executable) runRest(op graph.Op) {
	switch o := op.(type) {
	case *graph.Input:
		x.input(o)
	case *graph.Select:
		x.selectRows(o)
	case *graph.SelectGrad:
		x.selectGrad(o)
	case *graph.MeanPool:
		x.meanPool(o)
	case *graph.MeanPoolGrad:
		x.meanPoolGrad(o)
	case *graph.KronSum:
		x.kronSum(o)
	case *graph.KronSumGrad:
		x.kronSumGrad(o)
	case *graph.KronApply:
		x.kronApply(o)
	case *graph.KronApplyGrad:
		x.kronApplyGrad(o)
	case *graph.RowOuter:
		x.rowOuter(o)
	case *graph.RowOuterGrad:
		x.rowOuterGrad(o)
	case *graph.BlockMatMul:
		x.blockMatMul(o)
	case *graph.BlockMatMulGrad:
		x.blockMatMulGrad(o)
	case *graph.ColNorm:
		x.colNorm(o)
	case *graph.CrossEntropy:
		x.crossEntropy(o)
	case *graph.CrossEntropyGrad:
		x.crossEntropyGrad(o)
	case *graph.LMLoss:
		x.lmLoss(o)
	case *graph.MSE:
		x.mse(o)
	case *graph.MSEGrad:
		x.mseGrad(o)
	case *graph.BCE:
		x.bce(o)
	case *graph.BCEGrad:
		x.bceGrad(o)
	default:
		x.err = fmt.Errorf("the operation is unknown to this engine")
	}
}
