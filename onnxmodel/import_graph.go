package onnxmodel

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// importer runs a graph once on a probe: so many sequences of so many tokens
// each, without padding. What depends only on shapes, constants, positions and
// masks is computed; what depends on the weights becomes terms. So a mask is
// recognised by what it hides and a position by its number, however the
// exporter has spelt them.
type importer struct {
	m             *onnx.Model
	batch, tokens int
	terms         []*term
	sites         map[int]*adapter.Site // by node of the main graph
	extra         map[string][]float32  // tensors that were computed from others
	streams       map[graph.Stream]*array
	functions     map[[2]string]*onnx.Function
	main          *scope
	reach         int                     // the longest sequence for which the probe speaks
	readers       map[string][]*onnx.Node // of the main graph
}

// scope holds the values of a graph.
type scope struct {
	values map[string]value
	outer  *scope
	depth  int
}

func (s *scope) get(name string) (value, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.values[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// newImporter prepares a run for a probe of batch sequences of tokens.
func newImporter(m *onnx.Model, sites []adapter.Site, batch, tokens int) *importer {
	im := &importer{m: m, batch: batch, tokens: tokens, reach: math.MaxInt32, sites: map[int]*adapter.Site{}, extra: map[string][]float32{},
		streams: map[graph.Stream]*array{}, functions: map[[2]string]*onnx.Function{}, readers: map[string][]*onnx.Node{},
		main: &scope{values: map[string]value{}}}
	byModule := map[string]*adapter.Site{}
	for i := range sites {
		byModule[sites[i].Module] = &sites[i]
	}
	for _, l := range m.Linears() {
		if s := byModule[l.Module]; s != nil && l.Problem == "" && s.Weight == l.Weight {
			im.sites[l.Node] = s
		}
	}
	for i := range m.Functions {
		f := &m.Functions[i]
		im.functions[[2]string{f.Domain, f.Name}] = f
	}
	for i := range m.Graph.Nodes {
		for _, x := range m.Graph.Nodes[i].Inputs {
			im.readers[x] = append(im.readers[x], &m.Graph.Nodes[i])
		}
	}
	for i := range m.Graph.Initializers {
		t := &m.Graph.Initializers[i]
		im.main.values[t.Name] = &param{t: t, name: t.Name}
	}
	return im
}

// Numbers of the probe that nothing in a graph has by chance: token ids and type
// ids are told from positions, and from each other, by their values.
const (
	firstID   = 1 << 22
	firstType = 1 << 21
)

// inputs gives the graph's inputs their values under the probe.
func (im *importer) inputs() error {
	for i := range im.m.Graph.Inputs {
		v := &im.m.Graph.Inputs[i]
		if _, ok := im.main.values[v.Name]; ok {
			continue // an initializer that may be overridden
		}
		a, err := im.input(v)
		if err != nil {
			return err
		}
		im.main.values[v.Name] = a
	}
	if im.streams[graph.StreamIDs] == nil {
		return &onnx.Error{Reason: "no input of token ids", Hint: "programs are made of models that read input_ids", Err: onnx.ErrUnsupported}
	}
	return nil
}

func (im *importer) input(v *onnx.ValueInfo) (value, error) {
	name := strings.ToLower(v.Name)
	kind := kindOfType(v.Type)
	has := func(list ...string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(name, s) })
	}
	stream := func(s graph.Stream, first int) value {
		a := newArray(kindInt, im.batch, im.tokens)
		for i := range a.data {
			if a.data[i] = float64(first + i); s == graph.StreamPositions {
				a.data[i] = float64(i % im.tokens)
			}
		}
		im.streams[s] = a
		return a
	}
	switch {
	case has("past"):
		// The first dimension that is open is the batch, others count tokens.
		dims, open := make([]int, len(v.Shape)), 0
		for i, d := range v.Shape {
			switch dims[i] = int(d.Value); {
			case d.Value >= 0:
			case open == 0:
				dims[i], open = im.batch, 1
			default:
				dims[i] = 0
			}
		}
		return newArray(kind, dims...), nil
	case len(v.Shape) == 0 && kind == kindBool:
		return scalar(kindBool, 0), nil
	case len(v.Shape) != 2:
	case has("mask"):
		return newArray(kind, im.batch, im.tokens).mapped(kind, func(float64) float64 { return 1 }), nil
	case has("type", "segment"):
		return stream(graph.StreamTypes, firstType), nil
	case has("position"):
		return stream(graph.StreamPositions, 0), nil
	case kind == kindInt && im.streams[graph.StreamIDs] == nil:
		return stream(graph.StreamIDs, firstID), nil
	}
	return nil, &onnx.Error{Reason: fmt.Sprintf("input %q of %d dimensions is neither token ids, type ids, positions nor a mask of the tokens", v.Name, len(v.Shape)),
		Hint: "export the model with the inputs input_ids, attention_mask, token_type_ids and position_ids", Err: onnx.ErrUnsupported}
}

