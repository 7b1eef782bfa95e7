package onnx

import (
	"fmt"
	"io"
)

// Names of the fields of GraphProto that an Edit adds to.
const (
	graphNode        = 1
	graphInitializer = 5
	graphInput       = 11
	graphOutput      = 12
	graphValueInfo   = 13
)

// Encode returns the NodeProto message of a node. Attributes with graphs and
// tensors that were read, not made, cannot be encoded: edit the node's bytes
// instead. That is a mistake of the caller and a panic.
func (n *Node) Encode() []byte {
	var b []byte
	for _, s := range n.Inputs {
		b = appendBytes(b, 1, s)
	}
	for _, s := range n.Outputs {
		b = appendBytes(b, 2, s)
	}
	b = appendText(b, 3, n.Name)
	b = appendText(b, 4, n.Op)
	for i := range n.Attributes {
		b = appendBytes(b, 5, n.Attributes[i].encode())
	}
	b = appendText(b, 7, n.Domain)
	for _, kv := range n.Metadata {
		b = appendBytes(b, 9, kv.encode())
	}
	return b
}

func (kv KV) encode() []byte { return appendText(appendText(nil, 1, kv.Key), 2, kv.Value) }

func (a *Attribute) encode() []byte {
	b := appendText(nil, 1, a.Name)
	switch a.Type {
	case AttrFloat:
		b = appendFloat(b, 2, a.F)
	case AttrInt:
		b = appendVarint(b, 3, a.I)
	case AttrString:
		b = appendBytes(b, 4, a.S)
	case AttrTensor:
		if a.T.Store != StoreMemory || a.T.from.From != nil {
			panic("onnx: encoding a tensor whose data are not in memory")
		}
		b = appendBytes(b, 5, append(a.T.encodeHead(), a.T.rawField()...))
	case AttrFloats:
		for _, v := range a.Floats {
			b = appendFloat(b, 7, v)
		}
	case AttrInts:
		for _, v := range a.Ints {
			b = appendVarint(b, 8, v)
		}
	case AttrStrings:
		for _, v := range a.Strings {
			b = appendBytes(b, 9, v)
		}
	default:
		panic(fmt.Sprintf("onnx: encoding an attribute of type %d", a.Type))
	}
	b = appendText(b, 21, a.Ref)
	return appendVarint(b, 20, int64(a.Type))
}

// IntAttr makes an integer attribute.
func IntAttr(name string, v int64) Attribute { return Attribute{Name: name, Type: AttrInt, I: v} }

// FloatAttr makes a float attribute.
func FloatAttr(name string, v float32) Attribute {
	return Attribute{Name: name, Type: AttrFloat, F: v}
}

// IntsAttr makes an attribute that is a list of integers.
func IntsAttr(name string, v ...int64) Attribute {
	return Attribute{Name: name, Type: AttrInts, Ints: v}
}

// TextAttr makes a string attribute.
func TextAttr(name, v string) Attribute {
	return Attribute{Name: name, Type: AttrString, S: []byte(v)}
}

// TensorAttr makes an attribute that is a tensor of [NewTensor].
func TensorAttr(name string, t *Tensor) Attribute {
	return Attribute{Name: name, Type: AttrTensor, T: t}
}

// NewTensor makes a tensor to be written; data is little-endian and packed. A
// length that does not fit the shape is a panic.
func NewTensor(name string, d DataType, dims []int, data []byte) *Tensor {
	t := &Tensor{Name: name, Type: d, Dims: dims, Store: StoreMemory, Value: data, Bytes: int64(len(data))}
	if want, ok := d.size(t.Elements()); !ok || d.Bits() == 0 || want != t.Bytes {
		panic(fmt.Sprintf("onnx: %d bytes for a tensor %s of %v %v", len(data), name, dims, d))
	}
	return t
}

