package merge

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// newONNXPlan plans a merge into an ONNX model. A merged weight has the length
// of the old one, so the output's files are those of the base with the bytes of
// the touched initializers replaced, wherever they lie: in the model file or in
// external data. Every other byte is copied.
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
	p := &Plan{base: base, o: o, config: slices.Clone(o.Config)}
	p.o.Tied = nil // the graph says what is shared
	todo, err := p.assign(sources)
	if err != nil {
		return nil, err
	}
	if err := p.checkONNX(todo); err != nil {
		return nil, err
	}
	if err := p.layOutONNX(todo); err != nil {
		return nil, err
	}
	return p, p.findCarried()
}

// checkONNX refuses what cannot be merged in place.
func (p *Plan) checkONNX(todo map[string]*planned) error {
	m, err := onnx.Open(p.base.Path())
	if err != nil {
		return err
	}
	defer m.Close()
	linears := map[string][]onnx.Linear{}
	for _, l := range m.Linears() {
		linears[l.Weight] = append(linears[l.Weight], l)
	}
	for name, t := range todo {
		b, ok := p.base.Lookup(name)
		if !ok {
			return fmt.Errorf("%s: %w: the adapter has %s, the graph has no such initializer, and a head cannot be added to a graph", p.base.Path(), ErrMismatch, name)
		}
		if !b.InFile() {
			return fmt.Errorf("%s: %w: tensor %s is stored as a list of numbers instead of raw data: save the model again with onnx.save", p.base.Path(), formats.ErrUnsupported, name)
		}
		if len(t.updates) == 0 {
			continue
		}
		if err := checkUses(m, name, t.updates[0].Site.Transposed, linears[name]); err != nil {
			return fmt.Errorf("%s: %w: %w", p.base.Path(), ErrMismatch, err)
		}
	}
	return p.checkUnlisted(m, todo)
}

// checkUnlisted makes sure that no tensor that the checkpoint does not list,
// such as those of subgraphs, has its external data where a touched one has its.
func (p *Plan) checkUnlisted(m *onnx.Model, todo map[string]*planned) error {
	return m.EachTensor(func(x *onnx.Tensor) error {
		if x.Store != onnx.StoreExternal || x.Bytes == 0 {
			return nil
		}
		for name := range todo {
			t, _ := p.base.Lookup(name)
			same := x.Name == name && t.Offset == x.External.Offset && t.Bytes == x.Bytes
			if !same && p.base.Files()[t.File].Path == x.External.Path && x.External.Offset < t.Offset+t.Bytes && t.Offset < x.External.Offset+x.Bytes {
				return fmt.Errorf("%s: %w: tensors %s and %q share bytes of %s: export the model with untied weights", p.base.Path(), ErrMismatch, name, x.Name, x.External.Location)
			}
		}
		return nil
	})
}

// checkUses makes sure that a weight is used as the update takes it, and by
// nothing but such layers.
func checkUses(m *onnx.Model, name string, transposed bool, uses []onnx.Linear) error {
	if len(uses) == 0 {
		return fmt.Errorf("no linear layer of the graph uses %s", name)
	}
	nodes := map[int]bool{}
	for _, l := range uses {
		nodes[l.Node] = true
		if l.Problem != "" {
			return fmt.Errorf("tensor %s of layer %s is %s", name, l.Module, l.Problem)
		}
		if l.Transposed != transposed {
			return fmt.Errorf("tensor %s is used by %s as it is and by another layer transposed", name, l.Module)
		}
	}
	for _, l := range uses {
		for _, i := range l.Shared {
			if i < 0 {
				return fmt.Errorf("tensor %s is also an output of the graph", name)
			}
			if n := &m.Graph.Nodes[i]; !nodes[i] && !leadsTo(m, n, nodes) {
				return fmt.Errorf("tensor %s is shared: node %q (%s) reads it too and would change with layer %s; leave the layer out of the adapter, or export the model with untied weights", name, n.Name, n.Op, l.Module)
			}
		}
	}
	return nil
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

// layOutONNX makes the output's files: touched tensors and the gaps between
// them.
func (p *Plan) layOutONNX(todo map[string]*planned) error {
	byFile := make([][]formats.Tensor, len(p.base.Files()))
	for _, t := range p.base.Tensors() {
		if t.InFile() && t.Bytes > 0 {
			byFile[t.File] = append(byFile[t.File], t)
		}
	}
	p.whole = len(p.base.Tensors()) - len(todo)
	for i, f := range p.base.Files() {
		name, err := filepath.Rel(p.base.Dir(), f.Path)
		if err != nil {
			return err
		}
		out := outFile{name: name, size: f.Size}
		slices.SortStableFunc(byFile[i], func(a, b formats.Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
		at := int64(0)
		gap := func(to int64) {
			if to > at {
				src := formats.Tensor{DType: tensor.U8, File: i, Offset: at, Bytes: to - at}
				out.tensors = append(out.tensors, outTensor{gap: true, has: true, dtype: tensor.U8, src: src, offset: at, bytes: to - at})
			}
			at = to
		}
		end, last := int64(0), "" // of the tensors so far
		for k, t := range byFile[i] {
			next := f.Size
			if k+1 < len(byFile[i]) {
				next = byFile[i][k+1].Offset
			}
			if todo[t.Name] != nil && (t.Offset < end || next < t.Offset+t.Bytes) {
				if t.Offset >= end {
					last = byFile[i][k+1].Name
				}
				return fmt.Errorf("%s: %w: tensors %s and %s share bytes of %s: export the model with untied weights", p.base.Path(), ErrMismatch, t.Name, last, name)
			}
			if t.Offset+t.Bytes > end {
				end, last = t.Offset+t.Bytes, t.Name
			}
			if todo[t.Name] == nil {
				continue
			}
			gap(t.Offset)
			out.tensors = append(out.tensors, outTensor{name: t.Name, dtype: t.DType, shape: t.Shape, offset: t.Offset, bytes: t.Bytes, src: t, has: true, todo: todo[t.Name]})
			at = t.Offset + t.Bytes
		}
		gap(f.Size)
		p.files = append(p.files, out)
	}
	if len(p.files) == 0 {
		return errors.New("no files to merge into")
	}
	return nil
}
