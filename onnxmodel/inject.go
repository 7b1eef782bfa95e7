package onnxmodel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
)

// Placement says how an adapter goes into a graph.
type Placement string

// The placements.
const (
	// AsNodes: nodes that add x ΔW to the layer's result, their tensors
	// initializers.
	AsNodes Placement = "nodes"
	// AsInputs: nodes whose tensors are inputs of the graph with initializers
	// of rank 0 as their defaults. Without values the graph computes what the
	// base computes; ONNX Runtime's adapter files ([LoraAdapter]) hold values.
	AsInputs Placement = "inputs"
)

// Form says by which operations x ΔW is computed.
type Form string

// The forms.
const (
	// FormAuto is thin where ΔW has low rank, else kronecker.
	FormAuto Form = "auto"
	// FormThin: (x A) B with A (in, r) and B (r, out).
	FormThin Form = "thin"
	// FormKronecker: Kronecker factors act on x without being multiplied
	// out, by Reshape, MatMul and Transpose.
	FormKronecker Form = "kronecker"
)

// InjectOptions are options of Inject. The zero value is AsNodes, FormAuto.
type InjectOptions struct {
	As   Placement
	Form Form
}

// Injected is a planned change of a model.
type Injected struct {
	// Edit writes the changed model; see [onnx.Edit.Plan].
	Edit *onnx.Edit
	// Nodes and Inputs are how many were added.
	Nodes, Inputs int
	// Modules lists the layers in the order of the adapter.
	Modules []InjectedModule
	// Head lists the initializers that have the values of the adapter's
	// trained head, or with AsInputs became inputs of the same name.
	Head []string
	// Adapter has the values of the inputs of AsInputs.
	Adapter *LoraAdapter
}

// InjectedModule is what became of one module of the adapter.
type InjectedModule struct {
	Module string
	Form   Form
	Type   onnx.DataType // of the added tensors: that of the layer's product
	Uses   int           // nodes that compute the layer
	// Rounding is the largest relative error of a tensor's element, 0 where
	// all are exact.
	Rounding float64
}

// injector is the state of one Inject.
type injector struct {
	m    *onnx.Model
	o    InjectOptions
	list *nodeList
	out  *Injected
	// uses are the layers of the graph by the name of their weight.
	uses  map[string][]onnx.Linear
	types *typer
	done  map[int]bool // nodes that have an adapter
}

// Inject puts an adapter into a copy of a model's graph, for the layers
// y = x W of the adapter's sites: y becomes x W + scale·x ΔW, under its old name,
// so that nothing else changes. The sites' weights name the layers.
//
// Tensors of LoRA and LSR in thin form are called MODULE.lora_A.weight (in, r)
// and MODULE.lora_B.weight (r, out); Kronecker factors MODULE.lsr_A1 and so on.
// With AsInputs the scale is part of lora_B, as ONNX Runtime has none of a
// module's own.
//
// A site without such a layer, a layer whose result is fused with other things
// and an update that the form cannot express are errors, and so is a head tensor
// that the graph does not hold.
func Inject(m *onnx.Model, a *adapter.Adapter, o InjectOptions) (*Injected, error) {
	if o.As == "" {
		o.As = AsNodes
	}
	if o.Form == "" {
		o.Form = FormAuto
	}
	if err := a.Finite(); err != nil {
		return nil, err
	}
	x := &injector{m: m, o: o, list: newNodeList(usedNames(m)), types: newTyper(m.Graph), uses: map[string][]onnx.Linear{}, done: map[int]bool{},
		out: &Injected{Edit: onnx.NewEdit(m)}}
	if err := x.versions(); err != nil {
		return nil, err
	}
	if o.As == AsInputs {
		x.out.Adapter = &LoraAdapter{}
	}
	for _, l := range m.Linears() {
		x.uses[l.Weight] = append(x.uses[l.Weight], l)
	}
	for i := range a.Modules {
		if err := x.module(&a.Modules[i]); err != nil {
			return nil, x.at(err)
		}
	}
	if err := x.head(a.Head); err != nil {
		return nil, x.at(err)
	}
	for _, t := range x.list.inits {
		x.initializer(t)
	}
	return x.out, nil
}

