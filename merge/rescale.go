package merge

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// rescale is what DoRA does to a tensor besides adding ΔW:
// W'[i, o] = f[o]·(W + ΔW)[i, o], f[o] = m[o]/‖(W + ΔW)[:, o]‖. The norms are
// sums in float64 over the base as stored; with that f, elements are rounded
// exactly, as all others are.
type rescale struct {
	f    []float64 // per output
	rows bool      // outputs are the rows of the stored tensor
}

// at is the factor of element (i, j); that of no rescaling is 1.
func (s *rescale) at(i, j int) float64 {
	switch {
	case s == nil:
		return 1
	case s.rows:
		return s.f[i]
	}
	return s.f[j]
}

// rescaleRows is how many rows of a tensor are read at once for the norms.
func rescaleRows(rows, cols int) int { return min(rows, max(1, rowsElems/cols)) }

// rescaleBy reads the tensor once, takes the norms of W + ΔW, and from then on t
// computes W' for magnitudes m. byRow says that the outputs are the rows.
func (r *run) rescaleBy(w *work, t *target, m []float64, byRow bool) error {
	src, n := w.t.src, rescaleRows(w.rows, w.cols)
	width := src.DType.Bits() / 8
	raw := make([]byte, n*w.cols*width)
	base, d, tmp := make([]float64, n*w.cols), make([]float64, n*w.cols), make([]float64, n*w.cols)
	norms := make([]float64, len(m))
	var largest float64 // |W| and |ΔW|
	for i := 0; i < w.rows; i += n {
		k := min(n, w.rows-i)
		e := k * w.cols
		if _, err := r.in[src.File].ReadAt(raw[:e*width], src.Offset+int64(i)*int64(w.cols*width)); err != nil {
			return r.readError(src.File, w.t.name, err)
		}
		if err := tensor.DecodeF64(base[:e], raw[:e*width], src.DType); err != nil {
			return err
		}
		t.block(d[:e], tmp[:e], i, i+k, 0, w.cols)
		for x, v := range base[:e] {
			largest = max(largest, math.Abs(v)+math.Abs(d[x]))
			o := x % w.cols
			if byRow {
				o = i + x/w.cols
			}
			norms[o] += (v + d[x]) * (v + d[x])
		}
	}
	var most float64
	for o, s := range norms {
		f := m[o] / math.Sqrt(s)
		if f-f != 0 {
			return fmt.Errorf("tensor %s: %w: output %d of the adapted weight has norm %v and cannot be rescaled", w.t.name, ErrNonFinite, o, math.Sqrt(s))
		}
		norms[o] = f
		most = max(most, math.Abs(f))
	}
	t.scale = &rescale{f: norms, rows: byRow}
	// rescaled computes f·(w + d) - w with one error in each of three operations
	// besides that of d.
	t.errBound = most*t.errBound + 0x1p-51*(2*most+1)*largest
	return nil
}

// rescaled turns the update d of columns [c0, c0+len(d)) of row i into the whole
// difference f·(w + d) - w. src has the base's elements; buf is as long as d.
func (t *target) rescaled(d, buf []float64, src []byte, from tensor.DType, i, c0 int) error {
	if err := tensor.DecodeF64(buf, src, from); err != nil {
		return err
	}
	for k, w := range buf {
		d[k] = t.scale.at(i, c0+k)*(w+d[k]) - w
	}
	return nil
}
