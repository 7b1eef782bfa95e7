package onnx

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
)

// MaxMessage is the longest message that protobuf allows, 2 GiB - 1. Models
// beyond it must have external data.
const MaxMessage = math.MaxInt32

func bytesReader(b []byte) io.ReaderAt { return bytes.NewReader(b) }

// Chunk is a piece of an output file: bytes, or a range of an open file.
type Chunk struct {
	Bytes []byte
	From  io.ReaderAt // nil: Bytes
	Off   int64
	N     int64
}

// Len is the chunk's length.
func (c *Chunk) Len() int64 {
	if c.From == nil {
		return int64(len(c.Bytes))
	}
	return c.N
}

// OutFile is a file to be written.
type OutFile struct {
	Name   string
	Chunks []Chunk
	Size   int64
}

// WriteTo writes the file piece by piece.
func (f *OutFile) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for i := range f.Chunks {
		c := &f.Chunks[i]
		var k int64
		var err error
		if c.From == nil {
			var m int
			m, err = w.Write(c.Bytes)
			k = int64(m)
		} else {
			k, err = io.Copy(w, io.NewSectionReader(c.From, c.Off, c.N))
			if err == nil && k < c.N {
				err = io.ErrUnexpectedEOF
			}
		}
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *OutFile) add(c Chunk) {
	f.Size += c.Len()
	f.Chunks = append(f.Chunks, c)
}

// Edit is a set of changes of a model's main graph. Everything else is
// copied byte for byte. The model must stay open until the output is written.
type Edit struct {
	m        *Model
	replaced []splice
	added    []newField
	metadata []KV
}

// splice takes the place of a range of the graph, or is put before it where
// the range is empty.
type splice struct {
	at     Span
	chunks []Chunk
}

// newField is a field at the end of the graph.
type newField struct {
	num    int
	body   []byte
	tensor *Tensor // its data follow body
}

// NewEdit begins an edit of a model without changes.
func NewEdit(m *Model) *Edit { return &Edit{m: m} }

// NewGraph begins a model of its own: an empty graph.
func NewGraph(name, producer, version string, ir int64, opsets []Opset) *Edit {
	b := appendVarint(nil, 1, ir)
	b = appendText(b, 2, producer)
	b = appendText(b, 3, version)
	b = appendBytes(b, 7, appendText(nil, 2, name))
	for _, o := range opsets {
		b = appendBytes(b, 8, appendVarint(appendText(nil, 1, o.Domain), 2, o.Version))
	}
	m, err := Read(bytesReader(b), int64(len(b)))
	if err != nil {
		panic(fmt.Sprintf("onnx: an empty model: %v", err)) // it has just been written
	}
	return NewEdit(m)
}

// AddNode appends a node to the graph.
func (e *Edit) AddNode(n *Node) {
	e.added = append(e.added, newField{num: graphNode, body: n.Encode()})
}

// InsertNodes puts nodes before node i of the graph, so that the graph stays in
// the order that the specification asks for.
func (e *Edit) InsertNodes(i int, nodes ...*Node) {
	var b []byte
	for _, n := range nodes {
		b = appendBytes(b, graphNode, n.Encode())
	}
	e.replaced = append(e.replaced, splice{Span{e.m.Graph.Nodes[i].Record.Offset, 0}, []Chunk{{Bytes: b}}})
}

// ReplaceNode puts another message in the place of node i: that of
// [Node.Encode], or of [RenameInputs].
func (e *Edit) ReplaceNode(i int, message []byte) {
	e.replaced = append(e.replaced, splice{e.m.Graph.Nodes[i].Record, []Chunk{{Bytes: appendBytes(nil, graphNode, message)}}})
}

// AddInitializer appends an initializer.
func (e *Edit) AddInitializer(t *Tensor) {
	e.added = append(e.added, newField{num: graphInitializer, body: t.encodeHead(), tensor: t})
}