func (x *injector) at(err error) error {
	if e, ok := err.(*formats.Error); ok {
		if e.Path == "" {
			e.Path = x.m.Path
		}
		return e
	}
	return fmt.Errorf("%s: %w", x.m.Path, err)
}

// versions refuses models that lack what the nodes need: numpy's broadcasting
// (opset 7), and initializers as defaults of inputs (IR 4).
func (x *injector) versions() error {
	e := &formats.Error{Path: x.m.Path, Hint: "bring the model up to date with onnx.version_converter, or export it again", Err: formats.ErrUnsupported}
	if v := x.m.Opset(""); v < 7 {
		e.Reason = fmt.Sprintf("the graph uses operator set %d, adapters need 7", v)
		return e
	}
	if x.o.As == AsInputs && x.m.IRVersion < 4 {
		e.Reason = fmt.Sprintf("the model has IR version %d, optional inputs need 4", x.m.IRVersion)
		return e
	}
	return nil
}

// initializer adds a tensor; before IR 4 each is an input too.
func (x *injector) initializer(t *onnx.Tensor) {
	x.out.Edit.AddInitializer(t)
	if x.m.IRVersion < 4 {
		dims := make([]any, len(t.Dims))
		for i, d := range t.Dims {
			dims[i] = d
		}
		x.out.Edit.AddInput(onnx.TensorInfo(t.Name, t.Type, dims...))
	}
}

// layers are the nodes that compute a site: all that read its weight, or those
// of its name where several layers share the weight.
func (x *injector) layers(s adapter.Site) ([]onnx.Linear, error) {
	all := x.uses[s.Weight]
	own := slices.DeleteFunc(slices.Clone(all), func(l onnx.Linear) bool { return l.Module != s.Module })
	if len(own) == 0 {
		own = all
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("%w: no layer of the graph multiplies by tensor %q of module %s", adapter.ErrMismatch, s.Weight, s.Module)
	}
	for _, l := range own {
		n := &x.m.Graph.Nodes[l.Node]
		switch {
		case l.In != s.In || l.Out != s.Out:
			return nil, fmt.Errorf("%w: module %s is (%d, %d), node %q (%d, %d)", adapter.ErrMismatch, s.Module, s.In, s.Out, n.Name, l.In, l.Out)
		case n.Op != "MatMul" && n.Op != "Gemm" && n.Op != "FusedMatMul":
			return nil, &formats.Error{Tensor: s.Weight, Reason: fmt.Sprintf("node %q is %s, which does more than multiply by the weight, so that nothing can be added to the product", n.Name, n.Op), Hint: "merge the adapter, or use the graph as it was before the optimiser fused it", Err: formats.ErrUnsupported}
		case x.done[l.Node]:
			return nil, fmt.Errorf("%w: node %q computes two modules of the adapter, %s among them", adapter.ErrMismatch, n.Name, s.Module)
		}
		x.done[l.Node] = true
	}
	return own, nil
}

// module adds one module's nodes.
func (x *injector) module(m *adapter.Module) error {
	layers, err := x.layers(m.Site)
	if err != nil {
		return err
	}
	d := x.types.of(layers[0].Node)
	if dt := d.DType(); dt.Bits() < 16 || !dt.IsFloat() {
		return &formats.Error{Tensor: m.Weight, Reason: fmt.Sprintf("the layer computes in %v", d), Hint: "adapters need FLOAT16, BFLOAT16, FLOAT or DOUBLE", Err: formats.ErrUnsupported}
	}
	u, err := x.update(m, d)
	if err != nil {
		return err
	}
	rep := InjectedModule{Module: m.Module, Form: u.form(), Type: d, Uses: len(layers), Rounding: u.rounding()}
	for _, l := range layers {
		if t := x.types.of(l.Node); t != d {
			return &formats.Error{Tensor: m.Weight, Reason: fmt.Sprintf("the layer is computed in %v and in %v", d, t), Hint: "export the model in one element type", Err: formats.ErrUnsupported}
		}
		if err := x.attach(l.Node, m.Module, u); err != nil {
			return err
		}
	}
	x.out.Modules = append(x.out.Modules, rep)
	return nil
}

