package graph

import (
	"fmt"
	"slices"
)

// Value names a matrix of a [Program]. The zero Value is [None].
type Value int32

// None is the absent value, for optional operands.
const None Value = 0

// RowsKind says what decides the number of rows of a value.
type RowsKind uint8

// The kinds of row counts.
const (
	Fixed  RowsKind = iota // N rows, whatever the batch
	Tokens                 // T rows: one per token of the batch
	Seqs                   // S rows: one per sequence of the batch
	Picked                 // R rows: one per entry of Batch.Rows
)

// Rows is the number of rows of a value, possibly known only per batch.
type Rows struct {
	Kind RowsKind
	N    int // for Fixed
}

// FixedRows returns a row count of n.
func FixedRows(n int) Rows { return Rows{Kind: Fixed, N: n} }

// PerToken, PerSeq and PerPick are the row counts that the batch decides.
var (
	PerToken = Rows{Kind: Tokens}
	PerSeq   = Rows{Kind: Seqs}
	PerPick  = Rows{Kind: Picked}
)

// Dims are the sizes of one batch, or upper bounds on them.
type Dims struct {
	T int // tokens
	S int // sequences
	R int // picked rows
	// MaxLen is the length of the longest sequence; scratch for attention
	// depends on it.
	MaxLen int
}

// Count returns the number of rows under d.
func (r Rows) Count(d Dims) int {
	switch r.Kind {
	case Tokens:
		return d.T
	case Seqs:
		return d.S
	case Picked:
		return d.R
	}
	return r.N
}

func (r Rows) String() string {
	return [...]string{fmt.Sprint(r.N), "T", "S", "R"}[r.Kind]
}

// ValueKind says where a value lives.
type ValueKind uint8

// The kinds of values.
const (
	Activation ValueKind = iota // in the arena, placed by the plan
	ParamValue                  // a view of the flat parameter buffer
	ParamGrad                   // a view of the flat gradient buffer; operations add to it
	ViewValue                   // columns [Col, Col+Cols) of Base
)

// Info describes a value.
type Info struct {
	Name  string // for messages and profiles
	Kind  ValueKind
	Rows  Rows
	Cols  int
	Param int   // index into Program.Params for ParamValue and ParamGrad
	Base  Value // for ViewValue; never itself a view
	Col   int   // first column of a view
}

// Param is a trainable tensor: a row-major float32 block of the flat buffer.
type Param struct {
	Name   string // the tensor's name in the adapter file
	Shape  []int
	Offset int // first element in the flat parameter buffer
	Size   int
	// NoDecay excludes the parameter from weight decay (biases, norms).
	NoDecay bool
	// LRScale multiplies the learning rate (1 unless the adapter says otherwise).
	LRScale float32
}

// WeightID names a frozen matrix or vector of a [Program], counted from 1.
type WeightID int32

// NoWeight is the absent weight, for optional operands.
const NoWeight WeightID = 0

// Weight is a frozen tensor, logically (In, Out) with y = x W. Vectors
// (biases, norm scales) have In = 1.
type Weight struct {
	Name string // tensor name in the checkpoint
	In   int
	Out  int
	// Transposed says that the checkpoint stores (Out, In), as torch's
	// nn.Linear does.
	Transposed bool
	// Forward and Backward say whether y = x W and dx = dy Wᵀ are used, so
	// that an engine packs only what runs. Set by the builder and by
	// Differentiate.
	Forward, Backward bool
	// Gathered says that rows are looked up (an embedding table).
	Gathered bool
}

// StoredRows and StoredCols give the shape in the checkpoint.
func (w *Weight) StoredRows() int {
	if w.Transposed {
		return w.Out
	}
	return w.In
}

// StoredCols is the row length in the checkpoint.
func (w *Weight) StoredCols() int {
	if w.Transposed {
		return w.In
	}
	return w.Out
}

// Program is a list of operations in execution order. Operations
// [0, Forward) are the forward pass; the rest, if any, was added by
// [Differentiate].
type Program struct {
	Values  []Info // indexed by Value; entry 0 is None
	Ops     []Op
	Params  []Param
	Weights []Weight // WeightID i is Weights[i-1]
	Forward int      // number of forward operations
	// Layers are the forward operations with which a layer begins, in order:
	// where [DiffOptions.CheckpointLayers] may cut. Few values should cross
	// from one layer to the next.
	Layers []int
	// Outputs are values that stay readable after a run (logits, hidden
	// states).
	Outputs []Value
	// Loss is the scalar (1, 1) that is differentiated, or None.
	Loss Value
	// ParamSize is the length of the flat parameter buffer.
	ParamSize int

	grads map[int]Value // parameter index -> its ParamGrad value
}

// Info returns the description of v. It panics if v is None.
func (p *Program) Info(v Value) *Info {
	if v == None {
		panic("graph: no value")
	}
	return &p.Values[v]
}

// Weight returns the description of w. It panics if w is NoWeight.
func (p *Program) Weight(w WeightID) *Weight { return &p.Weights[w-1] }

// Root resolves a view to the value it looks into.
func (p *Program) Root(v Value) Value {
	if v != None && p.Values[v].Kind == ViewValue {
		return p.Values[v].Base
	}
	return v
}

// NewValue adds a value and returns it.
func (p *Program) NewValue(i Info) Value {
	if len(p.Values) == 0 {
		p.Values = append(p.Values, Info{Name: "none"})
	}
	p.Values = append(p.Values, i)
	return Value(len(p.Values) - 1)
}

// Clone copies a program without a backward pass, so that one may be tried.
func (p *Program) Clone() *Program {
	c := *p
	c.Values, c.Params, c.Weights = slices.Clone(p.Values), slices.Clone(p.Params), slices.Clone(p.Weights)
	c.Ops = make([]Op, len(p.Ops))
	for i, op := range p.Ops {
		c.Ops[i] = renamed(op, func(v Value) Value { return v })
	}
	c.grads = nil
	return &c
}

// GradOf returns the accumulating gradient value of parameter i, making it on
// first use.
func (p *Program) GradOf(i int) Value {
	if v, ok := p.grads[i]; ok {
		return v
	}
	if p.grads == nil {
		p.grads = map[int]Value{}
	}
	par := &p.Params[i]
	var rows, cols int
	for v := range p.Values {
		if in := &p.Values[v]; in.Kind == ParamValue && in.Param == i {
			rows, cols = in.Rows.N, in.Cols
		}
	}
	g := p.NewValue(Info{Name: "d" + par.Name, Kind: ParamGrad, Rows: FixedRows(rows), Cols: cols, Param: i})
	p.grads[i] = g
	return g
}