// NewTensorFrom makes a tensor to be written whose data are a range of an open
// file, which is read when the output is written.
func NewTensorFrom(name string, d DataType, dims []int, from io.ReaderAt, off int64) *Tensor {
	t := &Tensor{Name: name, Type: d, Dims: dims, Store: StoreMemory}
	n, ok := d.size(t.Elements())
	if !ok || d.Bits() == 0 {
		panic(fmt.Sprintf("onnx: a tensor %s of %v %v", name, dims, d))
	}
	t.Bytes, t.from = n, Chunk{From: from, Off: off, N: n}
	return t
}

// chunk is the data of a tensor that was made.
func (t *Tensor) chunk() Chunk {
	if t.from.From != nil {
		return t.from
	}
	return Chunk{Bytes: t.Value}
}

func (t *Tensor) memory() ([]byte, error) {
	c := t.chunk()
	if c.From == nil {
		return c.Bytes, nil
	}
	b := make([]byte, c.N)
	_, err := c.From.ReadAt(b, c.Off)
	if err == io.EOF && len(b) == 0 {
		err = nil
	}
	return b, err
}

// encodeHead is the message of the tensor without its data.
func (t *Tensor) encodeHead() []byte {
	var b []byte
	for _, d := range t.Dims {
		b = appendVarint(b, 1, int64(d))
	}
	b = appendVarint(b, 2, int64(t.Type))
	return appendText(b, 8, t.Name)
}

// rawField is the field with the data of a tensor in memory.
func (t *Tensor) rawField() []byte { return appendBytes(nil, fieldRaw, t.Value) }

// Encode returns the ValueInfoProto message of a dense tensor's type. Other
// kinds are a panic.
func (v *ValueInfo) Encode() []byte {
	if v.Kind != "" && v.Kind != "tensor" {
		panic("onnx: encoding a value of kind " + v.Kind)
	}
	var shape []byte
	for _, d := range v.Shape {
		var b []byte
		switch {
		case d.Param != "":
			b = appendText(nil, 2, d.Param)
		case d.Value >= 0:
			b = appendVarint(nil, 1, d.Value)
		}
		shape = appendBytes(shape, 1, b)
	}
	tensor := appendVarint(nil, 1, int64(v.Type))
	if v.HasShape || len(v.Shape) > 0 {
		tensor = appendBytes(tensor, 2, shape)
	}
	return appendBytes(appendText(nil, 1, v.Name), 2, appendBytes(nil, 1, tensor))
}

// TensorInfo makes the description of a graph's input or output. A dimension
// is an int or a string that names it.
func TensorInfo(name string, d DataType, dims ...any) ValueInfo {
	v := ValueInfo{Name: name, Kind: "tensor", Type: d, HasShape: true}
	for _, x := range dims {
		switch x := x.(type) {
		case int:
			v.Shape = append(v.Shape, Dim{Value: int64(x)})
		case string:
			v.Shape = append(v.Shape, Dim{Value: -1, Param: x})
		default:
			panic(fmt.Sprintf("onnx: dimension %v", x))
		}
	}
	return v
}

// RenameInputs returns a node's message, as [Model.Bytes] of its Span gives it,
// with inputs renamed; every other byte stays.
func RenameInputs(node []byte, rename map[string]string) ([]byte, error) {
	return renameField(node, 1, rename)
}

// RenameOutputs is RenameInputs for the outputs.
func RenameOutputs(node []byte, rename map[string]string) ([]byte, error) {
	return renameField(node, 2, rename)
}

func renameField(node []byte, num int, rename map[string]string) ([]byte, error) {
	s := &source{r: bytesReader(node), size: int64(len(node))}
	var out []byte
	err := s.fields(Span{0, s.size}, func(f *field) error {
		if f.num == num {
			name, err := s.text(f)
			if err != nil {
				return err
			}
			if to, ok := rename[name]; ok {
				out = appendBytes(out, num, to)
				return nil
			}
		}
		out = append(out, node[f.record.Offset:f.record.End()]...)
		return nil
	})
	return out, err
}