// run runs the main graph.
func (im *importer) run() error {
	if err := im.inputs(); err != nil {
		return err
	}
	order, err := im.m.Order()
	if err != nil {
		return err
	}
	for _, i := range order {
		if err := im.node(im.main, &im.m.Graph.Nodes[i], i); err != nil {
			return err
		}
	}
	return nil
}

// maxInline bounds the nesting of functions and branches.
const maxInline = 64

// node gives the outputs of a node their values. A node without rule is no
// error yet: nothing may need it.
func (im *importer) node(s *scope, n *onnx.Node, index int) error {
	in := make([]value, len(n.Inputs))
	for i, name := range n.Inputs {
		if name == "" {
			continue
		}
		v, ok := s.get(name)
		if !ok {
			return graphError(n, "input %q has no value", name)
		}
		if f, ok := v.(*failed); ok && n.Op != "Shape" {
			im.fail(s, n, f.err)
			return nil
		}
		in[i] = v
	}
	out, err := im.guarded(s, n, in, index)
	if err != nil {
		var known *onnx.Error
		if !errors.As(err, &known) {
			err = graphError(n, "%v", err)
		}
		im.fail(s, n, err)
		return nil
	}
	for i, name := range n.Outputs {
		switch {
		case name == "":
		case i < len(out) && out[i] != nil:
			s.values[name] = out[i]
		default:
			s.values[name] = &failed{graphError(n, "output %d is not computed", i)}
		}
	}
	return nil
}

// guarded is apply for nodes of any file: one with fewer inputs, or inputs of
// other ranks, than its operator has is an error.
func (im *importer) guarded(s *scope, n *onnx.Node, in []value, index int) (out []value, err error) {
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(runtime.Error)
			if !ok {
				panic(r)
			}
			out, err = nil, graphError(n, "its inputs do not have the number and ranks that the operator asks for (%v)", fault)
		}
	}()
	return im.apply(s, n, in, index)
}

func (im *importer) fail(s *scope, n *onnx.Node, err error) {
	for _, name := range n.Outputs {
		s.values[name] = &failed{err}
	}
}

// apply finds the rule of a node.
func (im *importer) apply(s *scope, n *onnx.Node, in []value, index int) ([]value, error) {
	standard := n.Domain == "" || n.Domain == "ai.onnx"
	if f := im.functions[[2]string{n.Domain, n.Op}]; f != nil {
		return im.function(s, n, f, in)
	}
	if standard {
		switch n.Op {
		case "Constant":
			return im.constant(s, n)
		case "If":
			return im.branch(s, n, in)
		}
	}
	c := &nodeCall{im: im, n: n, in: in, site: im.sites[index], top: s == im.main}
	if standard && known(in) {
		if v, done, err := c.parameter(); done {
			return []value{v}, err
		}
		return c.evaluate()
	}
	key := n.Op
	if !standard {
		key = n.Domain + "." + n.Op
	}
	rule := rules[key]
	if rule == nil {
		return nil, graphError(n, "%v", errNoRule)
	}
	return rule(c)
}

// known says whether all values are arrays or parameters.
func known(in []value) bool {
	for _, v := range in {
		switch v.(type) {
		case nil, *array, *param:
		default:
			return false
		}
	}
	return true
}

