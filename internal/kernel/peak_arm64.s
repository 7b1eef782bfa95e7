//go:build !purego

#include "textflag.h"

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
