package merge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// outTensor is a tensor of the output.
type outTensor struct {
	name   string
	dtype  tensor.DType
	shape  []int
	offset int64 // in its file
	bytes  int64
	src    formats.Tensor // of the base; none for an added head tensor
	has    bool           // src is set
	todo   *planned       // nil: unchanged but for its dtype
	gap    bool           // bytes of the base's file around its touched tensors
}

// touched tells whether the elements are computed rather than copied.
func (t *outTensor) touched() bool { return t.todo != nil || t.dtype != t.src.DType }

// outFile is a safetensors file of the output.
type outFile struct {
	name    string
	header  []byte // with the eight bytes of its length
	size    int64
	tensors []outTensor
	// literals are further bytes of the file, of an edited ONNX graph.
	literals []literal
}

// layOut decides names, headers and offsets of all output files.
func (p *Plan) layOut(todo map[string]*planned) error {
	groups := p.groups(todo)
	for i := range groups {
		if err := p.layOutFile(&groups[i]); err != nil {
			return err
		}
	}
	p.files = make([]outFile, len(groups))
	for i := range groups {
		p.files[i] = groups[i].outFile
	}
	return nil
}

// group is a file in the making.
type group struct {
	outFile
	metadata []formats.KV
	file     int // of the base whose header can be kept as it is, or -1
}

// groups deals the tensors to files: as in the base, additions last, or by
// size.
func (p *Plan) groups(todo map[string]*planned) []group {
	files := p.base.Files()
	groups := make([]group, len(files))
	for i, f := range files {
		groups[i] = group{outFile: outFile{name: filepath.Base(f.Path)}, metadata: f.Metadata, file: i}
	}
	for _, t := range p.base.Tensors() {
		g := &groups[t.File]
		o := outTensor{name: t.Name, dtype: p.dtypeFor(t.DType), shape: t.Shape, src: t, has: true, todo: todo[t.Name]}
		if o.dtype != t.DType {
			g.file = -1
		}
		g.tensors = append(g.tensors, o)
	}
	last := &groups[len(groups)-1]
	for _, name := range p.added(todo) {
		o := outTensor{name: name, todo: todo[name]}
		if h := o.todo.head; h != nil {
			o.shape, o.dtype = h.Shape, p.dtypeFor(p.commonDType())
		} else {
			o.src, o.has = p.find(name)
			o.shape, o.dtype = o.src.Shape, p.dtypeFor(o.src.DType)
		}
		last.tensors = append(last.tensors, o)
		last.file = -1
	}
	if p.o.MaxShardSize == 0 {
		return groups
	}
	return p.reshard(groups)
}

// added lists the tensors that the base lacks, sorted.
func (p *Plan) added(todo map[string]*planned) []string {
	var names []string
	for name := range todo {
		if _, ok := p.base.Lookup(name); !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (p *Plan) dtypeFor(d tensor.DType) tensor.DType {
	switch d {
	case tensor.F32, tensor.F16, tensor.BF16, tensor.F64:
		if p.o.DType != tensor.Invalid {
			return p.o.DType
		}
	}
	return d
}

// commonDType is the float dtype with the most bytes in the base.
func (p *Plan) commonDType() tensor.DType {
	n := map[tensor.DType]int64{}
	best := tensor.F32
	for _, t := range p.base.Tensors() {
		switch t.DType {
		case tensor.F32, tensor.F16, tensor.BF16:
			n[t.DType] += t.Bytes
			if n[t.DType] > n[best] {
				best = t.DType
			}
		}
	}
	return best
}

// reshard cuts the tensors, in order, into files of at most MaxShardSize
// bytes of data; a larger tensor has a file of its own.
func (p *Plan) reshard(groups []group) []group {
	var out []group
	var size int64
	for _, g := range groups {
		for _, t := range g.tensors {
			n, _ := tensor.ByteSize(t.dtype, t.shape) // valid: layOutFile reports what is not
			if len(out) == 0 || size > 0 && size+n > p.o.MaxShardSize {
				out, size = append(out, group{metadata: groups[0].metadata, file: -1}), 0
			}
			out[len(out)-1].tensors = append(out[len(out)-1].tensors, t)
			size += n
		}
	}
	for i := range out {
		out[i].name = formats.ModelFile
		if len(out) > 1 {
			out[i].name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(out))
		}
	}
	return out
}

// layOutFile sets header, offsets and size. The base's header is kept where
// nothing in it changes; otherwise the data lie in the order of the header.
func (p *Plan) layOutFile(g *group) error {
	if g.file >= 0 {
		return p.keepHeader(g)
	}
	h := safetensors.Header{}
	for _, kv := range g.metadata {
		h.Metadata = append(h.Metadata, safetensors.KV(kv))
	}
	for _, t := range g.tensors {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: t.name, DType: t.dtype, Shape: t.shape})
	}
	data, err := h.Layout()
	if err != nil {
		return err
	}
	g.header = h.Encode()
	if len(g.header)-8 > safetensors.MaxHeader {
		return fmt.Errorf("%s: header of %d bytes is longer than the format allows: choose a smaller shard size", g.name, len(g.header)-8)
	}
	for i := range g.tensors {
		e := &h.Tensors[i]
		g.tensors[i].offset, g.tensors[i].bytes = h.DataStart+e.Begin, e.End-e.Begin
	}
	g.size = h.DataStart + data
	return nil
}

// keepHeader takes the base's header byte for byte.
func (p *Plan) keepHeader(g *group) error {
	f := p.base.Files()[g.file]
	r, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	start := f.Size
	for i := range g.tensors {
		t := &g.tensors[i]
		t.offset, t.bytes = t.src.Offset, t.src.Bytes
		start = min(start, t.offset)
	}
	g.header, g.size = make([]byte, start), f.Size
	_, err = io.ReadFull(r, g.header)
	return err
}

// indexJSON is the model.safetensors.index.json of the output, or nil for a
// single file that needs none.
func (p *Plan) indexJSON() ([]byte, error) {
	if p.base.Format() == formats.FormatONNX || len(p.files) == 1 && (p.base.Index() == nil || p.o.MaxShardSize > 0) {
		return nil, nil
	}
	shard := map[string]string{}
	total := int64(0)
	for i := range p.files {
		for _, t := range p.files[i].tensors {
			shard[t.name] = p.files[i].name
			total += t.bytes
		}
	}
	metadata := map[string]any{}
	if x := p.base.Index(); x != nil {
		b, err := os.ReadFile(x.Path)
		if err != nil {
			return nil, err
		}
		var old struct {
			Metadata map[string]any `json:"metadata"`
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&old); err != nil {
			return nil, fmt.Errorf("%s: %w", x.Path, err)
		}
		if old.Metadata != nil {
			metadata = old.Metadata
		}
	}
	metadata["total_size"] = total
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Metadata map[string]any    `json:"metadata"`
		Shard    map[string]string `json:"weight_map"`
	}{metadata, shard})
	return b.Bytes(), err
}
