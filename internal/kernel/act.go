package kernel

import (
	"fmt"
	"math"
)

// Act is an activation function.
type Act uint8

// The activations: x itself; x·Φ(x), with Φ the normal distribution (torch's
// gelu); its approximation by tanh (gelu_new, gelu_pytorch_tanh);
// max(x, 0); x·σ(x); tanh x.
const (
	ActNone Act = iota
	ActGELU
	ActGELUTanh
	ActReLU
	ActSiLU
	ActTanh
	numActs
)

var actNames = [numActs]string{"none", "gelu", "gelu_tanh", "relu", "silu", "tanh"}

// String names the activation.
func (a Act) String() string {
	if a < numActs {
		return actNames[a]
	}
	return fmt.Sprintf("Act(%d)", uint8(a))
}

func (a Act) check() {
	if a >= numActs {
		panic(fmt.Sprintf("kernel: unknown activation %d", uint8(a)))
	}
}

// ActForward sets dst = act(src). With u = max(1, |x|) the error is below
// 5e-7·u for every activation and finite x; NaN stays NaN.
func ActForward(act Act, dst, src []float32) {
	act.check()
	same("ActForward", len(src), len(dst))
	if len(src) > 0 {
		cur.vec.act[act](dst, src)
	}
}

// ActBackward sets dx = dy·act'(pre), with an error of act' below 2e-6; dx may
// be dy or pre. The derivative of ReLU at 0 is 0, as in PyTorch.
func ActBackward(act Act, dx, dy, pre []float32) {
	act.check()
	same("ActBackward", len(dx), len(dy), len(pre))
	if len(dx) > 0 {
		cur.vec.actGrad[act](dx, dy, pre)
	}
}

// SiLUMul sets dst = silu(gate)·up, the gate of Llama's MLP (SwiGLU, Shazeer
// 2020, arXiv 2002.05202).
func SiLUMul(dst, gate, up []float32) { gatedForward(ActSiLU, dst, gate, up) }

// SiLUMulBackward sets dgate = dy·up·silu'(gate) and dup = dy·silu(gate). dgate
// and dup may be gate and up, or one of them dy.
func SiLUMulBackward(dgate, dup, dy, gate, up []float32) {
	gatedBackward(ActSiLU, dgate, dup, dy, gate, up)
}

// GELUTanhMul sets dst = gelu_tanh(gate)·up, the gate of Gemma's MLP (GEGLU).
func GELUTanhMul(dst, gate, up []float32) { gatedForward(ActGELUTanh, dst, gate, up) }

// GELUTanhMulBackward is SiLUMulBackward for GELUTanhMul.
func GELUTanhMulBackward(dgate, dup, dy, gate, up []float32) {
	gatedBackward(ActGELUTanh, dgate, dup, dy, gate, up)
}

func gatedForward(act Act, dst, gate, up []float32) {
	same(act.String()+" gate", len(dst), len(gate), len(up))
	if len(dst) > 0 {
		cur.vec.gated(act, dst, gate, up)
	}
}

func gatedBackward(act Act, dgate, dup, dy, gate, up []float32) {
	same(act.String()+" gate backward", len(dy), len(dgate), len(dup), len(gate), len(up))
	if len(dy) > 0 {
		cur.vec.gatedGrad(act, dgate, dup, dy, gate, up)
	}
}

const (
	sqrt2OverPi = 0.7978845608028654
	geluCubic   = 0.044715 // Hendrycks and Gimpel, arXiv 1606.08415, section 2
)

// actFuncs are the activations and their derivatives in float64, the reference
// for all paths.
var actFuncs = [numActs]struct{ f, df func(x float64) float64 }{
	ActNone: {func(x float64) float64 { return x }, func(float64) float64 { return 1 }},
	ActGELU: {
		func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) },
		func(x float64) float64 {
			return math.Erfc(-x/math.Sqrt2)/2 + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
		},
	},
	ActGELUTanh: {
		func(x float64) float64 { return x * sigmoid(geluInner(x)) },
		func(x float64) float64 {
			s := sigmoid(geluInner(x))
			return s + x*s*(1-s)*2*sqrt2OverPi*(1+3*geluCubic*x*x)
		},
	},
	ActReLU: {
		func(x float64) float64 {
			if x < 0 {
				return 0
			}
			return x
		},
		func(x float64) float64 {
			if x <= 0 {
				return 0
			}
			return 1
		},
	},
	ActSiLU: {
		func(x float64) float64 { return x * sigmoid(x) },
		func(x float64) float64 { s := sigmoid(x); return s * (1 + x*(1-s)) },
	},
	ActTanh: {math.Tanh, func(x float64) float64 { t := math.Tanh(x); return (1 - t) * (1 + t) }},
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// geluInner is u with gelu_tanh(x) = x·σ(u): (1+tanh v)/2 = σ(2v).
func geluInner(x float64) float64 { return 2 * sqrt2OverPi * (x + geluCubic*x*x*x) }

var goActs, goActGrads = func() (f [numActs]func(dst, src []float32), df [numActs]func(dx, dy, pre []float32)) {
	for a := range numActs {
		fn := actFuncs[a]
		f[a] = func(dst, src []float32) { apply(dst, src, fn.f) }
		df[a] = func(dx, dy, pre []float32) {
			for i, x := range pre {
				dx[i] = float32(float64(dy[i]) * fn.df(float64(x)))
			}
		}
	}
	f[ActNone] = func(dst, src []float32) { copy(dst, src) }
	df[ActNone] = func(dx, dy, _ []float32) { copy(dx, dy) }
	return
}()

func goGated(act Act, dst, gate, up []float32) {
	f := actFuncs[act].f
	for i, x := range gate {
		dst[i] = float32(f(float64(x)) * float64(up[i]))
	}
}

func goGatedGrad(act Act, dgate, dup, dy, gate, up []float32) {
	f := actFuncs[act]
	for i, x := range gate {
		g, u := float64(dy[i]), float64(up[i])
		dgate[i], dup[i] = float32(g*u*f.df(float64(x))), float32(g*f.f(float64(x)))
	}
}
