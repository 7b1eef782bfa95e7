package main

import "fmt"

// genReductions emits the sums and maxima.
func genReductions() {
	text("dotNEON", "(x, y *float32, n int) float64", "returns Σ x·y.")
	x, y, n, lo, hi := load64("x"), load64("y"), load64("n"), keep(zero(4)), keep(zero(4))
	wideLoop(n, []gp{x, y}, func(l lanes) {
		a, b := widen(l.load(x))
		c, d := widen(l.load(y))
		fmla2.into(part(lo), a, c)
		fmla2.into(part(hi), b, d)
	})
	return64("ret", lo, hi)
	ret()

	text("sumNEON", "(x *float32, n int) float64", "returns Σ x.")
	x, n, lo, hi = load64("x"), load64("n"), keep(zero(4)), keep(zero(4))
	wideLoop(n, []gp{x}, func(l lanes) {
		a, b := widen(l.load(x))
		fadd2.into(part(lo), part(lo), a)
		fadd2.into(part(hi), part(hi), b)
	})
	return64("ret", lo, hi)
	ret()

	text("centredNEON", "(x *float32, n int, mean float32) float64", "returns Σ (x-mean)², the differences in float64.")
	x, n, lo, hi = load64("x"), load64("n"), keep(zero(4)), keep(zero(4))
	mean := keep(fcvtl.of(broadcast("mean")))
	wideLoop(n, []gp{x}, func(l lanes) {
		a, b := widen(l.load(x))
		a = fsub2.of(a, mean)
		if l.single {
			a = and.of(a, words([4]uint32{1<<32 - 1, 1<<32 - 1}))
		} else {
			b = fsub2.of(b, mean)
			fmla2.into(part(hi), b, b)
		}
		fmla2.into(part(lo), a, a)
	})
	return64("ret", lo, hi)
	ret()

	text("maxAbsNEON", "(x *float32, n int) float32", "returns max |x|, or a NaN if there is one.")
	genMax(func(x vec) vec { return fabs.of(x) }, func() vec { return zero(4) })
	text("maxNEON", "(x *float32, n int) float32", "returns max x, or a NaN if there is one.")
	genMax(func(x vec) vec { return x }, func() vec {
		cur.u = 4
		return copyOf(bits(0xff800000))
	})

	text("expSumNEON", "(dst, src *float32, n int, scale, bias float32) float32", "sets dst = exp(scale·src-bias) and returns its sum.")
	dst, src, n := load64("dst"), load64("src"), load64("n")
	scale, minus, sum := broadcast("scale"), keep(fneg.of(broadcast("bias"))), keep(zero(2))
	loop(n, []gp{dst, src}, func(l lanes) {
		v := copyOf(minus)
		fmla.into(v, l.load(src), scale)
		v = exp(v)
		l.store(v, dst)
		fadd.into(part(sum), part(sum), l.keep(v))
	})
	total := fold(fadd, sum)
	total = faddp.of(total, total)
	plain("FMOVS F%d, "+arg("ret"), faddp.of(total, total)...)
	ret()
}

// genMax is the body of a maximum: FMAX hands on every NaN.
func genMax(of func(x vec) vec, start func() vec) {
	x, n, acc := load64("x"), load64("n"), keep(start())
	wideLoop(n, []gp{x}, func(l lanes) { fmax.into(part(acc), part(acc), of(l.loadAll(x))) })
	m := fold(fmax, acc)
	emit(inst{format: "fmaxv s%d, v%d.4s", base: 0x6e30f800, regs: []reg{m[0], m[0]}})
	plain("FMOVS F%d, "+arg("ret"), m...)
	ret()
}

func return64(name string, values ...vec) {
	plain("FMOVD F%d, "+arg(name), sum64(values...))
}

