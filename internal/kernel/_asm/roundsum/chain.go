package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Fields of Round64, 32 bytes each.
const (
	updateTiny = 32 * iota // one below the bits of the smallest update that is rounded here
	updateNear
	updateMask
	belowTiny
	belowHuge
	belowHalf64
	keep
	dropBits
	fromTiny // a magnitude becomes the least number or more
	span     // and is above this where it is none of the format's normal numbers
)

var one64, zero64 Mem

// chains are the kernels that round sums in float64 to numbers that float32 holds: with error
// feedback, or stochastically. Both work on groups of eight, in two halves, and look only then
// at the masks of what is in doubt if there is any.
type chains struct {
	dst, src, base, d, more, doubt, format reg.Register // more: carry or random bits
	i                                      reg.GPVirtual
	same, err, delta, most                 reg.VecVirtual
}

// half is half a group on its way.
type half64 struct {
	at        int
	x, sum, s reg.VecVirtual // update; sum; with error feedback: the sum with the carry, then the new carry
	v, ok, t  reg.VecVirtual // number; what is decided; temporary
}

func (c *chains) mem(base reg.Register, width uint8, h *half64) Mem {
	return Mem{Base: base, Index: c.i, Scale: width, Disp: int(width) * h.at}
}

func (c *chains) constant(field int) Mem { return Mem{Base: c.format, Disp: field} }

// head takes the update, rounds it, and says in ok whether that is its rounding.
func (c *chains) head(h *half64) steps {
	return steps{
		func() { VMOVUPD(c.mem(c.d, 8, h), h.x) },
		func() { VCVTPS2PD(c.mem(c.src, 4, h), h.sum) },
		func() { VANDPD(abs64, h.x, h.ok) },
		func() { VPADDQ(c.constant(updateNear), h.x, h.t) },
		func() { VCVTPD2PSY(h.x, h.v.AsX()) },
		func() { VPCMPGTQ(c.constant(updateTiny), h.ok, h.ok) },
		func() { VPAND(c.constant(updateMask), h.t, h.t) },
		func() { VCVTPS2PD(h.v.AsX(), h.x) },
		func() { VPCMPEQQ(zero64, h.t, h.t) },
		func() { VADDPD(h.x, h.sum, h.sum) },
		func() { VPANDN(h.ok, h.t, h.ok) },
	}
}

// feedback adds the carry and rounds to nearest, ties to even.
func (c *chains) feedback(h *half64) steps {
	return steps{
		func() { VADDPD(c.mem(c.more, 8, h), h.sum, h.s) },
		func() { VANDPD(abs64, h.s, h.t) },
		func() { VPSRLQ(c.constant(dropBits), h.s, h.v) },
		func() { VPADDQ(c.constant(fromTiny), h.t, h.t) },
		func() { VPAND(one64, h.v, h.v) },
		func() { VPCMPGTQ(c.constant(span), h.t, h.t) },
		func() { VPADDQ(h.s, h.v, h.v) },
		func() { VPADDQ(c.constant(belowHalf64), h.v, h.v) },
		func() { VPANDN(h.ok, h.t, h.ok) },
		func() { VPAND(c.constant(keep), h.v, h.v) },
		func() { VSUBPD(h.v, h.s, h.s) },
	}
}

// random adds the random bits and cuts off.
func (c *chains) random(h *half64) steps {
	return steps{
		func() { VPMOVZXDQ(c.mem(c.more, 4, h), h.v) },
		func() { VANDPD(abs64, h.sum, h.t) },
		func() { VPADDQ(h.sum, h.v, h.v) },
		func() { VPCMPGTQ(c.constant(belowTiny), h.t, h.t) },
		func() { VPAND(c.constant(keep), h.v, h.v) },
		func() { VPAND(h.t, h.ok, h.ok) },
		func() { VANDPD(abs64, h.v, h.t) },
		func() { VPCMPGTQ(c.constant(belowHuge), h.t, h.t) },
		func() { VPANDN(h.ok, h.t, h.ok) },
	}
}

// tail stores the numbers; v becomes the error, t where the element is as it was.
func (c *chains) tail(h *half64) steps {
	return steps{
		func() { VCVTPD2PSY(h.v, h.t.AsX()) },
		func() { VSUBPD(h.sum, h.v, h.v) },
		func() { VMOVUPS(h.t.AsX(), c.mem(c.dst, 4, h)) },
		func() { VCMPPS(Imm(equal), c.mem(c.base, 4, h), h.t.AsX(), h.t.AsX()) },
	}
}

