package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// genMaps emits the elementwise functions without an activation in them.
func genMaps() {
	text("expAVX2", "func(dst, src *float32, n int)", "sets dst = exp(src).")
	map1(loadExpLimits(), func(e expLimits, x vec) vec { return e.exp(x) })
	text("tanhAVX2", "func(dst, src *float32, n int)", "sets dst = tanh(src).")
	map1(loadExpLimits(), func(e expLimits, x vec) vec { return e.tanh(x) })

	text("addAVX2", "func(dst, a, b *float32, n int)", "sets dst = a + b.")
	map2(func(a, b vec) vec { VADDPS(b, a, a); return a })
	text("mulAVX2", "func(dst, a, b *float32, n int)", "sets dst = a·b.")
	map2(func(a, b vec) vec { VMULPS(b, a, a); return a })

	text("axpyAVX2", "func(alpha float32, x, y *float32, n int)", "adds alpha·x to y.")
	x, y, n, alpha := ptr("x"), ptr("y"), ptr("n"), broadcast("alpha")
	loop(n, []reg.Register{x, y}, func(l *lanes) {
		v, w := l.load(x), l.load(y)
		VFMADD231PS(v, alpha, w)
		l.store(w, y)
	})
	ret()

	text("scaleAVX2", "func(alpha float32, x *float32, n int)", "multiplies x by alpha.")
	x, n, alpha = ptr("x"), ptr("n"), broadcast("alpha")
	loop(n, []reg.Register{x}, func(l *lanes) {
		v := l.load(x)
		VMULPS(alpha, v, v)
		l.store(v, x)
	})
	ret()

	text("gradExpAVX2", "func(dst, src *float32, n int, bias, scale float32)", "sets dst = scale·exp(src-bias).")
	dst, src, n, bias, scale, e := ptr("dst"), ptr("src"), ptr("n"), broadcast("bias"), broadcast("scale"), loadExpLimits()
	loop(n, []reg.Register{dst, src}, func(l *lanes) {
		v := l.load(src)
		VSUBPS(bias, v, v)
		v = e.exp(v)
		VMULPS(scale, v, v)
		l.store(v, dst)
	})
	ret()
}

// map1 is the body of func(dst, src *float32, n int).
func map1(e expLimits, fn func(e expLimits, x vec) vec) {
	dst, src, n := ptr("dst"), ptr("src"), ptr("n")
	loop(n, []reg.Register{dst, src}, func(l *lanes) { l.store(fn(e, l.load(src)), dst) })
	ret()
}

// map2 is the body of func(dst, a, b *float32, n int).
func map2(fn func(a, b vec) vec) {
	dst, a, b, n := ptr("dst"), ptr("a"), ptr("b"), ptr("n")
	loop(n, []reg.Register{dst, a, b}, func(l *lanes) { l.store(fn(l.load(a), l.load(b)), dst) })
	ret()
}

// genActs emits for each activation its value, its derivative, and for the two
// that gate an MLP the gated forms.
func genActs() {
	for _, a := range acts {
		text("act"+a.name+"AVX2", "func(dst, src *float32, n int)", "is the activation.")
		map1(a.limits(), a.forward)

		text("grad"+a.name+"AVX2", "func(dx, dy, pre *float32, n int)", "sets dx = dy·act'(pre).")
		dx, dy, pre, n, e := ptr("dx"), ptr("dy"), ptr("pre"), ptr("n"), loadExpLimits()
		loop(n, []reg.Register{dx, dy, pre}, func(l *lanes) {
			d := a.grad(e, l.load(pre))
			v := l.load(dy)
			if a.name == "ReLU" { // a factor of 0 would make NaN of an infinite dy
				VCMPPS(Imm(4), zero(), d, d) // not equal
				VANDPS(v, d, d)
			} else {
				VMULPS(v, d, d)
			}
			l.store(d, dx)
		})
		ret()

		if a.name != "SiLU" && a.name != "GELUTanh" {
			continue
		}
		text("gated"+a.name+"AVX2", "func(dst, gate, up *float32, n int)", "sets dst = act(gate)·up.")
		dst, gate, up, n, e := ptr("dst"), ptr("gate"), ptr("up"), ptr("n"), loadExpLimits()
		loop(n, []reg.Register{dst, gate, up}, func(l *lanes) {
			v := a.forward(e, l.load(gate))
			VMULPS(l.load(up), v, v)
			l.store(v, dst)
		})
		ret()

		text("gatedGrad"+a.name+"AVX2", "func(dgate, dup, dy, gate, up *float32, n int)", "sets dgate = dy·up·act'(gate), dup = dy·act(gate).")
		dgate, dup, dy, gate, up, n, e := ptr("dgate"), ptr("dup"), ptr("dy"), ptr("gate"), ptr("up"), ptr("n"), loadExpLimits()
		loop(n, []reg.Register{dgate, dup, dy, gate, up}, func(l *lanes) {
			g, d := l.load(gate), l.load(dy)
			v := a.forward(e, copyOf(g))
			VMULPS(d, v, v)
			w := a.grad(e, g)
			VMULPS(l.load(up), d, d)
			VMULPS(d, w, w)
			l.store(v, dup)
			l.store(w, dgate)
		})
		ret()
	}
}