// ReplaceInitializer puts a tensor of [NewTensor] in the place of initializer i.
func (e *Edit) ReplaceInitializer(i int, t *Tensor) {
	head := t.encodeHead()
	raw := binary.AppendUvarint(appendTag(nil, fieldRaw, wireBytes), uint64(t.Bytes))
	start := binary.AppendUvarint(appendTag(nil, graphInitializer, wireBytes), uint64(len(head)+len(raw))+uint64(t.Bytes))
	e.replaced = append(e.replaced, splice{e.m.Graph.Initializers[i].Record, []Chunk{{Bytes: slices.Concat(start, head, raw)}, t.chunk()}})
}

// AddInput appends a graph input.
func (e *Edit) AddInput(v ValueInfo) {
	e.added = append(e.added, newField{num: graphInput, body: v.Encode()})
}

// AddOutput appends a graph output.
func (e *Edit) AddOutput(v ValueInfo) {
	e.added = append(e.added, newField{num: graphOutput, body: v.Encode()})
}

// AddMetadata appends an entry of the model's metadata.
func (e *Edit) AddMetadata(key, value string) { e.metadata = append(e.metadata, KV{key, value}) }

// Output is the result of an edit: the model file first, then external data
// that the edit made. External data that the model had stay where they are: they
// are [Model.ExternalFiles], to be copied beside the output.
type Output struct {
	Files []OutFile
	Notes []string // what the user should know
}

// Plan lays the output out as a file of the given name. Where the model would
// be longer than limit bytes (0: MaxMessage), the largest tensors go to
// name + ".data".
func (e *Edit) Plan(name string, limit int64) (*Output, error) {
	if limit == 0 {
		limit = MaxMessage
	}
	out, err := e.layOut(name)
	if err != nil {
		return nil, err
	}
	if out.Size <= limit {
		return &Output{Files: []OutFile{*out}}, nil
	}
	data := OutFile{Name: name + ".data"}
	for i := 1; slices.Contains(e.m.ExternalFiles(), data.Name); i++ {
		data.Name = fmt.Sprintf("%s.%d.data", name, i)
	}
	x := &Edit{m: e.m, replaced: slices.Clone(e.replaced), added: slices.Clone(e.added), metadata: e.metadata}
	moved := x.externalise(&data, out.Size-limit)
	if out, err = x.layOut(name); err != nil {
		return nil, err
	}
	if out.Size > limit {
		return nil, &Error{Path: e.m.Path, Reason: fmt.Sprintf("the model is %d bytes long even with external data, protobuf allows %d", out.Size, limit), Hint: "make a smaller model", Err: ErrUnsupported}
	}
	note := fmt.Sprintf("%s would be longer than the %d bytes that protobuf allows: the data of %d tensors are in %s", name, limit, moved, data.Name)
	return &Output{Files: []OutFile{*out, data}, Notes: []string{note}}, nil
}

// minExternal is the size from which a tensor is worth being external.
const minExternal = 1024

// candidate is an initializer whose data can move.
type candidate struct {
	bytes int64
	move  func(location string, offset int64)
	data  Chunk
}

// externalise moves data until need bytes are saved, with room for the entries,
// the largest first, and returns how many tensors moved.
func (e *Edit) externalise(data *OutFile, need int64) int {
	var list []candidate
	for i := range e.m.Graph.Initializers {
		t := &e.m.Graph.Initializers[i]
		if t.Store != StoreRaw || t.Bytes < minExternal || slices.ContainsFunc(e.replaced, func(s splice) bool { return s.at == t.Record }) {
			continue
		}
		list = append(list, candidate{t.Bytes, func(loc string, off int64) {
			tail := appendExternal(nil, loc, off, t.Bytes)
			before := e.copy(t.Span.Offset, t.rawRecord.Offset)
			after := e.copy(t.rawRecord.End(), t.Span.End())
			start := binary.AppendUvarint(appendTag(nil, graphInitializer, wireBytes), uint64(before.N+after.N)+uint64(len(tail)))
			e.replaced = append(e.replaced, splice{t.Record, []Chunk{{Bytes: start}, before, after, {Bytes: tail}}})
		}, Chunk{From: e.m.src.r, Off: t.Raw.Offset, N: t.Bytes}})
	}
	for i := range e.added {
		a := &e.added[i]
		if a.tensor == nil || a.tensor.Bytes < minExternal {
			continue
		}
		list = append(list, candidate{a.tensor.Bytes, func(loc string, off int64) {
			a.body, a.tensor = appendExternal(slices.Clone(a.body), loc, off, a.tensor.Bytes), nil
		}, a.tensor.chunk()})
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(b.bytes, a.bytes) })
	moved := 0
	for _, c := range list {
		if need <= 0 {
			break
		}
		const align = 4096 // so that readers can map the data
		if pad := -data.Size & (align - 1); pad > 0 {
			data.add(Chunk{Bytes: make([]byte, pad)})
		}
		c.move(data.Name, data.Size)
		data.add(c.data)
		need -= c.bytes - 128 - int64(len(data.Name))
		moved++
	}
	return moved
}

