package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// genStrided emits a microkernel of vectors of vw bytes, 32 (AVX2) or 64 (AVX-512),
//
//	func name(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int)
//
// with the meaning of tileKernel.strided. There is one body for each m up to mr, so
// that no row is computed in vain; more rows are taken mr at a time.
func genStrided(name string, mr, nv, vw int, f64 bool) {
	o := strided{mr: mr, nv: nv, vw: vw, shift: 2, regs: yregs, bcast: VBROADCASTSS, fma: VFMADD231PS, fmaBcast: VFMADD231PS_BCST, add: VADDPS, typ: "float32", set: ""}
	if f64 {
		o.shift, o.bcast, o.fma, o.fmaBcast, o.add, o.typ = 3, VBROADCASTSD, VFMADD231PD, VFMADD231PD_BCST, VADDPD, "float64"
	}
	if vw == 64 {
		o.regs, o.set = zregs, " AVX-512"
	}
	TEXT(name, NOSPLIT, fmt.Sprintf("func(k int, a *%[1]s, ars, acs int, b *%[1]s, brs, bjs int, c *%[1]s, ldc, m, nj, acc int)", o.typ))
	Doc(fmt.Sprintf("%s is a %dx%d%s microkernel; its reference is goStrided.", name, mr, nv*vw>>o.shift, o.set))
	Pragma("noescape")

	o.a, o.b, o.c = Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("c"), GP64())
	o.ars, o.acs = Load(Param("ars"), GP64()), Load(Param("acs"), GP64())
	o.brs, o.ldc = Load(Param("brs"), GP64()), Load(Param("ldc"), GP64())
	o.nj = Load(Param("nj"), GP64())
	for _, r := range []reg.Register{o.ars, o.acs, o.brs, o.ldc} {
		SHLQ(Imm(o.shift), r)
	}
	if vw == 64 {
		o.multiples()
	}
	Label("panel")
	m := Load(Param("m"), GP64())
	for i := 1; i < mr; i++ {
		CMPQ(m, Imm(uint64(i)))
		JE(LabelRef(fmt.Sprintf("rows%d", i)))
	}
	for i := mr; i > 0; i-- {
		o.rows(i)
	}
	Label("end")
	VZEROUPPER()
	RET()
}

type strided struct {
	mr, nv, vw                      int
	shift                           uint64
	regs                            []reg.Register
	bcast, fma, fmaBcast, add       func(ops ...Op)
	typ, set                        string
	a, b, c, ars, acs, brs, ldc, nj reg.Register
	odd                             [4]reg.Register // ars once, 3, 5 and 7 times (AVX-512)
	pa                              []reg.Register  // of rows 0, 3, 6; of row 0 with AVX-512
	pb                              reg.Register
}

// multiples computes the odd multiples of ars. With them and the scales of an index, one
// pointer reaches eight rows of A, which saves additions: a processor that starts four
// instructions a cycle just keeps up with two multiplications.
func (o *strided) multiples() {
	o.odd[0] = o.ars
	for i := 1; 2*i+1 < o.mr; i++ {
		o.odd[i] = GP64()
		LEAQ(Mem{Base: o.odd[i-1], Index: o.ars, Scale: 2}, o.odd[i])
	}
}

// pointers sets pa and pb to the first step.
func (o *strided) pointers(m int) {
	o.pa, o.pb = []reg.Register{GP64()}, GP64()
	MOVQ(o.a, o.pa[0])
	MOVQ(o.b, o.pb)
	for i := 3; i < m && o.vw == 32; i += 3 {
		last, next := o.pa[len(o.pa)-1], GP64()
		LEAQ(Mem{Base: last, Index: o.ars, Scale: 2}, next)
		ADDQ(o.ars, next)
		o.pa = append(o.pa, next)
	}
}

// element is where row i of A has the step's element. AVX2 reaches three rows from a
// pointer, with the index ars once and twice.
func (o *strided) element(i int) Mem {
	if o.vw == 32 {
		src := Mem{Base: o.pa[i/3]}
		if i%3 > 0 {
			src.Index, src.Scale = o.ars, uint8(i%3)
		}
		return src
	}
	src := Mem{Base: o.pa[0]}
	if i > 0 {
		scale := i & -i
		src.Index, src.Scale = o.odd[i/scale/2], uint8(scale)
	}
	return src
}

