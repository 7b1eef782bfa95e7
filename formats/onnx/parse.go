package onnx

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxDepth is how deep graphs may lie in attributes of nodes.
const maxDepth = 32

// maxItems is how many nodes or tensors one list may have.
const maxItems = 1 << 22

// Open reads the skeleton of a model file, checks it and resolves external
// data. The file stays open until [Model.Close].
func Open(path string) (*Model, error) {
	m, err := openUnchecked(path)
	if err != nil {
		return nil, withPath(err, path)
	}
	err = m.Check()
	if err == nil {
		err = m.Resolve(filepath.Dir(path))
	}
	if err != nil {
		m.Close()
		return nil, withPath(err, path)
	}
	return m, nil
}

func withPath(err error, path string) error {
	var e *Error
	if errors.As(err, &e) && e.Path == "" {
		e.Path = path
	}
	return err
}

func openUnchecked(path string) (*Model, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &Error{Reason: "not a regular file", Hint: "give an .onnx file", Err: ErrMalformed}
	}
	var m *Model
	if err == nil {
		m, err = Read(f, st.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	m.Path, m.close = path, f.Close
	return m, nil
}

// Close closes the file of a model that Open read.
func (m *Model) Close() error {
	if m.close == nil {
		return nil
	}
	f := m.close
	m.close = nil
	return f()
}

// Read reads the skeleton of a model of size bytes. Sizes of data are checked
// against shapes; the graph is checked by [Model.Check], external data by
// [Model.Resolve].
func Read(r io.ReaderAt, size int64) (*Model, error) {
	s := &source{r: r, size: size}
	if err := s.foreign(); err != nil {
		return nil, err
	}
	m := &Model{Size: size, src: s}
	err := s.fields(Span{0, size}, func(f *field) error { return s.model(m, f) })
	if err != nil {
		return nil, err
	}
	if m.Graph == nil {
		return nil, &Error{Reason: "the model has no graph", Hint: damaged, Err: ErrMalformed}
	}
	return m, nil
}

// foreign recognises what people mistake for a model.
func (s *source) foreign() error {
	b, err := s.bytes(0, min(64, s.size))
	if err != nil {
		return err
	}
	bad := func(reason, hint string) error { return &Error{Reason: reason, Hint: hint, Err: ErrMalformed} }
	head := string(b)
	switch {
	case head == "":
		return bad("the file is empty", damaged)
	case strings.HasPrefix(head, "version https://git-lfs"):
		return bad("this is a Git LFS pointer, not the file itself", "run `git lfs pull` in the repository")
	case strings.HasPrefix(head, "PK\x03\x04"):
		return bad("this is a zip archive, not an ONNX model", "unpack it")
	case strings.HasPrefix(head, "<!DOCTYPE"), strings.HasPrefix(head, "<html"):
		return bad("this is a web page, not an ONNX model", "download the file itself")
	case len(b) >= 8 && head[4:8] == "ORTM":
		return bad("this is a model in ONNX Runtime's own format (.ort)", "use the .onnx file that it was made from")
	}
	return nil
}

func (s *source) model(m *Model, f *field) (err error) {
	switch f.num {
	case 1:
		m.IRVersion = f.signed()
		return f.want(wireVarint)
	case 2:
		m.Producer, err = s.text(f)
	case 3:
		m.ProducerVersion, err = s.text(f)
	case 7:
		if m.Graph != nil {
			return malformedAt(f.record.Offset, "the model has two graphs")
		}
		m.graph = f.record
		m.Graph, err = s.graph(f, 0)
	case 8:
		var o Opset
		o, err = s.opset(f)
		m.Opsets = append(m.Opsets, o)
	case 14:
		m.Metadata, err = s.kv(f, m.Metadata)
	case 20:
		return s.fields(f.val, func(x *field) error {
			if x.num != 1 && x.num != 2 {
				return nil
			}
			g, err := s.graph(x, 0)
			m.Training = append(m.Training, g)
			return err
		})
	case 25:
		var fn Function
		fn, err = s.function(f)
		m.Functions = append(m.Functions, fn)
	}
	return err
}

func (s *source) opset(f *field) (o Opset, err error) {
	if err := f.wantBytes(); err != nil {
		return o, err
	}
	err = s.fields(f.val, func(x *field) (err error) {
		switch x.num {
		case 1:
			o.Domain, err = s.text(x)
		case 2:
			o.Version = x.signed()
		}
		return err
	})
	return o, err
}

func (s *source) kv(f *field, list []KV) ([]KV, error) {
	if err := f.wantBytes(); err != nil {
		return list, err
	}
	var kv KV
	err := s.fields(f.val, func(x *field) (err error) {
		switch x.num {
		case 1:
			kv.Key, err = s.text(x)
		case 2:
			kv.Value, err = s.text(x)
		}
		return err
	})
	return append(list, kv), err
}

func (s *source) graph(f *field, depth int) (*Graph, error) {
	if err := f.wantBytes(); err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, malformedAt(f.record.Offset, "graphs within graphs, more than %d deep", maxDepth)
	}
	g := &Graph{Span: f.val}
	err := s.fields(f.val, func(x *field) (err error) {
		if max(len(g.Nodes), len(g.Initializers)) > maxItems {
			return malformedAt(x.record.Offset, "more than %d nodes or initializers", maxItems)
		}
		switch x.num {
		case 1:
			var n Node
			n, err = s.node(x, depth)
			g.Nodes = append(g.Nodes, n)
		case 2:
			g.Name, err = s.text(x)
		case 5:
			var t *Tensor
			if t, err = s.tensor(x); err == nil {
				g.Initializers = append(g.Initializers, *t)
			}
		case 11:
			g.Inputs, err = s.valueInfo(x, g.Inputs)
		case 12:
			g.Outputs, err = s.valueInfo(x, g.Outputs)
		case 13:
			g.ValueInfos, err = s.valueInfo(x, g.ValueInfos)
		case 15:
			var sp SparseTensor
			sp, err = s.sparse(x)
			g.Sparse = append(g.Sparse, sp)
		case 16:
			g.Metadata, err = s.kv(x, g.Metadata)
		}
		return err
	})
	return g, err
}