func appendExternal(b []byte, location string, offset, length int64) []byte {
	for _, kv := range []KV{{"location", location}, {"offset", fmt.Sprint(offset)}, {"length", fmt.Sprint(length)}} {
		b = appendBytes(b, 13, kv.encode())
	}
	return appendVarint(b, 14, 1)
}

// layOut puts the model file together.
func (e *Edit) layOut(name string) (*OutFile, error) {
	m := e.m
	slices.SortStableFunc(e.replaced, func(a, b splice) int {
		if c := cmp.Compare(a.at.Offset, b.at.Offset); c != 0 {
			return c
		}
		return cmp.Compare(a.at.Len, b.at.Len)
	})
	var body OutFile
	at := m.Graph.Span.Offset
	for _, s := range e.replaced {
		if s.at.Offset < at {
			return nil, fmt.Errorf("onnx: two changes of the bytes at %d", s.at.Offset)
		}
		body.add(e.copy(at, s.at.Offset))
		for _, c := range s.chunks {
			body.add(c)
		}
		at = s.at.End()
	}
	body.add(e.copy(at, m.Graph.Span.End()))
	for _, a := range e.added {
		n := int64(len(a.body))
		var raw []byte
		if a.tensor != nil {
			raw = binary.AppendUvarint(appendTag(nil, fieldRaw, wireBytes), uint64(a.tensor.Bytes))
			n += int64(len(raw)) + a.tensor.Bytes
		}
		body.add(Chunk{Bytes: slices.Concat(binary.AppendUvarint(appendTag(nil, a.num, wireBytes), uint64(n)), a.body, raw)})
		if a.tensor != nil {
			body.add(a.tensor.chunk())
		}
	}
	out := &OutFile{Name: name}
	out.add(e.copy(0, m.graph.Offset))
	if len(e.replaced)+len(e.added) == 0 { // the length as it was encoded
		out.add(e.copy(m.graph.Offset, m.Graph.Span.Offset))
	} else {
		out.add(Chunk{Bytes: binary.AppendUvarint(appendTag(nil, 7, wireBytes), uint64(body.Size))})
	}
	for _, c := range body.Chunks {
		out.add(c)
	}
	out.add(e.copy(m.Graph.Span.End(), m.Size))
	var meta []byte
	for _, kv := range e.metadata {
		meta = appendBytes(meta, 14, kv.encode())
	}
	out.add(Chunk{Bytes: meta})
	return out, nil
}

func (e *Edit) copy(from, to int64) Chunk {
	return Chunk{From: e.m.src.r, Off: from, N: to - from}
}

// ExternalFiles lists the files of external data, as the model names them,
// sorted.
func (m *Model) ExternalFiles() []string {
	seen := map[string]bool{}
	var list []string
	_ = m.EachTensor(func(t *Tensor) error { // the callback has no error
		if t.Store == StoreExternal && !seen[t.External.Location] {
			seen[t.External.Location] = true
			list = append(list, t.External.Location)
		}
		return nil
	})
	slices.Sort(list)
	return list
}