func (a act) limits() expLimits {
	if a.noExp {
		return expLimits{}
	}
	return loadExpLimits()
}

// genEpilogues emits, for each activation and for none,
//
//	func name(c *float32, ldc int, bias *float32, pre *float32, ldpre int, res *float32, ldres, rows, n8 int)
//
// which replaces rows of 8·n8 elements of c by act(c + bias) + res, storing the
// argument of act to pre. bias, pre and res may be nil. Strides count elements.
// The slope form stores the derivative of act at its argument instead, in a
// pre that is not nil. timesRows multiplies rows by those of f.
func genEpilogues() {
	for _, a := range append([]act{{name: "None", noExp: true, forward: func(_ expLimits, x vec) vec { return x }}}, acts...) {
		genEpilogue("epilogue"+a.name+"AVX2", "sets c = act(c+bias) + res; see genEpilogues in _asm.", a, false)
		if a.both != nil {
			genEpilogue("slope"+a.name+"AVX2", "is the epilogue that stores act'(c+bias) to pre.", a, true)
		}
	}
	text("timesRowsAVX2", "func(c *float32, ldc int, f *float32, ldf, rows, n8 int)", "multiplies rows of 8·n8 elements of c by those of f.")
	c, factor, ldc, ldf := ptr("c"), ptr("f"), ptr("ldc"), ptr("ldf")
	SHLQ(Imm(2), ldc)
	SHLQ(Imm(2), ldf)
	rows, width := ptr("rows"), ptr("n8")
	SHLQ(Imm(5), width)
	eachRow(rows, width, func(at func(reg.Register) Mem) {
		x := YMM()
		VMOVUPS(at(c), x)
		VMULPS(at(factor), x, x)
		VMOVUPS(x, at(c))
	}, func() {
		ADDQ(ldc, c)
		ADDQ(ldf, factor)
	})
	ret()
}

// eachRow emits a loop over rows and, inside it, one over width bytes of a row.
func eachRow(rows, width reg.Register, body func(at func(reg.Register) Mem), next func()) {
	Label("row")
	o := GP64()
	XORQ(o, o)
	Label("loop")
	body(func(p reg.Register) Mem { return Mem{Base: p, Index: o, Scale: 1} })
	ADDQ(Imm(32), o)
	CMPQ(o, width)
	JLT(LabelRef("loop"))
	next()
	DECQ(rows)
	JNZ(LabelRef("row"))
}

func genEpilogue(name, doc string, a act, slope bool) {
	text(name, "func(c *float32, ldc int, bias, pre *float32, ldpre int, res *float32, ldres, rows, n8 int)", doc)
	c, bias, pre, res := ptr("c"), ptr("bias"), ptr("pre"), ptr("res")
	ldc, ldpre, ldres := ptr("ldc"), ptr("ldpre"), ptr("ldres")
	for _, r := range []reg.Register{ldc, ldpre, ldres} {
		SHLQ(Imm(2), r)
	}
	rows, width := ptr("rows"), ptr("n8")
	SHLQ(Imm(5), width)
	var e expLimits
	if slope || !a.noExp {
		e = loadExpLimits()
	}
	eachRow(rows, width, func(at func(reg.Register) Mem) {
		x := YMM()
		VMOVUPS(at(c), x)
		unlessNil(bias, "bias", func() { VADDPS(at(bias), x, x) })
		if slope {
			y, g := a.both(e, x)
			VMOVUPS(g, at(pre))
			x = y
		} else {
			unlessNil(pre, "pre", func() { VMOVUPS(x, at(pre)) })
			x = a.forward(e, x)
		}
		unlessNil(res, "res", func() { VADDPS(at(res), x, x) })
		VMOVUPS(x, at(c))
	}, func() {
		ADDQ(ldc, c)
		unlessNil(pre, "nextpre", func() { ADDQ(ldpre, pre) })
		unlessNil(res, "nextres", func() { ADDQ(ldres, res) })
	})
	ret()
}

func unlessNil(p reg.Register, label string, body func()) {
	TESTQ(p, p)
	JZ(LabelRef("no" + label))
	body()
	Label("no" + label)
}