func (s *source) function(f *field) (fn Function, err error) {
	if err := f.wantBytes(); err != nil {
		return fn, err
	}
	err = s.fields(f.val, func(x *field) (err error) {
		var name string
		switch x.num {
		case 1:
			fn.Name, err = s.text(x)
		case 4:
			name, err = s.text(x)
			fn.Inputs = append(fn.Inputs, name)
		case 5:
			name, err = s.text(x)
			fn.Outputs = append(fn.Outputs, name)
		case 7:
			var n Node
			n, err = s.node(x, 0)
			fn.Nodes = append(fn.Nodes, n)
		case 9:
			var o Opset
			o, err = s.opset(x)
			fn.Opsets = append(fn.Opsets, o)
		case 10:
			fn.Domain, err = s.text(x)
		case 13:
			fn.Overload, err = s.text(x)
		}
		return err
	})
	return fn, err
}

func (s *source) node(f *field, depth int) (n Node, err error) {
	if err := f.wantBytes(); err != nil {
		return n, err
	}
	n.Span, n.Record = f.val, f.record
	err = s.fields(f.val, func(x *field) (err error) {
		var name string
		switch x.num {
		case 1:
			name, err = s.text(x)
			n.Inputs = append(n.Inputs, name)
		case 2:
			name, err = s.text(x)
			n.Outputs = append(n.Outputs, name)
		case 3:
			n.Name, err = s.text(x)
		case 4:
			n.Op, err = s.text(x)
		case 5:
			var a Attribute
			a, err = s.attribute(x, depth)
			n.Attributes = append(n.Attributes, a)
		case 7:
			n.Domain, err = s.text(x)
		case 9:
			n.Metadata, err = s.kv(x, n.Metadata)
		}
		return err
	})
	if err == nil && n.Op == "" {
		err = malformedAt(f.record.Offset, "a node without an operator")
	}
	return n, err
}

func (s *source) attribute(f *field, depth int) (a Attribute, err error) {
	if err := f.wantBytes(); err != nil {
		return a, err
	}
	err = s.fields(f.val, func(x *field) error { return s.attributeField(&a, x, depth) })
	if err == nil && a.Type == AttrUndefined && a.Ref == "" {
		a.guessType()
	}
	return a, err
}

