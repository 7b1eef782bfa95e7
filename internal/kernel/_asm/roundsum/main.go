// Command roundsum generates the assembly of kernel.AddRoundBF16 and its kin:
//
//	go run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel
package main

import (
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// words defines a vector of eight equal words, quads one of four.
func words(name string, v uint32) Mem {
	s := GLOBL("roundsum_"+name, RODATA|NOPTR)
	for i := range 8 {
		DATA(i*4, U32(v))
	}
	return s
}

func quads(name string, v uint64) Mem {
	s := GLOBL("roundsum_"+name, RODATA|NOPTR)
	for i := range 4 {
		DATA(i*8, U64(v))
	}
	return s
}

const (
	equal   = 0 // predicates of VCMPPS and VCMPPD
	ordered = 7 // neither is NaN
	all     = 0xff
)

// args are what the three functions share: arguments and sums.
type args struct {
	dst, src, d, doubt reg.Register
	random             reg.Register      // of stochastic rounding
	bound, scale       Mem               // broadcast to a vector, in the frame
	acc                [5]reg.VecVirtual // same, zero, error, update, greatest error
	done               reg.GPVirtual
}

// steps are the instructions for one group of eight elements. Those of two groups are
// dealt out in turn: each is one long chain, and processors with few physical vector registers
// (AMD's first Zen) do not look far enough ahead to find a second.
type steps []func()

func gen(name, lanes, real string, random bool, doc []string, load func(...Op), store func(...Op), body func(l *args, group int) steps) {
	more := ""
	if random {
		more = "random *uint32, "
	}
	TEXT(name, NOSPLIT, "func(dst, src *byte, d *"+real+", "+more+"n int, bound, scale "+real+", doubt *uint8, sums *["+lanes+"]"+real+")")
	Pragma("noescape")
	Doc(doc...)
	l := &args{done: GP64(), bound: AllocLocal(32), scale: AllocLocal(32)}
	l.dst, l.src = Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	l.d, l.doubt = Load(Param("d"), GP64()), Load(Param("doubt"), GP64())
	if random {
		l.random = Load(Param("random"), GP64())
	}
	n := Load(Param("n"), GP64())
	for _, p := range []struct {
		name string
		to   Mem
	}{{"bound", l.bound}, {"scale", l.scale}} {
		at, err := Param(p.name).Resolve()
		if err != nil {
			panic(err)
		}
		v := YMM()
		load(at.Addr, v)
		store(v, p.to)
	}
	for i := range l.acc {
		l.acc[i] = YMM()
		VXORPS(l.acc[i], l.acc[i], l.acc[i])
	}
	XORQ(l.done, l.done)
	SUBQ(Imm(16), n)
	JLT(LabelRef("single"))
	Label("loop")
	first, second := body(l, 0), body(l, 1)
	for i := range first {
		first[i]()
		second[i]()
	}
	ADDQ(Imm(16), l.done)
	SUBQ(Imm(16), n)
	JGE(LabelRef("loop"))
	Label("single")
	ADDQ(Imm(8), n)
	JLT(LabelRef("end"))
	for _, f := range body(l, 0) {
		f()
	}
	Label("end")
	sums := Load(Param("sums"), GP64())
	for i := range l.acc {
		VMOVUPS(l.acc[i], Mem{Base: sums, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}

// at is where a group has its elements of so many bytes, from element i on.
func (l *args) at(base reg.Register, width uint8, group, i int) Mem {
	return Mem{Base: base, Index: l.done, Scale: width, Disp: int(width) * (8*group + i)}
}

// putDoubt stores the bits of the lanes that are not decided.
func (l *args) putDoubt(bits reg.GPVirtual, group int) {
	XORL(Imm(all), bits)
	at := GP64()
	MOVQ(l.done, at)
	SHRQ(Imm(3), at)
	MOVB(bits.As8(), Mem{Base: l.doubt, Index: at, Scale: 1, Disp: group})
}

// chain is a group, or half of one in float64, on its way. Five registers, each in
// several parts, let two chains run side by side: x is read anew instead of kept.
type chain struct {
	x       Mem
	w       reg.VecVirtual // the base
	a, b    reg.VecVirtual // the ends of the interval; then what w becomes, and where that is decided
	e, temp reg.VecVirtual
}

func newChain(x Mem) *chain { return &chain{x, YMM(), YMM(), YMM(), YMM(), YMM()} }

// interval sets a and b to s ± (|s|·2^-22 + |x|·2^-22 + bound) for s = w + x.
func (c *chain) interval32(l *args) steps {
	return steps{
		func() { VADDPS(c.x, c.w, c.a) },
		func() { VMOVUPS(c.x, c.e) },
		func() { VANDPS(abs32, c.a, c.b) },
		func() { VANDPS(abs32, c.e, c.e) },
		func() { VADDPS(c.b, c.e, c.e) },
		func() { VMULPS(small32, c.e, c.e) }, // exact, so the sum is rounded as a fused one
		func() { VADDPS(l.bound, c.e, c.e) },
		func() { VADDPS(c.e, c.a, c.b) },
		func() { VSUBPS(c.e, c.a, c.a) },
	}
}

// count32 adds the group to the sums; temp is set where the element kept its value.
func (c *chain) count32(l *args) steps {
	return steps{
		func() { VMOVUPS(l.scale, c.e) },
		func() { VMULPS(c.x, c.e, c.e) },
		func() { VSUBPS(c.w, c.a, c.a) },
		func() { VANDPS(c.b, c.temp, c.temp) },
		func() { VPSUBD(c.temp, l.acc[0], l.acc[0]) },
		func() { VFMSUB132PS(l.scale, c.e, c.a) }, // a = a·scale - e
		func() { VXORPS(c.temp, c.temp, c.temp) },
		func() { VANDPS(c.b, c.e, c.e) },
		func() { VCMPPS(Imm(equal), c.x, c.temp, c.temp) },
		func() { VANDPS(c.b, c.a, c.a) },
		func() { VFMADD231PS(c.e, c.e, l.acc[3]) },
		func() { VANDPS(c.b, c.temp, c.temp) },
		func() { VFMADD231PS(c.a, c.a, l.acc[2]) },
		func() { VANDPS(abs32, c.a, c.a) },
		func() { VPSUBD(c.temp, l.acc[1], l.acc[1]) },
		func() { VMAXPS(c.a, l.acc[4], l.acc[4]) },
	}
}

func (c *chain) doubt32(l *args, group int) func() {
	return func() {
		bits := GP32()
		VMOVMSKPS(c.b, bits)
		l.putDoubt(bits, group)
	}
}

func bf16(l *args, group int) steps {
	c := newChain(l.at(l.d, 4, group, 0))
	return slices.Concat(steps{
		func() { VPMOVZXWD(l.at(l.src, 2, group, 0), c.w) },
		func() { VPSLLD(Imm(16), c.w, c.w) },
	}, c.interval32(l), c.toBF16(l, group, false), steps{
		func() { VCMPPS(Imm(equal), c.a, c.w, c.temp) },
	}, c.count32(l))
}

// bf16From32 is bf16 of a base in float32. A NaN of it may have a mantissa that
// overflows when it is rounded, so the ends are asked whether they are numbers first.
func bf16From32(l *args, group int) steps {
	c := newChain(l.at(l.d, 4, group, 0))
	return slices.Concat(steps{
		func() { VMOVUPS(l.at(l.src, 4, group, 0), c.w) },
	}, c.interval32(l), c.toBF16(l, group, true), c.nearestBF16(), steps{
		func() { VCMPPS(Imm(equal), c.a, c.temp, c.temp) },
	}, c.count32(l))
}

// nearestBF16 sets temp to the base, rounded to nearest, ties to even.
func (c *chain) nearestBF16() steps {
	return steps{
		func() { VPSRLD(Imm(16), c.w, c.temp) },
		func() { VPAND(one32, c.temp, c.temp) },
		func() { VPADDD(c.w, c.temp, c.temp) },
		func() { VPADDD(belowHalf, c.temp, c.temp) },
		func() { VPAND(high, c.temp, c.temp) },
	}
}

// toBF16 rounds the ends to bfloat16, stores one and leaves it in a. Decided are lanes of
// which both ends round to the same number, and it is finite; with numbers, ends that are
// NaN are not.
func (c *chain) toBF16(l *args, group int, numbers bool) steps {
	var before, after steps
	if numbers {
		before = steps{func() { VCMPPS(Imm(ordered), c.a, c.b, c.temp) }}
		after = steps{func() { VPAND(c.temp, c.b, c.b) }}
	}
	return slices.Concat(before, steps{
		func() { VPADDD(half, c.a, c.a) },
		func() { VPADDD(half, c.b, c.b) },
		func() { VPAND(high, c.a, c.a) },
		func() { VPAND(high, c.b, c.b) },
		func() { VPAND(inf32, c.a, c.e) },
		func() { VPCMPEQD(c.a, c.b, c.b) },
		func() { VPCMPEQD(inf32, c.e, c.e) },
	}, after, steps{
		func() { VPANDN(c.b, c.e, c.b) },
		func() { VPSRLD(Imm(16), c.a, c.e) },
		c.doubt32(l, group),
		func() { VEXTRACTI128(Imm(1), c.e, c.temp.AsX()) },
		func() { VPACKUSDW(c.temp.AsX(), c.e.AsX(), c.e.AsX()) },
		func() { VMOVDQU(c.e.AsX(), l.at(l.dst, 2, group, 0)) },
	})
}

func f16(l *args, group int) steps {
	c := newChain(l.at(l.d, 4, group, 0))
	return slices.Concat(steps{
		func() { VCVTPH2PS(l.at(l.src, 2, group, 0), c.w) },
	}, c.interval32(l), c.toF16(l, group), steps{
		func() { VCMPPS(Imm(equal), c.a, c.w, c.temp) },
	}, c.count32(l))
}

// f16From32 is f16 of a base in float32.
func f16From32(l *args, group int) steps {
	c := newChain(l.at(l.d, 4, group, 0))
	return slices.Concat(steps{
		func() { VMOVUPS(l.at(l.src, 4, group, 0), c.w) },
	}, c.interval32(l), c.toF16(l, group), c.nearestF16(), steps{
		func() { VCMPPS(Imm(equal), c.a, c.temp, c.temp) },
	}, c.count32(l))
}

// nearestF16 is nearestBF16 for float16.
func (c *chain) nearestF16() steps {
	return steps{
		func() { VCVTPS2PH(Imm(0), c.w, c.temp.AsX()) },
		func() { VCVTPH2PS(c.temp.AsX(), c.temp) },
	}
}

// toF16 rounds the ends to float16, stores one and leaves it in a.
func (c *chain) toF16(l *args, group int) steps {
	lo, hi := c.e.AsX(), c.temp.AsX()
	return steps{
		func() { VCVTPS2PH(Imm(0), c.a, lo) },
		func() { VCVTPS2PH(Imm(0), c.b, hi) },
		func() { VMOVDQU(lo, l.at(l.dst, 2, group, 0)) },
		func() { VCVTPH2PS(lo, c.a) },
		func() { VPCMPEQW(lo, hi, hi) },
		func() { VPAND(inf16, lo, lo) },
		func() { VPCMPEQW(inf16, lo, lo) },
		func() { VPANDN(hi, lo, hi) },
		func() { VPMOVSXWD(hi, c.b) },
		c.doubt32(l, group),
	}
}

// f32 has two chains in a group, one after the other.
func f32(l *args, group int) steps {
	both := GP32()
	return slices.Concat(f32Half(l, group, 0, both), f32Half(l, group, 1, both))
}

func f32Half(l *args, group, h int, both reg.GPVirtual) steps {
	c := newChain(l.at(l.d, 8, group, 4*h))
	lo, hi := c.e.AsX(), c.temp.AsX()
	return steps{
		func() { VCVTPS2PD(l.at(l.src, 4, group, 4*h), c.w) },
		func() { VADDPD(c.x, c.w, c.a) },
		func() { VMOVUPD(c.x, c.e) },
		func() { VANDPD(abs64, c.a, c.b) },
		func() { VANDPD(abs64, c.e, c.e) },
		func() { VADDPD(c.b, c.e, c.e) },
		func() { VMULPD(small64, c.e, c.e) },
		func() { VADDPD(l.bound, c.e, c.e) },
		func() { VADDPD(c.e, c.a, c.b) },
		func() { VSUBPD(c.e, c.a, c.a) },
		func() { VCVTPD2PSY(c.a, lo) },
		func() { VCVTPD2PSY(c.b, hi) },
		func() { VMOVUPS(lo, l.at(l.dst, 4, group, 4*h)) },
		func() { VCVTPS2PD(lo, c.a) },
		func() { VPCMPEQD(lo, hi, hi) },
		func() { VPAND(inf32, lo, lo) },
		func() { VPCMPEQD(inf32, lo, lo) },
		func() { VPANDN(hi, lo, hi) },
		func() { VPMOVSXDQ(hi, c.b) },
		func() {
			if h == 0 {
				VMOVMSKPD(c.b, both)
				return
			}
			bits := GP32()
			VMOVMSKPD(c.b, bits)
			SHLL(Imm(4), bits)
			ORL(bits, both)
			l.putDoubt(both, group)
		},
		func() { VMOVUPD(l.scale, c.e) },
		func() { VCMPPD(Imm(equal), c.a, c.w, c.temp) },
		func() { VMULPD(c.x, c.e, c.e) },
		func() { VSUBPD(c.w, c.a, c.a) },
		func() { VANDPD(c.b, c.temp, c.temp) },
		func() { VPSUBQ(c.temp, l.acc[0], l.acc[0]) },
		func() { VFMSUB132PD(l.scale, c.e, c.a) },
		func() { VXORPD(c.temp, c.temp, c.temp) },
		func() { VANDPD(c.b, c.e, c.e) },
		func() { VCMPPD(Imm(equal), c.x, c.temp, c.temp) },
		func() { VANDPD(c.b, c.a, c.a) },
		func() { VFMADD231PD(c.e, c.e, l.acc[3]) },
		func() { VANDPD(c.b, c.temp, c.temp) },
		func() { VFMADD231PD(c.a, c.a, l.acc[2]) },
		func() { VANDPD(abs64, c.a, c.a) },
		func() { VPSUBQ(c.temp, l.acc[1], l.acc[1]) },
		func() { VMAXPD(c.a, l.acc[4], l.acc[4]) },
	}
}

var abs32, small32, half, belowHalf, one32, high, inf32, inf16, abs64, small64 Mem

func main() {
	ConstraintExpr("amd64,!purego")
	abs32 = words("abs32", 0x7fffffff)
	small32 = words("small32", 0x34800000) // 2^-22
	half = words("half", 0x8000)
	belowHalf = words("belowhalf", 0x7fff)
	one32 = words("one32", 1)
	high = words("high", 0xffff0000)
	inf32 = words("inf32", 0x7f800000)
	inf16 = words("inf16", 0x7c007c00)
	abs64 = quads("abs64", 1<<63-1)
	small64 = quads("small64", (1023-51)<<52) // 2^-51

	gen("addRoundBF16AVX2", "40", "float32", false, []string{
		"addRoundBF16AVX2 does groups of eight of n elements. doubt receives a byte for each",
		"group, with the bits of the elements that are in doubt; sums, eight lanes each: same, zero (as",
		"integers), scaled sums of squares of error and update, greatest scaled error. The reference is",
		"goAddRoundBF16."}, VBROADCASTSS, VMOVUPS, bf16)
	gen("addRoundF16AVX2", "40", "float32", false, []string{
		"addRoundF16AVX2 is addRoundBF16AVX2 for float16; it needs F16C. The reference is goAddRoundF16."}, VBROADCASTSS, VMOVUPS, f16)
	gen("addRoundBF16From32AVX2", "40", "float32", false, []string{
		"addRoundBF16From32AVX2 is addRoundBF16AVX2 for a base in float32."}, VBROADCASTSS, VMOVUPS, bf16From32)
	gen("addRoundF16From32AVX2", "40", "float32", false, []string{
		"addRoundF16From32AVX2 is addRoundF16AVX2 for a base in float32."}, VBROADCASTSS, VMOVUPS, f16From32)
	gen("addRoundF32AVX2", "20", "float64", false, []string{
		"addRoundF32AVX2 is addRoundBF16AVX2 for float32 elements and float64 updates, with four lanes",
		"in sums. The reference is goAddRoundF32."}, VBROADCASTSD, VMOVUPD, f32)
	splitMix()
	randoms()
	chainKernels()
	prefetch()
	Generate()
}