// attach makes node i's result y + scale·x ΔW: the node's output gets another
// name, and an Add behind it the old one.
func (x *injector) attach(i int, module string, u update) error {
	n := &x.m.Graph.Nodes[i]
	y := n.Outputs[0]
	base := x.list.fresh(y + "_base")
	msg, err := x.m.Bytes(n.Span)
	if err != nil {
		return err
	}
	if msg, err = onnx.RenameOutputs(msg, map[string]string{y: base}); err != nil {
		return err
	}
	x.out.Edit.ReplaceNode(i, msg)
	first := len(x.list.nodes)
	bias := ""
	if n.Op == "Gemm" && len(n.Inputs) > 2 {
		bias = n.Inputs[2]
	}
	delta := u.emit(x.list, module, n.Inputs[0], base, bias)
	add := x.list.fresh("/" + strings.ReplaceAll(module, ".", "/") + "/adapter/Add")
	nodes := append(slices.Clone(x.list.nodes[first:]), &onnx.Node{Name: add, Op: "Add", Inputs: []string{base, delta}, Outputs: []string{y}})
	x.list.nodes = x.list.nodes[:first]
	x.out.Nodes += len(nodes)
	if i+1 < len(x.m.Graph.Nodes) {
		x.out.Edit.InsertNodes(i+1, nodes...)
		return nil
	}
	for _, n := range nodes {
		x.out.Edit.AddNode(n)
	}
	return nil
}

// usedNames are the names of all values and nodes of the main graph and those
// that subgraphs read.
func usedNames(m *onnx.Model) map[string]bool {
	used := map[string]bool{"": true}
	var walk func(g *onnx.Graph)
	walk = func(g *onnx.Graph) {
		for i := range g.Initializers {
			used[g.Initializers[i].Name] = true
		}
		for _, s := range g.Sparse {
			used[s.Values.Name] = true
		}
		for i := range g.Inputs {
			used[g.Inputs[i].Name] = true
		}
		for i := range g.Nodes {
			n := &g.Nodes[i]
			used[n.Name] = true
			for _, v := range slices.Concat(n.Inputs, n.Outputs) {
				used[v] = true
			}
			for j := range n.Attributes {
				if a := &n.Attributes[j]; a.G != nil {
					walk(a.G)
				}
				for _, sub := range n.Attributes[j].Graphs {
					walk(sub)
				}
			}
		}
	}
	walk(m.Graph)
	return used
}

// typer tells the element type of products.
type typer struct {
	g      *onnx.Graph
	maker  map[string]int
	params map[string]onnx.DataType
}

func newTyper(g *onnx.Graph) *typer {
	t := &typer{g: g, maker: map[string]int{}, params: map[string]onnx.DataType{}}
	for i := range g.Initializers {
		t.params[g.Initializers[i].Name] = g.Initializers[i].Type
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		for _, o := range n.Outputs {
			t.maker[o] = i
		}
		if c := n.Constant(); c != nil {
			t.params[n.Outputs[0]] = c.Type
		}
	}
	return t
}

// of is the element type of a product's right-hand side, and so of its result:
// that of the weight, or of the Cast between.
func (t *typer) of(node int) onnx.DataType {
	v := t.g.Nodes[node].Inputs[1]
	for range 16 {
		if d, ok := t.params[v]; ok {
			return d
		}
		i, ok := t.maker[v]
		if !ok {
			break
		}
		n := &t.g.Nodes[i]
		if n.Op == "Cast" {
			return onnx.DataType(n.Int("to", 0))
		}
		if len(n.Inputs) == 0 {
			break
		}
		v = n.Inputs[0]
	}
	return onnx.Undefined
}
