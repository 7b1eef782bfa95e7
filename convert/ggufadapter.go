package convert

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// Keys of a GGUF adapter.
const (
	keyArchitecture = "general.architecture"
	keyType         = "general.type"
	keyAdapterType  = "adapter.type"
	keyAlpha        = "adapter.lora.alpha"
)

// WriteGGUFAdapter writes an adapter of m as the GGUF file that llama.cpp puts on
// the GGUF file of m: <tensor>.lora_a (r, in) and .lora_b (out, r), rows of
// query and key in ggml's order. llama.cpp has one alpha, and alpha/r for the
// scale of each module; where that is not a module's scale, the rest is
// multiplied into its lora_b. typ is F32, F16, BF16 or Q8_0.
func WriteGGUFAdapter(a *adapter.Adapter, m *model.Model, out string, typ gguf.Type) (*Report, error) {
	if err := noHead(a, "a GGUF adapter"); err != nil {
		return nil, err
	}
	arch, err := architectureOf(m)
	if err != nil {
		return nil, err
	}
	ps, err := pairsOf(a)
	if err != nil {
		return nil, err
	}
	rep := &Report{}
	alpha := single(common(ps, func(p *pair) float64 { return p.scale * float64(p.r) }), rep, "alpha")
	if math.IsInf(float64(alpha), 0) || alpha == 0 { // 0 stands for scale 1
		return nil, fmt.Errorf("%w: alpha %v", formats.ErrUnsupported, alpha)
	}
	w := &ggufPairs{from: a.Dir, typ: typ, alpha: alpha, rep: rep, f: &gguf.File{KV: []gguf.KV{
		{Key: keyArchitecture, Value: arch.name}, {Key: keyType, Value: "adapter"}, {Key: keyAdapterType, Value: "lora"},
		{Key: keyAlpha, Value: alpha}, {Key: "general.file_type", Value: fileTypes[typ]}, {Key: "general.quantization_version", Value: uint32(2)},
	}}}
	if err := tiedOutput(m, ps); err != nil {
		return nil, err
	}
	for i := range ps {
		if err := w.add(&ps[i], arch, m.Config().HeadDim); err != nil {
			return nil, err
		}
	}
	return rep, atomicfile.WriteFile(out, 0o666, w.write)
}

// tiedOutput refuses an update of an output layer that is the embeddings:
// llama.cpp then has no tensor of that name.
func tiedOutput(m *model.Model, ps []pair) error {
	tied, err := m.Tied()
	if err != nil {
		return err
	}
	for _, group := range tied {
		for _, name := range group[1:] {
			for i := range ps {
				if ps[i].Weight == name {
					return &formats.Error{Path: m.Checkpoint().Path(), Tensor: name, Reason: "the output layer is the embeddings, and llama.cpp puts no update on one of them alone",
						Hint: "leave the layer out, or merge the adapter into the model", Err: formats.ErrUnsupported}
				}
			}
		}
	}
	return nil
}

// ggufPairs collects the tensors of an adapter.
type ggufPairs struct {
	from  string // the adapter's path
	typ   gguf.Type
	alpha float32
	f     *gguf.File
	data  []outTensor
	rep   *Report
}

func (w *ggufPairs) add(p *pair, arch *architecture, headDim int) error {
	at, ok := arch.place(p.Module + ".weight")
	if !ok {
		return unsupported(w.from, p.Module, "llama.cpp's "+arch.name+" has no such layer", "merge the adapter into the model instead")
	}
	factor := p.scale * float64(p.r) / float64(w.alpha)
	if math.Abs(factor-1) > 1e-7 { // nearer, it is alpha's own rounding
		w.rep.note("scales other than alpha/rank, with one alpha for all, are multiplied into lora_b")
		p.bake(factor)
	}
	b := p.b
	if arch.permuted[at.module] {
		b = make([]float32, len(p.b))
		for i := range p.Out {
			copy(b[i*p.r:][:p.r], p.b[interleaved(i, headDim)*p.r:][:p.r])
		}
	}
	w.tensor(outTensor{name: at.name + ".lora_a", from: p.Module, shape: []int{p.r, p.In}, data: p.a, dev: p.devA})
	w.tensor(outTensor{name: at.name + ".lora_b", from: p.Module, shape: []int{p.Out, p.r}, data: b, dev: p.devB})
	return nil
}

func (w *ggufPairs) tensor(x outTensor) {
	t := gguf.Tensor{Name: x.name, Type: w.typ, Shape: x.shape}
	if _, err := gguf.ByteSize(t.Type, t.Shape); err != nil { // no whole blocks
		t.Type = gguf.F32
	}
	w.data, w.f.Tensors = append(w.data, x), append(w.f.Tensors, t)
}

func (w *ggufPairs) write(out io.Writer) error {
	b := bufio.NewWriterSize(out, 1<<18)
	x, err := gguf.NewWriter(b, w.f)
	if err != nil {
		return err
	}
	for i, t := range w.f.Tensors {
		d := &w.data[i]
		if err := x.Floats(t.Name, d.data); err != nil {
			return err
		}
		enc, back := make([]byte, t.Bytes), make([]float32, len(d.data))
		if err := gguf.Encode(enc, d.data, t.Type); err != nil {
			return err
		}
		if err := gguf.Decode(back, enc, t.Type); err != nil {
			return err
		}
		dev, err := d.deviation(back)
		if err != nil {
			return unsupported(w.from, t.Name, fmt.Sprintf("%v in %v", err, t.Type), "choose --dtype f32 or bf16")
		}
		w.rep.Tensors = append(w.rep.Tensors, dev.report(t.Name, d.from, t.Type.String()))
	}
	if err := x.Close(); err != nil {
		return err
	}
	return b.Flush()
}