// genReductions emits the sums and maxima.
func genReductions() {
	text("dotAVX2", "func(x, y *float32, n int) float64", "returns Σ x·y.")
	x, y, n, lo, hi := ptr("x"), ptr("y"), ptr("n"), zero(), zero()
	loop(n, []reg.Register{x, y}, func(l *lanes) {
		a, b := widen(l.load(x))
		c, d := widen(l.load(y))
		VFMADD231PD(a, c, lo)
		VFMADD231PD(b, d, hi)
	})
	Store(sumPD(lo, hi), ReturnIndex(0))
	ret()

	text("sumAVX2", "func(x *float32, n int) float64", "returns Σ x.")
	x, n, lo, hi = ptr("x"), ptr("n"), zero(), zero()
	loop(n, []reg.Register{x}, func(l *lanes) { addPD(l.load(x), lo, hi) })
	Store(sumPD(lo, hi), ReturnIndex(0))
	ret()

	text("centredAVX2", "func(x *float32, n int, mean float32) float64", "returns Σ (x-mean)², the differences in float64.")
	x, n, lo, hi = ptr("x"), ptr("n"), zero(), zero()
	m := YMM()
	VCVTPS2PD(broadcast("mean").AsX(), m)
	loop(n, []reg.Register{x}, func(l *lanes) {
		a, b := widen(l.load(x))
		VSUBPD(m, a, a)
		VSUBPD(m, b, b)
		if l.masked {
			s, t := YMM(), XMM()
			VPMOVSXDQ(l.mask.AsX(), s)
			VANDPD(s, a, a)
			VEXTRACTF128(Imm(1), l.mask, t)
			VPMOVSXDQ(t, s)
			VANDPD(s, b, b)
		}
		VFMADD231PD(a, a, lo)
		VFMADD231PD(b, b, hi)
	})
	Store(sumPD(lo, hi), ReturnIndex(0))
	ret()

	text("maxAbsAVX2", "func(x *float32, n int) (max float32, nan uint32)", "returns max |x|; nan is not 0 if there was one.")
	x, n = ptr("x"), ptr("n")
	acc, nan := zero(), zero()
	loop(n, []reg.Register{x}, func(l *lanes) {
		v := l.load(x)
		noteNaN(v, nan)
		VANDPS(bitsOf(0x7fffffff), v, v)
		VMAXPS(v, acc, acc)
	})
	storeMax(acc, nan)

	text("maxAVX2", "func(x *float32, n int) (max float32, nan uint32)", "returns max x; nan is not 0 if there was one.")
	x, n = ptr("x"), ptr("n")
	acc, nan = YMM(), zero()
	VMOVUPS(bitsOf(0xff800000), acc)
	loop(n, []reg.Register{x}, func(l *lanes) {
		v := l.load(x)
		noteNaN(v, nan)
		if l.masked {
			VBLENDVPS(l.mask, v, acc, v)
		}
		VMAXPS(v, acc, acc)
	})
	storeMax(acc, nan)

	text("expSumAVX2", "func(dst, src *float32, n int, scale, bias float32) float32", "sets dst = exp(scale·src-bias) and returns its sum.")
	dst, src, n := ptr("dst"), ptr("src"), ptr("n")
	scale, bias, e := broadcast("scale"), broadcast("bias"), loadExpLimits()
	sum := zero()
	loop(n, []reg.Register{dst, src}, func(l *lanes) {
		v := l.load(src)
		VFMSUB213PS(bias, scale, v)
		v = e.exp(v)
		l.store(v, dst)
		l.keep(v)
		VADDPS(v, sum, sum)
	})
	Store(reducePS(sum, VADDPS), ReturnIndex(0))
	ret()
}

func noteNaN(v, nan vec) {
	u := YMM()
	VCMPPS(Imm(3), v, v, u) // unordered
	VORPS(u, nan, nan)
}

func storeMax(acc, nan vec) {
	Store(reducePS(acc, VMAXPS), ReturnIndex(0))
	r := GP32()
	VMOVMSKPS(nan, r)
	Store(r, ReturnIndex(1))
	ret()
}

