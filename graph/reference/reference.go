// Package reference runs programs in float64, one element after the other,
// each operation written down from its formula in [graph]. It is the oracle
// that engines are compared with: slow, and meant to be read.
//
// Parameters, gradients and moments are float64 inside; the methods of
// [graph.Executable] round them to float32 on the way out, those named
// Float64 do not. Every activation is filled with NaN before its operation, so
// that an element that is read without having been written shows.
package reference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// Engine implements [graph.Engine].
type Engine struct{ planned bool }

// New returns the reference engine, in which every value has its own memory.
func New() Engine { return Engine{} }

// NewPlanned returns an engine that places values as [graph.NewPlan] says. It
// must give the numbers of New; if not, the plan is wrong.
func NewPlanned() Engine { return Engine{planned: true} }

// Name implements [graph.Engine].
func (Engine) Name() string { return "reference" }

// Compile implements [graph.Engine]. It validates p.
func (e Engine) Compile(p *graph.Program, w graph.WeightSource, max graph.Dims) (graph.Executable, error) {
	x, err := e.Load(p, w)
	if err != nil {
		return nil, err
	}
	if e.planned {
		x.plan(max)
	}
	return x, nil
}

// Load is Compile with the concrete result type.
func (Engine) Load(p *graph.Program, w graph.WeightSource) (*Executable, error) {
	if err := graph.Validate(p); err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	x := &Executable{p: p, weights: make([]matrix, len(p.Weights))}
	for i := range p.Weights {
		m, err := readWeight(&p.Weights[i], w)
		if err != nil {
			return nil, fmt.Errorf("reference: weight %s: %w", p.Weights[i].Name, err)
		}
		x.weights[i] = m
	}
	for _, buf := range []*[]float64{&x.params, &x.grads, &x.m, &x.v} {
		*buf = make([]float64, p.ParamSize)
	}
	return x, nil
}

// readWeight returns w as (in, out), whatever way the checkpoint stores it.
func readWeight(w *graph.Weight, src graph.WeightSource) (matrix, error) {
	rows, cols := w.StoredRows(), w.StoredCols()
	buf := make([]float32, rows*cols)
	if err := src.ReadRows(w, 0, rows, buf); err != nil {
		return matrix{}, err
	}
	m := newMatrix(w.In, w.Out)
	for i := range rows {
		for j := range cols {
			if w.Transposed {
				m.set(j, i, float64(buf[i*cols+j]))
			} else {
				m.set(i, j, float64(buf[i*cols+j]))
			}
		}
	}
	return m, nil
}

// Executable implements [graph.Executable].
type Executable struct {
	p       *graph.Program
	weights []matrix
	params  []float64
	grads   []float64
	m, v    []float64

	batch  *graph.Batch
	dims   graph.Dims
	values []matrix // by root Value, of the last run

	placed *graph.Plan // nil: no arena
	arena  []float64
}

// plan places the activations for batches up to d.
func (x *Executable) plan(d graph.Dims) {
	x.placed = graph.NewPlan(x.p, d)
	x.arena = make([]float64, x.placed.ArenaBytes/4)
}

// grow returns dimensions that hold d and e.
func grow(d, e graph.Dims) graph.Dims {
	return graph.Dims{T: max(d.T, e.T), S: max(d.S, e.S), R: max(d.R, e.R), MaxLen: max(d.MaxLen, e.MaxLen)}
}

// activation returns the memory of v for this batch.
func (x *Executable) activation(v graph.Value) matrix {
	in := x.p.Info(v)
	rows := in.Rows.Count(x.dims)
	if x.placed == nil || x.placed.Offset[v] < 0 {
		return newMatrix(rows, in.Cols)
	}
	off := int(x.placed.Offset[v])
	return matrix{rows: rows, cols: in.Cols, ld: in.Cols, a: x.arena[off : off+rows*in.Cols]}
}

var _ graph.Executable = (*Executable)(nil)

// Run implements [graph.Executable].
func (x *Executable) Run(ctx context.Context, b *graph.Batch) error {
	if err := b.Validate(x.p); err != nil {
		return err
	}
	x.batch, x.dims = b, b.Dims()
	if x.placed != nil && grow(x.placed.Dims, x.dims) != x.placed.Dims {
		x.plan(grow(x.placed.Dims, x.dims))
	}
	x.values = make([]matrix, len(x.p.Values))
	for i := 1; i < len(x.values); i++ {
		in := &x.p.Values[i]
		switch in.Kind {
		case graph.Activation:
			m := x.activation(graph.Value(i))
			for j := range m.a {
				m.a[j] = math.NaN()
			}
			x.values[i] = m
		case graph.ParamValue, graph.ParamGrad:
			buf := x.params
			if in.Kind == graph.ParamGrad {
				buf = x.grads
			}
			par := &x.p.Params[in.Param]
			x.values[i] = matrix{rows: in.Rows.N, cols: in.Cols, ld: in.Cols, a: buf[par.Offset : par.Offset+par.Size]}
		}
	}
	for _, op := range x.p.Ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := x.run(op); err != nil {
			return fmt.Errorf("reference: %s: %w", op.Name(), err)
		}
	}
	return nil
}

