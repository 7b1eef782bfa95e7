package formats

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// FormatONNX is what Checkpoint.Format says of ONNX models.
const FormatONNX = "onnx"

var graphCodec = Codec{Format: FormatONNX, Ext: graphExt, Open: openONNX}

func init() { Register(graphCodec) }

// openONNX lists a model's parameters: the initializers of its graph and the
// float constants of Constant nodes, which have the name of the node's output.
// Names, shapes and places are those of the graph; the data lie in the model file
// or in files beside it.
func openONNX(path string) ([]File, []Tensor, error) {
	m, err := onnx.Open(path)
	if err != nil {
		return nil, nil, onnxError(path, err)
	}
	defer m.Close()
	l := onnxLister{m: m, dir: filepath.Dir(path), byPath: map[string]int{}}
	main := File{Path: path, Size: m.Size}
	for _, kv := range m.Metadata {
		main.Metadata = append(main.Metadata, KV(kv))
	}
	l.files = []File{main}
	for _, t := range onnxParameters(m) {
		if err := l.add(t.name, t.Tensor); err != nil {
			return nil, nil, onnxError(path, err)
		}
	}
	return l.files, l.tensors, nil
}

// onnxError makes the package's error of one of package onnx.
func onnxError(path string, err error) error {
	e := &Error{Path: path, Reason: err.Error(), Err: err}
	var x *onnx.Error
	if !errors.As(err, &x) {
		return e
	}
	e.Tensor, e.Offset, e.Reason, e.Hint, e.Err = x.Tensor, x.Offset, x.Reason, x.Hint, ErrMalformed
	if x.Node != "" {
		e.Reason = "node " + x.Node + ": " + x.Reason
	}
	if errors.Is(err, onnx.ErrUnsupported) {
		e.Err = ErrUnsupported
	}
	return e
}

type onnxParameter struct {
	name string
	*onnx.Tensor
}

func onnxParameters(m *onnx.Model) []onnxParameter {
	var list []onnxParameter
	g := m.Graph
	for i := range g.Initializers {
		list = append(list, onnxParameter{g.Initializers[i].Name, &g.Initializers[i]})
	}
	for _, s := range g.Sparse {
		list = append(list, onnxParameter{s.Values.Name, s.Values})
	}
	for i := range g.Nodes {
		if t := g.Nodes[i].Constant(); t != nil && len(t.Dims) > 0 && t.Type.DType().IsFloat() {
			list = append(list, onnxParameter{g.Nodes[i].Outputs[0], t})
		}
	}
	return list
}

type onnxLister struct {
	m       *onnx.Model
	dir     string
	files   []File
	byPath  map[string]int
	tensors []Tensor
}

func (l *onnxLister) add(name string, t *onnx.Tensor) error {
	out := Tensor{Name: name, DType: t.Type.DType(), Shape: t.Dims, Bytes: t.Bytes, Offset: t.Raw.Offset}
	if out.DType == tensor.Invalid {
		out.Stored = t.Type.String()
	}
	switch t.Store {
	case onnx.StoreExternal:
		i, err := l.file(t.External.Path)
		if err != nil {
			return err
		}
		out.File, out.Offset = i, t.External.Offset
	case onnx.StoreTyped:
		out.Offset = t.Span.Offset
		if t.Type == onnx.String {
			s, err := l.m.Strings(t)
			if err != nil {
				return err
			}
			out.decoded = []byte(strings.Join(s, ""))
			break
		}
		b, err := l.m.Data(t)
		if err != nil {
			return err
		}
		out.decoded = b
	}
	l.tensors = append(l.tensors, out)
	return nil
}

// file finds or adds a file of external data.
func (l *onnxLister) file(path string) (int, error) {
	if i, ok := l.byPath[path]; ok {
		return i, nil
	}
	size, err := fileSize(path)
	if err != nil {
		return 0, err
	}
	i := len(l.files)
	l.byPath[path] = i
	l.files = append(l.files, File{Path: path, Size: size})
	return i, nil
}
