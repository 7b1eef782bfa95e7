package main

import "fmt"

// genDropout emits dropout for 32 elements at a time, a group of four counters, two groups
// together while there are.
func genDropout() {
	text("dropoutNEON", "(dst, src *float32, n32 int, threshold uint32, scale float32, key, stream, block uint64)", "is goDropout for 32·n32 elements.")
	o := masks{dst: load64("dst"), src: load64("src"), n: load64("n32"), block: load64("block"), threshold: load32("threshold"),
		key: halves("key"), stream: halves("stream"), round: [2]gp{newGP(), newGP()}, weyl: [2]gp{newGP(), newGP()}}
	o.scale = broadcast("scale")
	plain("MOVD $0x9e3779b9, " + string(o.weyl[0]))
	plain("MOVD $0xbb67ae85, " + string(o.weyl[1]))
	plain(fmt.Sprintf("SUBS $2, %s, %s", o.n, o.n))
	plain("BLT single")
	label("pair")
	o.draw(2)
	plain(fmt.Sprintf("SUBS $2, %s, %s", o.n, o.n))
	plain("BGE pair")
	label("single")
	plain(fmt.Sprintf("ADDS $2, %s, %s", o.n, o.n))
	plain("BEQ end")
	o.draw(1)
	label("end")
	ret()
}

// masks are the registers of dropout's loop.
type masks struct {
	dst, src, n, block, threshold gp
	key, stream, round, weyl      [2]gp
	scale                         vec
}

// halves loads the low and the high word of a uint64 parameter.
func halves(name string) [2]gp {
	lo, hi := load64(name), newGP()
	plain(fmt.Sprintf("LSR $32, %s, %s", lo, hi))
	return [2]gp{lo, hi}
}

// draw emits groups of 32 elements and steps over them. A vector holds the same word of four
// counters; at the end they are transposed, to one vector of eight halves for each counter.
func (o *masks) draw(groups int) {
	const rounds = 7
	cur.u = groups
	for i := range o.key {
		plain(fmt.Sprintf("MOVD %s, %s", o.key[i], o.round[i]))
	}
	var first, second vec
	for g := range uint32(groups) {
		first = append(first, words([4]uint32{4 * g, 0, 4*g + 1})...)
		second = append(second, words([4]uint32{4*g + 2, 0, 4*g + 3})...)
	}
	base := dup("2d", o.block)
	first, second = add2.of(base, first), add2.of(base, second)
	c := [4]vec{uzp1.of(first, second), uzp2.of(first, second), dup("4s", o.stream[0]), dup("4s", o.stream[1])}
	for round := range rounds {
		lo0, hi0 := product(c[0], bits(0xD2511F53))
		lo1, hi1 := product(c[2], bits(0xCD9E8D57))
		c = [4]vec{
			eor.of(hi1, eor.of(c[1], dup("4s", o.round[0]))), lo1,
			eor.of(hi0, eor.of(c[3], dup("4s", o.round[1]))), lo0,
		}
		if round < rounds-1 {
			for i := range o.round {
				plain(fmt.Sprintf("ADDW %s, %s", o.weyl[i], o.round[i]))
			}
		}
	}
	a, b := zip1.of(c[0], c[1]), zip2.of(c[0], c[1])
	d, e := zip1.of(c[2], c[3]), zip2.of(c[2], c[3])
	cur.u = 1
	threshold := dup("8h", o.threshold)
	for g := range groups {
		for i, counter := range []struct {
			zip    op
			lo, hi vec
		}{{zip1d, a, d}, {zip2d, a, d}, {zip1d, b, e}, {zip2d, b, e}} {
			r := counter.zip.of(counter.lo[g:g+1], counter.hi[g:g+1])
			kept := cmhs.of(r, threshold)
			for j, widen := range []op{zip1h, zip2h} {
				at := 128*g + 32*i + 16*j
				x := fmul.of(ldr(o.src, at), o.scale)
				str(and.of(x, widen.of(kept, kept)), o.dst, at)
			}
		}
	}
	plain(fmt.Sprintf("ADD $%d, %s", 4*groups, o.block))
	plain(fmt.Sprintf("ADD $%d, %s", 128*groups, o.src))
	plain(fmt.Sprintf("ADD $%d, %s", 128*groups, o.dst))
}

// product returns the low and the high words of x·m.
func product(x, m vec) (lo, hi vec) {
	p, q := umull.of(x, m), umull2.of(x, m)
	return uzp1.of(p, q), uzp2.of(p, q)
}

