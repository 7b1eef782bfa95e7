package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

type vec = reg.VecVirtual

func copyOf(x vec) vec {
	y := YMM()
	VMOVAPS(x, y)
	return y
}

// expLimits are registers with the range that exp clamps to. They are first
// operands of VMINPS and VMAXPS, so that a NaN in x, the second, gets through.
type expLimits struct{ lo, hi vec }

func loadExpLimits() expLimits { return expLimits{lo: constant(f(-104)), hi: constant(f(89))} }

// exp returns eˣ = 2ⁿ·eʳ, r = x - n·ln 2, with Cephes's polynomial for
// |r| <= ln 2/2. 2ⁿ is applied in two halves, so that subnormal results and
// overflow come out right. x is spoilt.
func (e expLimits) exp(x vec) vec {
	n, p, r2 := YMM(), YMM(), YMM()
	VMINPS(x, e.hi, x)
	VMAXPS(x, e.lo, x)
	VMULPS(f(math.Log2E), x, n)
	VROUNDPS(Imm(0), n, n)
	VFNMADD231PS(f(0.693359375), n, x)
	VFNMADD231PS(f(-2.12194440e-4), n, x)
	VMOVUPS(f(1.9875691500e-4), p)
	for _, c := range []float64{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		VFMADD213PS(f(c), x, p)
	}
	VMULPS(x, x, r2)
	VFMADD213PS(x, r2, p)
	VADDPS(f(1), p, p)
	i, h := YMM(), YMM()
	VCVTPS2DQ(n, i)
	VPSRAD(Imm(1), i, h)
	VPSUBD(h, i, i)
	for _, y := range []vec{h, i} {
		VPADDD(bitsOf(127), y, y)
		VPSLLD(Imm(23), y, y)
		VMULPS(y, p, p)
	}
	return p
}

// sigmoidNeg returns 1/(1+eᵘ), the logistic function of -u. u is spoilt.
func (e expLimits) sigmoidNeg(u vec) vec {
	s := e.exp(u)
	VADDPS(f(1), s, s)
	one := constant(f(1))
	VDIVPS(s, one, s)
	return s
}

// negate flips the sign.
func negate(x vec) vec {
	y := YMM()
	VXORPS(bitsOf(1<<31), x, y)
	return y
}

// tanh is x + x³·P(x²) (Cephes) below 0.625 and 1 - 2/(e²ˣ+1), with the sign of
// x, above.
func (e expLimits) tanh(x vec) vec {
	z, sign, small := YMM(), YMM(), YMM()
	VANDPS(bitsOf(0x7fffffff), x, z)
	VANDPS(bitsOf(1<<31), x, sign)
	VCMPPS(Imm(1), f(0.625), z, small) // z < 0.625
	x2, p := YMM(), YMM()
	VMULPS(x, x, x2)
	VMOVUPS(f(-5.70498872745e-3), p)
	for _, c := range []float64{2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1} {
		VFMADD213PS(f(c), x2, p)
	}
	VMULPS(x2, p, p)
	VFMADD213PS(x, x, p)
	VADDPS(z, z, z)
	t := e.exp(z)
	VADDPS(f(1), t, t)
	two := constant(f(2))
	VDIVPS(t, two, t)
	one := constant(f(1))
	VSUBPS(t, one, t)
	VORPS(sign, t, t)
	VBLENDVPS(small, p, t, t)
	return t
}

// erfScaled returns erf(x/√2) = u·P(u²)/Q(u²) with u = x/√2 clamped to |u| <= 4,
// the rational minimax approximation that Eigen uses.
func erfScaled(x vec) vec {
	u, u2, p, q := YMM(), YMM(), YMM(), YMM()
	VMULPS(f(math.Sqrt2/2), x, u)
	four, mfour := constant(f(4)), constant(f(-4))
	VMINPS(u, four, u)
	VMAXPS(u, mfour, u)
	VMULPS(u, u, u2)
	VMOVUPS(f(-2.72614225801306e-10), p)
	for _, c := range []float64{2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
		-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02} {
		VFMADD213PS(f(c), u2, p)
	}
	VMOVUPS(f(-1.45660718464996e-05), q)
	for _, c := range []float64{-2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02} {
		VFMADD213PS(f(c), u2, q)
	}
	VMULPS(u, p, p)
	VDIVPS(q, p, p)
	return p
}

