package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// genPhilox emits dropout for 32 elements at a time, a group of four counters,
// two groups together while there are.
func genPhilox() {
	text("dropoutAVX2", "func(dst, src *float32, n32 int, threshold uint32, scale float32, key, stream, block uint64)", "is goDropout for 32·n32 elements.")
	o := masks{dst: ptr("dst"), src: ptr("src"), n: ptr("n32"), block: ptr("block")}
	CMPQ(o.n, Imm(2))
	JLT(LabelRef("single"))
	Label("pair")
	o.draw(2)
	CMPQ(o.n, Imm(2))
	JGE(LabelRef("pair"))
	TESTQ(o.n, o.n)
	JZ(LabelRef("done"))
	Label("single")
	o.draw(1)
	Label("done")
	ret()
}

// masks are the registers of dropout's loop.
type masks struct{ dst, src, n, block reg.Register }

// draw emits groups of 32 elements and steps over them. A word of a counter is
// the low half of a 64-bit lane, whatever its high half holds: VPMULUDQ
// multiplies low halves, and its two result words need no more than one shift.
// Lanes hold blocks 0 2 1 3, which the last unpacking, within 128 bits, puts in
// order.
func (o *masks) draw(groups int) {
	const m0, m1, w0, w1, rounds = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 7
	s0, s1 := halves("stream")
	k0, k1 := halves("key")
	base := lanes64(o.block)
	c := make([][4]vec, groups)
	for g := range c {
		lo, hi := YMM(), YMM()
		VPADDQ(NewDataAddr(indexSym, 32*g), base, lo)
		VPSRLQ(Imm(32), lo, hi)
		c[g] = [4]vec{lo, hi, s0, s1}
	}
	for round := range rounds {
		for g, s := range c {
			p0, p1, h0, h1 := YMM(), YMM(), YMM(), YMM()
			VPMULUDQ(bitsOf(m0), s[0], p0)
			VPMULUDQ(bitsOf(m1), s[2], p1)
			VPSHUFD(Imm(0xf5), p1, h0) // high words; on another port than a shift
			VPSRLQ(Imm(32), p0, h1)
			VPXOR(s[1], h0, h0)
			VPXOR(k0, h0, h0)
			VPXOR(s[3], h1, h1)
			VPXOR(k1, h1, h1)
			c[g] = [4]vec{h0, p1, h1, p0}
		}
		if round < rounds-1 {
			VPADDD(bitsOf(w0), k0, k0)
			VPADDD(bitsOf(w1), k1, k1)
		}
	}
	threshold, scale := YMM(), broadcast("scale")
	tx := XMM()
	VMOVD(Load(Param("threshold"), GP32()), tx)
	VPBROADCASTW(tx, threshold)
	for g, s := range c {
		lo, hi, a, b := YMM(), YMM(), YMM(), YMM()
		VPSHUFD(Imm(0xa0), s[1], lo)
		VPBLENDD(Imm(0xaa), lo, s[0], lo) // words 0 and 1 of each block
		VPSHUFD(Imm(0xa0), s[3], hi)
		VPBLENDD(Imm(0xaa), hi, s[2], hi) // words 2 and 3
		VPUNPCKLQDQ(hi, lo, a)
		VPUNPCKHQDQ(hi, lo, b)
		for i, r := range []vec{a, b} {
			o.apply(r, threshold, scale, 128*g+64*i)
		}
	}
	ADDQ(Imm(uint64(4*groups)), o.block)
	ADDQ(U32(128*groups), o.src)
	ADDQ(U32(128*groups), o.dst)
	SUBQ(Imm(uint64(groups)), o.n)
}

// apply emits the 16 elements whose random bits are r. They are kept where
// random >= threshold: max(random, threshold) = random.
func (o *masks) apply(r, threshold, scale vec, at int) {
	t := YMM()
	VPMAXUW(threshold, r, t)
	VPCMPEQW(t, r, t)
	high := XMM()
	VEXTRACTI128(Imm(1), t, high)
	for i, m := range []reg.Register{t.AsX(), high} {
		wide, x := YMM(), YMM()
		VPMOVSXWD(m, wide)
		VMULPS(Mem{Base: o.src, Disp: at + 32*i}, scale, x)
		VANDPS(wide, x, x)
		VMOVUPS(x, Mem{Base: o.dst, Disp: at + 32*i})
	}
}

// lanes64 broadcasts r to four lanes.
func lanes64(r reg.Register) vec {
	x, y := XMM(), YMM()
	VMOVQ(r, x)
	VPBROADCASTQ(x, y)
	return y
}