// rows emits the body for m rows.
func (o *strided) rows(m int) {
	l := func(s string) string { return fmt.Sprintf("%s%d", s, m) }

	Label(l("rows"))
	Label(l("tile"))
	p := GP64()
	o.lines(m, p, func(int) {
		PREFETCHT0(Mem{Base: p})
		for d := 64; d < o.nv*o.vw && o.vw == 64; d += 64 {
			PREFETCHT0(Mem{Base: p, Disp: d})
		}
	})
	for _, r := range o.regs[:m*o.nv] {
		if o.vw == 64 {
			VPXORD(r, r, r)
		} else {
			VXORPS(r, r, r)
		}
	}
	o.pointers(m)
	k := Load(Param("k"), GP64())
	unroll := 4
	if o.vw == 64 && m < o.mr { // the last rows of a product: their code is to be small
		unroll = 2
	}
	SUBQ(Imm(uint64(unroll)), k)
	JLT(LabelRef(l("rest")))
	Label(l("loop"))
	for range unroll {
		o.step(m)
	}
	SUBQ(Imm(uint64(unroll)), k)
	JGE(LabelRef(l("loop")))
	Label(l("rest"))
	ADDQ(Imm(uint64(unroll)), k)
	JZ(LabelRef(l("sum")))
	Label(l("one"))
	o.step(m)
	DECQ(k)
	JNZ(LabelRef(l("one")))

	Label(l("sum"))
	accum := Load(Param("acc"), GP64())
	TESTQ(accum, accum)
	JZ(LabelRef(l("store")))
	o.lines(m, p, func(i int) {
		for j := range o.nv {
			o.add(Mem{Base: p, Disp: j * o.vw}, o.acc(i, j), o.acc(i, j))
		}
	})
	Label(l("store"))
	o.lines(m, p, func(i int) {
		for j := range o.nv {
			VMOVUPS(o.acc(i, j), Mem{Base: p, Disp: j * o.vw})
		}
	})
	bjs := Load(Param("bjs"), GP64())
	SHLQ(Imm(o.shift), bjs)
	ADDQ(bjs, o.b)
	ADDQ(Imm(uint64(o.nv*o.vw)), o.c)
	DECQ(o.nj)
	JNZ(LabelRef(l("tile")))
	if m < o.mr {
		JMP(LabelRef("end"))
		return
	}
	o.next()
}

// acc is the sum of row i and vector j.
func (o *strided) acc(i, j int) reg.Register { return o.regs[i*o.nv+j] }

// lines emits f for each of m rows of C, with p pointing to it.
func (o *strided) lines(m int, p reg.Register, f func(i int)) {
	MOVQ(o.c, p)
	for i := range m {
		f(i)
		if i+1 < m {
			ADDQ(o.ldc, p)
		}
	}
}

// next goes on to the next mr rows, if there are any. Where they begin is kept in
// the arguments' own memory.
func (o *strided) next() {
	m := Load(Param("m"), GP64())
	SUBQ(Imm(uint64(o.mr)), m)
	JZ(LabelRef("end"))
	Store(m, Param("m"))
	Load(Param("c"), o.c)
	if o.vw == 64 {
		LEAQ(Mem{Base: o.a, Index: o.ars, Scale: uint8(o.mr)}, o.a)
		LEAQ(Mem{Base: o.c, Index: o.ldc, Scale: uint8(o.mr)}, o.c)
	} else {
		for range o.mr {
			ADDQ(o.ars, o.a)
			ADDQ(o.ldc, o.c)
		}
	}
	Store(o.c, Param("c"))
	Load(Param("b"), o.b)
	Load(Param("nj"), o.nj)
	JMP(LabelRef("panel"))
}

// step emits the multiply-adds of one step of k.
func (o *strided) step(m int) {
	nacc := m * o.nv
	for j := range o.nv {
		VMOVUPS(Mem{Base: o.pb, Disp: j * o.vw}, o.regs[nacc+j])
	}
	ADDQ(o.brs, o.pb)
	nb := min(4, len(o.regs)-nacc-o.nv) // registers left for elements of A
	for i := range m {
		if o.vw == 64 && o.nv == 1 { // an element that is used once needs no register
			o.fmaBcast(o.element(i), o.regs[nacc], o.acc(i, 0))
			continue
		}
		av := o.regs[nacc+o.nv+i%nb]
		o.bcast(o.element(i), av)
		for j := range o.nv {
			o.fma(o.regs[nacc+j], av, o.acc(i, j))
		}
	}
	for _, p := range o.pa {
		ADDQ(o.acs, p)
	}
}

type packed struct {
	name string
	mr   int  // rows of the tile
	nv   int  // vectors per row of the tile
	bf16 bool // operands are pairs of bf16 (VDPBF16PS)
}