// constant is a Constant node. Those of the main graph that the checkpoint
// lists are parameters.
func (im *importer) constant(s *scope, n *onnx.Node) ([]value, error) {
	if t := n.Constant(); t != nil {
		if s == im.main && len(t.Dims) > 0 && t.Type.DType().IsFloat() {
			return []value{&param{t: t, name: n.Outputs[0]}}, nil
		}
		a, err := im.load(t)
		return []value{a}, err
	}
	for i := range n.Attributes {
		switch a := &n.Attributes[i]; a.Name {
		case "value_int":
			return []value{scalar(kindInt, float64(a.I))}, nil
		case "value_float":
			return []value{scalar(kindFloat, float64(a.F))}, nil
		case "value_ints":
			v := newArray(kindInt, len(a.Ints))
			for k, x := range a.Ints {
				v.data[k] = float64(x)
			}
			return []value{v}, nil
		case "value_floats":
			v := newArray(kindFloat, len(a.Floats))
			for k, x := range a.Floats {
				v.data[k] = float64(x)
			}
			return []value{v}, nil
		}
	}
	return nil, graphError(n, "no tensor and no number")
}

// load reads a tensor of the model.
func (im *importer) load(t *onnx.Tensor) (*array, error) {
	if t.Elements() > maxElements {
		return nil, fmt.Errorf("tensor %q of %d elements is too large to compute with", t.Name, t.Elements())
	}
	raw, err := im.m.Data(t)
	if err != nil {
		return nil, err
	}
	return decodeArray(t, raw)
}

// array returns a known value's elements.
func (im *importer) array(v value) (*array, error) {
	switch v := v.(type) {
	case *array:
		return v, nil
	case *param:
		a, err := im.load(v.t)
		if err == nil && v.transposed {
			a = a.transposed(nil)
		}
		return a, err
	}
	return nil, fmt.Errorf("a value that depends on the weights stands where a constant is expected")
}

// branch runs the branch of an If that the probe takes.
func (im *importer) branch(s *scope, n *onnx.Node, in []value) ([]value, error) {
	q, err := im.array(in[0])
	if err != nil {
		return nil, err
	}
	name := "else_branch"
	if u, ok := q.uniform(); ok && u != 0 {
		name = "then_branch"
	}
	a := n.Attribute(name)
	if a == nil || a.G == nil || s.depth > maxInline {
		return nil, graphError(n, "no %s", name)
	}
	inner := &scope{values: map[string]value{}, outer: s, depth: s.depth + 1}
	for i := range a.G.Initializers {
		t := &a.G.Initializers[i]
		x, err := im.load(t)
		if err != nil {
			return nil, err
		}
		inner.values[t.Name] = x
	}
	for i := range a.G.Nodes {
		if err := im.node(inner, &a.G.Nodes[i], -1); err != nil {
			return nil, err
		}
	}
	var out []value
	for i := range a.G.Outputs {
		v, ok := inner.get(a.G.Outputs[i].Name)
		if !ok {
			return nil, graphError(n, "output %q has no value", a.G.Outputs[i].Name)
		}
		if f, ok := v.(*failed); ok {
			return nil, f.err
		}
		out = append(out, v)
	}
	return out, nil
}

// function runs a model-local function.
func (im *importer) function(s *scope, n *onnx.Node, f *onnx.Function, in []value) ([]value, error) {
	if s.depth > maxInline {
		return nil, graphError(n, "functions call each other too deeply")
	}
	inner := &scope{values: map[string]value{}, depth: s.depth + 1}
	for i, name := range f.Inputs {
		if i < len(in) {
			inner.values[name] = in[i]
		} else {
			inner.values[name] = nil
		}
	}
	for i := range f.Nodes {
		x := f.Nodes[i]
		x.Attributes = slices.Clone(x.Attributes)
		x.Attributes = slices.DeleteFunc(x.Attributes, func(a onnx.Attribute) bool { return a.Ref != "" && n.Attribute(a.Ref) == nil })
		for k := range x.Attributes {
			if a := &x.Attributes[k]; a.Ref != "" {
				given := *n.Attribute(a.Ref)
				given.Name = a.Name
				*a = given
			}
		}
		if x.Name == "" {
			x.Name = nodeLabel(n) + "/" + x.Op
		}
		if err := im.node(inner, &x, -1); err != nil {
			return nil, err
		}
	}
	var out []value
	for _, name := range f.Outputs {
		v := inner.values[name]
		if x, ok := v.(*failed); ok {
			return nil, x.err
		}
		out = append(out, v)
	}
	return out, nil
}