// mask takes what is in doubt out of everything.
func (c *chains) mask(h *half64, feedback bool) {
	if feedback {
		VMOVUPD(c.mem(c.more, 8, h), h.sum)
		VBLENDVPD(h.ok, h.s, h.sum, h.s)
	}
	VPAND(h.ok, h.v, h.v)
	VPAND(h.ok, h.x, h.x)
	VEXTRACTF128(Imm(1), h.ok, h.sum.AsX())
	VSHUFPS(Imm(0x88), h.sum.AsX(), h.ok.AsX(), h.sum.AsX())
	VPAND(h.sum.AsX(), h.t.AsX(), h.t.AsX())
}

func (c *chains) count(h *half64, feedback bool) {
	if feedback {
		VMOVUPD(h.s, c.mem(c.more, 8, h))
	}
	VFMADD231PD(h.v, h.v, c.err)
	VFMADD231PD(h.x, h.x, c.delta)
	VANDPD(abs64, h.v, h.v)
	VMAXPD(h.v, c.most, c.most)
	VPSUBD(h.t.AsX(), c.same.AsX(), c.same.AsX())
}

func genChain(name string, feedback bool, doc ...string) {
	more, kind := "random", "*uint32"
	if feedback {
		more, kind = "carry", "*float64"
	}
	TEXT(name, NOSPLIT, "func(format *uint64, dst, src, base *float32, d *float64, "+more+" "+kind+", n int, doubt *uint8, sums *[16]float64)")
	Pragma("noescape")
	Doc(doc...)
	param := func(name string) reg.Register { return Load(Param(name), GP64()) }
	c := &chains{format: param("format"), dst: param("dst"), src: param("src"), base: param("base"), d: param("d"), doubt: param("doubt"), i: GP64(),
		same: YMM(), err: YMM(), delta: YMM(), most: YMM()}
	c.more = param(more)
	n := Load(Param("n"), GP64())
	sums := Load(Param("sums"), GP64())
	for i, v := range []reg.VecVirtual{c.same, c.err, c.delta, c.most} {
		VMOVUPD(Mem{Base: sums, Disp: 32 * i}, v)
	}
	XORQ(c.i, c.i)
	SUBQ(Imm(8), n)
	JLT(LabelRef("end"))
	Label("loop")
	var h [2]*half64
	var s [2]steps
	for i := range h {
		h[i] = &half64{4 * i, YMM(), YMM(), nil, YMM(), YMM(), YMM()}
		if s[i] = c.head(h[i]); feedback {
			h[i].s = YMM()
			s[i] = append(s[i], c.feedback(h[i])...)
		} else {
			s[i] = append(s[i], c.random(h[i])...)
		}
		s[i] = append(s[i], c.tail(h[i])...)
	}
	for i := range s[0] {
		s[0][i]()
		s[1][i]()
	}
	lo, hi, at := GP32(), GP32(), GP64()
	MOVQ(c.i, at)
	SHRQ(Imm(3), at)
	VMOVMSKPD(h[0].ok, lo)
	VMOVMSKPD(h[1].ok, hi)
	SHLL(Imm(4), hi)
	ORL(hi, lo)
	XORL(Imm(all), lo) // sets the flags
	MOVB(lo.As8(), Mem{Base: c.doubt, Index: at, Scale: 1})
	JEQ(LabelRef("decided"))
	c.mask(h[0], feedback)
	c.mask(h[1], feedback)
	Label("decided")
	c.count(h[0], feedback)
	c.count(h[1], feedback)
	ADDQ(Imm(8), c.i)
	SUBQ(Imm(8), n)
	JGE(LabelRef("loop"))
	Label("end")
	sums = Load(Param("sums"), GP64())
	for i, v := range []reg.VecVirtual{c.same, c.err, c.delta, c.most} {
		VMOVUPD(v, Mem{Base: sums, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}

func chainKernels() {
	one64, zero64 = quads("one64", 1), quads("zero64", 0)
	genChain("addFeedbackAVX2", true,
		"addFeedbackAVX2 does groups of eight of n elements, of which doubt receives a byte each. It adds to sums, of",
		"four lanes each: same (in the first two lanes, as four integers of 32 bits), sums of squares of error and update, greatest error. The",
		"reference is Round64.goFeedback.")
	genChain("addRandomF32AVX2", false, "addRandomF32AVX2 is addFeedbackAVX2 for stochastic rounding. The reference is Round64.goRandom.")
}

// prefetch generates the hint.
func prefetch() {
	TEXT("prefetchAMD64", NOSPLIT, "func(p *byte, n int)")
	Pragma("noescape")
	Doc("prefetchAMD64 asks for the lines of n bytes.")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	Label("next")
	PREFETCHT0(Mem{Base: p})
	ADDQ(Imm(64), p)
	SUBQ(Imm(64), n)
	JGT(LabelRef("next"))
	RET()
}
