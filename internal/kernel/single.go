package kernel

import "math"

// Activations in float32, element by element, with the polynomials of the AVX2 kernels
// (_asm/mathfn.go): for processors that have assembly for products but not for these. They
// take a third of the time of the float64 functions of package math.

// singleVec is goVec with them.
var singleVec = func() vecOps {
	v := goVec
	v.exp = func(dst, src []float32) {
		for i, x := range src {
			dst[i] = exp32(x)
		}
	}
	v.tanh = func(dst, src []float32) {
		for i, x := range src {
			dst[i] = tanh32(x)
		}
	}
	v.expSum = func(dst, src []float32, scale, bias float32) float32 {
		var s float64
		for i, x := range src {
			e := exp32(x*scale - bias)
			dst[i] = e
			s += float64(e)
		}
		return float32(s)
	}
	v.gradExp = func(dst, logits []float32, lse, scale float32) {
		for i, x := range logits {
			dst[i] = scale * exp32(x-lse)
		}
	}
	for a, e := range singleActs {
		if e.f == nil {
			continue
		}
		v.act[a] = func(dst, src []float32) {
			for i, x := range src {
				dst[i] = e.f(x)
			}
		}
		v.actGrad[a] = func(dx, dy, pre []float32) {
			for i, x := range pre {
				dx[i] = dy[i] * e.df(x)
			}
		}
	}
	v.gated = func(act Act, dst, gate, up []float32) {
		f := singleActs[act].f
		for i, x := range gate {
			dst[i] = f(x) * up[i]
		}
	}
	v.gatedGrad = func(act Act, dgate, dup, dy, gate, up []float32) {
		e := singleActs[act]
		for i, x := range gate {
			g, u := dy[i], up[i]
			dgate[i], dup[i] = g*u*e.df(x), g*e.f(x)
		}
	}
	return v
}()

// singleActs are activations and their derivatives; ReLU is as fast in goVec.
var singleActs = [numActs]struct{ f, df func(x float32) float32 }{
	ActGELU: {
		f: func(x float32) float32 { h := 0.5 * x; return h + h*erfScaled32(x) },
		df: func(x float32) float32 { // Φ(x) + x·φ(x)
			const sqrt2Pi = 2.5066282746310002
			return 0.5 + 0.5*erfScaled32(x) + x*(exp32(-0.5*x*x)*(1/sqrt2Pi))
		},
	},
	ActGELUTanh: {
		f: func(x float32) float32 { return x * sigmoid32(geluTanhArg32(x)) },
		df: func(x float32) float32 { // s + x·s·(1-s)·u' with s = σ(u)
			s := sigmoid32(geluTanhArg32(x))
			// Where |x| >= 64, s(1-s) is 0 and must not meet an infinite u'.
			c := max(min(x, 64), -64)
			return s + c*(2*sqrt2OverPi+6*sqrt2OverPi*geluCubic*c*c)*(s*(1-s))
		},
	},
	ActSiLU: {
		f: func(x float32) float32 { return x * sigmoid32(x) },
		df: func(x float32) float32 {
			s := sigmoid32(x)
			return s * (1 + x*(1-s))
		},
	},
	ActTanh: {
		f: tanh32,
		df: func(x float32) float32 {
			t := tanh32(x)
			return 1 - t*t
		},
	},
}

// exp32 is eˣ = 2ⁿ·eʳ, r = x - n·ln 2, with Cephes's polynomial for |r| <= ln 2/2. 2ⁿ is
// applied in two halves, so that subnormal results and overflow come out right.
func exp32(x float32) float32 {
	const magic = 3 << 22 // adding it rounds to a whole number
	x = max(min(x, 89), -104)
	t := x*math.Log2E + magic
	n := t - magic
	r := x - n*0.693359375
	r += n * 2.12194440e-4
	p := float32(1.9875691500e-4)
	p = p*r + 1.3981999507e-3
	p = p*r + 8.3334519073e-3
	p = p*r + 4.1665795894e-2
	p = p*r + 1.6666665459e-1
	p = p*r + 5.0000001201e-1
	p = p*(r*r) + r + 1
	i := int32(n)
	h := i >> 1
	return p * powerOf2(h) * powerOf2(i-h)
}

// powerOf2 is 2ⁿ, of a normal number.
func powerOf2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

func sigmoid32(x float32) float32 { return 1 / (1 + exp32(-x)) }

// geluTanhArg32 is u with gelu_tanh(x) = x·σ(u).
func geluTanhArg32(x float32) float32 { return x * (2*sqrt2OverPi + 2*sqrt2OverPi*geluCubic*x*x) }

// tanh32 is x + x³·P(x²) (Cephes) below 0.625 and 1 - 2/(e²ˣ+1), with the sign of x, above.
func tanh32(x float32) float32 {
	z := abs32(x)
	if z < 0.625 {
		x2 := x * x
		p := float32(-5.70498872745e-3)
		p = p*x2 + 2.06390887954e-2
		p = p*x2 - 5.37397155531e-2
		p = p*x2 + 1.33314422036e-1
		p = p*x2 - 3.33332819422e-1
		return x + x*(x2*p)
	}
	t := 1 - 2/(exp32(2*z)+1)
	return math.Float32frombits(math.Float32bits(t) | math.Float32bits(x)&(1<<31))
}

// erfScaled32 is erf(x/√2) = u·P(u²)/Q(u²) with u = x/√2 clamped to |u| <= 4, the
// rational minimax approximation that Eigen uses.
func erfScaled32(x float32) float32 {
	u := max(min(x*(math.Sqrt2/2), 4), -4)
	u2 := u * u
	p := float32(-2.72614225801306e-10)
	p = p*u2 + 2.77068142495902e-08
	p = p*u2 - 2.10102402082508e-06
	p = p*u2 - 5.69250639462346e-05
	p = p*u2 - 7.34990630326855e-04
	p = p*u2 - 2.95459980854025e-03
	p = p*u2 - 1.60960333262415e-02
	q := float32(-1.45660718464996e-05)
	q = q*u2 - 2.13374055278905e-04
	q = q*u2 - 1.68282697438203e-03
	q = q*u2 - 7.37332916720468e-03
	q = q*u2 - 1.42647390514189e-02
	return u * p / q
}
