package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// pieceElems is the number of parameters of a block of the optimizer.
const pieceElems = 4096

// piece mirrors struct Piece of kernels/optimizer.cu.
type piece struct {
	lo, n   int32
	lrScale float32
	noDecay int32
}

// adamArgs mirrors struct AdamArgs.
type adamArgs struct {
	w, g, m, v, pieces, norm ptr

	lr, beta1, beta2, eps, decay, clip, bias1, bias2 float32
}

// openParams allocates parameters and, where there are gradients, those and
// AdamW's moments: four parts of one buffer.
func (x *executable) openParams() error {
	parts := int64(1)
	if x.trains {
		parts = 4
	}
	var err error
	if x.state, err = x.allocate(parts * x.part()); err != nil {
		return err
	}
	if x.state.n > 0 {
		if err := x.check("cuMemset", x.fill(x.state.p, 0, uintptr(x.state.n), x.stream)); err != nil {
			return err
		}
	}
	if !x.trains || x.p.ParamSize == 0 {
		return nil
	}
	var list []piece
	for i := range x.p.Params {
		par := &x.p.Params[i]
		p := piece{lrScale: par.LRScale, noDecay: bit(par.NoDecay)}
		for lo := 0; lo < par.Size; lo += pieceElems {
			p.lo, p.n = int32(par.Offset+lo), int32(min(pieceElems, par.Size-lo))
			list = append(list, p)
		}
	}
	x.jobs = len(list)
	if x.pieces, err = x.allocate(int64(len(list)) * int64(unsafe.Sizeof(piece{}))); err != nil {
		return err
	}
	if x.norms, err = x.allocate(8 * int64(x.sums()+1)); err != nil {
		return err
	}
	return x.uploadBytes(x.pieces.p, unsafe.Slice((*byte)(unsafe.Pointer(&list[0])), int(x.pieces.n)))
}

// part is the size of one flat buffer in bytes, aligned.
func (x *executable) part() int64 { return (4*int64(x.p.ParamSize) + 255) &^ 255 }

func (x *executable) params() ptr { return x.state.p }
func (x *executable) grads() ptr  { return x.state.p + ptr(x.part()) }
func (x *executable) first() ptr  { return x.state.p + ptr(2*x.part()) }
func (x *executable) second() ptr { return x.state.p + ptr(3*x.part()) }

// sums is the number of partial sums of squares.
func (x *executable) sums() int { return (x.p.ParamSize + pieceElems - 1) / pieceElems }

// Step implements [graph.Executable]. The norm is accumulated in float64, in
// pieces of fixed size. When it is not a number or infinite, nothing but the
// gradients changes, and it is an error.
func (x *executable) Step(o graph.AdamW) (float64, error) {
	if err := x.trainable(); err != nil {
		return 0, err
	}
	if o.T < 1 {
		return 0, fmt.Errorf("%s: optimizer step number %d; count from 1", x.e.Name(), o.T)
	}
	if x.p.ParamSize == 0 {
		return 0, nil
	}
	var norm float64
	err := x.do(func() error {
		sums, at := x.norms.p+8, x.norms.p
		a := adamArgs{w: x.params(), g: x.grads(), m: x.first(), v: x.second(), pieces: x.pieces.p, norm: at,
			lr: o.LR, beta1: o.Beta1, beta2: o.Beta2, eps: o.Eps, decay: o.WeightDecay, clip: o.ClipNorm,
			bias1: float32(1 - math.Pow(float64(o.Beta1), float64(o.T))), bias2: float32(1 - math.Pow(float64(o.Beta2), float64(o.T)))}
		if err := errors.Join(
			x.launch("sum_squares", grid{x: x.sums()}, 256, 0, x.grads(), int64(x.p.ParamSize), sums),
			x.launch("norm_of", grid{}, 256, 0, sums, x.sums(), at),
			x.launch("adamw", grid{x: x.jobs}, 256, 0, unsafe.Pointer(&a)),
		); err != nil {
			return err
		}
		var words [2]float32
		if err := x.download(words[:], at); err != nil {
			return err
		}
		norm = math.Float64frombits(uint64(math.Float32bits(words[0])) | uint64(math.Float32bits(words[1]))<<32)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("%s: optimizer: %w", x.e.Name(), err)
	}
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm, fmt.Errorf("%s: the norm of the gradients is %v; parameters were left as they are (lower the learning rate, or look for infinite weights)", x.e.Name(), norm)
	}
	return norm, nil
}

func (x *executable) trainable() error {
	if x.trains {
		return nil
	}
	return fmt.Errorf("%s: the program has no backward pass, so it holds no gradients or moments; call graph.Differentiate before Compile", x.e.Name())
}

// set copies src to a flat buffer.
func (x *executable) set(what string, to ptr, src []float32) error {
	return x.move(what, len(src), func() error {
		return x.uploadBytes(to, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(src))), 4*len(src)))
	})
}

// get copies a flat buffer to dst.
func (x *executable) get(what string, from ptr, dst []float32) error {
	return x.move(what, len(dst), func() error { return x.download(dst, from) })
}

func (x *executable) move(what string, n int, f func() error) error {
	if n != x.p.ParamSize {
		return fmt.Errorf("%s: %s: a buffer of %d floats; the program has %d parameters", x.e.Name(), what, n, x.p.ParamSize)
	}
	if err := x.do(f); err != nil {
		return fmt.Errorf("%s: %s: %w", x.e.Name(), what, err)
	}
	return nil
}

// SetParams implements [graph.Executable].
func (x *executable) SetParams(src []float32) error { return x.set("parameters", x.params(), src) }

// Params implements [graph.Executable].
func (x *executable) Params(dst []float32) error { return x.get("parameters", x.params(), dst) }

// Grads implements [graph.Executable]. A program without a backward pass has
// zeros.
func (x *executable) Grads(dst []float32) error {
	if !x.trains && len(dst) == x.p.ParamSize {
		clear(dst)
		return nil
	}
	return x.get("gradients", x.grads(), dst)
}

// ZeroGrads implements [graph.Executable].
func (x *executable) ZeroGrads() error {
	if !x.trains || x.p.ParamSize == 0 {
		return nil
	}
	return x.do(func() error {
		return x.check("cuMemset", x.fill(x.grads(), 0, uintptr(4*x.p.ParamSize), x.stream))
	})
}

// SetGrads implements [graph.Executable].
func (x *executable) SetGrads(src []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return x.set("gradients", x.grads(), src)
}

// Moments implements [graph.Executable].
func (x *executable) Moments(m, v []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return errors.Join(x.get("first moments", x.first(), m), x.get("second moments", x.second(), v))
}

// SetMoments implements [graph.Executable].
func (x *executable) SetMoments(m, v []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return errors.Join(x.set("first moments", x.first(), m), x.set("second moments", x.second(), v))
}
