package main

import "math"

// The functions of one vector, with the polynomials and bounds of the AVX2 kernels
// (../mathfn.go), which see for what they are.

// horner is (…(c0·x + c1)·x + …) + cn.
func horner(x vec, c ...float64) vec {
	p := con(c[0])
	for _, k := range c[1:] {
		q := addend(k)
		fmla.into(q, p, x)
		p = q
	}
	return p
}

// exp returns eˣ = 2ⁿ·eʳ, r = x - n·ln 2. 2ⁿ is applied in two halves, the first by adding to
// the exponent: a polynomial between 0.7 and 1.5 stays normal there.
func exp(x vec) vec {
	x = fmax.of(fmin.of(x, con(89)), con(-104))
	n := frintn.of(fmul.of(x, con(math.Log2E)))
	fmls.into(x, n, con(0.693359375))
	fmls.into(x, n, con(-2.12194440e-4))
	p := horner(x, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
	x2 := fmul.of(x, x)
	fmla.into(x, p, x2)
	p = fadd.of(x, con(1))
	i := fcvtns.of(n)
	h := sshr(i, 1)
	p = add.of(p, shl(h, 23))
	return fmul.of(p, add.of(shl(sub.of(i, h), 23), con(1)))
}

// sigmoidNeg returns 1/(1+eᵘ), the logistic function of -u.
func sigmoidNeg(u vec) vec { return fdiv.of(con(1), fadd.of(exp(u), con(1))) }

// tanh is x + x³·P(x²) below 0.625 and 1 - 2/(e²ˣ+1), with the sign of x, above.
func tanh(x vec) vec {
	z := fabs.of(x)
	x2 := fmul.of(x, x)
	p := horner(x2, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
	p = fmul.of(p, x2)
	small := copyOf(x)
	fmla.into(small, p, x)
	t := fdiv.of(con(2), fadd.of(exp(fadd.of(z, z)), con(1)))
	t = fsub.of(con(1), t)
	t = orr.of(t, and.of(x, bits(1<<31)))
	mask := fcmgt.of(con(0.625), z)
	bsl.into(mask, small, t)
	return mask
}

// erfScaled returns erf(x/√2).
func erfScaled(x vec) vec {
	u := fmax.of(fmin.of(fmul.of(x, con(math.Sqrt2/2)), con(4)), con(-4))
	u2 := fmul.of(u, u)
	p := horner(u2, -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
		-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
	q := horner(u2, -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02)
	return fdiv.of(fmul.of(p, u), q)
}

// geluOf is x/2 + x/2·erf.
func geluOf(x, erf vec) vec {
	h := fmul.of(x, con(0.5))
	y := copyOf(h)
	fmla.into(y, h, erf)
	return y
}

// geluGrad is Φ(x) + x·φ(x), erf being erf(x/√2).
func geluGrad(x, erf vec) vec {
	g := addend(0.5)
	fmla.into(g, erf, con(0.5))
	d := exp(fmul.of(fmul.of(x, con(-0.5)), x))
	fmla.into(g, fmul.of(x, con(1/math.Sqrt(2*math.Pi))), d)
	return g
}

const (
	sqrt2OverPi = 0.7978845608028654
	geluCubic   = 0.044715
)

// geluTanhArg returns -u with gelu_tanh(x) = x·σ(u).
func geluTanhArg(x vec) vec {
	u := addend(-2 * sqrt2OverPi)
	fmla.into(u, fmul.of(x, x), con(-2*sqrt2OverPi*geluCubic))
	return fmul.of(u, x)
}

// geluTanhGrad is s + x·s·(1-s)·u' with s = σ(u), which it spoils.
func geluTanhGrad(x, s vec) vec {
	// Where |x| >= 64, s(1-s) is 0 and must not meet an infinite u'.
	x = fmax.of(fmin.of(x, con(64)), con(-64))
	u := addend(2 * sqrt2OverPi)
	fmla.into(u, fmul.of(x, x), con(6*sqrt2OverPi*geluCubic))
	u = fmul.of(u, x)
	t := fmul.of(fsub.of(con(1), s), s)
	fmla.into(s, u, t)
	return s
}

// siluGrad is s·(1 + x·(1-s)) with s = σ(x).
func siluGrad(x, s vec) vec {
	t := addend(1)
	fmla.into(t, x, fsub.of(con(1), s))
	return fmul.of(t, s)
}

// An act has value, x to act(x), grad, x to act'(x), and both, with what they have in common
// computed once and the same bits. None changes x.
type act struct {
	name        string
	value, grad func(x vec) vec
	both        func(x vec) (y, g vec)
}

var acts = []act{
	{name: "GELU",
		value: func(x vec) vec { return geluOf(x, erfScaled(x)) },
		grad:  func(x vec) vec { return geluGrad(x, erfScaled(x)) },
		both: func(x vec) (y, g vec) {
			p := erfScaled(x)
			return geluOf(x, p), geluGrad(x, p)
		}},
	{name: "GELUTanh",
		value: func(x vec) vec { return fmul.of(x, sigmoidNeg(geluTanhArg(x))) },
		grad:  func(x vec) vec { return geluTanhGrad(x, sigmoidNeg(geluTanhArg(x))) },
		both: func(x vec) (y, g vec) {
			s := sigmoidNeg(geluTanhArg(x))
			y = fmul.of(x, s)
			return y, geluTanhGrad(x, s)
		}},
	{name: "ReLU", value: func(x vec) vec { return fmax.of(x, bits(0)) }},
	{name: "SiLU",
		value: func(x vec) vec { return fmul.of(x, sigmoidNeg(fneg.of(x))) },
		grad:  func(x vec) vec { return siluGrad(x, sigmoidNeg(fneg.of(x))) },
		both: func(x vec) (y, g vec) {
			s := sigmoidNeg(fneg.of(x))
			return fmul.of(x, s), siluGrad(x, s)
		}},
	{name: "Tanh",
		value: tanh,
		grad: func(x vec) vec { // 1 - tanh²
			t := tanh(x)
			g := addend(1)
			fmls.into(g, t, t)
			return g
		}},
}
