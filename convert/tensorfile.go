package convert

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// outTensor is a tensor on its way to a file, and how far it is from what it
// stands for already.
type outTensor struct {
	name  string
	from  string
	shape []int
	data  []float32
	dev   deviation
}

// tensorWriter collects the tensors of a safetensors file in one dtype.
type tensorWriter struct {
	from  string // the path of what it is made of
	dtype tensor.DType
	list  []outTensor
}

func (t *tensorWriter) add(x outTensor) { t.list = append(t.list, x) }

// write encodes the file and reports every tensor.
func (t *tensorWriter) write(w io.Writer, metadata []safetensors.KV, rep *Report) error {
	h := &safetensors.Header{Metadata: metadata}
	for _, x := range t.list {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: x.name, DType: t.dtype, Shape: x.shape})
	}
	if _, err := h.Layout(); err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<18)
	if _, err := b.Write(h.Encode()); err != nil {
		return err
	}
	for _, x := range t.list {
		r, err := t.tensor(b, x)
		if err != nil {
			return err
		}
		rep.Tensors = append(rep.Tensors, r)
	}
	return b.Flush()
}

func (t *tensorWriter) tensor(w io.Writer, x outTensor) (TensorReport, error) {
	out := make([]byte, len(x.data)*t.dtype.Bits()/8)
	if err := tensor.EncodeF32(out, x.data, t.dtype); err != nil {
		return TensorReport{}, err
	}
	back := make([]float32, len(x.data))
	if err := tensor.DecodeF32(back, out, t.dtype); err != nil {
		return TensorReport{}, err
	}
	d, err := x.deviation(back)
	if err != nil {
		return TensorReport{}, unsupported(t.from, x.name, fmt.Sprintf("%v in %v", err, t.dtype), "choose --dtype f32 or bf16")
	}
	_, err = w.Write(out)
	return d.report(x.name, x.from, t.dtype.String()), err
}

// deviation is that of the tensor from what it stands for, as it is read back.
func (x *outTensor) deviation(back []float32) (deviation, error) {
	var d deviation
	if err := d.all(x.data, back); err != nil {
		return d, err
	}
	if x.dev.top > 0 {
		// Two roundings: their differences at most add up.
		n := x.dev.norm2
		d.top += x.dev.top
		d.diff2 = math.Pow(math.Sqrt(d.diff2)+math.Sqrt(x.dev.diff2), 2)
		d.norm2 = max(n, d.norm2)
	}
	return d, nil
}
