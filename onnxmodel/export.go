package onnxmodel

import (
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// Names of the graph's inputs and outputs, those of transformers and its
// exporters.
const (
	InputIDs   = "input_ids"         // (batch, sequence) int64
	InputMask  = "attention_mask"    // (batch, sequence) int64, 0 for padding
	InputTypes = "token_type_ids"    // (batch, sequence) int64
	OutHidden  = "last_hidden_state" // (batch, sequence, hidden)
	OutLogits  = "logits"            // (batch, classes) or (batch, sequence, vocabulary)
)

// The operator set and IR version of exported graphs: the first operator set
// with LayerNormalization.
const (
	exportOpset = 17
	exportIR    = 8
)

// ExportOptions are options of Export.
type ExportOptions struct {
	// Name is the graph's name.
	Name string
	// Version is written as the producer's version.
	Version string
	// Checkpoint holds the program's weights. Their bytes, element types,
	// layouts and names stay; the graph converts to float32 and transposes.
	Checkpoint *formats.Checkpoint
	// Weights gives those that the checkpoint lacks, as float32.
	Weights graph.WeightSource
	// Head are tensors that stand for those of the checkpoint with their names: a
	// trained head.
	Head []adapter.Tensor
	// Params are the values of the program's parameters, if it has any: of an
	// adapter that becomes part of the graph.
	Params []float32
	// HeadInput, if not None, are the hidden states that a head reads. Where a
	// program picks rows of the sequences before, the graph computes all and picks
	// them here, so that all layers have the form that optimisers of graphs
	// and importers know.
	HeadInput graph.Value
	// Hidden and Logits are the values that become outputs; either may be
	// graph.None.
	Hidden, Logits graph.Value
}

// Export writes the forward pass of a program, without adapters or with those
// that multiply with their parameters alone (LoRA, LoR2C), as an ONNX model
// of standard operators (operator set 17, float32), with free sizes of batch and
// sequence. The program's packed sequences become a padded batch: a value with a
// row per token is (batch, sequence, columns), one with a row per sequence
// (batch, 1, columns). Positions count the tokens that are not padding, so that
// padding may stand on either side.
//
// The model is not in a file yet: its data are read from the checkpoint, which
// must stay open, when it is written with [Write]. Operations that have no form
// here are an error wrapping [formats.ErrUnsupported] that names them.
func Export(p *graph.Program, o ExportOptions) (*onnx.Model, error) {
	x := &exporter{p: p, o: o, list: newNodeList(map[string]bool{"": true, InputIDs: true, InputMask: true, InputTypes: true, OutHidden: true, OutLogits: true}),
		values: map[graph.Value]string{}, weights: map[weightUse]string{}, memo: map[string]string{}, files: map[int]**os.File{},
		edit: onnx.NewGraph(o.Name, "lsrsurgeon", o.Version, exportIR, []onnx.Opset{{Version: exportOpset}})}
	if p.Forward != 0 && p.Forward < len(p.Ops) {
		return nil, fmt.Errorf("onnxmodel: exporting a program with a backward pass")
	}
	x.late = o.HeadInput != graph.None
	for _, op := range p.Ops {
		if err := x.op(op); err != nil {
			return nil, err
		}
		if x.late && slices.Contains(op.Outputs(nil), o.HeadInput) {
			x.late = false
			var err error
			if x.values[o.HeadInput], err = x.pick("head", x.values[o.HeadInput], x.picked); err != nil {
				return nil, err
			}
		}
	}
	if err := x.outputs(); err != nil {
		return nil, err
	}
	for _, t := range x.list.inits {
		x.edit.AddInitializer(t)
	}
	for _, n := range x.list.nodes {
		x.edit.AddNode(n)
	}
	return reopen(x.edit)
}

// exporter is the state of one Export.
type exporter struct {
	p       *graph.Program
	o       ExportOptions
	edit    *onnx.Edit
	list    *nodeList
	values  map[graph.Value]string
	weights map[weightUse]string
	// memo are values that several operations share (masks, angles), by what
	// they are.
	memo   map[string]string
	inputs []string // those used so far
	files  map[int]**os.File
	late   bool       // the head's rows are still to be picked
	picked graph.Pick // which they are
}

// unsupported names an operation without a form.
func unsupported(format string, args ...any) error {
	return &formats.Error{Reason: fmt.Sprintf(format, args...) + " has no ONNX form", Hint: "merge the adapter first, or put it into the graph of the base model", Err: formats.ErrUnsupported}
}

// op writes one operation.
func (x *exporter) op(op graph.Op) (err error) {
	switch o := op.(type) {
	case *graph.Embed:
		err = x.embed(o)
	case *graph.Linear:
		err = x.linear(o)
	case *graph.MatMul:
		err = x.matMul(o)
	case *graph.Norm:
		err = x.norm(o)
	case *graph.Rope:
		err = x.rope(o)
	case *graph.Attention:
		err = x.attention(o)
	case *graph.Activate:
		x.values[o.Y], err = x.activate(x.scope(o.Y), x.value(o.X), o.Act)
	case *graph.Gated:
		var gate string
		if gate, err = x.activate(x.scope(o.Y), x.value(o.Gate), o.Act); err == nil {
			x.values[o.Y] = x.list.node(x.scope(o.Y), "Mul", []string{gate, x.value(o.Up)})
		}
	case *graph.Axpby:
		if o.Alpha != 1 || o.Beta != 1 || o.B == graph.None {
			return unsupported("%v·a + %v·b", o.Alpha, o.Beta)
		}
		x.values[o.Y] = x.list.node(x.scope(o.Y), "Add", []string{x.value(o.A), x.value(o.B)})
	case *graph.Select:
		x.values[o.Y], err = x.pick(x.scope(o.Y), x.value(o.X), x.rows(o.Pick))
	case *graph.MeanPool:
		err = x.meanPool(o)
	default:
		err = unsupported("operation %s", op.Name())
	}
	return err
}

// scope is the path of a value's nodes.
func (x *exporter) scope(v graph.Value) string { return x.p.Info(v).Name }

// value is the name of a value that is there; views are cut out of what they
// look into.
func (x *exporter) value(v graph.Value) string {
	if name, ok := x.values[v]; ok {
		return name
	}
	in := x.p.Info(v)
	if in.Kind != graph.ViewValue {
		panic(fmt.Sprintf("onnxmodel: value %s is read before it is made", in.Name))
	}
	name := x.list.columns(in.Name, x.value(in.Base), int64(in.Col), int64(in.Col+in.Cols))
	x.values[v] = name
	return name
}

// shared makes a value once.
func (x *exporter) shared(key string, f func() string) string {
	if name, ok := x.memo[key]; ok {
		return name
	}
	name := f()
	x.memo[key] = name
	return name
}

// input declares an input of the graph on first use.
func (x *exporter) input(name string) string {
	if !slices.Contains(x.inputs, name) {
		x.inputs = append(x.inputs, name)
	}
	return name
}

// outputs declares inputs and outputs.
func (x *exporter) outputs() error {
	x.input(InputMask)
	for _, name := range []string{InputIDs, InputMask, InputTypes} {
		if slices.Contains(x.inputs, name) {
			x.edit.AddInput(onnx.TensorInfo(name, onnx.Int64, "batch", "sequence"))
		}
	}
	if x.o.Logits != graph.None {
		in := x.p.Info(x.o.Logits)
		name, dims := x.value(x.o.Logits), []any{"batch", "sequence", in.Cols}
		if in.Rows != graph.PerToken {
			name = x.list.node("head", "Squeeze", []string{name, x.list.ints(false, 1)})
			dims = []any{"batch", in.Cols}
		}
		x.call(name, OutLogits)
		x.edit.AddOutput(onnx.TensorInfo(OutLogits, onnx.Float, dims...))
	}
	if x.o.Hidden == graph.None {
		return nil
	}
	in := x.p.Info(x.o.Hidden)
	if in.Rows != graph.PerToken {
		return unsupported("an output of hidden states of some rows")
	}
	x.call(x.value(x.o.Hidden), OutHidden)
	x.edit.AddOutput(onnx.TensorInfo(OutHidden, onnx.Float, "batch", "sequence", in.Cols))
	return nil
}

// call gives a value the name of an output.
func (x *exporter) call(value, name string) {
	for _, n := range x.list.nodes {
		for _, names := range [][]string{n.Inputs, n.Outputs} {
			for i := range names {
				if names[i] == value {
					names[i] = name
				}
			}
		}
	}
}

// float is a float32 scalar.
func (x *exporter) float(v float64) string {
	name, err := x.list.number(onnx.Float, v)
	if err != nil {
		panic("onnxmodel: " + err.Error()) // not reached: constants are in range
	}
	return name
}

// activate writes an activation function.
func (x *exporter) activate(scope, v string, act graph.Act) (string, error) {
	l := x.list
	step := func(op string, in ...string) string { return l.node(scope, op, in) }
	switch act {
	case graph.ActNone:
		return v, nil
	case graph.ActReLU:
		return step("Relu", v), nil
	case graph.ActTanh:
		return step("Tanh", v), nil
	case graph.ActSiLU:
		return step("Mul", v, step("Sigmoid", v)), nil
	case graph.ActGELU: // x·(1 + erf(x/√2))·½
		e := step("Erf", step("Div", v, x.float(math.Sqrt2)))
		return step("Mul", step("Mul", v, step("Add", e, x.float(1))), x.float(0.5)), nil
	case graph.ActGELUTanh: // ½x·(1 + tanh(√(2/π)·(x + 0.044715 x³)))
		cubic := step("Mul", step("Pow", v, x.float(3)), x.float(0.044715))
		t := step("Tanh", step("Mul", step("Add", v, cubic), x.float(math.Sqrt(2/math.Pi))))
		return step("Mul", step("Mul", v, x.float(0.5)), step("Add", t, x.float(1))), nil
	}
	return "", unsupported("activation %v", act)
}

// norm is layer norm or RMS norm over the last axis.
func (x *exporter) norm(o *graph.Norm) error {
	scope, l, v := x.scope(o.Y), x.list, x.value(o.X)
	if n := x.p.Info(o.X).Cols / o.Parts(); o.Heads > 1 {
		v = l.node(scope, "Reshape", []string{v, l.ints(false, 0, 0, int64(o.Heads), int64(n))})
		defer func() {
			x.values[o.Y] = l.node(scope, "Reshape", []string{x.values[o.Y], l.ints(false, 0, 0, int64(o.Heads*n))})
		}()
	}
	gamma, err := x.weight(o.Gamma, false)
	if err != nil {
		return err
	}
	beta := ""
	if o.Beta != graph.NoWeight {
		if beta, err = x.weight(o.Beta, false); err != nil {
			return err
		}
	}
	if !o.RMS {
		in := []string{v, gamma}
		if beta != "" {
			in = append(in, beta)
		}
		x.values[o.Y] = l.node(scope, "LayerNormalization", in, onnx.IntAttr("axis", -1), onnx.FloatAttr("epsilon", o.Eps))
		return nil
	}
	square := l.node(scope, "Pow", []string{v, x.float(2)})
	mean := l.node(scope, "ReduceMean", []string{square}, onnx.IntsAttr("axes", -1), onnx.IntAttr("keepdims", 1))
	root := l.node(scope, "Sqrt", []string{l.node(scope, "Add", []string{mean, x.float(float64(o.Eps))})})
	y := l.node(scope, "Mul", []string{l.node(scope, "Div", []string{v, root}), gamma})
	if beta != "" {
		y = l.node(scope, "Add", []string{y, beta})
	}
	x.values[o.Y] = y
	return nil
}

// linear is act(x W + b) + residual.
func (x *exporter) linear(o *graph.Linear) error {
	scope, l := x.scope(o.Y), x.list
	w, err := x.weight(o.W, true)
	if err != nil {
		return err
	}
	y := l.node(scope, "MatMul", []string{x.value(o.X), w})
	if o.Bias != graph.NoWeight {
		b, err := x.weight(o.Bias, false)
		if err != nil {
			return err
		}
		y = l.node(scope, "Add", []string{b, y})
	}
	if y, err = x.activate(scope+".act", y, o.Act); err != nil {
		return err
	}
	if o.Residual != graph.None {
		y = l.node(scope+".residual", "Add", []string{y, x.value(o.Residual)})
	}
	x.values[o.Y] = y
	return nil
}
