package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// copier converts tensors a piece at a time. It reads the files itself rather
// than through their mapping, so that a large model does not fill memory.
type copier struct {
	ck      *formats.Checkpoint
	files   []*os.File
	workers int

	x, y    []float32
	out, in []byte
	devs    []deviation // of each row
}

func openCopier(ck *formats.Checkpoint, workers int) (*copier, error) {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &copier{ck: ck, workers: workers}
	for _, f := range ck.Files() {
		r, err := os.Open(f.Path)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.files = append(p.files, r)
	}
	return p, nil
}

func (p *copier) close() error {
	var err error
	for _, f := range p.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// pieceElements bounds the elements of a piece, where a row is not longer.
const pieceElements = 1 << 20

// copy writes a tensor in its type and order and returns how far rounding moved
// it.
func (p *copier) copy(ctx context.Context, w io.Writer, s *source) (d deviation, err error) {
	rows, cols := 1, 1
	for i, n := range s.shape {
		if i == len(s.shape)-1 && i > 0 {
			cols = n
		} else {
			rows *= n
		}
	}
	step := max(1, pieceElements/max(1, cols))
	for lo := 0; lo < rows; lo += step {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		n := min(step, rows-lo)
		if err := p.read(s, lo, n, cols); err != nil {
			return d, err
		}
		if err := p.encode(s, n, cols); err != nil {
			return d, &formats.Error{Path: p.ck.Path(), Tensor: s.Tensor.Name, Reason: fmt.Sprintf("%v in %v", err, s.typ), Hint: "choose another --dtype: bf16 and f32 have the widest range", Err: formats.ErrUnsupported}
		}
		for i := range n {
			d.merge(p.devs[i])
		}
		if _, err := w.Write(p.out); err != nil {
			return d, err
		}
	}
	return d, nil
}

// encode fills p.out and p.devs from the n rows of p.x.
func (p *copier) encode(s *source, n, cols int) error {
	size, err := gguf.ByteSize(s.typ, []int{cols})
	if err != nil {
		return err
	}
	width := int(size)
	grow(&p.out, n*width)
	clear(grow(&p.devs, n))
	rounds := s.typ == gguf.Q8_0 || !holds(s.typ.DType(), s.DType)
	workers := max(1, min(p.workers, n))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			var back []float32
			for i := n * k / workers; i < n*(k+1)/workers && errs[k] == nil; i++ {
				x, b := p.x[i*cols:][:cols], p.out[i*width:][:width]
				if errs[k] = gguf.Encode(b, x, s.typ); errs[k] != nil || !rounds {
					continue
				}
				if errs[k] = gguf.Decode(grow(&back, cols), b, s.typ); errs[k] == nil {
					errs[k] = p.devs[i].all(x, back)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// all compares two slices. An overflow is an error.
func (d *deviation) all(x, y []float32) error {
	for i, v := range x {
		if math.IsInf(float64(y[i]), 0) && !math.IsInf(float64(v), 0) {
			return fmt.Errorf("the value %v is out of range", v)
		}
		d.add(float64(v), float64(y[i]))
	}
	return nil
}

// read fills p.x with n rows of the output from row lo on.
func (p *copier) read(s *source, lo, n, cols int) error {
	x := grow(&p.x, n*cols)
	switch {
	case s.conv: // columns of the stored matrix
		rows := s.shape[0]
		y := grow(&p.y, n)
		for k := range cols {
			if err := p.elements(s, int64(k)*int64(rows)+int64(lo), y); err != nil {
				return err
			}
			for i, v := range y {
				x[i*cols+k] = v
			}
		}
		return nil
	case s.head > 0: // of the whole heads around the rows
		first := lo / s.head * s.head
		y := grow(&p.y, ((lo+n+s.head-1)/s.head*s.head-first)*cols)
		if err := p.elements(s, int64(first)*int64(cols), y); err != nil {
			return err
		}
		for i := range n {
			copy(x[i*cols:][:cols], y[(interleaved(lo+i, s.head)-first)*cols:])
		}
		return nil
	}
	return p.elements(s, int64(lo)*int64(cols), x)
}

// elements reads consecutive elements of the stored tensor.
func (p *copier) elements(s *source, from int64, dst []float32) error {
	w := int64(s.DType.Bits() / 8)
	b := grow(&p.in, len(dst)*int(w))
	if _, err := p.files[s.File].ReadAt(b, s.Offset+from*w); err != nil {
		return &formats.Error{Path: p.ck.Files()[s.File].Path, Tensor: s.Tensor.Name, Offset: s.Offset, Reason: "reading it failed: " + err.Error(), Hint: "check the file and the disk", Err: formats.ErrMalformed}
	}
	return tensor.DecodeF32(dst, b, s.DType)
}

// grow makes a slice of n elements, reusing b.
func grow[T any](b *[]T, n int) []T {
	if cap(*b) < n {
		*b = make([]T, n)
	}
	*b = (*b)[:n]
	return *b
}
