package kernel

import "math"

// vecOps is one implementation of everything that is not a product. Slices
// have equal, non-zero lengths, which the exported functions have checked.
type vecOps struct {
	exp, tanh   func(dst, src []float32)
	add, mul    func(dst, a, b []float32)
	axpy        func(alpha float32, x, y []float32)
	scale       func(alpha float32, x []float32)
	dot         func(x, y []float32) float32
	sum         func(x []float32) float64
	sumSquares  func(x []float32) float64
	centred     func(x []float32, mean float32) float64 // Σ (x-mean)²
	maxAbs      func(x []float32) float32
	max         func(x []float32) float32
	expSum      func(dst, src []float32, scale, bias float32) float32
	act         [numActs]func(dst, src []float32)
	actGrad     [numActs]func(dx, dy, pre []float32)
	epilogue    [numActs]epilogueFunc // or nil
	slope       [numActs]epilogueFunc // storing act' to pre; or nil
	timesRows   func(c *float32, ldc int, f *float32, ldf, rows, n8 int)
	gated       func(act Act, dst, gate, up []float32)
	gatedGrad   func(act Act, dgate, dup, dy, gate, up []float32)
	normRow     func(y, x, gamma, beta []float32, mean, rstd float32)
	normSums    func(dy, x, gamma []float32, mean, rstd float32) (g, gx float64)
	normGradRow func(dx, dy, x, gamma []float32, mean, rstd, c1, c2 float32)
	normParams  func(dgamma, dbeta, dy, x []float32, mean, rstd float32)
	dropout     func(dst, src []float32, threshold uint32, scale float32, key, stream, block uint64)
	adamW       func(w, g, m, v []float32, c *adamConsts)
	bf16ToF32   func(dst []float32, src []byte)
	f32ToBF16   func(dst []byte, src []float32)
	f16ToF32    func(dst []float32, src []byte)
	f32ToF16    func(dst []byte, src []float32)
	stats       func(x []float32) Statistics
	gradExp     func(dst, logits []float32, lse, scale float32)  // dst = scale·exp(logits-lse)
	unpackInt8  func(dst []float32, src []int8, scale []float32) // rows of len(scale)
	transpose   func(dst []float32, ldd int, src []float32, lds, rows, cols int)
}

// epilogueFunc sets c = act(c + bias) + res for rows of 8·n8 elements and stores
// the argument of act to pre; bias, pre and res may be nil.
type epilogueFunc func(c *float32, ldc int, bias, pre *float32, ldpre int, res *float32, ldres, rows, n8 int)

var goVec = vecOps{
	exp:         func(dst, src []float32) { apply(dst, src, math.Exp) },
	tanh:        func(dst, src []float32) { apply(dst, src, math.Tanh) },
	add:         goAdd,
	mul:         goMul,
	axpy:        goAxpy[float32],
	scale:       goScale,
	dot:         goDot,
	sum:         goSum,
	sumSquares:  func(x []float32) float64 { return goCentred(x, 0) },
	centred:     goCentred,
	maxAbs:      goMaxAbs,
	max:         goMax,
	expSum:      goExpSum,
	act:         goActs,
	actGrad:     goActGrads,
	gated:       goGated,
	gatedGrad:   goGatedGrad,
	normRow:     goNormRow,
	normSums:    goNormSums,
	normGradRow: goNormGradRow,
	normParams:  goNormParams,
	dropout:     goDropout,
	adamW:       goAdamW,
	bf16ToF32:   goBF16ToF32,
	f32ToBF16:   goF32ToBF16,
	f16ToF32:    goF16ToF32,
	f32ToF16:    goF32ToF16,
	stats:       goStats,
	gradExp:     goGradExp,
	unpackInt8:  goUnpackInt8,
	transpose:   goTranspose[float32],
}

// apply rounds the float64 function f of each element: the reference of every
// transcendental.
func apply(dst, src []float32, f func(float64) float64) {
	for i, x := range src {
		dst[i] = float32(f(float64(x)))
	}
}

func goAdd(dst, a, b []float32) {
	for i, x := range a {
		dst[i] = x + b[i]
	}
}

func goMul(dst, a, b []float32) {
	for i, x := range a {
		dst[i] = x * b[i]
	}
}

func goAxpy[T float](alpha T, x, y []T) {
	for i, v := range x {
		y[i] += alpha * v
	}
}

func goScale(alpha float32, x []float32) {
	for i := range x {
		x[i] *= alpha
	}
}

func goDot(x, y []float32) float32 {
	var s float64
	for i, v := range x {
		s += float64(v) * float64(y[i])
	}
	return float32(s)
}

func goSum(x []float32) float64 {
	var s float64
	for _, v := range x {
		s += float64(v)
	}
	return s
}

func goCentred(x []float32, mean float32) float64 {
	var s float64
	for _, v := range x {
		d := float64(v) - float64(mean)
		s += d * d
	}
	return s
}

func goMaxAbs(x []float32) float32 {
	var m float32
	for _, v := range x {
		a := float32(math.Abs(float64(v)))
		if !(a <= m) { // a NaN gets in and stays
			m = a
		}
		if a != a {
			return a
		}
	}
	return m
}

func goMax(x []float32) float32 {
	m := x[0]
	for _, v := range x {
		if v != v {
			return v
		}
		m = max(m, v)
	}
	return m
}

func goExpSum(dst, src []float32, scale, bias float32) float32 {
	var s float64
	for i, x := range src {
		e := float32(math.Exp(float64(scale)*float64(x) - float64(bias)))
		dst[i] = e
		s += float64(e)
	}
	return float32(s)
}

func goGradExp(dst, logits []float32, lse, scale float32) {
	for i, x := range logits {
		dst[i] = float32(float64(scale) * math.Exp(float64(x)-float64(lse)))
	}
}

func goTranspose[T float](dst []T, ldd int, src []T, lds, rows, cols int) {
	for i := range rows {
		for j, x := range src[i*lds:][:cols] {
			dst[j*ldd+i] = x
		}
	}
}
