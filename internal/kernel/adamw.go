package kernel

import "math"

// adamConsts are the coefficients of one AdamW step, the same for all elements.
type adamConsts struct {
	beta1, beta2, rest1, rest2 float32 // rest = 1 - beta
	step, rootBias2, eps       float32 // step = lr/bias1, rootBias2 = √bias2
	decay, gradScale           float32 // decay = 1 - lr·weightDecay
}

// AdamW takes one step with decoupled weight decay. With g' = gradScale·g:
//
//	w ← w·(1 - lr·weightDecay)
//	m ← beta1·m + (1-beta1)·g'
//	v ← beta2·v + (1-beta2)·g'²
//	w ← w - lr/bias1 · m / (√v/√bias2 + eps)
//
// where bias1 = 1-beta1ᵗ and bias2 = 1-beta2ᵗ at step t, counted from 1. g is
// not changed. Everything is float32. It panics unless the lengths agree.
// Source: Loshchilov and Hutter, arXiv 1711.05101, in the order of operations of
// torch.optim.AdamW.
func AdamW(w, g, m, v []float32, lr, beta1, beta2, eps, weightDecay, bias1, bias2, gradScale float32) {
	same("AdamW", len(w), len(g), len(m), len(v))
	if len(w) == 0 {
		return
	}
	cur.vec.adamW(w, g, m, v, &adamConsts{
		beta1: beta1, beta2: beta2, rest1: float32(1 - float64(beta1)), rest2: float32(1 - float64(beta2)),
		step: float32(float64(lr) / float64(bias1)), rootBias2: float32(math.Sqrt(float64(bias2))), eps: eps,
		decay: float32(1 - float64(lr)*float64(weightDecay)), gradScale: gradScale,
	})
}

func goAdamW(w, g, m, v []float32, c *adamConsts) {
	for i, gi := range g {
		gi *= c.gradScale
		mi := c.beta1*m[i] + c.rest1*gi
		vi := c.beta2*v[i] + c.rest2*gi*gi
		m[i], v[i] = mi, vi
		root := float32(math.Sqrt(float64(vi)))
		w[i] = w[i]*c.decay - c.step*mi/(root/c.rootBias2+c.eps)
	}
}
