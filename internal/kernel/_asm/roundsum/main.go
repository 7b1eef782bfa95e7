// Command roundsum generates the assembly of kernel.AddRoundBF16:
//
//	go run ./roundsum -out ../roundsum_amd64.s -stubs ../roundsum_stub_amd64.go -pkg kernel
package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	drop  = 45                      // bits of a float64 mantissa that bfloat16 lacks
	slack = 1 << 20                 // as tieSlack of the reference
	huge  = 0x47efe00000000000 - 1  // below the largest bfloat16
	half  = uint64(1) << (drop - 1) // half a unit in the last place
	low   = uint64(1)<<drop - 1     // the bits to drop
	abs   = uint64(1)<<63 - 1       // all but the sign
)

// quad defines a vector of four equal words.
func quad(name string, v uint64) Mem {
	s := GLOBL("roundsum_"+name, RODATA|NOPTR)
	for i := range 4 {
		DATA(i*8, U64(v))
	}
	return s
}

func main() {
	ConstraintExpr("amd64,!purego")
	absM, lowM, splitM := quad("abs", abs), quad("low", low), quad("split", math.Float64bits(1<<drop+1))
	hugeM, nearM, widthM := quad("huge", huge), quad("near", half-slack), quad("width", 2*slack)

	TEXT("addRoundBF16AVX2", NOSPLIT, "func(dst, src *byte, d *float64, n int, tiny uint64, sums *[20]float64) (done int)")
	Doc("addRoundBF16AVX2 does groups of four elements of n while none of a group is in",
		"doubt, and returns how many elements it did. sums receives, four lanes each: same, zero",
		"(as integers), sums of squares of error and update, greatest error. The reference is",
		"goAddRoundBF16.")
	dst, src, d := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("d"), GP64())
	n := Load(Param("n"), GP64())
	tiny := YMM()
	t, err := Param("tiny").Resolve()
	if err != nil {
		panic(err)
	}
	VPBROADCASTQ(t.Addr, tiny)
	sums := Load(Param("sums"), GP64())
	var acc [5]reg.VecVirtual // same, zero, error, update, greatest error
	for i := range acc {
		acc[i] = YMM()
		VMOVUPD(Mem{Base: sums, Disp: 32 * i}, acc[i])
	}
	absV, hugeV, nil0 := YMM(), YMM(), YMM()
	VMOVUPD(absM, absV)
	VMOVDQU(hugeM, hugeV)
	VXORPD(nil0, nil0, nil0)
	done := GP64()
	XORQ(done, done)
	SUBQ(Imm(4), n)
	JLT(LabelRef("end"))
	Label("loop")
	{
		wx, w, x, s, m := XMM(), YMM(), YMM(), YMM(), YMM()
		VPMOVZXWD(Mem{Base: src, Index: done, Scale: 2}, wx)
		VPSLLD(Imm(16), wx, wx)
		VCVTPS2PD(wx, w)
		VMOVUPD(Mem{Base: d, Index: done, Scale: 8}, x)
		VADDPD(x, w, s)
		VANDPD(absV, s, m)
		// In doubt: below tiny, above huge, near the middle. The sign bits tell.
		a, b, c, near := YMM(), YMM(), YMM(), YMM()
		VPSUBQ(tiny, m, a)
		VPSUBQ(m, hugeV, b)
		VPOR(a, b, a)
		VPAND(lowM, m, c)
		VPSUBQ(nearM, c, c)
		VPSUBQ(widthM, c, near)
		VPANDN(near, c, near)
		VPOR(a, near, a)
		VTESTPD(a, a)
		JNZ(LabelRef("end"))
		// Veltkamp's splitting rounds to 53 - drop bits. Ties, where it may go the
		// other way, are in doubt.
		t, o := YMM(), YMM()
		VMULPD(splitM, s, t)
		VSUBPD(s, t, o)
		VSUBPD(o, t, o)
		code := XMM()
		VCVTPD2PSY(o, code) // exact
		VPSRLD(Imm(16), code, code)
		VPACKUSDW(code, code, code)
		VMOVQ(code, Mem{Base: dst, Index: done, Scale: 2})
		e, k := YMM(), YMM()
		VSUBPD(s, o, e)
		VFMADD231PD(e, e, acc[2])
		VFMADD231PD(x, x, acc[3])
		VANDPD(absV, e, e)
		VMAXPD(e, acc[4], acc[4])
		VCMPPD(Imm(0), o, w, k)
		VPSUBQ(k, acc[0], acc[0])
		z := YMM()
		VCMPPD(Imm(0), x, nil0, z)
		VPSUBQ(z, acc[1], acc[1])
	}
	ADDQ(Imm(4), done)
	SUBQ(Imm(4), n)
	JGE(LabelRef("loop"))
	Label("end")
	for i := range acc {
		VMOVUPD(acc[i], Mem{Base: sums, Disp: 32 * i})
	}
	VZEROUPPER()
	Store(done, ReturnIndex(0))
	RET()
	Generate()
}