// indexSym holds the blocks of the lanes of the two groups.
var indexSym = Symbol{Name: "counterindex", Static: true}

func emitIndex() {
	GLOBL(indexSym.Name, RODATA|NOPTR)
	for i, v := range []uint64{0, 2, 1, 3, 4, 6, 5, 7} {
		DATA(i*8, U64(v))
	}
}

// halves broadcasts the low and the high word of a uint64 parameter to the low
// halves of four lanes, and the low one with something above it.
func halves(name string) (lo, hi vec) {
	lo, hi = lanes64(ptr(name)), YMM()
	VPSRLQ(Imm(32), lo, hi)
	return lo, hi
}

// genConversions emits dtype conversions of n8 groups of eight.
func genConversions() {
	half := func(name, sig, doc, dstStep string, body func(dst, src reg.Register)) {
		text(name, sig, doc)
		dst, src, n := ptr("dst"), ptr("src"), ptr("n8")
		Label("loop")
		body(dst, src)
		if dstStep == "wide" {
			ADDQ(Imm(32), dst)
			ADDQ(Imm(16), src)
		} else {
			ADDQ(Imm(16), dst)
			ADDQ(Imm(32), src)
		}
		DECQ(n)
		JNZ(LabelRef("loop"))
		ret()
	}
	half("bf16ToF32AVX2", "func(dst *float32, src *byte, n8 int)", "is goBF16ToF32.", "wide", func(dst, src reg.Register) {
		y := YMM()
		VPMOVZXWD(Mem{Base: src}, y)
		VPSLLD(Imm(16), y, y)
		VMOVDQU(y, Mem{Base: dst})
	})
	half("f16ToF32AVX2", "func(dst *float32, src *byte, n8 int)", "is goF16ToF32.", "wide", func(dst, src reg.Register) {
		y := YMM()
		VCVTPH2PS(Mem{Base: src}, y)
		VMOVUPS(y, Mem{Base: dst})
	})
	half("f32ToF16AVX2", "func(dst *byte, src *float32, n8 int)", "is goF32ToF16.", "narrow", func(dst, src reg.Register) {
		y := YMM()
		VMOVUPS(Mem{Base: src}, y)
		VCVTPS2PH(Imm(0), y, Mem{Base: dst})
	})
	half("f32ToBF16AVX2", "func(dst *byte, src *float32, n8 int)", "is goF32ToBF16.", "narrow", func(dst, src reg.Register) {
		y, r, q, nan := YMM(), YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: src}, y)
		VCMPPS(Imm(3), y, y, nan)
		VPSRLD(Imm(16), y, q)
		VPAND(bitsOf(1), q, r)
		VPADDD(bitsOf(0x7fff), r, r)
		VPADDD(y, r, r)
		VPSRLD(Imm(16), r, r)
		VPOR(bitsOf(0x40), q, q) // a NaN made quiet
		VBLENDVPS(nan, q, r, r)
		VPACKUSDW(r, r, r)
		VPERMQ(Imm(0x08), r, r)
		VMOVDQU(r.AsX(), Mem{Base: dst})
	})
}

// genStats emits the statistics of n8 groups of eight, lane by lane.
func genStats() {
	text("statsAVX2", "func(x *float32, n8 int, out *byte)", "adds to out what goStats adds, lane by lane.")
	x, n, out := ptr("x"), ptr("n8"), ptr("out")
	lo, hi := YMM(), YMM()
	VMOVUPS(bitsOf(0x7f800000), lo)
	VMOVUPS(bitsOf(0xff800000), hi)
	s0, s1, q0, q1, nans, bad := zero(), zero(), zero(), zero(), zero(), zero()
	Label("loop")
	v, abs, finite := YMM(), YMM(), YMM()
	VMOVUPS(Mem{Base: x}, v)
	VANDPS(bitsOf(0x7fffffff), v, abs)
	VCMPPS(Imm(1), bitsOf(0x7f800000), abs, finite) // |x| < Inf
	nan := YMM()
	VCMPPS(Imm(3), v, v, nan)
	VPSUBD(nan, nans, nans)
	VPADDD(finite, bad, bad) // finite is -1 in finite lanes
	t := YMM()
	VBLENDVPS(finite, v, lo, t)
	VMINPS(t, lo, lo)
	VBLENDVPS(finite, v, hi, t)
	VMAXPS(t, hi, hi)
	VANDPS(finite, v, v)
	a, b := widen(v)
	VADDPD(a, s0, s0)
	VADDPD(b, s1, s1)
	VFMADD231PD(a, a, q0)
	VFMADD231PD(b, b, q1)
	ADDQ(Imm(32), x)
	DECQ(n)
	JNZ(LabelRef("loop"))
	for i, y := range []vec{lo, hi, nans, bad, s0, s1, q0, q1} {
		VMOVUPS(y, Mem{Base: out, Disp: 32 * i})
	}
	ret()
}

