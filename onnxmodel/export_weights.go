package onnxmodel

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// weightUse is a weight in the form that a node reads.
type weightUse struct {
	name   string
	matrix bool // (in, out) in float32, as MatMul reads it
}

// weight is the name of a weight in float32: a vector, or with matrix (in, out).
func (x *exporter) weight(id graph.WeightID, matrix bool) (string, error) {
	w := x.p.Weight(id)
	key := weightUse{w.Name, matrix}
	if name, ok := x.weights[key]; ok {
		return name, nil
	}
	name, d, err := x.initializer(w)
	if err != nil {
		return "", err
	}
	scope := strings.TrimSuffix(w.Name, ".weight")
	if d != onnx.Float {
		name = x.list.node(scope, "Cast", []string{name}, onnx.IntAttr("to", int64(onnx.Float)))
	}
	if matrix && w.Transposed {
		name = x.list.node(scope, "Transpose", []string{name}, onnx.IntsAttr("perm", 1, 0))
	}
	x.weights[key] = name
	return name, nil
}

// initializer is the name of a weight as it is stored, and its type.
func (x *exporter) initializer(w *graph.Weight) (string, onnx.DataType, error) {
	i := slices.IndexFunc(x.list.inits, func(t *onnx.Tensor) bool { return t.Name == w.Name })
	if i >= 0 {
		return w.Name, x.list.inits[i].Type, nil
	}
	if x.list.used[w.Name] {
		return "", 0, fmt.Errorf("onnxmodel: weight %s has the name of another value", w.Name)
	}
	t, err := x.tensor(w)
	if err != nil {
		return "", 0, err
	}
	x.list.used[w.Name] = true
	x.list.inits = append(x.list.inits, t)
	return w.Name, t.Type, nil
}

func (x *exporter) tensor(w *graph.Weight) (*onnx.Tensor, error) {
	for _, t := range x.o.Head {
		if t.Name == w.Name {
			p, err := HeadParameter(t, onnx.Float)
			if err != nil {
				return nil, err
			}
			return onnx.NewTensor(p.Name, p.Type, p.Dims, p.Data), nil
		}
	}
	if x.o.Checkpoint != nil {
		if t, ok := x.o.Checkpoint.Lookup(w.Name); ok {
			switch t.DType {
			case tensor.F32, tensor.F16, tensor.BF16, tensor.F64:
			default:
				return nil, &formats.Error{Path: x.o.Checkpoint.Path(), Tensor: t.Name, Reason: fmt.Sprintf("has dtype %s, which operator set %d does not convert", t.TypeName(), exportOpset), Hint: "write the checkpoint in f32, f16 or bf16", Err: formats.ErrUnsupported}
			}
			return onnx.NewTensorFrom(t.Name, onnx.DataTypeOf(t.DType), t.Shape, x.reader(t), 0), nil
		}
	}
	if x.o.Weights == nil {
		return nil, &formats.Error{Tensor: w.Name, Reason: "missing", Hint: "the checkpoint must hold every weight of the program", Err: formats.ErrNotFound}
	}
	data := make([]float32, w.In*w.Out)
	if err := x.o.Weights.ReadRows(w, 0, w.StoredRows(), data); err != nil {
		return nil, err
	}
	raw := make([]byte, 4*len(data))
	if err := tensor.EncodeF32(raw, data, tensor.F32); err != nil {
		return nil, err
	}
	dims := []int{w.StoredRows(), w.StoredCols()}
	if w.In == 1 && !w.Transposed && !w.Gathered { // biases and norms are vectors
		dims = []int{w.Out}
	}
	return onnx.NewTensor(w.Name, onnx.Float, dims, raw), nil
}

// tensorReader reads the bytes of a tensor of a checkpoint from its file, not
// from a mapping, whose pages would count as the process's memory.
type tensorReader struct {
	c *formats.Checkpoint
	t formats.Tensor
	f **os.File // opened at the first reading
}

// reader is that of a tensor of the checkpoint; all tensors of a file share one
// open file, which the runtime closes when nothing refers to it any more.
func (x *exporter) reader(t formats.Tensor) *tensorReader {
	if x.files[t.File] == nil {
		x.files[t.File] = new(*os.File)
	}
	return &tensorReader{x.o.Checkpoint, t, x.files[t.File]}
}

func (r *tensorReader) ReadAt(p []byte, off int64) (n int, err error) {
	if *r.f == nil {
		if *r.f, err = os.Open(r.c.Files()[r.t.File].Path); err != nil {
			return 0, err
		}
	}
	return io.NewSectionReader(*r.f, r.t.Offset, r.t.Bytes).ReadAt(p, off)
}

// reopen reads the model that an edit makes, without writing it.
func reopen(e *onnx.Edit) (*onnx.Model, error) {
	out, err := e.Plan("model.onnx", math.MaxInt64)
	if err != nil {
		return nil, err
	}
	f := &out.Files[0]
	m, err := onnx.Read(newChunkReader(f), f.Size)
	if err != nil {
		return nil, fmt.Errorf("onnxmodel: reading the graph back: %w", err)
	}
	return m, m.Check()
}

// chunkReader reads a file that has not been written.
type chunkReader struct {
	f    *onnx.OutFile
	ends []int64 // of each chunk
}

func newChunkReader(f *onnx.OutFile) *chunkReader {
	r := &chunkReader{f: f}
	at := int64(0)
	for i := range f.Chunks {
		at += f.Chunks[i].Len()
		r.ends = append(r.ends, at)
	}
	return r
}

func (r *chunkReader) ReadAt(p []byte, off int64) (n int, err error) {
	for i := sort.Search(len(r.ends), func(i int) bool { return r.ends[i] > off }); n < len(p); i++ {
		if i == len(r.ends) {
			return n, io.EOF
		}
		c := &r.f.Chunks[i]
		from := off + int64(n) - (r.ends[i] - c.Len())
		want := p[n:min(int64(len(p)), int64(n)+c.Len()-from)]
		if c.From == nil {
			n += copy(want, c.Bytes[from:])
			continue
		}
		k, err := c.From.ReadAt(want, c.Off+from)
		n += k
		if k < len(want) {
			return n, err
		}
	}
	return n, nil
}