// genNorms emits the rows of layer norm and RMS norm.
func genNorms() {
	for _, withBeta := range []bool{false, true} {
		name, beta, doc := "normRowNEON", "", "sets y = (x-mean)·rstd·gamma."
		if withBeta {
			name, beta, doc = "normRowBetaNEON", ", beta", "sets y = (x-mean)·rstd·gamma + beta."
		}
		text(name, "(y, x, gamma"+beta+" *float32, n int, mean, rstd float32)", doc)
		y, x, gamma, n, hat := load64("y"), load64("x"), load64("gamma"), load64("n"), standardised()
		ptrs := []gp{y, x, gamma}
		if withBeta {
			ptrs = append(ptrs, load64("beta"))
		}
		loop(n, ptrs, func(l lanes) {
			v, g := hat(l.load(x)), l.load(gamma)
			if withBeta {
				b := l.load(ptrs[3])
				fmla.into(b, v, g)
				l.store(b, y)
			} else {
				l.store(fmul.of(v, g), y)
			}
		})
		ret()
	}

	text("normSumsNEON", "(dy, x, gamma *float32, n int, mean, rstd float32) (sum, sumx float64)", "returns Σ dy·gamma and Σ dy·gamma·(x-mean)·rstd.")
	dy, x, gamma, n, hat := load64("dy"), load64("x"), load64("gamma"), load64("n"), standardised()
	glo, ghi, xlo, xhi := keep(zero(2)), keep(zero(2)), keep(zero(2)), keep(zero(2))
	loop(n, []gp{dy, x, gamma}, func(l lanes) {
		a, b := widen(fmul.of(l.load(dy), l.load(gamma)))
		c, d := widen(hat(l.load(x)))
		fadd2.into(part(glo), part(glo), a)
		fadd2.into(part(ghi), part(ghi), b)
		fmla2.into(part(xlo), a, c)
		fmla2.into(part(xhi), b, d)
	})
	return64("sum", glo, ghi)
	return64("sumx", xlo, xhi)
	ret()

	text("normGradRowNEON", "(dx, dy, x, gamma *float32, n int, mean, rstd, c1, c2 float32)", "sets dx = rstd·(dy·gamma - c1 - (x-mean)·rstd·c2).")
	dx := load64("dx")
	dy, x, gamma, n, hat = load64("dy"), load64("x"), load64("gamma"), load64("n"), standardised()
	minus, c2, rstd := keep(fneg.of(broadcast("c1"))), broadcast("c2"), broadcast("rstd")
	loop(n, []gp{dx, dy, x, gamma}, func(l lanes) {
		v, g := hat(l.load(x)), copyOf(minus)
		fmla.into(g, l.load(dy), l.load(gamma))
		fmls.into(g, v, c2)
		l.store(fmul.of(g, rstd), dx)
	})
	ret()

	text("normParamsNEON", "(dgamma, dy, x *float32, n int, mean, rstd float32)", "adds dy·(x-mean)·rstd to dgamma.")
	dgamma := load64("dgamma")
	dy, x, n, hat = load64("dy"), load64("x"), load64("n"), standardised()
	loop(n, []gp{dgamma, dy, x}, func(l lanes) {
		v, d := hat(l.load(x)), l.load(dgamma)
		fmla.into(d, l.load(dy), v)
		l.store(d, dgamma)
	})
	ret()
}

// standardised returns x to (x-mean)·rstd of the parameters.
func standardised() func(x vec) vec {
	mean, rstd := broadcast("mean"), broadcast("rstd")
	return func(x vec) vec { return fmul.of(fsub.of(x, mean), rstd) }
}

// genAdamW emits one step of AdamW; the fields of adamConsts are at c.
func genAdamW() {
	text("adamWNEON", "(w, grad, m, v *float32, n int, c *float32)", "is goAdamW; c are the fields of adamConsts.")
	w, g, m, v, n, c := load64("w"), load64("grad"), load64("m"), load64("v"), load64("n"), load64("c")
	k := map[string]vec{}
	for _, name := range []string{"beta1", "beta2", "rest1", "rest2", "step", "rootBias2", "eps", "decay", "gradScale"} {
		k[name] = keep(loadAll(c))
		plain(fmt.Sprintf("ADD $4, %s", c))
	}
	loop(n, []gp{w, g, m, v}, func(l lanes) {
		grad := fmul.of(l.load(g), k["gradScale"])
		mi := fmul.of(grad, k["rest1"])
		fmla.into(mi, l.load(m), k["beta1"])
		l.store(mi, m)
		vi := fmul.of(fmul.of(grad, k["rest2"]), grad)
		fmla.into(vi, l.load(v), k["beta2"])
		l.store(vi, v)
		root := fadd.of(fdiv.of(fsqrt.of(vi), k["rootBias2"]), k["eps"])
		wi := fmul.of(l.load(w), k["decay"])
		l.store(fsub.of(wi, fdiv.of(fmul.of(mi, k["step"]), root)), w)
	})
	ret()
}

// genTranspose emits the transposition of 4 rows of 4·n4 elements.
func genTranspose() {
	text("transpose4NEON", "(dst *float32, ldd int, src *float32, lds, n4 int)", "transposes 4 rows of 4·n4 elements; strides count elements.")
	dst, ldd, lds, n := load64("dst"), load64("ldd"), load64("lds"), load64("n4")
	from, to := []gp{load64("src"), newGP(), newGP(), newGP()}, []gp{dst, newGP(), newGP(), newGP()}
	follow := func(p []gp, ld gp) {
		for i := range 3 {
			plain(fmt.Sprintf("ADD %s<<2, %s, %s", ld, p[i], p[i+1]))
		}
	}
	follow(from, lds)
	label("block")
	follow(to, ldd)
	var x [4]vec
	for i, p := range from {
		x[i] = ldr(p, 0)
		plain(fmt.Sprintf("ADD $16, %s", p))
	}
	a, b := zip1.of(x[0], x[1]), zip2.of(x[0], x[1])
	c, d := zip1.of(x[2], x[3]), zip2.of(x[2], x[3])
	for i, v := range []vec{zip1d.of(a, c), zip2d.of(a, c), zip1d.of(b, d), zip2d.of(b, d)} {
		str(v, to[i], 0)
	}
	plain(fmt.Sprintf("ADD %s<<4, %s", ldd, dst))
	plain(fmt.Sprintf("SUBS $1, %s, %s", n, n))
	plain("BNE block")
	ret()
}