// Float64 returns a copy of any value of the last run.
func (x *Executable) Float64(v graph.Value) []float64 {
	m := x.get(v)
	out := make([]float64, 0, m.rows*m.cols)
	for i := range m.rows {
		out = append(out, m.row(i)...)
	}
	return out
}

// Read implements [graph.Executable].
func (x *Executable) Read(v graph.Value, dst []float32) error {
	if v == graph.None || v != x.p.Loss && !slices.Contains(x.p.Outputs, v) {
		return fmt.Errorf("reference: value %d is not an output", v)
	}
	if x.values == nil {
		return errors.New("reference: nothing has run yet")
	}
	return narrow(dst, x.Float64(v))
}

// SetParams implements [graph.Executable].
func (x *Executable) SetParams(src []float32) error { return widen(x.params, src) }

// SetParamsFloat64 sets the parameters without rounding, for finite
// differences.
func (x *Executable) SetParamsFloat64(src []float64) { copy(x.params, src) }

// Params implements [graph.Executable].
func (x *Executable) Params(dst []float32) error { return narrow(dst, x.params) }

// Grads implements [graph.Executable].
func (x *Executable) Grads(dst []float32) error { return narrow(dst, x.grads) }

// GradsFloat64 returns a copy of the gradients.
func (x *Executable) GradsFloat64() []float64 { return slices.Clone(x.grads) }

// ZeroGrads implements [graph.Executable].
func (x *Executable) ZeroGrads() error { clear(x.grads); return nil }

// SetGrads implements [graph.Executable].
func (x *Executable) SetGrads(src []float32) error { return widen(x.grads, src) }

// Moments implements [graph.Executable].
func (x *Executable) Moments(m, v []float32) error {
	return errors.Join(narrow(m, x.m), narrow(v, x.v))
}

// SetMoments implements [graph.Executable].
func (x *Executable) SetMoments(m, v []float32) error {
	return errors.Join(widen(x.m, m), widen(x.v, v))
}

// Step implements [graph.Executable].
func (x *Executable) Step(o graph.AdamW) (float64, error) {
	if o.T < 1 {
		return 0, fmt.Errorf("reference: AdamW step %d: steps count from 1", o.T)
	}
	sum := 0.0
	for _, g := range x.grads {
		sum += g * g
	}
	norm := math.Sqrt(sum)
	clip := 1.0
	if o.ClipNorm > 0 {
		clip = min(1, float64(o.ClipNorm)/(norm+1e-6))
	}
	b1, b2 := float64(o.Beta1), float64(o.Beta2)
	correct1, correct2 := 1-math.Pow(b1, float64(o.T)), 1-math.Pow(b2, float64(o.T))
	for i := range x.p.Params {
		par := &x.p.Params[i]
		lr, decay := float64(o.LR)*float64(par.LRScale), float64(o.WeightDecay)
		if par.NoDecay {
			decay = 0
		}
		for j := par.Offset; j < par.Offset+par.Size; j++ {
			g := x.grads[j] * clip
			x.params[j] -= lr * decay * x.params[j]
			x.m[j] = b1*x.m[j] + (1-b1)*g
			x.v[j] = b2*x.v[j] + (1-b2)*g*g
			x.params[j] -= lr * (x.m[j] / correct1) / (math.Sqrt(x.v[j]/correct2) + float64(o.Eps))
		}
	}
	clear(x.grads)
	return norm, nil
}

// PeakBytes implements [graph.Executable].
func (x *Executable) PeakBytes() int64 {
	n := 4 * len(x.params)
	for _, m := range x.weights {
		n += len(m.a)
	}
	for i, m := range x.values {
		if x.p.Values[i].Kind == graph.Activation {
			n += len(m.a)
		}
	}
	return 8 * int64(n)
}

// Close implements [graph.Executable].
func (x *Executable) Close() error { return nil }

func widen(dst []float64, src []float32) error {
	if len(dst) != len(src) {
		return fmt.Errorf("reference: %d floats for %d", len(src), len(dst))
	}
	for i, s := range src {
		dst[i] = float64(s)
	}
	return nil
}

func narrow(dst []float32, src []float64) error {
	if len(dst) != len(src) {
		return fmt.Errorf("reference: %d floats for %d", len(dst), len(src))
	}
	for i, s := range src {
		dst[i] = float32(s)
	}
	return nil
}
