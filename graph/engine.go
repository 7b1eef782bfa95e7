package graph

import "context"

// WeightSource gives the frozen tensors of a program as float32.
type WeightSource interface {
	// ReadRows fills dst with stored rows [lo, hi) of w, StoredCols floats
	// each. It may be called from several goroutines.
	ReadRows(w *Weight, lo, hi int, dst []float32) error
}

// Engine runs programs on one device.
type Engine interface {
	// Name is "cpu", "cuda:0", "reference".
	Name() string
	// Compile loads the weights and prepares p for batches within max.
	// Out of memory is an error that says what would fit.
	Compile(p *Program, w WeightSource, max Dims) (Executable, error)
}

// Fitter is implemented by engines that know before Compile whether memory will
// do.
type Fitter interface {
	// Fits returns the error with which Compile would refuse p for batches within
	// max for want of memory, or nil.
	Fits(p *Program, max Dims) error
}

// Sizer is implemented by engines that know before Compile what memory a program
// takes.
type Sizer interface {
	// Size returns what Compile needs for batches within max.
	Size(p *Program, max Dims) Memory
}

// Memory is memory of a device, in bytes.
type Memory struct {
	Weights int64 // frozen tensors as the engine holds them; programs of one model share them
	Plan    int64 // activations, parameters, gradients and moments
	Scratch int64 // working memory of the operations
}

// Total is the sum.
func (m Memory) Total() int64 { return m.Weights + m.Plan + m.Scratch }

// SizeOf is what p takes on e for batches within max. For an engine that is no Sizer
// it is an upper bound: frozen tensors as float32, once for each direction in which
// they are used, and no scratch.
func SizeOf(e Engine, p *Program, max Dims) Memory {
	if s, ok := e.(Sizer); ok {
		return s.Size(p, max)
	}
	m := Memory{Plan: NewPlan(p, max).PeakBytes}
	for i := range p.Weights {
		w := &p.Weights[i]
		copies := int64(0)
		for _, used := range []bool{w.Forward, w.Backward, w.Gathered} {
			if used {
				copies++
			}
		}
		if copies == 0 { // a bias or a norm's scale
			copies = 1
		}
		m.Weights += 4 * int64(w.In) * int64(w.Out) * copies
	}
	return m
}

// Executable is a compiled program with its parameters, gradients and
// optimizer state on the device. It is not safe for concurrent use.
type Executable interface {
	// Run executes all operations on b: forward, and backward if the program
	// has one. Parameter gradients add to what is there. A batch beyond the
	// compiled maximum makes the arena grow.
	Run(ctx context.Context, b *Batch) error
	// Read copies an output (or the loss) of the last run to dst, rows·cols
	// floats.
	Read(v Value, dst []float32) error

	// SetParams and Params write and read the flat parameter buffer.
	SetParams(src []float32) error
	Params(dst []float32) error
	// Grads reads the flat gradient buffer, ZeroGrads clears it.
	Grads(dst []float32) error
	ZeroGrads() error
	// SetGrads replaces the gradients, after a reduction over processes.
	SetGrads(src []float32) error
	// Step clips the gradients, applies AdamW to all parameters and clears the
	// gradients. It returns the gradients' norm before clipping.
	Step(o AdamW) (gradNorm float64, err error)
	// Moments and SetMoments read and write AdamW's state for resuming.
	Moments(m, v []float32) error
	SetMoments(m, v []float32) error

	// PeakBytes is the device memory in use: weights, arena, parameters.
	PeakBytes() int64
	Close() error
}

// AdamW are the settings of one optimizer step, decoupled weight decay as in
// torch.optim.AdamW:
//
//	w -= lr·decay·w; m = β1 m + (1-β1) g; v = β2 v + (1-β2) g²
//	w -= lr · (m/(1-β1^t)) / (sqrt(v/(1-β2^t)) + eps)
//
// lr is LR times the parameter's LRScale; decay is 0 where NoDecay is set.
// Before, all gradients together are scaled by min(1, ClipNorm / (norm +
// 1e-6)), norm their Euclidean norm, as torch's clip_grad_norm_ does.
//
// Source: Loshchilov, Hutter, arXiv 1711.05101, algorithm 2.
type AdamW struct {
	LR          float32
	Beta1       float32
	Beta2       float32
	Eps         float32
	WeightDecay float32
	ClipNorm    float32 // 0 means no clipping
	T           int     // step number, from 1
}

// Profiler is implemented by executables that can time operations.
type Profiler interface {
	// StartProfile begins to collect; Profile returns what was collected.
	StartProfile()
	Profile() []OpTime
}

// OpTime is the time spent in one kind of operation.
type OpTime struct {
	Op      string
	Calls   int
	Seconds float64
	FLOP    float64 // 0 where it is not counted
}