// genTranspose emits the transposition of 8 rows of 8·n8 elements.
func genTranspose() {
	text("transpose8AVX2", "func(dst *float32, ldd int, src *float32, lds, n8 int)", "transposes 8 rows of 8·n8 elements; strides count elements.")
	dst, ldd, src, lds, n := ptr("dst"), ptr("ldd"), ptr("src"), ptr("lds"), ptr("n8")
	SHLQ(Imm(2), ldd)
	SHLQ(Imm(2), lds)
	lds3, ldd3, src4, d, d4 := GP64(), GP64(), GP64(), GP64(), GP64()
	LEAQ(Mem{Base: lds, Index: lds, Scale: 2}, lds3)
	LEAQ(Mem{Base: ldd, Index: ldd, Scale: 2}, ldd3)
	LEAQ(Mem{Base: src, Index: lds, Scale: 4}, src4)
	rowsAt := func(p, p4, ld, ld3 reg.Register) []Mem {
		var m []Mem
		for _, base := range []reg.Register{p, p4} {
			m = append(m, Mem{Base: base}, Mem{Base: base, Index: ld, Scale: 1}, Mem{Base: base, Index: ld, Scale: 2}, Mem{Base: base, Index: ld3, Scale: 1})
		}
		return m
	}
	Label("loop")
	from := rowsAt(src, src4, lds, lds3)
	// Halves of rows i and i+4 in one register, so that the rest stays in lanes.
	lo, hi := make([]vec, 4), make([]vec, 4)
	for i := range 4 {
		lo[i], hi[i] = YMM(), YMM()
		VMOVUPS(from[i], lo[i].AsX())
		VINSERTF128(Imm(1), from[i+4], lo[i], lo[i])
		a, b := from[i], from[i+4]
		a.Disp, b.Disp = 16, 16
		VMOVUPS(a, hi[i].AsX())
		VINSERTF128(Imm(1), b, hi[i], hi[i])
	}
	MOVQ(dst, d)
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 4}, d4)
	to := rowsAt(d, d4, ldd, ldd3)
	for h, r := range [][]vec{lo, hi} {
		a, b, c, e := YMM(), YMM(), YMM(), YMM()
		VUNPCKLPS(r[1], r[0], a) // r00 r10 r01 r11
		VUNPCKHPS(r[1], r[0], b) // r02 r12 r03 r13
		VUNPCKLPS(r[3], r[2], c)
		VUNPCKHPS(r[3], r[2], e)
		for i, p := range [][2]vec{{a, c}, {b, e}} {
			u, v := YMM(), YMM()
			VUNPCKLPD(p[1], p[0], u)
			VUNPCKHPD(p[1], p[0], v)
			VMOVUPS(u, to[h*4+2*i])
			VMOVUPS(v, to[h*4+2*i+1])
		}
	}
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 8}, dst)
	ADDQ(Imm(32), src)
	ADDQ(Imm(32), src4)
	DECQ(n)
	JNZ(LabelRef("loop"))
	ret()
}

// genUnpackInt8 emits the widening of rows of cols scaled bytes.
func genUnpackInt8(name string, cols int) {
	text(name, "func(dst *float32, src *int8, scale *float32, k int)", fmt.Sprintf("is goUnpackInt8 for k rows of %d.", cols))
	dst, src, k, scale := ptr("dst"), ptr("src"), ptr("k"), ptr("scale")
	s := make([]vec, cols/8)
	for i := range s {
		s[i] = YMM()
		VMOVUPS(Mem{Base: scale, Disp: 32 * i}, s[i])
	}
	Label("loop")
	for i := range s {
		y := YMM()
		VPMOVSXBD(Mem{Base: src, Disp: 8 * i}, y)
		VCVTDQ2PS(y, y)
		VMULPS(s[i], y, y)
		VMOVUPS(y, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(Imm(uint64(cols)), src)
	ADDQ(Imm(uint64(4*cols)), dst)
	DECQ(k)
	JNZ(LabelRef("loop"))
	ret()
}

// genFeatures emits a read of CPUID leaf 1.
func genFeatures() {
	TEXT("cpuidFeatures", NOSPLIT, "func() uint32")
	Doc("cpuidFeatures returns ECX of CPUID leaf 1.")
	MOVL(U32(1), reg.EAX)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	Store(reg.ECX, ReturnIndex(0))
	RET()
}
