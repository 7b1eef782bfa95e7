//go:build !purego

#include "textflag.h"

// The microkernels keep their tile of C in vector registers, load a row of B and one
// element of each row of A, spread over a vector, and add their products. Rows past the
// last are computed from the first one again and not stored.

// FMA4(x, c0..c3): a row of a 6x16 tile, x being its element of A.
#define FMA4(x, c0, c1, c2, c3) \
	VFMLA V24.S4, x.S4, c0.S4 \
	VFMLA V25.S4, x.S4, c1.S4 \
	VFMLA V26.S4, x.S4, c2.S4 \
	VFMLA V27.S4, x.S4, c3.S4

// ADD4 adds a row of C to its sums. V31 holds ones: a fused c·1 + sum rounds as a sum does.
#define ADD4(c0, c1, c2, c3) \
	VLD1 (R17), [V24.S4, V25.S4, V26.S4, V27.S4] \
	VFMLA V24.S4, V31.S4, c0.S4 \
	VFMLA V25.S4, V31.S4, c1.S4 \
	VFMLA V26.S4, V31.S4, c2.S4 \
	VFMLA V27.S4, V31.S4, c3.S4 \
	ADD R12, R17

// ROW points a register at row n of A: at most m rows, then the first again.
#define ROW(n, previous, pointer) \
	ADD R9, previous, R16 \
	CMP $n, R13 \
	CSEL GT, R16, R1, pointer

#define CLEAR4(a, b, c, d) \
	VEOR a.B16, a.B16, a.B16 \
	VEOR b.B16, b.B16, b.B16 \
	VEOR c.B16, c.B16, c.B16 \
	VEOR d.B16, d.B16, d.B16

#define ONES \
	MOVD $0x3f800000, R16 \
	VDUP R16, V31.S4

// func tileNEON6x16(k int, a *float32, ars, acs int, b *float32, brs int, c *float32, ldc, m, acc int)
TEXT ·tileNEON6x16(SB), NOSPLIT, $0-80
	MOVD k+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD acs+24(FP), R7
	MOVD b+32(FP), R8
	MOVD brs+40(FP), R10
	MOVD c+48(FP), R11
	MOVD ldc+56(FP), R12
	MOVD m+64(FP), R13
	MOVD acc+72(FP), R14
	LSL  $2, R9
	LSL  $2, R7
	LSL  $2, R10
	LSL  $2, R12
	ROW(1, R1, R2)
	ROW(2, R2, R3)
	ROW(3, R3, R4)
	ROW(4, R4, R5)
	ROW(5, R5, R6)
	CLEAR4(V0, V1, V2, V3)
	CLEAR4(V4, V5, V6, V7)
	CLEAR4(V8, V9, V10, V11)
	CLEAR4(V12, V13, V14, V15)
	CLEAR4(V16, V17, V18, V19)
	CLEAR4(V20, V21, V22, V23)
	CBZ  R0, sum6

loop6:
	VLD1    (R8), [V24.S4, V25.S4, V26.S4, V27.S4]
	ADD     R10, R8
	VLD1R.P (R1)(R7), [V28.S4]
	VLD1R.P (R2)(R7), [V29.S4]
	VLD1R.P (R3)(R7), [V30.S4]
	VLD1R.P (R4)(R7), [V31.S4]
	FMA4(V28, V0, V1, V2, V3)
	VLD1R.P (R5)(R7), [V28.S4]
	FMA4(V29, V4, V5, V6, V7)
	VLD1R.P (R6)(R7), [V29.S4]
	FMA4(V30, V8, V9, V10, V11)
	FMA4(V31, V12, V13, V14, V15)
	FMA4(V28, V16, V17, V18, V19)
	FMA4(V29, V20, V21, V22, V23)
	SUB     $1, R0
	CBNZ    R0, loop6

sum6:
	CBZ  R14, store6
	ONES
	MOVD R11, R17
	ADD4(V0, V1, V2, V3)
	CMP  $1, R13
	BLE  store6
	ADD4(V4, V5, V6, V7)
	CMP  $2, R13
	BLE  store6
	ADD4(V8, V9, V10, V11)
	CMP  $3, R13
	BLE  store6
	ADD4(V12, V13, V14, V15)
	CMP  $4, R13
	BLE  store6
	ADD4(V16, V17, V18, V19)
	CMP  $5, R13
	BLE  store6
	ADD4(V20, V21, V22, V23)