// geluTanhArg returns -u with gelu_tanh(x) = x·σ(u) = x/(1+e⁻ᵘ).
func geluTanhArg(x vec) vec {
	u := YMM()
	VMULPS(x, x, u)
	c := constant(f(-2 * sqrt2OverPi * geluCubic))
	VFMADD213PS(f(-2*sqrt2OverPi), c, u)
	VMULPS(x, u, u)
	return u
}

// geluGrad is Φ(x) + x·φ(x), erf being erf(x/√2). Both are spoilt.
func geluGrad(e expLimits, x, erf vec) vec {
	h := constant(f(0.5))
	VFMADD213PS(h, h, erf)
	q := YMM()
	VMULPS(f(-0.5), x, q)
	VMULPS(x, q, q)
	d := e.exp(q)
	VMULPS(f(1/math.Sqrt(2*math.Pi)), x, x)
	VFMADD231PS(d, x, erf)
	return erf
}

// geluTanhGrad is s + x·s·(1-s)·u' with s = σ(u). Both are spoilt.
func geluTanhGrad(x, s vec) vec {
	// Where |x| >= 64, s(1-s) is 0 and must not meet an infinite u'.
	hi, lo := constant(f(64)), constant(f(-64))
	VMINPS(x, hi, x)
	VMAXPS(x, lo, x)
	u, t := YMM(), YMM()
	VMULPS(x, x, u)
	c := constant(f(6 * sqrt2OverPi * geluCubic))
	VFMADD213PS(f(2*sqrt2OverPi), c, u)
	VMULPS(x, u, u)
	one := constant(f(1))
	VSUBPS(s, one, t)
	VMULPS(s, t, t)
	VFMADD231PS(t, u, s)
	return s
}

const (
	sqrt2OverPi = 0.7978845608028654
	geluCubic   = 0.044715
)

// An act has forward, x to act(x), and grad, x to act'(x). Both may spoil x.
// both returns the two with what they have in common computed once; its first
// result has the bits of forward. It is nil where no model wants it.
type act struct {
	name          string
	forward, grad func(e expLimits, x vec) vec
	both          func(e expLimits, x vec) (y, g vec)
	noExp         bool // forward needs no limits
}

var acts = []act{
	{name: "GELU", noExp: true,
		forward: func(_ expLimits, x vec) vec {
			p := erfScaled(x)
			VMULPS(f(0.5), x, x)
			VFMADD213PS(x, x, p) // x/2 + x/2·erf
			return p
		},
		grad: func(e expLimits, x vec) vec {
			return geluGrad(e, x, erfScaled(x))
		},
		both: func(e expLimits, x vec) (y, g vec) {
			p := erfScaled(x)
			h := YMM()
			VMULPS(f(0.5), x, h)
			y = copyOf(p)
			VFMADD213PS(h, h, y)
			return y, geluGrad(e, x, p)
		}},
	{name: "GELUTanh",
		forward: func(e expLimits, x vec) vec {
			s := e.sigmoidNeg(geluTanhArg(x))
			VMULPS(x, s, s)
			return s
		},
		grad: func(e expLimits, x vec) vec {
			return geluTanhGrad(x, e.sigmoidNeg(geluTanhArg(x)))
		},
		both: func(e expLimits, x vec) (y, g vec) {
			s := e.sigmoidNeg(geluTanhArg(x))
			y = YMM()
			VMULPS(x, s, y)
			return y, geluTanhGrad(x, s)
		}},
	{name: "ReLU", noExp: true,
		forward: func(_ expLimits, x vec) vec {
			VMAXPS(x, zero(), x)
			return x
		},
		grad: func(_ expLimits, x vec) vec { // 1 unless x <= 0, so that NaN counts as positive
			z := zero()
			VCMPPS(Imm(6), z, x, x) // not <=
			VANDPS(f(1), x, x)
			return x
		}},
	{name: "SiLU",
		forward: func(e expLimits, x vec) vec {
			s := e.sigmoidNeg(negate(x))
			VMULPS(x, s, s)
			return s
		},
		grad: func(e expLimits, x vec) vec { // s·(1 + x·(1-s))
			s := e.sigmoidNeg(negate(x))
			one := constant(f(1))
			t := YMM()
			VSUBPS(s, one, t)
			VFMADD213PS(one, t, x)
			VMULPS(s, x, x)
			return x
		}},
	{name: "Tanh",
		forward: func(e expLimits, x vec) vec { return e.tanh(x) },
		grad: func(e expLimits, x vec) vec { // 1 - tanh²
			t := e.tanh(x)
			one := constant(f(1))
			VFNMADD213PS(one, t, t)
			return t
		}},
}