// genNorms emits the rows of layer norm and RMS norm.
func genNorms() {
	for _, withBeta := range []bool{false, true} {
		name, sig := "normRowAVX2", "func(y, x, gamma *float32, n int, mean, rstd float32)"
		doc := "sets y = (x-mean)·rstd·gamma."
		if withBeta {
			name, sig = "normRowBetaAVX2", "func(y, x, gamma, beta *float32, n int, mean, rstd float32)"
			doc = "sets y = (x-mean)·rstd·gamma + beta."
		}
		text(name, sig, doc)
		y, x, gamma, n, mean, rstd := ptr("y"), ptr("x"), ptr("gamma"), ptr("n"), broadcast("mean"), broadcast("rstd")
		ptrs := []reg.Register{y, x, gamma}
		var beta reg.Register
		if withBeta {
			beta = ptr("beta")
			ptrs = append(ptrs, beta)
		}
		loop(n, ptrs, func(l *lanes) {
			v := l.load(x)
			VSUBPS(mean, v, v)
			VMULPS(rstd, v, v)
			g := l.load(gamma)
			if withBeta {
				VFMADD213PS(l.load(beta), g, v)
			} else {
				VMULPS(g, v, v)
			}
			l.store(v, y)
		})
		ret()
	}

	text("normSumsAVX2", "func(dy, x, gamma *float32, n int, mean, rstd float32) (sum, sumx float64)", "returns Σ dy·gamma and Σ dy·gamma·(x-mean)·rstd.")
	dy, x, gamma, n, mean, rstd := ptr("dy"), ptr("x"), ptr("gamma"), ptr("n"), broadcast("mean"), broadcast("rstd")
	glo, ghi, xlo, xhi := zero(), zero(), zero(), zero()
	loop(n, []reg.Register{dy, x, gamma}, func(l *lanes) {
		g := l.load(dy)
		VMULPS(l.load(gamma), g, g)
		v := l.load(x)
		VSUBPS(mean, v, v)
		VMULPS(rstd, v, v)
		a, b := widen(g)
		c, d := widen(v)
		VADDPD(a, glo, glo)
		VADDPD(b, ghi, ghi)
		VFMADD231PD(a, c, xlo)
		VFMADD231PD(b, d, xhi)
	})
	Store(sumPD(glo, ghi), ReturnIndex(0))
	Store(sumPD(xlo, xhi), ReturnIndex(1))
	ret()

	text("normGradRowAVX2", "func(dx, dy, x, gamma *float32, n int, mean, rstd, c1, c2 float32)", "sets dx = rstd·(dy·gamma - c1 - (x-mean)·rstd·c2).")
	dx := ptr("dx")
	dy, x, gamma, n, mean, rstd = ptr("dy"), ptr("x"), ptr("gamma"), ptr("n"), broadcast("mean"), broadcast("rstd")
	c1, c2 := broadcast("c1"), broadcast("c2")
	loop(n, []reg.Register{dx, dy, x, gamma}, func(l *lanes) {
		v := l.load(x)
		VSUBPS(mean, v, v)
		VMULPS(rstd, v, v)
		g := l.load(gamma)
		VFMSUB132PS(l.load(dy), c1, g) // dy·gamma - c1
		VFNMADD231PS(v, c2, g)
		VMULPS(rstd, g, g)
		l.store(g, dx)
	})
	ret()

	text("normParamsAVX2", "func(dgamma, dy, x *float32, n int, mean, rstd float32)", "adds dy·(x-mean)·rstd to dgamma.")
	dgamma := ptr("dgamma")
	dy, x, n, mean, rstd = ptr("dy"), ptr("x"), ptr("n"), broadcast("mean"), broadcast("rstd")
	loop(n, []reg.Register{dgamma, dy, x}, func(l *lanes) {
		v := l.load(x)
		VSUBPS(mean, v, v)
		VMULPS(rstd, v, v)
		d := l.load(dgamma)
		VFMADD231PS(l.load(dy), v, d)
		l.store(d, dgamma)
	})
	ret()
}

// genAdamW emits one step of AdamW; the fields of adamConsts are at c.
func genAdamW() {
	text("adamWAVX2", "func(w, grad, m, v *float32, n int, c *float32)", "is goAdamW; c are the fields of adamConsts.")
	w, g, m, v, n, c := ptr("w"), ptr("grad"), ptr("m"), ptr("v"), ptr("n"), ptr("c")
	names := []string{"beta1", "beta2", "rest1", "rest2", "step", "rootBias2", "eps", "decay", "gradScale"}
	k := map[string]vec{}
	for i, name := range names {
		k[name] = YMM()
		VBROADCASTSS(Mem{Base: c, Disp: 4 * i}, k[name])
	}
	loop(n, []reg.Register{w, g, m, v}, func(l *lanes) {
		grad := l.load(g)
		VMULPS(k["gradScale"], grad, grad)
		t := YMM()
		VMULPS(k["rest1"], grad, t)
		mi := l.load(m)
		VFMADD132PS(k["beta1"], t, mi)
		l.store(mi, m)
		VMULPS(k["rest2"], grad, t)
		VMULPS(grad, t, t)
		vi := l.load(v)
		VFMADD132PS(k["beta2"], t, vi)
		l.store(vi, v)
		VSQRTPS(vi, vi)
		VDIVPS(k["rootBias2"], vi, vi)
		VADDPS(k["eps"], vi, vi)
		VMULPS(k["step"], mi, mi)
		VDIVPS(vi, mi, mi)
		wi := l.load(w)
		VFMSUB132PS(k["decay"], mi, wi)
		l.store(wi, w)
	})
	ret()
}
