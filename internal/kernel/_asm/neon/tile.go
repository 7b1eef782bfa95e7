package main

import "fmt"

// genTile64 emits the microkernel of products in float64, of 6x8: 24 of the 32 registers are its
// tile of C, four a row of B. Rows past the last are computed from the first one again and not
// stored.
func genTile64() {
	text("tileNEON64x6x8", "(k int, a *float64, ars, acs int, b *float64, brs int, c *float64, ldc, m, acc int)",
		"computes one tile of 6x8 as tileKernel.strided does, with m from 1 to 6.")
	k, a, ars, acs, b, brs := load64("k"), load64("a"), load64("ars"), load64("acs"), load64("b"), load64("brs")
	c, ldc, m, acc := load64("c"), load64("ldc"), load64("m"), load64("acc")
	for _, r := range []gp{ars, acs, brs, ldc} {
		plain(fmt.Sprintf("LSL $3, %s", r))
	}
	rows := []gp{a, newGP(), newGP(), newGP(), newGP(), ars} // the last takes the place of the stride
	for i := 1; i < 6; i++ {
		plain(fmt.Sprintf("ADD %s, %s, R14", ars, rows[i-1]))
		plain(fmt.Sprintf("CMP $%d, %s", i, m))
		plain(fmt.Sprintf("CSEL GT, R14, %s, %s", a, rows[i]))
	}
	var sums []vec
	for range rows {
		sums = append(sums, keep(zero(4)))
	}
	cur.u = 4
	plain(fmt.Sprintf("CBZ %s, sum", k))
	label("step")
	row := ldr(b, 0)
	plain(fmt.Sprintf("ADD %s, %s", brs, b))
	for i, p := range rows {
		x := freshOne()
		emit(inst{format: fmt.Sprintf("ld1r {v%%d.2d}, [x%d], x%d", p.number(), acs.number()), base: 0x4dc0cc00 | acs.number()<<16 | p.number()<<5, regs: x})
		fmla2.into(sums[i], row, x)
	}
	plain(fmt.Sprintf("SUBS $1, %s, %s", k, k))
	plain("BNE step")

	eachOf := func(p gp, done string, body func(sum vec)) {
		for i, s := range sums {
			if i > 0 {
				plain(fmt.Sprintf("CMP $%d, %s", i, m))
				plain("BLE " + done)
			}
			body(s)
			plain(fmt.Sprintf("ADD %s, %s", ldc, p))
		}
		label(done)
	}
	label("sum")
	plain(fmt.Sprintf("CBZ %s, store", acc))
	plain(fmt.Sprintf("MOVD %s, R14", c))
	eachOf("R14", "store", func(sum vec) { fadd2.into(sum, sum, ldr("R14", 0)) })
	eachOf(c, "end", func(sum vec) { str(sum, c, 0) })
	ret()
}
