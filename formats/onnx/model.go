package onnx

// KV is an entry of a metadata list.
type KV struct{ Key, Value string }

// Opset is an operator set that a model imports; Domain "" is ai.onnx.
type Opset struct {
	Domain  string
	Version int64
}

// Model is the skeleton of a model: everything but the data of tensors.
type Model struct {
	Path            string // of the file, or ""
	Size            int64  // of the file
	IRVersion       int64
	Producer        string
	ProducerVersion string
	Opsets          []Opset
	Metadata        []KV
	Graph           *Graph
	Functions       []Function
	Training        []*Graph // initialization and algorithm graphs of training_info

	src   *source
	close func() error
	graph Span // record of the graph field
}

// Opset returns the version that the model imports of a domain, or 0.
func (m *Model) Opset(domain string) int64 {
	for _, o := range m.Opsets {
		if o.Domain == domain || domain == "" && o.Domain == "ai.onnx" {
			return o.Version
		}
	}
	return 0
}

// Graph is a graph or subgraph.
type Graph struct {
	Name         string
	Nodes        []Node
	Initializers []Tensor
	Sparse       []SparseTensor
	Inputs       []ValueInfo
	Outputs      []ValueInfo
	ValueInfos   []ValueInfo
	Metadata     []KV
	Span         Span // the message
}

// Initializer finds an initializer by name, or returns nil.
func (g *Graph) Initializer(name string) *Tensor {
	for i := range g.Initializers {
		if g.Initializers[i].Name == name {
			return &g.Initializers[i]
		}
	}
	return nil
}

// Function is a model-local function.
type Function struct {
	Name, Domain, Overload string
	Inputs, Outputs        []string
	Nodes                  []Node
	Opsets                 []Opset
}

// Node is one operation. An absent optional input has the name "".
type Node struct {
	Name, Op, Domain string
	Inputs, Outputs  []string
	Attributes       []Attribute
	Metadata         []KV
	Span             Span // the message
	Record           Span // with tag and length, as it stands in the graph
}

// Attribute finds an attribute by name, or returns nil.
func (n *Node) Attribute(name string) *Attribute {
	for i := range n.Attributes {
		if n.Attributes[i].Name == name {
			return &n.Attributes[i]
		}
	}
	return nil
}

// Int returns an integer attribute, or def where the node has none.
func (n *Node) Int(name string, def int64) int64 {
	if a := n.Attribute(name); a != nil && a.Type == AttrInt {
		return a.I
	}
	return def
}

// Float returns a float attribute, or def where the node has none.
func (n *Node) Float(name string, def float32) float32 {
	if a := n.Attribute(name); a != nil && a.Type == AttrFloat {
		return a.F
	}
	return def
}

// Ints returns a list of integers, or nil.
func (n *Node) Ints(name string) []int64 {
	if a := n.Attribute(name); a != nil && a.Type == AttrInts {
		return a.Ints
	}
	return nil
}

// Text returns a string attribute, or def where the node has none.
func (n *Node) Text(name, def string) string {
	if a := n.Attribute(name); a != nil && a.Type == AttrString {
		return string(a.S)
	}
	return def
}

// label names the node in messages.
func (n *Node) label() string {
	if n.Name != "" || len(n.Outputs) == 0 {
		return n.Name
	}
	return n.Op + " of " + n.Outputs[0]
}

// AttributeType is the kind of an attribute's value (AttributeProto.AttributeType).
type AttributeType int32

// The kinds of attribute values.
const (
	AttrUndefined     AttributeType = 0
	AttrFloat         AttributeType = 1
	AttrInt           AttributeType = 2
	AttrString        AttributeType = 3
	AttrTensor        AttributeType = 4
	AttrGraph         AttributeType = 5
	AttrFloats        AttributeType = 6
	AttrInts          AttributeType = 7
	AttrStrings       AttributeType = 8
	AttrTensors       AttributeType = 9
	AttrGraphs        AttributeType = 10
	AttrSparseTensor  AttributeType = 11
	AttrSparseTensors AttributeType = 12
	AttrTypeProto     AttributeType = 13
	AttrTypeProtos    AttributeType = 14
)

// Attribute is a named constant of a node. Which field holds the value
// follows from Type.
type Attribute struct {
	Name    string
	Ref     string // name of the enclosing function's attribute, or ""
	Type    AttributeType
	F       float32
	I       int64
	S       []byte
	T       *Tensor
	G       *Graph
	Sparse  []SparseTensor
	Floats  []float32
	Ints    []int64
	Strings [][]byte
	Tensors []*Tensor
	Graphs  []*Graph
}

// Store says where the elements of a tensor are.
type Store int

// The places of data.
const (
	// StoreRaw: one range of the model file, little-endian and packed.
	StoreRaw Store = iota
	// StoreTyped: numbers in the typed fields of the model file, which
	// [Model.Data] decodes.
	StoreTyped
	// StoreExternal: a range of another file.
	StoreExternal
	// StoreMemory: Tensor.Value, of a tensor that was made, not read.
	StoreMemory
)

// Tensor is a tensor of a model. Its elements lie in row-major order.
type Tensor struct {
	Name  string
	Type  DataType
	Dims  []int
	Store Store
	// Raw is the range of the data for StoreRaw.
	Raw Span
	// External is the place of the data for StoreExternal.
	External External
	// Value is the data of a tensor that is to be written.
	Value []byte
	// Bytes is the length of the data as raw data. For strings it is the sum of
	// their lengths.
	Bytes int64

	Span   Span // the message
	Record Span // with tag and length, as it stands in its parent

	elements  int64
	typed     []field
	strings   int64
	rawRecord Span  // field of Raw, with tag and length
	from      Chunk // of StoreMemory, instead of Value
}

// Elements is the number of elements.
func (t *Tensor) Elements() int64 {
	if t.Store == StoreMemory {
		n := int64(1)
		for _, d := range t.Dims {
			n *= int64(d)
		}
		return n
	}
	return t.elements
}

// External is the place of external data.
type External struct {
	Location string // relative to the model's directory, as the model has it
	Offset   int64
	Length   int64 // -1: to the end of the file
	Checksum string
	// Path is the file, after [Model.Resolve].
	Path string
}

// SparseTensor is a tensor of which only some elements are stored.
type SparseTensor struct {
	Values, Indices *Tensor
	Dims            []int
}

// Dim is a dimension: a number, a name, or neither.
type Dim struct {
	Value int64 // -1 where it is not a number
	Param string
}

// ValueInfo is a named value with its type. Kind is "tensor", "sparse_tensor",
// "sequence", "map", "optional", "opaque", or "" where the type is absent.
type ValueInfo struct {
	Name     string
	Kind     string
	Type     DataType // of the elements of tensors
	HasShape bool
	Shape    []Dim
	Record   Span // with tag and length, as it stands in the graph
}

// Constant returns the tensor of a Constant node, or nil for any other node and
// for constants that are no dense tensors.
func (n *Node) Constant() *Tensor {
	if n.Op != "Constant" || n.Domain != "" && n.Domain != "ai.onnx" || len(n.Outputs) != 1 {
		return nil
	}
	if a := n.Attribute("value"); a != nil {
		return a.T
	}
	return nil
}