// readGGUF reads a GGUF adapter of m.
func readGGUF(path string, m *model.Model) (*adapter.Adapter, error) {
	f, _, err := formats.ReadGGUF(path)
	if err != nil {
		return nil, err
	}
	refuse := func(tensor, reason, hint string) error {
		return &formats.Error{Path: path, Tensor: tensor, Reason: reason, Hint: hint, Err: formats.ErrUnsupported}
	}
	damaged := func(err error) error {
		return &formats.Error{Path: path, Reason: err.Error(), Hint: "the file is damaged: fetch it again", Err: formats.ErrMalformed}
	}
	kind, err := f.Text(keyType)
	if err != nil {
		return nil, damaged(err)
	}
	if kind != "adapter" {
		return nil, refuse("", "a GGUF file of type "+fmt.Sprintf("%q", kind)+", no adapter", "give a GGUF adapter; models are read in safetensors")
	}
	if t, err := f.Text(keyAdapterType); err != nil || t != "lora" {
		return nil, refuse("", fmt.Sprintf("an adapter of type %q; lora is read", t), "convert it in the program that made it")
	}
	if m == nil {
		return nil, refuse("", "the names and the order of rows in a GGUF adapter follow from its base", "give the base model with --model")
	}
	arch, err := architectureOf(m)
	if err != nil {
		return nil, err
	}
	if name, err := f.Text(keyArchitecture); err != nil || name != arch.name {
		return nil, &formats.Error{Path: path, Reason: fmt.Sprintf("an adapter of a %s, the base is a %s", name, arch.name), Hint: "give its base model with --model", Err: adapter.ErrMismatch}
	}
	alpha, err := f.Float(keyAlpha)
	if err != nil {
		return nil, damaged(err)
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	g := &ggufReader{path: path, f: f, r: r, arch: arch, headDim: m.Config().HeadDim, index: siteIndex{path: path, sites: m.Sites()}}
	var modules []adapter.Module
	for _, t := range f.Tensors {
		name, isA := strings.CutSuffix(t.Name, ".lora_a")
		if !isA {
			if n, isB := strings.CutSuffix(t.Name, ".lora_b"); isB {
				if _, ok := f.Lookup(n + ".lora_a"); ok {
					continue
				}
			}
			return nil, refuse(t.Name, "no lora_a or lora_b of a pair", "a LoRA of linear layers is read")
		}
		mod, err := g.module(name, float64(alpha))
		if err != nil {
			return nil, err
		}
		modules = append(modules, mod)
	}
	return assemble(path, modules, adapter.Config{TaskType: "CAUSAL_LM"})
}

type ggufReader struct {
	path    string
	f       *gguf.File
	r       io.ReaderAt
	arch    *architecture
	headDim int
	index   siteIndex
}

func (g *ggufReader) matrix(name string) ([]float32, int, int, error) {
	t, ok := g.f.Lookup(name)
	if !ok || len(t.Shape) != 2 || t.Shape[0] < 1 || t.Shape[1] < 1 {
		return nil, 0, 0, &formats.Error{Path: g.path, Tensor: name, Reason: "missing, or no matrix", Hint: "the file is incomplete", Err: formats.ErrMalformed}
	}
	b := make([]byte, t.Bytes)
	if _, err := g.r.ReadAt(b, t.Offset); err != nil {
		return nil, 0, 0, err
	}
	x := make([]float32, t.Shape[0]*t.Shape[1])
	if err := gguf.Decode(x, b, t.Type); err != nil {
		return nil, 0, 0, &formats.Error{Path: g.path, Tensor: name, Reason: err.Error(), Hint: "convert the original adapter in f32 or f16", Err: formats.ErrUnsupported}
	}
	return x, t.Shape[0], t.Shape[1], nil
}

func (g *ggufReader) module(name string, alpha float64) (adapter.Module, error) {
	var m adapter.Module
	path, ok := g.arch.module(strings.TrimSuffix(name, ".weight"))
	if !ok || strings.HasSuffix(name, "embd.weight") {
		return m, &formats.Error{Path: g.path, Tensor: name, Reason: "no linear layer of a " + g.arch.name, Hint: "a LoRA of linear layers is read", Err: formats.ErrUnsupported}
	}
	a, r, in, err := g.matrix(name + ".lora_a")
	if err != nil {
		return m, err
	}
	b, out, r2, err := g.matrix(name + ".lora_b")
	if err != nil {
		return m, err
	}
	if r != r2 {
		return m, &formats.Error{Path: g.path, Tensor: name, Reason: fmt.Sprintf("lora_a has rank %d, lora_b %d", r, r2), Hint: "the file is damaged", Err: formats.ErrMalformed}
	}
	s, err := g.index.byPath(path, in, out)
	if err != nil {
		return m, err
	}
	if at, _ := g.arch.place(s.Module + ".weight"); g.arch.permuted[at.module] {
		x := make([]float32, len(b))
		for i := range out {
			copy(x[interleaved(i, g.headDim)*r:][:r], b[i*r:][:r])
		}
		b = x
	}
	if alpha == 0 { // which llama.cpp takes for a scale of 1
		alpha = float64(r)
	}
	return loraModule(s, r, alpha, a, b), nil
}
