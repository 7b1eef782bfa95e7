//go:build !purego

#include "textflag.h"

// Elementwise loops over n pieces of sixteen elements. The sums are fused multiply-adds
// with one, which round as sums do.

// func addNEON(dst, a, b *float32, n int)
TEXT ·addNEON(SB), NOSPLIT, $0-32
	MOVD dst+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD n+24(FP), R3
	MOVD $0x3f800000, R4
	VDUP R4, V8.S4

add:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R2), [V4.S4, V5.S4, V6.S4, V7.S4]
	VFMLA  V4.S4, V8.S4, V0.S4
	VFMLA  V5.S4, V8.S4, V1.S4
	VFMLA  V6.S4, V8.S4, V2.S4
	VFMLA  V7.S4, V8.S4, V3.S4
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	SUB    $1, R3
	CBNZ   R3, add
	RET

// func axpyNEON(alpha float32, x, y *float32, n int)
TEXT ·axpyNEON(SB), NOSPLIT, $0-32
	MOVWU alpha+0(FP), R4
	VDUP  R4, V8.S4
	MOVD  x+8(FP), R1
	MOVD  y+16(FP), R2
	MOVD  n+24(FP), R3

axpy:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1   (R2), [V4.S4, V5.S4, V6.S4, V7.S4]
	VFMLA  V0.S4, V8.S4, V4.S4
	VFMLA  V1.S4, V8.S4, V5.S4
	VFMLA  V2.S4, V8.S4, V6.S4
	VFMLA  V3.S4, V8.S4, V7.S4
	VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R2)
	SUB    $1, R3
	CBNZ   R3, axpy
	RET

// FMUL(d, n, m) is the vector instruction of this name, which Go's assembler lacks.
#define FMUL(d, n, m) WORD $(0x6E20DC00 | m<<16 | n<<5 | d)

// func mulNEON(dst, a, b *float32, n int)
TEXT ·mulNEON(SB), NOSPLIT, $0-32
	MOVD dst+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD n+24(FP), R3

mul:
	VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R2), [V4.S4, V5.S4, V6.S4, V7.S4]
	FMUL(0, 0, 4)
	FMUL(1, 1, 5)
	FMUL(2, 2, 6)
	FMUL(3, 3, 7)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	SUB    $1, R3
	CBNZ   R3, mul
	RET

// func scaleNEON(alpha float32, x *float32, n int)
TEXT ·scaleNEON(SB), NOSPLIT, $0-24
	MOVWU alpha+0(FP), R4
	VDUP  R4, V8.S4
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R3

scale:
	VLD1   (R1), [V0.S4, V1.S4, V2.S4, V3.S4]
	FMUL(0, 0, 8)
	FMUL(1, 1, 8)
	FMUL(2, 2, 8)
	FMUL(3, 3, 8)
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R1)
	SUB    $1, R3
	CBNZ   R3, scale
	RET

// FMAS does four of the 24 independent sums of fmaLoopNEON.
#define FMAS(a, b, c, d) \
	VFMLA V24.S4, V25.S4, a.S4 \
	VFMLA V24.S4, V25.S4, b.S4 \
	VFMLA V24.S4, V25.S4, c.S4 \
	VFMLA V24.S4, V25.S4, d.S4

// func fmaLoopNEON(n int)
TEXT ·fmaLoopNEON(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R0
	VEOR V24.B16, V24.B16, V24.B16
	VEOR V25.B16, V25.B16, V25.B16

fma:
	FMAS(V0, V1, V2, V3)
	FMAS(V4, V5, V6, V7)
	FMAS(V8, V9, V10, V11)
	FMAS(V12, V13, V14, V15)
	FMAS(V16, V17, V18, V19)
	FMAS(V20, V21, V22, V23)
	SUB  $1, R0
	CBNZ R0, fma
	RET