// genConversions emits dtype conversions of n8 groups of eight.
func genConversions() {
	group := func(name, signature, doc string, from, to int, body func(dst, src gp)) {
		text(name, signature, doc)
		dst, src, n := load64("dst"), load64("src"), load64("n8")
		label("eight")
		body(dst, src)
		plain(fmt.Sprintf("ADD $%d, %s", from, src))
		plain(fmt.Sprintf("ADD $%d, %s", to, dst))
		plain(fmt.Sprintf("SUBS $1, %s, %s", n, n))
		plain("BNE eight")
		ret()
	}
	widen := func(lo, hi op) func(dst, src gp) {
		return func(dst, src gp) {
			h := ldr(src, 0)
			str(lo.of(h), dst, 0)
			str(hi.of(h), dst, 16)
		}
	}
	group("bf16ToF32NEON", "(dst *float32, src *byte, n8 int)", "is goBF16ToF32.", 16, 32, widen(shll, shll2))
	group("f16ToF32NEON", "(dst *float32, src *byte, n8 int)", "is goF16ToF32.", 16, 32, widen(fcvtlh, fcvtlh2))
	group("f32ToF16NEON", "(dst *byte, src *float32, n8 int)", "is goF32ToF16.", 32, 16, func(dst, src gp) {
		h := fcvtnh.of(ldr(src, 0))
		fcvtnh2.into(h, ldr(src, 16))
		str(h, dst, 0)
	})
	group("f32ToBF16NEON", "(dst *byte, src *float32, n8 int)", "is goF32ToBF16.", 32, 16, func(dst, src gp) {
		cur.u = 2
		x := ldr(src, 0)
		r := add.of(and.of(ushr(x, 16), bits(1)), bits(0x7fff))
		r = add.of(r, x)
		number := fcmeq.of(x, x)
		bsl.into(number, r, orr.of(x, bits(0x400000))) // a NaN made quiet
		cur.u = 1
		str(uzp2h.of(number[:1], number[1:]), dst, 0)
	})

	text("unpackInt8NEON", "(dst *float32, src *int8, scale *float32, k int)", "is goUnpackInt8 for k rows of 16.")
	dst, src, scale, k := load64("dst"), load64("src"), load64("scale"), load64("k")
	var s []vec
	for i := range 4 {
		s = append(s, keep(ldr(scale, 16*i)))
	}
	label("row")
	q := ldr(src, 0)
	for i, h := range []vec{sxtlb.of(q), sxtlb2.of(q)} {
		for j, w := range []op{sxtlh, sxtlh2} {
			str(fmul.of(scvtf.of(w.of(h)), s[2*i+j]), dst, 16*(2*i+j))
		}
	}
	plain(fmt.Sprintf("ADD $16, %s", src))
	plain(fmt.Sprintf("ADD $64, %s", dst))
	plain(fmt.Sprintf("SUBS $1, %s, %s", k, k))
	plain("BNE row")
	ret()
}

// genStats emits the statistics of n8 groups of eight, lane by lane.
func genStats() {
	text("statsNEON", "(x *float32, n8 int, out *byte)", "writes the statLanes of x.")
	x, n, out := load64("x"), load64("n8"), load64("out")
	cur.u = 2
	lo, hi := keep(copyOf(bits(0x7f800000))), keep(copyOf(bits(0xff800000)))
	nans, finites := keep(zero(2)), keep(zero(2))
	s0, s1, q0, q1 := keep(zero(2)), keep(zero(2)), keep(zero(2)), keep(zero(2))
	label("eight")
	v := ldr(x, 0)
	finite := fcmgt.of(bits(0x7f800000), fabs.of(v)) // -1 in lanes that are
	add.into(finites, finites, finite)
	sub.into(nans, nans, mvn.of(fcmeq.of(v, v)))
	for _, m := range []struct {
		op       op
		acc      vec
		infinite uint32
	}{{fmin, lo, 0x7f800000}, {fmax, hi, 0xff800000}} {
		t := copyOf(finite)
		bsl.into(t, v, bits(m.infinite))
		m.op.into(m.acc, m.acc, t)
	}
	a, b := widen(and.of(v, finite))
	fadd2.into(s0, s0, a)
	fadd2.into(s1, s1, b)
	fmla2.into(q0, a, a)
	fmla2.into(q1, b, b)
	plain(fmt.Sprintf("ADD $32, %s", x))
	plain(fmt.Sprintf("SUBS $1, %s, %s", n, n))
	plain("BNE eight")
	for i, v := range []vec{lo, hi, nans, finites, s0, s1, q0, q1} {
		str(v, out, 32*i)
	}
	ret()
}
