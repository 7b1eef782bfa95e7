// Command roundsum generates the assembly of kernel.AddRoundBF16 and its kin:
//
//	go run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel
package main

import (
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
	quietNaNs = 0 // predicate of VCMPPS and VCMPPD: equal
	all       = 0xff
)

// loop is what the three functions share: arguments, sums, the loop over groups of
// eight, the byte of doubt.
type loop struct {
	dst, src, d, doubt reg.Register
	bound, scale       reg.VecVirtual
	acc                [5]reg.VecVirtual // same, zero, error, update, greatest error
	nil0               reg.VecVirtual
	done               reg.GPVirtual
}

func gen(name, d, real string, doc []string, broadcast func(...Op), body func(*loop)) {
	TEXT(name, NOSPLIT, "func(dst, src *byte, d *"+real+", n int, bound, scale "+real+", doubt *uint8, sums *["+d+"]"+real+")")
	Pragma("noescape")
	Doc(doc...)
	l := &loop{nil0: YMM(), done: GP64(), bound: YMM(), scale: YMM()}
	l.dst, l.src = Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	l.d, l.doubt = Load(Param("d"), GP64()), Load(Param("doubt"), GP64())
	n := Load(Param("n"), GP64())
	for _, p := range []struct {
		name string
		to   reg.VecVirtual
	}{{"bound", l.bound}, {"scale", l.scale}} {
		at, err := Param(p.name).Resolve()
		if err != nil {
			panic(err)
		}
		broadcast(at.Addr, p.to)
	}
	for i := range l.acc {
		l.acc[i] = YMM()
		VXORPS(l.acc[i], l.acc[i], l.acc[i])
	}
	VXORPS(l.nil0, l.nil0, l.nil0)
	XORQ(l.done, l.done)
	SUBQ(Imm(8), n)
	JLT(LabelRef("end"))
	Label("loop")
	body(l)
	ADDQ(Imm(8), l.done)
	SUBQ(Imm(8), n)
	JGE(LabelRef("loop"))
	Label("end")
	sums := Load(Param("sums"), GP64())
	for i := range l.acc {
		VMOVUPS(l.acc[i], Mem{Base: sums, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}

// putDoubt stores the bits of the lanes that are not decided.
func (l *loop) putDoubt(bits reg.GPVirtual) {
	XORL(Imm(all), bits)
	at := GP64()
	MOVQ(l.done, at)
	SHRQ(Imm(3), at)
	MOVB(bits.As8(), Mem{Base: l.doubt, Index: at, Scale: 1})
}

// count32 adds eight elements to the sums: w became v, x was to be added, and only lanes of ok count.
func (l *loop) count32(w, v, x, ok, abs reg.VecVirtual) {
	xs, e, k, z := YMM(), YMM(), YMM(), YMM()
	VMULPS(l.scale, x, xs)
	VSUBPS(w, v, e)
	VFMSUB213PS(xs, l.scale, e) // e = e·scale - xs
	VANDPS(ok, e, e)
	VANDPS(ok, xs, xs)
	VFMADD231PS(e, e, l.acc[2])
	VFMADD231PS(xs, xs, l.acc[3])
	VANDPS(abs, e, e)
	VMAXPS(e, l.acc[4], l.acc[4])
	VCMPPS(Imm(quietNaNs), v, w, k)
	VANDPS(ok, k, k)
	VPSUBD(k, l.acc[0], l.acc[0])
	VCMPPS(Imm(quietNaNs), x, l.nil0, z)
	VANDPS(ok, z, z)
	VPSUBD(z, l.acc[1], l.acc[1])
}

// interval32 returns s ± (|s|·2^-22 + |x|·2^-22 + bound) for s = w + x.
func (l *loop) interval32(w, x, abs, small reg.VecVirtual) (lo, hi reg.VecVirtual) {
	s, e, m := YMM(), YMM(), YMM()
	lo, hi = YMM(), YMM()
	VADDPS(x, w, s)
	VANDPS(abs, s, m)
	VANDPS(abs, x, e)
	VADDPS(m, e, e)
	VFMADD213PS(l.bound, small, e) // e = e·small + bound
	VSUBPS(e, s, lo)
	VADDPS(e, s, hi)
	return lo, hi
}

func main() {
	ConstraintExpr("amd64,!purego")
	absM := words("abs32", 0x7fffffff)
	smallM := words("small32", 0x34800000) // 2^-22
	halfM := words("half", 0x8000)
	highM := words("high", 0xffff0000)
	infM := words("inf32", 0x7f800000)

	gen("addRoundBF16AVX2", "40", "float32", []string{
		"addRoundBF16AVX2 does groups of eight of n elements. doubt receives a byte for each",
		"group, with the bits of the elements that are in doubt; sums, eight lanes each: same, zero (as",
		"integers), scaled sums of squares of error and update, greatest scaled error. The reference is",
		"goAddRoundBF16."}, VBROADCASTSS, func(l *loop) {
		abs, small := YMM(), YMM()
		VMOVUPS(absM, abs)
		VMOVUPS(smallM, small)
		w, x := YMM(), YMM()
		VPMOVZXWD(Mem{Base: l.src, Index: l.done, Scale: 2}, w)
		VPSLLD(Imm(16), w, w)
		VMOVUPS(Mem{Base: l.d, Index: l.done, Scale: 4}, x)
		lo, hi := l.interval32(w, x, abs, small)
		VPADDD(halfM, lo, lo)
		VPADDD(halfM, hi, hi)
		// Decided: both ends round to the same number, and it is finite.
		v, ok, e := YMM(), YMM(), YMM()
		VPAND(highM, lo, v)
		VPAND(highM, hi, ok)
		VPCMPEQD(v, ok, ok)
		VPAND(infM, v, e)
		VPCMPEQD(infM, e, e)
		VPANDN(ok, e, ok)
		bits := GP32()
		VMOVMSKPS(ok, bits)
		l.putDoubt(bits)
		VPSRLD(Imm(16), v, lo)
		upper := XMM()
		VEXTRACTI128(Imm(1), lo, upper)
		VPACKUSDW(upper, lo.AsX(), upper)
		VMOVDQU(upper, Mem{Base: l.dst, Index: l.done, Scale: 2})
		l.count32(w, v, x, ok, abs)
	})

	inf16M := words("inf16", 0x7c007c00)
	gen("addRoundF16AVX2", "40", "float32", []string{
		"addRoundF16AVX2 is addRoundBF16AVX2 for float16; it needs F16C. The reference is goAddRoundF16."}, VBROADCASTSS, func(l *loop) {
		abs, small := YMM(), YMM()
		VMOVUPS(absM, abs)
		VMOVUPS(smallM, small)
		w, x := YMM(), YMM()
		VCVTPH2PS(Mem{Base: l.src, Index: l.done, Scale: 2}, w)
		VMOVUPS(Mem{Base: l.d, Index: l.done, Scale: 4}, x)
		lo, hi := l.interval32(w, x, abs, small)
		clo, chi, inf := XMM(), XMM(), XMM()
		VCVTPS2PH(Imm(0), lo, clo)
		VCVTPS2PH(Imm(0), hi, chi)
		VMOVDQU(clo, Mem{Base: l.dst, Index: l.done, Scale: 2})
		v := YMM()
		VCVTPH2PS(clo, v)
		VPCMPEQW(clo, chi, chi)
		VMOVDQU(inf16M, inf)
		VPAND(inf, clo, clo)
		VPCMPEQW(inf, clo, clo)
		VPANDN(chi, clo, chi)
		ok := YMM()
		VPMOVSXWD(chi, ok)
		bits := GP32()
		VMOVMSKPS(ok, bits)
		l.putDoubt(bits)
		l.count32(w, v, x, ok, abs)
	})

	abs64M := quads("abs64", 1<<63-1)
	small64M := quads("small64", (1023-51)<<52) // 2^-51
	gen("addRoundF32AVX2", "20", "float64", []string{
		"addRoundF32AVX2 is addRoundBF16AVX2 for float32 elements and float64 updates, with four lanes",
		"in sums. The reference is goAddRoundF32."}, VBROADCASTSD, func(l *loop) {
		both := GP32()
		for h := range 2 {
			w, x := YMM(), YMM()
			VCVTPS2PD(Mem{Base: l.src, Index: l.done, Scale: 4, Disp: 16 * h}, w)
			VMOVUPD(Mem{Base: l.d, Index: l.done, Scale: 8, Disp: 32 * h}, x)
			s, e, lo, hi := YMM(), YMM(), YMM(), YMM()
			VADDPD(x, w, s)
			VANDPD(abs64M, s, lo)
			VANDPD(abs64M, x, e)
			VADDPD(lo, e, e)
			VMULPD(small64M, e, e)
			VADDPD(l.bound, e, e)
			VSUBPD(e, s, lo)
			VADDPD(e, s, hi)
			clo, chi, t := XMM(), XMM(), XMM()
			VCVTPD2PSY(lo, clo)
			VCVTPD2PSY(hi, chi)
			VMOVUPS(clo, Mem{Base: l.dst, Index: l.done, Scale: 4, Disp: 16 * h})
			v := YMM()
			VCVTPS2PD(clo, v)
			VPCMPEQD(clo, chi, chi)
			VPAND(infM, clo, t)
			VPCMPEQD(infM, t, t)
			VPANDN(chi, t, chi)
			ok := YMM()
			VPMOVSXDQ(chi, ok)
			bits := GP32()
			VMOVMSKPD(ok, bits)
			if h == 0 {
				MOVL(bits, both)
			} else {
				SHLL(Imm(4), bits)
				ORL(bits, both)
			}
			k, z := YMM(), YMM()
			VSUBPD(w, v, e)
			VMULPD(l.scale, x, s)
			VFMSUB213PD(s, l.scale, e)
			VANDPD(ok, e, e)
			VANDPD(ok, s, s)
			VFMADD231PD(e, e, l.acc[2])
			VFMADD231PD(s, s, l.acc[3])
			VANDPD(abs64M, e, e)
			VMAXPD(e, l.acc[4], l.acc[4])
			VCMPPD(Imm(quietNaNs), v, w, k)
			VANDPD(ok, k, k)
			VPSUBQ(k, l.acc[0], l.acc[0])
			VCMPPD(Imm(quietNaNs), x, l.nil0, z)
			VANDPD(ok, z, z)
			VPSUBQ(z, l.acc[1], l.acc[1])
		}
		l.putDoubt(both)
	})
	Generate()
}
