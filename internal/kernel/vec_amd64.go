//go:build !purego

package kernel

import "math"

// avx2Vec calls the assembly. Its functions take any length; those that do not
// leave the rest to the Go reference.
var avx2Vec = vecOps{
	exp:        func(dst, src []float32) { expAVX2(&dst[0], &src[0], len(src)) },
	tanh:       func(dst, src []float32) { tanhAVX2(&dst[0], &src[0], len(src)) },
	add:        func(dst, a, b []float32) { addAVX2(&dst[0], &a[0], &b[0], len(dst)) },
	mul:        func(dst, a, b []float32) { mulAVX2(&dst[0], &a[0], &b[0], len(dst)) },
	axpy:       func(alpha float32, x, y []float32) { axpyAVX2(alpha, &x[0], &y[0], len(y)) },
	scale:      func(alpha float32, x []float32) { scaleAVX2(alpha, &x[0], len(x)) },
	dot:        func(x, y []float32) float32 { return float32(dotAVX2(&x[0], &y[0], len(x))) },
	sum:        func(x []float32) float64 { return sumAVX2(&x[0], len(x)) },
	sumSquares: func(x []float32) float64 { return centredAVX2(&x[0], len(x), 0) },
	centred:    func(x []float32, mean float32) float64 { return centredAVX2(&x[0], len(x), mean) },
	maxAbs:     func(x []float32) float32 { return orNaN(maxAbsAVX2(&x[0], len(x))) },
	max:        func(x []float32) float32 { return orNaN(maxAVX2(&x[0], len(x))) },
	expSum:     avx2ExpSum,
	gradExp: func(dst, logits []float32, lse, scale float32) {
		gradExpAVX2(&dst[0], &logits[0], len(dst), lse, scale)
	},
	act: [numActs]func(dst, src []float32){
		ActNone:     goActs[ActNone],
		ActGELU:     func(dst, src []float32) { actGELUAVX2(&dst[0], &src[0], len(src)) },
		ActGELUTanh: func(dst, src []float32) { actGELUTanhAVX2(&dst[0], &src[0], len(src)) },
		ActReLU:     func(dst, src []float32) { actReLUAVX2(&dst[0], &src[0], len(src)) },
		ActSiLU:     func(dst, src []float32) { actSiLUAVX2(&dst[0], &src[0], len(src)) },
		ActTanh:     func(dst, src []float32) { actTanhAVX2(&dst[0], &src[0], len(src)) },
	},
	actGrad: [numActs]func(dx, dy, pre []float32){
		ActNone:     goActGrads[ActNone],
		ActGELU:     func(dx, dy, pre []float32) { gradGELUAVX2(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActGELUTanh: func(dx, dy, pre []float32) { gradGELUTanhAVX2(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActReLU:     func(dx, dy, pre []float32) { gradReLUAVX2(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActSiLU:     func(dx, dy, pre []float32) { gradSiLUAVX2(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActTanh:     func(dx, dy, pre []float32) { gradTanhAVX2(&dx[0], &dy[0], &pre[0], len(pre)) },
	},
	epilogue: [numActs]epilogueFunc{
		ActNone: epilogueNoneAVX2, ActGELU: epilogueGELUAVX2, ActGELUTanh: epilogueGELUTanhAVX2,
		ActReLU: epilogueReLUAVX2, ActSiLU: epilogueSiLUAVX2, ActTanh: epilogueTanhAVX2,
	},
	slope:     [numActs]epilogueFunc{ActGELU: slopeGELUAVX2, ActGELUTanh: slopeGELUTanhAVX2},
	timesRows: timesRowsAVX2,
	gated:     avx2Gated,
	gatedGrad: avx2GatedGrad,
	normRow:   avx2NormRow,
	normSums: func(dy, x, gamma []float32, mean, rstd float32) (g, gx float64) {
		return normSumsAVX2(&dy[0], &x[0], &gamma[0], len(x), mean, rstd)
	},
	normGradRow: func(dx, dy, x, gamma []float32, mean, rstd, c1, c2 float32) {
		normGradRowAVX2(&dx[0], &dy[0], &x[0], &gamma[0], len(x), mean, rstd, c1, c2)
	},
	normParams: avx2NormParams,
	dropout:    avx2Dropout,
	adamW: func(w, g, m, v []float32, c *adamConsts) {
		adamWAVX2(&w[0], &g[0], &m[0], &v[0], len(w), &c.beta1)
	},
	bf16ToF32: func(dst []float32, src []byte) {
		n := len(dst) &^ 7
		if n > 0 {
			bf16ToF32AVX2(&dst[0], &src[0], n/8)
		}
		goBF16ToF32(dst[n:], src[2*n:])
	},
	f32ToBF16: func(dst []byte, src []float32) {
		n := len(src) &^ 7
		if n > 0 {
			f32ToBF16AVX2(&dst[0], &src[0], n/8)
		}
		goF32ToBF16(dst[2*n:], src[n:])
	},
	f16ToF32: func(dst []float32, src []byte) {
		n := len(dst) &^ 7
		if n > 0 {
			f16ToF32AVX2(&dst[0], &src[0], n/8)
		}
		goF16ToF32(dst[n:], src[2*n:])
	},
	f32ToF16: func(dst []byte, src []float32) {
		n := len(src) &^ 7
		if n > 0 {
			f32ToF16AVX2(&dst[0], &src[0], n/8)
		}
		goF32ToF16(dst[2*n:], src[n:])
	},
	stats:      func(x []float32) Statistics { return laneStats(x, statsAVX2) },
	unpackInt8: avx2UnpackInt8,
	transpose:  avx2Transpose,
}

func orNaN(x float32, nan uint32) float32 {
	if nan != 0 {
		return float32(math.NaN())
	}
	return x
}

// avx2ExpSum adds pieces in float64, so that the error of the eight float32
// sums does not grow with the length.
func avx2ExpSum(dst, src []float32, scale, bias float32) float32 {
	const piece = 1024
	if len(src) <= piece {
		return expSumAVX2(&dst[0], &src[0], len(src), scale, bias)
	}
	var s float64
	for i := 0; i < len(src); i += piece {
		s += float64(expSumAVX2(&dst[i], &src[i], min(piece, len(src)-i), scale, bias))
	}
	return float32(s)
}

func avx2Gated(act Act, dst, gate, up []float32) {
	if act == ActSiLU {
		gatedSiLUAVX2(&dst[0], &gate[0], &up[0], len(dst))
	} else {
		gatedGELUTanhAVX2(&dst[0], &gate[0], &up[0], len(dst))
	}
}

func avx2GatedGrad(act Act, dgate, dup, dy, gate, up []float32) {
	if act == ActSiLU {
		gatedGradSiLUAVX2(&dgate[0], &dup[0], &dy[0], &gate[0], &up[0], len(dy))
	} else {
		gatedGradGELUTanhAVX2(&dgate[0], &dup[0], &dy[0], &gate[0], &up[0], len(dy))
	}
}

func avx2NormRow(y, x, gamma, beta []float32, mean, rstd float32) {
	if beta == nil {
		normRowAVX2(&y[0], &x[0], &gamma[0], len(x), mean, rstd)
	} else {
		normRowBetaAVX2(&y[0], &x[0], &gamma[0], &beta[0], len(x), mean, rstd)
	}
}

func avx2NormParams(dgamma, dbeta, dy, x []float32, mean, rstd float32) {
	if dgamma != nil {
		normParamsAVX2(&dgamma[0], &dy[0], &x[0], len(x), mean, rstd)
	}
	if dbeta != nil {
		addAVX2(&dbeta[0], &dbeta[0], &dy[0], len(dy))
	}
}

func avx2Dropout(dst, src []float32, threshold uint32, scale float32, key, stream, block uint64) {
	n := len(src) &^ 31
	if n > 0 {
		dropoutAVX2(&dst[0], &src[0], n/32, threshold, scale, key, stream, block)
	}
	goDropout(dst[n:], src[n:], threshold, scale, key, stream, block+uint64(n/8))
}

func avx2UnpackInt8(dst []float32, src []int8, scale []float32) {
	switch {
	case len(src) == 0:
	case len(scale) == 16:
		unpackInt8AVX2(&dst[0], &src[0], &scale[0], len(src)/16)
	case len(scale) == 32:
		unpackInt8x32AVX2(&dst[0], &src[0], &scale[0], len(src)/32)
	default:
		goUnpackInt8(dst, src, scale)
	}
}

func avx2Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	r8, c8 := rows&^7, cols&^7
	if c8 > 0 {
		for i := 0; i < r8; i += 8 {
			transpose8AVX2(&dst[i], ldd, &src[i*lds], lds, c8/8)
		}
	} else {
		r8 = 0
	}
	if c8 < cols && r8 > 0 {
		goTranspose(dst[c8*ldd:], ldd, src[c8:], lds, r8, cols-c8)
	}
	if r8 < rows {
		goTranspose(dst[r8:], ldd, src[r8*lds:], lds, rows-r8, cols)
	}
}

func avx2AddTo(dst, src []float32) { addAVX2(&dst[0], &dst[0], &src[0], len(dst)) }
