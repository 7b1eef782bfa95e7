package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// ------------------------------------------------------------------ constants

// Constants are stored eight times in a row, ready as a memory operand.
var (
	constSym  = Symbol{Name: "lanes", Static: true}
	constIdx  = map[uint32]int{}
	constBits []uint32
)

// bitsOf is a vector of eight equal words.
func bitsOf(u uint32) Mem {
	i, ok := constIdx[u]
	if !ok {
		i = len(constBits)
		constIdx[u] = i
		constBits = append(constBits, u)
	}
	return NewDataAddr(constSym, i*32)
}

// f is a vector of eight equal float32.
func f(x float64) Mem { return bitsOf(math.Float32bits(float32(x))) }

var maskSym = Symbol{Name: "tailmask", Static: true}

func emitConsts() {
	GLOBL(constSym.Name, RODATA|NOPTR)
	for i, u := range constBits {
		for l := range 8 {
			DATA(i*32+l*4, U32(u)) // as bits: avo v0.5.0 prints F32(1) as the integer 1
		}
	}
	GLOBL(maskSym.Name, RODATA|NOPTR)
	for l := range 16 {
		u := uint32(0)
		if l < 8 {
			u = 0xffffffff
		}
		DATA(l*4, U32(u))
	}
}

// constant loads a constant into a register.
func constant(m Mem) reg.VecVirtual {
	y := YMM()
	VMOVUPS(m, y)
	return y
}

// broadcast loads a float32 parameter into all lanes.
func broadcast(name string) reg.VecVirtual {
	y := YMM()
	c, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(c.Addr, y)
	return y
}

func zero() reg.VecVirtual {
	y := YMM()
	VXORPS(y, y, y)
	return y
}

func ptr(name string) reg.Register { return Load(Param(name), GP64()) }

// ---------------------------------------------------------------------- loops

// lanes is what the body of a loop knows: eight elements of float32, of which
// the last pass may use only those in mask.
type lanes struct {
	masked bool
	mask   reg.VecVirtual
}

func (l *lanes) load(p reg.Register) reg.VecVirtual {
	y := YMM()
	if l.masked {
		VMASKMOVPS(Mem{Base: p}, l.mask, y)
	} else {
		VMOVUPS(Mem{Base: p}, y)
	}
	return y
}

func (l *lanes) store(y reg.Register, p reg.Register) {
	if l.masked {
		VMASKMOVPS(y, l.mask, Mem{Base: p})
	} else {
		VMOVUPS(y, Mem{Base: p})
	}
}

// keep clears the lanes that are not in use: for sums.
func (l *lanes) keep(y reg.VecVirtual) {
	if l.masked {
		VANDPS(l.mask, y, y)
	}
}

// loop emits a loop over n elements at each of ptrs, eight at a time, and a
// masked pass for the rest.
func loop(n reg.Register, ptrs []reg.Register, body func(l *lanes)) {
	SUBQ(Imm(8), n)
	JLT(LabelRef("tail"))
	Label("loop")
	body(&lanes{})
	for _, p := range ptrs {
		ADDQ(Imm(32), p)
	}
	SUBQ(Imm(8), n)
	JGE(LabelRef("loop"))
	Label("tail")
	ADDQ(Imm(8), n)
	JZ(LabelRef("end"))
	t := GP64()
	LEAQ(NewDataAddr(maskSym, 32), t)
	SHLQ(Imm(2), n)
	SUBQ(n, t)
	mask := YMM()
	VMOVUPS(Mem{Base: t}, mask)
	body(&lanes{masked: true, mask: mask})
	Label("end")
}

func ret() {
	VZEROUPPER()
	RET()
}

// text starts a function.
func text(name, signature, doc string) {
	TEXT(name, NOSPLIT, signature)
	Doc(name + " " + doc)
	Pragma("noescape")
}

// ----------------------------------------------------------------- reductions

// addPD adds the eight floats of y to the float64 sums lo and hi.
func addPD(y, lo, hi reg.VecVirtual) {
	a, b := widen(y)
	VADDPD(a, lo, lo)
	VADDPD(b, hi, hi)
}

// widen converts eight float32 to two vectors of float64.
func widen(y reg.VecVirtual) (a, b reg.VecVirtual) {
	x := XMM()
	a, b = YMM(), YMM()
	VEXTRACTF128(Imm(1), y, x)
	VCVTPS2PD(y.AsX(), a)
	VCVTPS2PD(x, b)
	return a, b
}

// sumPD reduces lo+hi to the low lane of an xmm register.
func sumPD(lo, hi reg.VecVirtual) reg.VecVirtual {
	x := XMM()
	VADDPD(hi, lo, lo)
	VEXTRACTF128(Imm(1), lo, x)
	VADDPD(x, lo.AsX(), x)
	t := XMM()
	VUNPCKHPD(x, x, t)
	VADDSD(t, x, x)
	return x
}

// reducePS combines the eight lanes of y with op into the low lane.
func reducePS(y reg.VecVirtual, op func(ops ...Op)) reg.VecVirtual {
	x, t := XMM(), XMM()
	VEXTRACTF128(Imm(1), y, x)
	op(x, y.AsX(), x)
	VMOVHLPS(x, x, t)
	op(t, x, x)
	VMOVSHDUP(x, t)
	op(t, x, x)
	return x
}