func (s *source) attributeField(a *Attribute, x *field, depth int) (err error) {
	var str string
	var t *Tensor
	var g *Graph
	switch x.num {
	case 1:
		a.Name, err = s.text(x)
	case 21:
		a.Ref, err = s.text(x)
	case 20:
		a.Type, err = AttributeType(x.v), x.want(wireVarint)
	case 2:
		a.F, err = x.float(), x.want(wireFixed32)
	case 3:
		a.I, err = x.signed(), x.want(wireVarint)
	case 4:
		str, err = s.text(x)
		a.S = []byte(str)
	case 5:
		a.T, err = s.tensor(x)
	case 6:
		a.G, err = s.graph(x, depth+1)
	case 7:
		a.Floats, err = s.floats(x, a.Floats)
	case 8:
		a.Ints, err = s.numbers(x, a.Ints)
	case 9:
		str, err = s.text(x)
		a.Strings = append(a.Strings, []byte(str))
	case 10:
		t, err = s.tensor(x)
		a.Tensors = append(a.Tensors, t)
	case 11:
		g, err = s.graph(x, depth+1)
		a.Graphs = append(a.Graphs, g)
	case 22, 23:
		var sp SparseTensor
		sp, err = s.sparse(x)
		a.Sparse = append(a.Sparse, sp)
	}
	return err
}

// guessType sets the type of an attribute of the first version of the IR, which
// had none.
func (a *Attribute) guessType() {
	switch {
	case a.T != nil:
		a.Type = AttrTensor
	case a.G != nil:
		a.Type = AttrGraph
	case a.S != nil:
		a.Type = AttrString
	case a.Ints != nil:
		a.Type = AttrInts
	case a.Floats != nil:
		a.Type = AttrFloats
	case a.Strings != nil:
		a.Type = AttrStrings
	case a.F != 0:
		a.Type = AttrFloat
	case a.I != 0:
		a.Type = AttrInt
	}
}

func (s *source) valueInfo(f *field, list []ValueInfo) ([]ValueInfo, error) {
	if err := f.wantBytes(); err != nil {
		return list, err
	}
	v := ValueInfo{Record: f.record}
	err := s.fields(f.val, func(x *field) (err error) {
		switch x.num {
		case 1:
			v.Name, err = s.text(x)
		case 2:
			if err = x.wantBytes(); err == nil {
				err = s.typeOf(x.val, &v)
			}
		}
		return err
	})
	return append(list, v), err
}

func (s *source) typeOf(sp Span, v *ValueInfo) error {
	kinds := map[int]string{1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse_tensor", 9: "optional"}
	return s.fields(sp, func(x *field) error {
		if k := kinds[x.num]; k != "" {
			v.Kind = k
		}
		if x.num != 1 && x.num != 8 {
			return nil
		}
		if err := x.wantBytes(); err != nil {
			return err
		}
		return s.fields(x.val, func(y *field) error {
			switch y.num {
			case 1:
				v.Type = DataType(y.v)
			case 2:
				v.HasShape = true
				if err := y.wantBytes(); err != nil {
					return err
				}
				return s.shape(y.val, v)
			}
			return nil
		})
	})
}

func (s *source) shape(sp Span, v *ValueInfo) error {
	return s.fields(sp, func(x *field) error {
		if x.num != 1 {
			return nil
		}
		if err := x.wantBytes(); err != nil {
			return err
		}
		d := Dim{Value: -1}
		err := s.fields(x.val, func(y *field) (err error) {
			switch y.num {
			case 1:
				d.Value = y.signed()
			case 2:
				d.Param, err = s.text(y)
			}
			return err
		})
		v.Shape = append(v.Shape, d)
		return err
	})
}

func (s *source) sparse(f *field) (sp SparseTensor, err error) {
	if err := f.wantBytes(); err != nil {
		return sp, err
	}
	var dims []int64
	err = s.fields(f.val, func(x *field) (err error) {
		switch x.num {
		case 1:
			sp.Values, err = s.tensor(x)
		case 2:
			sp.Indices, err = s.tensor(x)
		case 3:
			dims, err = s.numbers(x, dims)
		}
		return err
	})
	for _, d := range dims {
		sp.Dims = append(sp.Dims, int(d))
	}
	if err == nil && sp.Values == nil {
		err = malformedAt(f.record.Offset, "a sparse tensor without values")
	}
	return sp, err
}

// fail is an error about the tensor.
func (t *Tensor) fail(format string, args ...any) *Error {
	return &Error{Tensor: t.Name, Offset: t.Span.Offset, Reason: fmt.Sprintf(format, args...), Hint: damaged, Err: ErrMalformed}
}
