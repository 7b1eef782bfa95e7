package main

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// genAMX emits the microkernel of AMX tiles,
//
//	func amxBF16x32x32(config *[64]byte, pieces int, a, b, c *float32, ldc, acc int)
//
// C[0:32, 0:32] (+)= A·B in pieces of sixteen steps, a step being a pair of bf16.
// Tiles 0 to 3 are the quarters of C, 4 and 5 the halves of a piece of A (sixteen rows
// each), 6 and 7 those of B (sixteen columns each): four independent sums hide the
// latency of TDPBF16PS, and of eight tiles none is left over.
//
// Neither avo v0.5.0 nor Go 1.26's assembler knows AMX, so instructions are bytes, and
// registers are chosen here.
func genAMX() {
	TEXT("amxBF16x32x32", NOSPLIT, "func(config *[64]byte, pieces int, a, b, c *float32, ldc, acc int)")
	Doc("amxBF16x32x32 is a 32x32 microkernel of AMX tiles; see genAMX in _asm.")
	Pragma("noescape")
	const (
		half  = 16 * 64 // bytes of sixteen rows of A
		width = 32 * 4  // bytes of a row of B
		piece = 16 * width
	)
	config, pieces := reg.RAX, reg.RCX
	a, b, c := reg.RSI, reg.RDI, reg.RBX
	astride, bstride, ldc := reg.RDX, reg.R8, reg.R9
	Load(Param("config"), config)
	Load(Param("pieces"), pieces)
	Load(Param("a"), a)
	Load(Param("b"), b)
	Load(Param("c"), c)
	Load(Param("ldc"), ldc)
	SHLQ(Imm(2), ldc)
	MOVQ(ldc, reg.R10) // sixteen rows of C further on
	SHLQ(Imm(4), reg.R10)
	ADDQ(c, reg.R10)
	MOVQ(U32(64), astride)
	MOVQ(U32(width), bstride)
	vex(noPrefix, 0x49, 0, 0, 0, number(config)) // LDTILECFG

	Load(Param("acc"), reg.R11)
	TESTQ(reg.R11, reg.R11)
	JZ(LabelRef("zero"))
	eachQuarter(func(q int, from reg.Register, at int) { tileMemory(prefixF2, q, from, ldc, at) }, c)
	JMP(LabelRef("sum"))
	Label("zero")
	for q := range 4 {
		vex(prefixF2, 0x49, 0, 0, 0, 0xC0|q<<3) // TILEZERO
	}
	Label("sum")
	TESTQ(pieces, pieces)
	JZ(LabelRef("store"))
	Label("loop")
	tileMemory(prefixF2, 6, b, bstride, 0)
	tileMemory(prefixF2, 4, a, astride, 0)
	tileDot(0, 4, 6)
	tileMemory(prefixF2, 7, b, bstride, 64)
	tileDot(1, 4, 7)
	tileMemory(prefixF2, 5, a, astride, half)
	tileDot(2, 5, 6)
	tileDot(3, 5, 7)
	ADDQ(U32(2*half), a)
	ADDQ(U32(piece), b)
	DECQ(pieces)
	JNZ(LabelRef("loop"))
	Label("store")
	eachQuarter(func(q int, to reg.Register, at int) { tileMemory(prefixF3, q, to, ldc, at) }, c)
	vex(noPrefix, 0x49, 0, 0, 0, 0xC0) // TILERELEASE
	RET()
}

// eachQuarter visits the quarters of C: two halves of columns of the rows from c on and
// of those from R10 on.
func eachQuarter(f func(q int, base reg.Register, at int), c reg.Register) {
	for q := range 4 {
		base := c
		if q >= 2 {
			base = reg.R10
		}
		f(q, base, q%2*64)
	}
}

// The mandatory prefixes of VEX-coded instructions.
const (
	noPrefix = 0
	prefixF3 = 2
	prefixF2 = 3
)

// tileMemory loads tile t from rows that are stride bytes apart, the first at base+disp
// (TILELOADD, prefix F2), or stores it there (TILESTORED, prefix F3).
func tileMemory(prefix, t int, base, stride reg.Register, disp int) {
	b, s := number(base), number(stride)
	vex(prefix, 0x4B, s>>3, b>>3, 0, 0x80|t<<3|4, s&7<<3|b&7, disp&0xFF, disp>>8&0xFF, 0, 0)
}

// tileDot adds the product of tiles a and b to tile c (TDPBF16PS).
func tileDot(c, a, b int) { vex(prefixF3, 0x5C, 0, 0, b, 0xC0|c<<3|a) }

// vex emits VEX.128.prefix.0F38.W0 op with what follows it (ModRM, SIB, displacement). x
// and b are the fourth bits of the index and the base, v is the second source.
func vex(prefix int, op byte, x, b, v int, rest ...int) {
	bytes := []int{0xC4, 0x80 | (x^1)<<6 | (b^1)<<5 | 2, (^v&15)<<3 | prefix, int(op)}
	for _, x := range append(bytes, rest...) {
		Instruction(&ir.Instruction{Opcode: "BYTE", Operands: []Op{U8(x)}})
	}
}

// number is what the encoding calls a general register.
func number(r reg.Register) int {
	for i, x := range []reg.Register{reg.RAX, reg.RCX, reg.RDX, reg.RBX, reg.RSP, reg.RBP, reg.RSI, reg.RDI, reg.R8, reg.R9, reg.R10, reg.R11} {
		if x == r {
			return i
		}
	}
	panic("not a general register")
}
