package main

import "fmt"

// genMaps emits the elementwise functions without an activation in them.
func genMaps() {
	text("expNEON", "(dst, src *float32, n int)", "sets dst = exp(src).")
	map1(exp)
	text("tanhNEON", "(dst, src *float32, n int)", "sets dst = tanh(src).")
	map1(tanh)
	text("addNEON", "(dst, a, b *float32, n int)", "sets dst = a + b.")
	map2(func(a, b vec) vec { return fadd.of(a, b) })
	text("mulNEON", "(dst, a, b *float32, n int)", "sets dst = a·b.")
	map2(func(a, b vec) vec { return fmul.of(a, b) })

	text("axpyNEON", "(alpha float32, x, y *float32, n int)", "adds alpha·x to y, rounding once.")
	x, y, n, alpha := load64("x"), load64("y"), load64("n"), broadcast("alpha")
	wideLoop(n, []gp{x, y}, func(l lanes) {
		v, w := l.load(x), l.load(y)
		fmla.into(w, v, alpha)
		l.store(w, y)
	})
	ret()

	text("scaleNEON", "(alpha float32, x *float32, n int)", "multiplies x by alpha.")
	x, n, alpha = load64("x"), load64("n"), broadcast("alpha")
	wideLoop(n, []gp{x}, func(l lanes) { l.store(fmul.of(l.load(x), alpha), x) })
	ret()

	text("gradExpNEON", "(dst, src *float32, n int, bias, scale float32)", "sets dst = scale·exp(src-bias).")
	dst, src, n, bias, scale := load64("dst"), load64("src"), load64("n"), broadcast("bias"), broadcast("scale")
	loop(n, []gp{dst, src}, func(l lanes) {
		l.store(fmul.of(exp(fsub.of(l.load(src), bias)), scale), dst)
	})
	ret()
}

// map1 is the body of func(dst, src *float32, n int).
func map1(fn func(x vec) vec) {
	dst, src, n := load64("dst"), load64("src"), load64("n")
	loop(n, []gp{dst, src}, func(l lanes) { l.store(fn(l.load(src)), dst) })
	ret()
}

// map2 is the body of func(dst, a, b *float32, n int).
func map2(fn func(a, b vec) vec) {
	dst, a, b, n := load64("dst"), load64("a"), load64("b"), load64("n")
	wideLoop(n, []gp{dst, a, b}, func(l lanes) { l.store(fn(l.load(a), l.load(b)), dst) })
	ret()
}

// genActs emits for each activation its value, its derivative, and for the two
// that gate an MLP the gated forms.
func genActs() {
	for _, a := range acts {
		text("act"+a.name+"NEON", "(dst, src *float32, n int)", "is the activation.")
		map1(a.value)

		text("grad"+a.name+"NEON", "(dx, dy, pre *float32, n int)", "sets dx = dy·act'(pre).")
		dx, dy, pre, n := load64("dx"), load64("dy"), load64("pre"), load64("n")
		loop(n, []gp{dx, dy, pre}, func(l lanes) {
			if a.grad == nil { // ReLU: a factor of 0 would make NaN of an infinite dy
				l.store(bic.of(l.load(dy), fcmle0.of(l.load(pre))), dx)
				return
			}
			g := a.grad(l.load(pre))
			l.store(fmul.of(g, l.load(dy)), dx)
		})
		ret()

		if a.name != "SiLU" && a.name != "GELUTanh" {
			continue
		}
		text("gated"+a.name+"NEON", "(dst, gate, up *float32, n int)", "sets dst = act(gate)·up.")
		dst, gate, up, n := load64("dst"), load64("gate"), load64("up"), load64("n")
		loop(n, []gp{dst, gate, up}, func(l lanes) {
			v := a.value(l.load(gate))
			l.store(fmul.of(v, l.load(up)), dst)
		})
		ret()

		text("gatedGrad"+a.name+"NEON", "(dgate, dup, dy, gate, up *float32, n int)", "sets dgate = dy·up·act'(gate), dup = dy·act(gate).")
		dgate, dup, dy, gate, up, n := load64("dgate"), load64("dup"), load64("dy"), load64("gate"), load64("up"), load64("n")
		loop(n, []gp{dgate, dup, dy, gate, up}, func(l lanes) {
			v, g := a.both(l.load(gate))
			d, u := l.load(dy), l.load(up)
			l.store(fmul.of(v, d), dup)
			l.store(fmul.of(g, fmul.of(d, u)), dgate)
		})
		ret()
	}
}

// genEpilogues emits the functions of kernel.epilogueFunc: rows of 8·n8 elements of c become
// act(c + bias) + res, the argument of act going to pre, where they are not nil; the slope
// form stores the derivative of act there instead, in a pre that is not nil. timesRows
// multiplies rows by those of f.
func genEpilogues() {
	genEpilogue("epilogueNoneNEON", "sets c = c+bias + res; see genEpilogues in _asm/neon.", func(x vec) vec { return x }, nil)
	for _, a := range acts {
		genEpilogue("epilogue"+a.name+"NEON", "sets c = act(c+bias) + res; see genEpilogues in _asm/neon.", a.value, nil)
		if a.name == "GELU" || a.name == "GELUTanh" {
			genEpilogue("slope"+a.name+"NEON", "is the epilogue that stores act'(c+bias) to pre.", nil, a.both)
		}
	}
	text("timesRowsNEON", "(c *float32, ldc int, f *float32, ldf, rows, n8 int)", "multiplies rows of 8·n8 elements of c by those of f.")
	c, ldc, f, ldf, rows, n8 := load64("c"), load64("ldc"), load64("f"), load64("ldf"), load64("rows"), load64("n8")
	plain(fmt.Sprintf("LSL $5, %s", n8))
	eachRow(rows, n8, func(at row) { at.store(fmul.of(at.load(c), at.load(f)), c) }, func() {
		stride(c, ldc)
		stride(f, ldf)
	})
	ret()
}

// stride moves p by ld elements of float32.
func stride(p, ld gp) { plain(fmt.Sprintf("ADD %s<<2, %s", ld, p)) }

func genEpilogue(name, doc string, value func(x vec) vec, slope func(x vec) (y, g vec)) {
	text(name, "(c *float32, ldc int, bias, pre *float32, ldpre int, res *float32, ldres, rows, n8 int)", doc)
	c, ldc, bias, pre, ldpre := load64("c"), load64("ldc"), load64("bias"), load64("pre"), load64("ldpre")
	res, ldres, rows, n8 := load64("res"), load64("ldres"), load64("rows"), load64("n8")
	plain(fmt.Sprintf("LSL $5, %s", n8))
	eachRow(rows, n8, func(at row) {
		x := at.load(c)
		unlessNil(bias, "bias", func() { fadd.into(x, x, at.load(bias)) })
		if slope != nil {
			y, g := slope(x)
			at.store(g, pre)
			x = y
		} else {
			unlessNil(pre, "pre", func() { at.store(x, pre) })
			x = value(x)
		}
		unlessNil(res, "res", func() { fadd.into(x, x, at.load(res)) })
		at.store(x, c)
	}, func() {
		stride(c, ldc)
		unlessNil(pre, "nextpre", func() { stride(pre, ldpre) })
		unlessNil(res, "nextres", func() { stride(res, ldres) })
	})
	ret()
}
