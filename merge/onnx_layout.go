package merge

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// literal is bytes of an output file that are neither the base's nor a tensor.
type literal struct {
	at    int64
	bytes []byte
}

// piece is a range of a file of the base and where it goes.
type piece struct{ from, n, to int64 }

// layOutONNX makes the output's files: touched tensors and the gaps between
// them.
func (p *Plan) layOutONNX(m *onnx.Model, todo map[string]*planned, split map[string][]onnx.Linear) error {
	byFile := make([][]formats.Tensor, len(p.base.Files()))
	for _, t := range p.base.Tensors() {
		if t.InFile() && t.Bytes > 0 {
			byFile[t.File] = append(byFile[t.File], t)
		}
	}
	inPlace := maps.Clone(todo)
	for name := range split {
		delete(inPlace, name)
	}
	p.whole = len(p.base.Tensors()) - len(inPlace)
	for i, f := range p.base.Files() {
		name, err := filepath.Rel(p.base.Dir(), f.Path)
		if err != nil {
			return err
		}
		slices.SortStableFunc(byFile[i], func(a, b formats.Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
		if err := p.checkOverlap(name, byFile[i], inPlace); err != nil {
			return err
		}
		touched := slices.DeleteFunc(byFile[i], func(t formats.Tensor) bool { return inPlace[t.Name] == nil })
		if i == 0 && len(split) > 0 {
			if err := p.layOutSplit(m, name, touched, todo, split); err != nil {
				return err
			}
			continue
		}
		out := outFile{name: name, size: f.Size}
		out.addPiece(i, piece{0, f.Size, 0}, touched, todo)
		p.files = append(p.files, out)
	}
	return nil
}

// checkOverlap refuses to change bytes that another tensor has too. ts is in the
// order of the data.
func (p *Plan) checkOverlap(file string, ts []formats.Tensor, touched map[string]*planned) error {
	for k, t := range ts {
		for _, next := range ts[k+1:] {
			if next.Offset >= t.Offset+t.Bytes {
				break
			}
			if touched[t.Name] != nil || touched[next.Name] != nil {
				return fmt.Errorf("%s: %w: tensors %s and %s share bytes of %s: export the model with untied weights", p.base.Path(), ErrMismatch, t.Name, next.Name, file)
			}
		}
	}
	return nil
}

// addPiece appends a range of file src of the base, with its touched tensors.
func (f *outFile) addPiece(src int, x piece, touched []formats.Tensor, todo map[string]*planned) {
	at, end := x.from, x.from+x.n
	gap := func(to int64) {
		if to > at {
			t := formats.Tensor{DType: tensor.U8, File: src, Offset: at, Bytes: to - at}
			f.tensors = append(f.tensors, outTensor{gap: true, has: true, dtype: tensor.U8, src: t, offset: at - x.from + x.to, bytes: to - at})
		}
	}
	for _, t := range touched {
		if t.Offset < x.from || t.Offset+t.Bytes > end {
			continue
		}
		gap(t.Offset)
		f.tensors = append(f.tensors, outTensor{name: t.Name, dtype: t.DType, shape: t.Shape, offset: t.Offset - x.from + x.to, bytes: t.Bytes, src: t, has: true, todo: todo[t.Name]})
		at = t.Offset + t.Bytes
	}
	gap(end)
}

// mergedData stands for the data of a new initializer, which are computed.
type mergedData struct{ name, from string }

func (mergedData) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("merge: the data are not computed yet")
}

// layOutSplit makes the model file, and further external data if it becomes too
// long, with new initializers for the weights of split.
func (p *Plan) layOutSplit(m *onnx.Model, file string, touched []formats.Tensor, todo map[string]*planned, split map[string][]onnx.Linear) error {
	e := onnx.NewEdit(m)
	rename := map[int]map[string]string{} // by node
	for _, name := range slices.Sorted(maps.Keys(split)) {
		t, _ := p.base.Lookup(name) // checked by assign
		fresh := freshName(m, name)
		e.AddInitializer(onnx.NewTensorFrom(fresh, onnx.DataTypeOf(t.DType), t.Shape, mergedData{fresh, name}, 0))
		p.untied = append(p.untied, name, fresh)
		for _, l := range split[name] {
			if rename[l.Node] == nil {
				rename[l.Node] = map[string]string{}
			}
			rename[l.Node][name] = fresh
		}
	}
	for i, names := range rename {
		b, err := m.Bytes(m.Graph.Nodes[i].Span)
		if err != nil {
			return err
		}
		if b, err = onnx.RenameInputs(b, names); err != nil {
			return err
		}
		e.ReplaceNode(i, b)
	}
	out, err := e.Plan(file, 0)
	if err != nil {
		return err
	}
	for i := range out.Files {
		p.files = append(p.files, p.fromChunks(&out.Files[i], touched, todo))
	}
	return nil
}

// fromChunks turns the plan of an edit into a file of the merge.
func (p *Plan) fromChunks(o *onnx.OutFile, touched []formats.Tensor, todo map[string]*planned) outFile {
	f := outFile{name: o.Name, size: o.Size}
	at := int64(0)
	for i := range o.Chunks {
		c := &o.Chunks[i]
		if d, ok := c.From.(mergedData); ok {
			t, _ := p.base.Lookup(d.from) // checked by assign
			f.tensors = append(f.tensors, outTensor{name: d.name, dtype: t.DType, shape: t.Shape, offset: at, bytes: t.Bytes, src: t, has: true, todo: todo[d.from]})
		} else if c.From == nil {
			f.literals = append(f.literals, literal{at, c.Bytes})
		} else {
			f.addPiece(0, piece{c.Off, c.N, at}, touched, todo)
		}
		at += c.Len()
	}
	return f
}

// freshName is a name for a new initializer that nothing in the model has.
func freshName(m *onnx.Model, name string) string {
	used := map[string]bool{}
	for i := range m.Graph.Initializers {
		used[m.Graph.Initializers[i].Name] = true
	}
	for i := range m.Graph.Inputs {
		used[m.Graph.Inputs[i].Name] = true
	}
	for i := range m.Graph.Nodes {
		for _, o := range m.Graph.Nodes[i].Outputs {
			used[o] = true
		}
	}
	fresh := name + ".merged"
	for i := 2; used[fresh]; i++ {
		fresh = fmt.Sprintf("%s.merged%d", name, i)
	}
	return fresh
}
