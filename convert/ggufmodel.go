package convert

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// GGUFOptions are options of [WriteGGUF].
type GGUFOptions struct {
	// Type of the matrices: F32, F16, BF16 or Q8_0. Vectors and learned
	// positions are F32, and so are matrices whose rows do not fill Q8_0 blocks.
	Type gguf.Type
	// PreTokenizer is llama.cpp's name of the rule that cuts text before byte-pair
	// encoding, where the tokenizer's own is none that is known; "" finds it.
	PreTokenizer string
	// NoTokenizer leaves the tokenizer out: the model then takes token ids only.
	NoTokenizer bool
	// Workers convert each piece together; 0 is one per processor. The file does
	// not depend on their number.
	Workers int
	// Progress, unless nil, is told the bytes written of all.
	Progress func(done, total int64)
}

// modelWriter is the state of one WriteGGUF.
type modelWriter struct {
	model       *model.Model
	config      model.Config
	arch        *architecture
	o           GGUFOptions
	tensors     []source
	ropeFactors []float32
	report      Report
}

// source is a tensor of the output and where it comes from.
type source struct {
	place
	formats.Tensor
	typ   gguf.Type
	shape []int
	head  int  // rows of a head that is interleaved, or 0
	conv  bool // stored transposed
}

// WriteGGUF writes a model as the GGUF file out, whole or not at all, in the
// names, the order of rows and the settings that llama.cpp expects, with the
// tokenizer of the model's directory. Tensors are read and written a piece at a
// time. Families: llama, mistral, qwen2, gpt2.
//
// The tokenizer is written as byte-pair encoding over bytes, or as llama.cpp's
// "llama" with a score for every piece, which follow from the order of the
// merges.
func WriteGGUF(ctx context.Context, m *model.Model, out string, o GGUFOptions) (*Report, error) {
	g := &modelWriter{model: m, config: m.Config(), o: o}
	if _, ok := fileTypes[o.Type]; !ok {
		return nil, fmt.Errorf("type %v: models are written as F32, F16, BF16 or Q8_0", o.Type)
	}
	f, err := g.plan()
	if err != nil {
		return nil, err
	}
	size, err := f.Layout()
	if err != nil {
		return nil, err
	}
	return &g.report, atomicfile.WriteFile(out, 0o666, func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<20)
		x, err := gguf.NewWriter(b, f)
		if err != nil {
			return err
		}
		if err := g.write(ctx, x, size); err != nil {
			return err
		}
		return b.Flush()
	})
}

// plan makes the file without its data.
func (g *modelWriter) plan() (*gguf.File, error) {
	var err error
	if g.arch, err = architectureOf(g.model); err != nil {
		return nil, err
	}
	f := &gguf.File{}
	if f.KV, err = g.metadata(); err != nil {
		return nil, err
	}
	kv := []gguf.KV{{Key: "tokenizer.ggml.model", Value: "none"}}
	if !g.o.NoTokenizer {
		v := &vocabulary{dir: g.model.Checkpoint().Dir(), size: g.config.VocabSize, config: g.config, pre: g.o.PreTokenizer, report: &g.report}
		if kv, err = v.metadata(); err != nil {
			return nil, err
		}
	}
	f.KV = append(f.KV, kv...)
	if err := g.assign(); err != nil {
		return nil, err
	}
	if g.ropeFactors != nil {
		f.Tensors = append(f.Tensors, gguf.Tensor{Name: ropeFactorsName, Type: gguf.F32, Shape: []int{len(g.ropeFactors)}})
	}
	for _, s := range g.tensors {
		f.Tensors = append(f.Tensors, gguf.Tensor{Name: s.name, Type: s.typ, Shape: s.shape})
	}
	return f, nil
}

const ropeFactorsName = "rope_freqs.weight"

// assign gives every tensor of the checkpoint its place.
func (g *modelWriter) assign() error {
	tied, err := g.model.Tied()
	if err != nil {
		return err
	}
	ck := g.model.Checkpoint()
	for _, t := range ck.Tensors() {
		if g.arch.skipped.MatchString(t.Name) {
			continue
		}
		if slices.ContainsFunc(tied, func(names []string) bool { return slices.Contains(names[1:], t.Name) }) {
			continue // llama.cpp takes the embeddings where the output layer is absent
		}
		p, ok := g.arch.place(t.Name)
		if !ok || p.layer >= g.config.Layers {
			return &formats.Error{Path: ck.Path(), Tensor: t.Name, Reason: "it has no place in a GGUF file of a " + g.arch.name,
				Hint: "GGUF holds language models: merge adapters first, and leave classification heads out", Err: formats.ErrUnsupported}
		}
		if !tensor.Convertible(t.DType) {
			return &formats.Error{Path: ck.Path(), Tensor: t.Name, Reason: "dtype " + t.TypeName() + " holds no weights to convert", Hint: "use a checkpoint in F32, F16 or BF16", Err: formats.ErrUnsupported}
		}
		g.tensors = append(g.tensors, g.source(t, p))
	}
	return nil
}

func (g *modelWriter) source(t formats.Tensor, p place) source {
	s := source{place: p, Tensor: t, typ: g.o.Type, shape: t.Shape}
	if g.arch.permuted[p.module] {
		s.head = g.config.HeadDim
	}
	if g.arch.conv1D[p.module] && len(t.Shape) == 2 {
		s.conv, s.shape = true, []int{t.Shape[1], t.Shape[0]}
	}
	if len(t.Shape) < 2 || p.name == "position_embd.weight" {
		s.typ = gguf.F32
	}
	if _, err := gguf.ByteSize(s.typ, s.shape); err != nil { // no whole blocks
		s.typ = gguf.F32
		g.report.note("matrices whose rows are no multiple of 32 long are F32")
	}
	return s
}

// write streams the data.
func (g *modelWriter) write(ctx context.Context, w *gguf.Writer, size int64) error {
	if g.ropeFactors != nil {
		if err := w.Floats(ropeFactorsName, g.ropeFactors); err != nil {
			return err
		}
	}
	p, err := openCopier(g.model.Checkpoint(), g.o.Workers)
	if err != nil {
		return err
	}
	defer p.close()
	var done int64
	for i := range g.tensors {
		s := &g.tensors[i]
		var d deviation
		err := w.Tensor(s.name, func(out io.Writer) (err error) { d, err = p.copy(ctx, out, s); return err })
		if err != nil {
			return err
		}
		g.report.Tensors = append(g.report.Tensors, d.report(s.name, s.Tensor.Name, s.typ.String()))
		if n, err := gguf.ByteSize(s.typ, s.shape); err == nil {
			done += n
		}
		if g.o.Progress != nil {
			g.o.Progress(done, size)
		}
	}
	return w.Close()
}
