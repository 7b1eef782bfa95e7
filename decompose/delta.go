package decompose

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// ErrMismatch is wrapped by errors about two checkpoints, or adapters, that do
// not belong together.
var ErrMismatch = errors.New("the two do not belong together")

// partElems is how many elements are read at a time: enough for the disk, and
// small beside the matrices.
const partElems = 1 << 18

// reader reads a checkpoint's tensors from its files rather than through the
// mapping: pages of a mapping count as the process's memory, and both models
// together may be larger than that.
type reader struct {
	ckpt  *formats.Checkpoint
	files []*os.File
}

func newReader(c *formats.Checkpoint) (*reader, error) {
	r := &reader{ckpt: c}
	for _, f := range c.Files() {
		h, err := os.Open(f.Path)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.files = append(r.files, h)
	}
	return r, nil
}

func (r *reader) close() error {
	var first error
	for _, f := range r.files {
		if err := f.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// part is the working memory of one reader of parts.
type part struct {
	raw  []byte
	x, y []float32
	wide [2][]float64
}

func newPart() *part {
	return &part{raw: make([]byte, 8*partElems), x: make([]float32, partElems), y: make([]float32, partElems)}
}

// bytes reads the bytes of elements [from, to).
func (r *reader) bytes(b *part, t formats.Tensor, from, to int64) ([]byte, error) {
	if !tensor.Convertible(t.DType) {
		return nil, &formats.Error{Path: r.path(t), Tensor: t.Name, Reason: fmt.Sprintf("dtype %v can be copied but not computed with", t.DType), Hint: "use a checkpoint in F32, F16, BF16 or F8", Err: formats.ErrUnsupported}
	}
	w := int64(t.DType.Bits() / 8)
	raw := b.raw[:(to-from)*w]
	return raw, r.rawAt(t, from*w, raw)
}

// rawAt reads bytes of a tensor from offset at on.
func (r *reader) rawAt(t formats.Tensor, at int64, raw []byte) error {
	_, err := r.files[t.File].ReadAt(raw, t.Offset+at)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = formats.ErrMalformed
	}
	return &formats.Error{Path: r.path(t), Tensor: t.Name, Offset: t.Offset + at, Reason: "reading it failed: the file was truncated or the disk has an error", Hint: "check the file and try again", Err: err}
}

func (r *reader) path(t formats.Tensor) string { return r.ckpt.Files()[t.File].Path }

// float32s reads elements [from, to) into dst.
func (r *reader) float32s(b *part, t formats.Tensor, from, to int64, dst []float32) error {
	raw, err := r.bytes(b, t, from, to)
	if err != nil {
		return err
	}
	switch t.DType {
	case tensor.BF16:
		kernel.BF16ToF32(dst, raw)
	case tensor.F16:
		kernel.F16ToF32(dst, raw)
	default:
		return tensor.DecodeF32(dst, raw, t.DType)
	}
	return nil
}

// difference is tuned - base of one tensor, as it is stored.
type difference struct {
	rows, cols int
	d          []float32 // (rows, cols)
	base       float64   // squared norm of the base's tensor
}

// pair reads two checkpoints side by side.
type pair struct{ base, tuned *reader }

func newPair(base, tuned *formats.Checkpoint) (*pair, error) {
	b, err := newReader(base)
	if err != nil {
		return nil, err
	}
	t, err := newReader(tuned)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return &pair{b, t}, nil
}

func (p *pair) close() error { return errors.Join(p.base.close(), p.tuned.close()) }

// part sets dst to tuned - base for elements [from, to) and returns the
// squared norm of the base's.
func (p *pair) part(b *part, x, y formats.Tensor, from, to int64, dst []float32) (float64, error) {
	n := to - from
	if x.DType == tensor.F64 || y.DType == tensor.F64 {
		return p.widePart(b, x, y, from, to, dst)
	}
	if err := p.base.float32s(b, x, from, to, b.x[:n]); err != nil {
		return 0, err
	}
	if err := p.tuned.float32s(b, y, from, to, dst); err != nil {
		return 0, err
	}
	kernel.Axpy(-1, b.x[:n], dst)
	return kernel.SumSquares(b.x[:n]), nil
}

// widePart subtracts in float64 before rounding.
func (p *pair) widePart(b *part, x, y formats.Tensor, from, to int64, dst []float32) (norm2 float64, err error) {
	for i, r := range []*reader{p.base, p.tuned} {
		t := x
		if i == 1 {
			t = y
		}
		raw, err := r.bytes(b, t, from, to)
		if err != nil {
			return 0, err
		}
		if b.wide[i] == nil {
			b.wide[i] = make([]float64, partElems)
		}
		if err := tensor.DecodeF64(b.wide[i][:to-from], raw, t.DType); err != nil {
			return 0, err
		}
	}
	for i := range dst {
		v := b.wide[0][i]
		norm2 += v * v
		dst[i] = float32(b.wide[1][i] - v)
	}
	return norm2, nil
}

// read sets d to the difference of a matrix; d's memory is used again.
func (p *pair) read(b *part, base, tuned string, d *difference) error {
	x, _ := p.base.ckpt.Lookup(base)
	y, _ := p.tuned.ckpt.Lookup(tuned)
	d.rows, d.cols, d.base = x.Shape[0], x.Shape[1], 0
	n := x.Elements()
	if int64(cap(d.d)) < n {
		d.d = make([]float32, n)
	}
	d.d = d.d[:n]
	for at := int64(0); at < n; at += partElems {
		to := min(at+partElems, n)
		s, err := p.part(b, x, y, at, to, d.d[at:to])
		if err != nil {
			return err
		}
		d.base += s
	}
	if s := kernel.Stats(d.d); s.NaN+s.Inf > 0 || math.IsInf(d.base, 0) || math.IsNaN(d.base) {
		return &formats.Error{Path: p.tuned.path(y), Tensor: y.Name, Reason: "the difference to the base is not finite", Hint: "one of the two models has NaN or infinities there: look with inspect tensors --stats", Err: formats.ErrMalformed}
	}
	return nil
}
