package cpu

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// Options are the choices of an engine. The zero value is float32 on all
// processors.
type Options struct {
	// Threads is the number of threads; 0 means runtime.GOMAXPROCS.
	Threads int
	// Precision is what products with frozen weights are computed from: "f32"
	// (or empty), or "bf16": both operands rounded to bfloat16, sums in
	// float32. All else is float32 either way.
	Precision string
	// BaseDType is how frozen matrices are held: "f32", "bf16" or "int8" (one
	// scale per output channel, and per entry of an embedding table). Empty
	// means the precision. With Precision "f32" the kernels widen bf16 and int8
	// panel by panel; "bf16" is the only one for Precision "bf16".
	BaseDType string
	// MemoryLimit, if positive, is how many bytes an executable may take
	// (PeakBytes); Compile refuses what needs more.
	MemoryLimit int64
}

// engine implements graph.Engine.
type engine struct {
	opt      Options
	lmLogits int // see lmLoss

	mu    sync.Mutex
	cache map[weightKey]*storedWeight
}

// New returns an engine. Executables of one engine share the packed weights
// that they read from the same source.
func New(o Options) (graph.Engine, error) {
	if o.Threads < 0 {
		return nil, fmt.Errorf("cpu: %d threads; want at least 1, or 0 for one per processor", o.Threads)
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Precision == "" {
		o.Precision = "f32"
	}
	if o.Precision != "f32" && o.Precision != "bf16" {
		return nil, fmt.Errorf("cpu: precision %q is unknown; choose f32 or bf16", o.Precision)
	}
	if o.BaseDType == "" {
		o.BaseDType = o.Precision
	}
	switch o.Precision + " " + o.BaseDType {
	case "f32 f32", "f32 bf16", "f32 int8", "bf16 bf16":
	case "bf16 f32", "bf16 int8":
		return nil, fmt.Errorf("cpu: base dtype %s does not go with precision bf16; choose bf16, or precision f32", o.BaseDType)
	default:
		return nil, fmt.Errorf("cpu: base dtype %q is unknown; choose f32, bf16 or int8", o.BaseDType)
	}
	return &engine{opt: o, lmLogits: lmLogits, cache: map[weightKey]*storedWeight{}}, nil
}

// Name implements graph.Engine.
func (e *engine) Name() string { return "cpu" }

// Compile implements graph.Engine. The errors name the tensor that could not
// be read, or say how much memory is needed and which batch would fit.
func (e *engine) Compile(p *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	x := &executable{e: e, p: p, pool: kernel.NewPool(e.opt.Threads), source: w}
	x.work = make([][]float32, x.pool.Threads())
	if err := x.build(d); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// Size implements graph.Sizer, without the padding of packed matrices.
func (e *engine) Size(p *graph.Program, max graph.Dims) graph.Memory {
	return (&executable{e: e, p: p}).size(max, graph.NewPlan(p, max))
}

// Fits implements graph.Fitter: within [Options.MemoryLimit].
func (e *engine) Fits(p *graph.Program, max graph.Dims) error {
	return (&executable{e: e, p: p}).fits(max)
}
