package merge

import (
	"fmt"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// newONNXPlan plans a merge into an ONNX model. A merged weight has the length
// of the old one, so the output's files are those of the base with the bytes of
// the touched initializers replaced, wherever they lie: in the model file or in
// external data. Every other byte is copied. Only where a weight is shared with
// something that has no adapter, an embedding say, does the model file get a new
// initializer, which the layer's node reads instead.
func newONNXPlan(base *formats.Checkpoint, sources []Source, o Options) (*Plan, error) {
	unsupported := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", base.Path(), formats.ErrUnsupported, fmt.Sprintf(format, args...))
	}
	switch {
	case o.DType != tensor.Invalid:
		return nil, unsupported("another dtype for an ONNX model, whose graph is typed: leave out the dtype")
	case o.MaxShardSize > 0:
		return nil, unsupported("shards of an ONNX model: leave out the shard size")
	case o.Reversible:
		return nil, unsupported("a reversible merge into an ONNX model: keep the base")
	}
	p := &Plan{base: base, sources: sources, o: o, config: slices.Clone(o.Config)}
	p.o.Tied = nil // the graph says what is shared
	todo, err := p.assign(sources)
	if err != nil {
		return nil, err
	}
	m, err := onnx.Open(base.Path())
	if err != nil {
		return nil, err
	}
	defer m.Close()
	split, err := p.checkONNX(m, todo)
	if err != nil {
		return nil, err
	}
	if err := p.layOutONNX(m, todo, split); err != nil {
		return nil, err
	}
	return p, p.findCarried()
}

// checkONNX refuses what cannot be merged. split lists the weights that
// something else than adapted layers reads, with those layers: they get a weight
// of their own.
func (p *Plan) checkONNX(m *onnx.Model, todo map[string]*planned) (split map[string][]onnx.Linear, err error) {
	split = map[string][]onnx.Linear{}
	linears := map[string][]onnx.Linear{}
	for _, l := range m.Linears() {
		linears[l.Weight] = append(linears[l.Weight], l)
	}
	for name, t := range todo {
		b, ok := p.base.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("%s: %w: the adapter has %s, the graph has no such initializer, and a head cannot be added to a graph", p.base.Path(), ErrMismatch, name)
		}
		if !b.InFile() {
			return nil, fmt.Errorf("%s: %w: tensor %s is stored as a list of numbers instead of raw data: save the model again with onnx.save", p.base.Path(), formats.ErrUnsupported, name)
		}
		if len(t.updates) == 0 {
			continue
		}
		site := t.updates[0].Site
		for _, u := range t.updates {
			if u.Site.Module != site.Module {
				return nil, fmt.Errorf("%s: %w: the layers %s and %s share tensor %s, so their updates cannot both be merged", p.base.Path(), ErrMismatch, site.Module, u.Site.Module, name)
			}
		}
		if own := slices.DeleteFunc(slices.Clone(linears[name]), func(l onnx.Linear) bool { return l.Module != site.Module }); len(own) > 0 {
			linears[name] = own
		}
		shared, err := checkUses(m, name, site.Transposed, linears[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", p.base.Path(), ErrMismatch, err)
		}
		if shared {
			split[name] = linears[name]
		}
	}
	return split, p.checkUnlisted(m, todo, split)
}

// checkUnlisted makes sure that no tensor that the checkpoint does not list,
// such as those of subgraphs, has its external data where a touched one has its.
func (p *Plan) checkUnlisted(m *onnx.Model, todo map[string]*planned, split map[string][]onnx.Linear) error {
	return m.EachTensor(func(x *onnx.Tensor) error {
		if x.Store != onnx.StoreExternal || x.Bytes == 0 {
			return nil
		}
		for name := range todo {
			if split[name] != nil {
				continue
			}
			t, _ := p.base.Lookup(name)
			same := x.Name == name && t.Offset == x.External.Offset && t.Bytes == x.Bytes
			if !same && p.base.Files()[t.File].Path == x.External.Path && x.External.Offset < t.Offset+t.Bytes && t.Offset < x.External.Offset+x.Bytes {
				return fmt.Errorf("%s: %w: tensors %s and %q share bytes of %s: export the model with untied weights", p.base.Path(), ErrMismatch, name, x.Name, x.External.Location)
			}
		}
		return nil
	})
}

// checkUses makes sure that a weight is used as the update takes it, and says
// whether something else than such layers reads it.
func checkUses(m *onnx.Model, name string, transposed bool, uses []onnx.Linear) (shared bool, err error) {
	if len(uses) == 0 {
		return false, fmt.Errorf("no linear layer of the graph uses %s", name)
	}
	nodes := map[int]bool{}
	direct := true
	for _, l := range uses {
		nodes[l.Node] = true
		direct = direct && slices.Contains(m.Graph.Nodes[l.Node].Inputs, name)
		if l.Problem != "" {
			return false, fmt.Errorf("tensor %s of layer %s is %s", name, l.Module, l.Problem)
		}
		if l.Transposed != transposed {
			return false, fmt.Errorf("tensor %s is used by %s as it is and by another layer transposed", name, l.Module)
		}
	}
	for _, l := range uses {
		for _, i := range l.Shared {
			other := "the outputs of the graph"
			if i >= 0 {
				n := &m.Graph.Nodes[i]
				if nodes[i] || leadsTo(m, n, nodes) {
					continue
				}
				other = fmt.Sprintf("node %q (%s)", n.Name, n.Op)
			}
			if !direct {
				return false, fmt.Errorf("tensor %s is shared by %s and, through other nodes, by layer %s: leave the layer out of the adapter, or export the model with untied weights", name, other, l.Module)
			}
			shared = true
		}
	}
	return shared, nil
}

// leadsTo says whether a node only hands a weight on to the layers.
func leadsTo(m *onnx.Model, n *onnx.Node, layers map[int]bool) bool {
	if n.Op != "Identity" && n.Op != "Cast" && n.Op != "Transpose" {
		return false
	}
	for _, o := range m.Graph.Outputs {
		if slices.Contains(n.Outputs, o.Name) {
			return false
		}
	}
	for i := range m.Graph.Nodes {
		r := &m.Graph.Nodes[i]
		if slices.Contains(r.Inputs, n.Outputs[0]) && !layers[i] && !leadsTo(m, r, layers) {
			return false
		}
	}
	return true
}
