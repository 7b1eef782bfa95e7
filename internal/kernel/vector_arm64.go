//go:build !purego

package kernel

// neonVec calls the assembly. Its functions take any length; those that do not
// leave the rest to the Go reference.
var neonVec = vecOps{
	exp:        func(dst, src []float32) { expNEON(&dst[0], &src[0], len(src)) },
	tanh:       func(dst, src []float32) { tanhNEON(&dst[0], &src[0], len(src)) },
	add:        func(dst, a, b []float32) { addNEON(&dst[0], &a[0], &b[0], len(dst)) },
	mul:        func(dst, a, b []float32) { mulNEON(&dst[0], &a[0], &b[0], len(dst)) },
	axpy:       func(alpha float32, x, y []float32) { axpyNEON(alpha, &x[0], &y[0], len(y)) },
	scale:      func(alpha float32, x []float32) { scaleNEON(alpha, &x[0], len(x)) },
	dot:        func(x, y []float32) float32 { return float32(dotNEON(&x[0], &y[0], len(x))) },
	sum:        func(x []float32) float64 { return sumNEON(&x[0], len(x)) },
	sumSquares: func(x []float32) float64 { return centredNEON(&x[0], len(x), 0) },
	centred:    func(x []float32, mean float32) float64 { return centredNEON(&x[0], len(x), mean) },
	maxAbs:     func(x []float32) float32 { return maxAbsNEON(&x[0], len(x)) },
	max:        func(x []float32) float32 { return maxNEON(&x[0], len(x)) },
	expSum:     neonExpSum,
	gradExp: func(dst, logits []float32, lse, scale float32) {
		gradExpNEON(&dst[0], &logits[0], len(dst), lse, scale)
	},
	act: [numActs]func(dst, src []float32){
		ActNone:     goActs[ActNone],
		ActGELU:     func(dst, src []float32) { actGELUNEON(&dst[0], &src[0], len(src)) },
		ActGELUTanh: func(dst, src []float32) { actGELUTanhNEON(&dst[0], &src[0], len(src)) },
		ActReLU:     func(dst, src []float32) { actReLUNEON(&dst[0], &src[0], len(src)) },
		ActSiLU:     func(dst, src []float32) { actSiLUNEON(&dst[0], &src[0], len(src)) },
		ActTanh:     func(dst, src []float32) { actTanhNEON(&dst[0], &src[0], len(src)) },
	},
	actGrad: [numActs]func(dx, dy, pre []float32){
		ActNone:     goActGrads[ActNone],
		ActGELU:     func(dx, dy, pre []float32) { gradGELUNEON(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActGELUTanh: func(dx, dy, pre []float32) { gradGELUTanhNEON(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActReLU:     func(dx, dy, pre []float32) { gradReLUNEON(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActSiLU:     func(dx, dy, pre []float32) { gradSiLUNEON(&dx[0], &dy[0], &pre[0], len(pre)) },
		ActTanh:     func(dx, dy, pre []float32) { gradTanhNEON(&dx[0], &dy[0], &pre[0], len(pre)) },
	},
	epilogue: [numActs]epilogueFunc{
		ActNone: epilogueNoneNEON, ActGELU: epilogueGELUNEON, ActGELUTanh: epilogueGELUTanhNEON,
		ActReLU: epilogueReLUNEON, ActSiLU: epilogueSiLUNEON, ActTanh: epilogueTanhNEON,
	},
	slope:     [numActs]epilogueFunc{ActGELU: slopeGELUNEON, ActGELUTanh: slopeGELUTanhNEON},
	timesRows: timesRowsNEON,
	gated:     neonGated,
	gatedGrad: neonGatedGrad,
	normRow:   neonNormRow,
	normSums: func(dy, x, gamma []float32, mean, rstd float32) (g, gx float64) {
		return normSumsNEON(&dy[0], &x[0], &gamma[0], len(x), mean, rstd)
	},
	normGradRow: func(dx, dy, x, gamma []float32, mean, rstd, c1, c2 float32) {
		normGradRowNEON(&dx[0], &dy[0], &x[0], &gamma[0], len(x), mean, rstd, c1, c2)
	},
	normParams: neonNormParams,
	dropout:    neonDropout,
	adamW: func(w, g, m, v []float32, c *adamConsts) {
		adamWNEON(&w[0], &g[0], &m[0], &v[0], len(w), &c.beta1)
	},
	bf16ToF32: func(dst []float32, src []byte) {
		n := len(dst) &^ 7
		if n > 0 {
			bf16ToF32NEON(&dst[0], &src[0], n/8)
		}
		goBF16ToF32(dst[n:], src[2*n:])
	},
	f32ToBF16: func(dst []byte, src []float32) {
		n := len(src) &^ 7
		if n > 0 {
			f32ToBF16NEON(&dst[0], &src[0], n/8)
		}
		goF32ToBF16(dst[2*n:], src[n:])
	},
	f16ToF32: func(dst []float32, src []byte) {
		n := len(dst) &^ 7
		if n > 0 {
			f16ToF32NEON(&dst[0], &src[0], n/8)
		}
		goF16ToF32(dst[n:], src[2*n:])
	},
	f32ToF16: func(dst []byte, src []float32) {
		n := len(src) &^ 7
		if n > 0 {
			f32ToF16NEON(&dst[0], &src[0], n/8)
		}
		goF32ToF16(dst[2*n:], src[n:])
	},
	stats:      func(x []float32) Statistics { return laneStats(x, statsNEON) },
	unpackInt8: neonUnpackInt8,
	transpose:  neonTranspose,
}

// neonExpSum adds pieces in float64, so that the error of the eight float32
// sums does not grow with the length.
func neonExpSum(dst, src []float32, scale, bias float32) float32 {
	const piece = 1024
	if len(src) <= piece {
		return expSumNEON(&dst[0], &src[0], len(src), scale, bias)
	}
	var s float64
	for i := 0; i < len(src); i += piece {
		s += float64(expSumNEON(&dst[i], &src[i], min(piece, len(src)-i), scale, bias))
	}
	return float32(s)
}

func neonGated(act Act, dst, gate, up []float32) {
	if act == ActSiLU {
		gatedSiLUNEON(&dst[0], &gate[0], &up[0], len(dst))
	} else {
		gatedGELUTanhNEON(&dst[0], &gate[0], &up[0], len(dst))
	}
}

func neonGatedGrad(act Act, dgate, dup, dy, gate, up []float32) {
	if act == ActSiLU {
		gatedGradSiLUNEON(&dgate[0], &dup[0], &dy[0], &gate[0], &up[0], len(dy))
	} else {
		gatedGradGELUTanhNEON(&dgate[0], &dup[0], &dy[0], &gate[0], &up[0], len(dy))
	}
}

func neonNormRow(y, x, gamma, beta []float32, mean, rstd float32) {
	if beta == nil {
		normRowNEON(&y[0], &x[0], &gamma[0], len(x), mean, rstd)
	} else {
		normRowBetaNEON(&y[0], &x[0], &gamma[0], &beta[0], len(x), mean, rstd)
	}
}

func neonNormParams(dgamma, dbeta, dy, x []float32, mean, rstd float32) {
	if dgamma != nil {
		normParamsNEON(&dgamma[0], &dy[0], &x[0], len(x), mean, rstd)
	}
	if dbeta != nil {
		addNEON(&dbeta[0], &dbeta[0], &dy[0], len(dy))
	}
}

func neonDropout(dst, src []float32, threshold uint32, scale float32, key, stream, block uint64) {
	n := len(src) &^ 31
	if n > 0 {
		dropoutNEON(&dst[0], &src[0], n/32, threshold, scale, key, stream, block)
	}
	goDropout(dst[n:], src[n:], threshold, scale, key, stream, block+uint64(n/8))
}

func neonUnpackInt8(dst []float32, src []int8, scale []float32) {
	if len(scale) != 16 || len(src) == 0 {
		goUnpackInt8(dst, src, scale)
		return
	}
	unpackInt8NEON(&dst[0], &src[0], &scale[0], len(src)/16)
}

func neonTranspose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	r4, c4 := rows&^3, cols&^3
	if c4 == 0 {
		r4 = 0
	}
	for i := 0; i < r4; i += 4 {
		transpose4NEON(&dst[i], ldd, &src[i*lds], lds, c4/4)
	}
	if c4 < cols && r4 > 0 {
		goTranspose(dst[c4*ldd:], ldd, src[c4:], lds, r4, cols-c4)
	}
	if r4 < rows {
		goTranspose(dst[r4:], ldd, src[r4*lds:], lds, rows-r4, cols)
	}
}

// neonAddTo implements tileKernel.addTo.
func neonAddTo(dst, src []float32) { addNEON(&dst[0], &dst[0], &src[0], len(dst)) }
