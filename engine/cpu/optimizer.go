package cpu

import (
	"errors"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// optimElems is the number of parameters of a job of the optimizer.
const optimElems = 1 << 14

// clipEps is added to the norm before dividing by it, as in
// torch.nn.utils.clip_grad_norm_.
const clipEps = 1e-6

// Step implements graph.Executable. The norm is accumulated in float64, in
// pieces of fixed size; gradients are scaled by ClipNorm/norm where norm is
// larger. When the norm is not a number or infinite, nothing but the gradients
// changes, and it is an error.
func (x *executable) Step(o graph.AdamW) (float64, error) {
	if err := x.trainable(); err != nil {
		return 0, err
	}
	if o.T < 1 {
		return 0, fmt.Errorf("cpu: optimizer step number %d; count from 1", o.T)
	}
	norm := x.gradNorm()
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		clear(x.grads)
		return norm, fmt.Errorf("cpu: the norm of the gradients is %v; parameters were left as they are (lower the learning rate, or look for infinite weights)", norm)
	}
	gradScale := float32(1)
	if o.ClipNorm > 0 && norm > float64(o.ClipNorm) {
		gradScale = float32(float64(o.ClipNorm) / (norm + clipEps))
	}
	bias1 := float32(1 - math.Pow(float64(o.Beta1), float64(o.T)))
	bias2 := float32(1 - math.Pow(float64(o.Beta2), float64(o.T)))
	x.pool.Run(len(x.pieces), func(_, j int) {
		pc := x.pieces[j]
		par := &x.p.Params[pc.param]
		decay := o.WeightDecay
		if par.NoDecay {
			decay = 0
		}
		w, g, m, v := x.params[pc.lo:pc.hi], x.grads[pc.lo:pc.hi], x.m[pc.lo:pc.hi], x.v[pc.lo:pc.hi]
		kernel.AdamW(w, g, m, v, o.LR*par.LRScale, o.Beta1, o.Beta2, o.Eps, decay, bias1, bias2, gradScale)
		clear(g)
	})
	return norm, nil
}

// gradNorm returns the Euclidean norm of all gradients.
func (x *executable) gradNorm() float64 {
	x.pool.Run(len(x.norms), func(_, j int) {
		x.norms[j] = kernel.SumSquares(x.grads[j*optimElems : min((j+1)*optimElems, len(x.grads))])
	})
	var s float64
	for _, v := range x.norms {
		s += v
	}
	return math.Sqrt(s)
}

// piece is a part of one parameter, elements [lo, hi) of the flat buffer.
type piece struct{ param, lo, hi int }

// cutParams makes the jobs of the optimizer.
func (x *executable) cutParams() {
	for i := range x.p.Params {
		par := &x.p.Params[i]
		for lo := 0; lo < par.Size; lo += optimElems {
			x.pieces = append(x.pieces, piece{i, par.Offset + lo, par.Offset + min(lo+optimElems, par.Size)})
		}
	}
	x.norms = make([]float64, (len(x.grads)+optimElems-1)/optimElems)
}

// hasGrads reports whether p computes gradients of parameters.
func hasGrads(p *graph.Program) bool {
	for i := range p.Values {
		if p.Values[i].Kind == graph.ParamGrad {
			return true
		}
	}
	return p.Forward < len(p.Ops)
}

var errForwardOnly = errors.New("cpu: the program has no backward pass, so it holds no gradients or moments; call graph.Differentiate before Compile")

func (x *executable) trainable() error {
	if !x.trains {
		return errForwardOnly
	}
	return nil
}

// move copies between a caller's buffer and a flat one of the executable.
func (x *executable) move(what string, dst, src []float32) error {
	if len(dst) != len(src) {
		return fmt.Errorf("cpu: %s: a buffer of %d and one of %d floats; the program has %d parameters", what, len(src), len(dst), x.p.ParamSize)
	}
	copy(dst, src)
	return nil
}

// SetParams implements graph.Executable.
func (x *executable) SetParams(src []float32) error { return x.move("parameters", x.params, src) }

// Params implements graph.Executable.
func (x *executable) Params(dst []float32) error { return x.move("parameters", dst, x.params) }

// Grads implements graph.Executable. A program without a backward pass has
// zeros.
func (x *executable) Grads(dst []float32) error {
	if !x.trains && len(dst) == x.p.ParamSize {
		clear(dst)
		return nil
	}
	return x.move("gradients", dst, x.grads)
}

// ZeroGrads implements graph.Executable.
func (x *executable) ZeroGrads() error {
	clear(x.grads)
	return nil
}

// SetGrads implements graph.Executable.
func (x *executable) SetGrads(src []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return x.move("gradients", x.grads, src)
}

// Moments implements graph.Executable.
func (x *executable) Moments(m, v []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return errors.Join(x.move("first moments", m, x.m), x.move("second moments", v, x.v))
}

// SetMoments implements graph.Executable.
func (x *executable) SetMoments(m, v []float32) error {
	if err := x.trainable(); err != nil {
		return err
	}
	return errors.Join(x.move("first moments", x.m, m), x.move("second moments", x.v, v))
}