store6:
	VST1 [V0.S4, V1.S4, V2.S4, V3.S4], (R11)
	ADD  R12, R11
	CMP  $1, R13
	BLE  end6
	VST1 [V4.S4, V5.S4, V6.S4, V7.S4], (R11)
	ADD  R12, R11
	CMP  $2, R13
	BLE  end6
	VST1 [V8.S4, V9.S4, V10.S4, V11.S4], (R11)
	ADD  R12, R11
	CMP  $3, R13
	BLE  end6
	VST1 [V12.S4, V13.S4, V14.S4, V15.S4], (R11)
	ADD  R12, R11
	CMP  $4, R13
	BLE  end6
	VST1 [V16.S4, V17.S4, V18.S4, V19.S4], (R11)
	ADD  R12, R11
	CMP  $5, R13
	BLE  end6
	VST1 [V20.S4, V21.S4, V22.S4, V23.S4], (R11)

end6:
	RET

// FMA2(x, c0, c1): a row of an 8x8 tile.
#define FMA2(x, c0, c1) \
	VFMLA V16.S4, x.S4, c0.S4 \
	VFMLA V17.S4, x.S4, c1.S4

#define ADD2(c0, c1) \
	VLD1 (R17), [V16.S4, V17.S4] \
	VFMLA V16.S4, V31.S4, c0.S4 \
	VFMLA V17.S4, V31.S4, c1.S4 \
	ADD R12, R17

// func tileNEON8x8(k int, a *float32, ars, acs int, b *float32, brs int, c *float32, ldc, m, acc int)
TEXT ·tileNEON8x8(SB), NOSPLIT, $0-80
	MOVD k+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD acs+24(FP), R7
	MOVD b+32(FP), R8
	MOVD brs+40(FP), R10
	MOVD c+48(FP), R11
	MOVD ldc+56(FP), R12
	MOVD m+64(FP), R13
	MOVD acc+72(FP), R14
	LSL  $2, R9
	LSL  $2, R7
	LSL  $2, R10
	LSL  $2, R12
	ROW(1, R1, R2)
	ROW(2, R2, R3)
	ROW(3, R3, R4)
	ROW(4, R4, R5)
	ROW(5, R5, R6)
	ROW(6, R6, R15)
	ROW(7, R15, R19)
	CLEAR4(V0, V1, V2, V3)
	CLEAR4(V4, V5, V6, V7)
	CLEAR4(V8, V9, V10, V11)
	CLEAR4(V12, V13, V14, V15)
	CBZ  R0, sum8

loop8:
	VLD1    (R8), [V16.S4, V17.S4]
	ADD     R10, R8
	VLD1R.P (R1)(R7), [V18.S4]
	VLD1R.P (R2)(R7), [V19.S4]
	VLD1R.P (R3)(R7), [V20.S4]
	VLD1R.P (R4)(R7), [V21.S4]
	VLD1R.P (R5)(R7), [V22.S4]
	VLD1R.P (R6)(R7), [V23.S4]
	VLD1R.P (R15)(R7), [V24.S4]
	VLD1R.P (R19)(R7), [V25.S4]
	FMA2(V18, V0, V1)
	FMA2(V19, V2, V3)
	FMA2(V20, V4, V5)
	FMA2(V21, V6, V7)
	FMA2(V22, V8, V9)
	FMA2(V23, V10, V11)
	FMA2(V24, V12, V13)
	FMA2(V25, V14, V15)
	SUB     $1, R0
	CBNZ    R0, loop8

sum8:
	CBZ  R14, store8
	ONES
	MOVD R11, R17
	ADD2(V0, V1)
	CMP  $1, R13
	BLE  store8
	ADD2(V2, V3)
	CMP  $2, R13
	BLE  store8
	ADD2(V4, V5)
	CMP  $3, R13
	BLE  store8
	ADD2(V6, V7)
	CMP  $4, R13
	BLE  store8
	ADD2(V8, V9)
	CMP  $5, R13
	BLE  store8
	ADD2(V10, V11)
	CMP  $6, R13
	BLE  store8
	ADD2(V12, V13)
	CMP  $7, R13
	BLE  store8
	ADD2(V14, V15)

#define STORE2(n, a, b) \
	VST1 [a.S4, b.S4], (R11) \
	ADD  R12, R11 \
	CMP  $n, R13 \
	BLE  end8

store8:
	STORE2(1, V0, V1)
	STORE2(2, V2, V3)
	STORE2(3, V4, V5)
	STORE2(4, V6, V7)
	STORE2(5, V8, V9)
	STORE2(6, V10, V11)
	STORE2(7, V12, V13)
	VST1 [V14.S4, V15.S4], (R11)

end8:
	RET