// genPacked emits an AVX-512 microkernel
//
//	func name(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int)
//
// with the meaning of tileKernel.packed. Rows of a are copied in pieces of 32
// bytes, never transposed, since the kernel broadcasts single elements anyway.
// With bf16 an element is a pair of consecutive k, so the byte layout is the
// same.
func genPacked(kn packed) {
	const vw = 64 // bytes per vector
	TEXT(kn.name, NOSPLIT, "func(k8 int, a, b, c *float32, ldc, m int, mask uint64, acc int)")
	Doc(fmt.Sprintf("%s is a %dx%d AVX-512 microkernel; see genPacked in _asm.", kn.name, kn.mr, kn.nv*vw/4))
	Pragma("noescape")

	acc := func(i, j int) reg.Register { return zregs[i*kn.nv+j] }
	nacc := kn.mr * kn.nv
	bv := func(j int) reg.Register { return zregs[nacc+j] }
	nbc := 32 - nacc - kn.nv // registers left for broadcasts of A
	av := func(i int) reg.Register { return zregs[nacc+kn.nv+i%nbc] }

	k8 := Load(Param("k8"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	SHLQ(Imm(2), ldc)

	// Ask for the lines of C now; they are written thousands of cycles later.
	p := GP64()
	MOVQ(c, p)
	for i := range kn.mr {
		for o := 0; o < kn.nv*vw; o += 64 {
			PREFETCHT0(Mem{Base: p, Disp: o})
		}
		if i+1 < kn.mr {
			ADDQ(ldc, p)
		}
	}
	for i := range nacc {
		VPXORD(zregs[i], zregs[i], zregs[i])
	}
	TESTQ(k8, k8)
	JZ(LabelRef("done"))

	Label("loop")
	for k := range 8 {
		for j := range kn.nv {
			VMOVUPS(Mem{Base: b, Disp: (k*kn.nv + j) * vw}, bv(j))
		}
		for i := range kn.mr {
			VBROADCASTSS(Mem{Base: a, Disp: i*32 + k*4}, av(i))
			for j := range kn.nv {
				if kn.bf16 {
					evexF3(0x52, acc(i, j), av(i), bv(j)) // VDPBF16PS
				} else {
					VFMADD231PS(bv(j), av(i), acc(i, j))
				}
			}
		}
	}
	ADDQ(U32(kn.mr*32), a)
	ADDQ(U32(8*kn.nv*vw), b)
	DECQ(k8)
	JNZ(LabelRef("loop"))

	Label("done")
	m := Load(Param("m"), GP64())
	accum := Load(Param("acc"), GP64())
	mask := Load(Param("mask"), GP64())
	for j := range kn.nv {
		KMOVW(mask.(reg.GPVirtual).As32(), kregs[j])
		if j+1 < kn.nv {
			SHRQ(Imm(16), mask)
		}
	}
	TESTQ(accum, accum)
	JZ(LabelRef("store"))
	MOVQ(c, p)
	for i := range kn.mr {
		CMPQ(m, Imm(uint64(i)))
		JLE(LabelRef("store"))
		for j := range kn.nv {
			t := av(j)
			VMOVUPS_Z(Mem{Base: p, Disp: j * vw}, kregs[j], t)
			VADDPS(t, acc(i, j), acc(i, j))
		}
		ADDQ(ldc, p)
	}
	Label("store")
	for i := range kn.mr {
		CMPQ(m, Imm(uint64(i)))
		JLE(LabelRef("end"))
		for j := range kn.nv {
			VMOVUPS(acc(i, j), kregs[j], Mem{Base: c, Disp: j * vw})
		}
		ADDQ(ldc, c)
	}
	Label("end")
	VZEROUPPER()
	RET()
}

// evexF3 emits EVEX.512.F3.0F38.W0 op /r with three zmm registers. Neither
// avo v0.5.0 nor Go 1.26's assembler knows AVX512-BF16, so it is bytes.
// The operand order is Intel's: dst, src1 (vvvv), src2 (rm).
func evexF3(op byte, dst, src1, src2 reg.Register) {
	d, s, r := zindex(dst), zindex(src1), zindex(src2)
	inv := func(x, bit int) int { return (^x >> bit) & 1 }
	for _, x := range []int{
		0x62,
		inv(d, 3)<<7 | inv(r, 4)<<6 | inv(r, 3)<<5 | inv(d, 4)<<4 | 2, // map 0F38
		(^s&15)<<3 | 4 | 2,  // W0, vvvv, pp=F3
		2<<5 | inv(s, 4)<<3, // 512 bits, no mask
		int(op),
		0xC0 | (d&7)<<3 | r&7,
	} {
		Instruction(&ir.Instruction{Opcode: "BYTE", Operands: []Op{U8(x)}})
	}
}

func zindex(r reg.Register) int {
	for i, z := range zregs {
		if z == r {
			return i
		}
	}
	panic("not a zmm register")
}

var (
	zregs = []reg.Register{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
	yregs = []reg.Register{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}
	kregs = []reg.Register{reg.K1, reg.K2, reg.K3}
)
