package kernel

import (
	"fmt"
	"math"
)

// LayerNorm sets, for each row, y = (x-μ)/√(σ²+eps)·gamma + beta, with μ and σ²
// the mean and the (biased) variance of the row, both accumulated in float64.
//
// Shapes: x, y (rows, cols); gamma, beta (cols); mean, rstd (rows), which
// receive μ and 1/√(σ²+eps) for the backward pass and may be nil; beta may be
// nil. y may be x, but the backward pass needs x. It panics if a slice has
// another length. Source: Ba et al., arXiv 1607.06450, equation 4.
func LayerNorm(y, x, gamma, beta []float32, eps float32, rows, cols int, mean, rstd []float32) {
	checkNorm("LayerNorm", rows, cols, y, x, gamma)
	checkOptional("LayerNorm: beta", beta, cols)
	checkOptional("LayerNorm: mean", mean, rows)
	checkOptional("LayerNorm: rstd", rstd, rows)
	if cols == 0 {
		return
	}
	v := cur.vec
	for i := range rows {
		xr := x[i*cols:][:cols]
		mu := float32(v.sum(xr) / float64(cols))
		rs := float32(1 / math.Sqrt(v.centred(xr, mu)/float64(cols)+float64(eps)))
		v.normRow(y[i*cols:][:cols], xr, gamma, beta, mu, rs)
		if mean != nil {
			mean[i] = mu
		}
		if rstd != nil {
			rstd[i] = rs
		}
	}
}

// LayerNormBackward sets dx, the gradient by x. With x̂ = (x-μ)·rstd and
// g = dy·gamma, per row:
//
//	dx = rstd·(g - avg(g) - x̂·avg(g·x̂))
//
// and adds dy·x̂ to dgamma and dy to dbeta, each when it is not nil. Shapes as
// for LayerNorm; dx may be dy. The averages are accumulated in float64.
func LayerNormBackward(dx, dy, x, gamma, mean, rstd []float32, rows, cols int, dgamma, dbeta []float32) {
	checkNorm("LayerNormBackward", rows, cols, dx, x, gamma)
	same("LayerNormBackward", rows, len(mean))
	normBackward("LayerNormBackward", dx, dy, x, gamma, mean, rstd, rows, cols, dgamma, dbeta)
}

// RMSNorm sets, for each row, y = x/√(avg(x²)+eps)·gamma. Shapes as for
// LayerNorm; rstd may be nil. Source: Zhang and Sennrich, arXiv 1910.07467,
// equation 4.
func RMSNorm(y, x, gamma []float32, eps float32, rows, cols int, rstd []float32) {
	checkNorm("RMSNorm", rows, cols, y, x, gamma)
	checkOptional("RMSNorm: rstd", rstd, rows)
	if cols == 0 {
		return
	}
	v := cur.vec
	for i := range rows {
		xr := x[i*cols:][:cols]
		rs := float32(1 / math.Sqrt(v.sumSquares(xr)/float64(cols)+float64(eps)))
		v.normRow(y[i*cols:][:cols], xr, gamma, nil, 0, rs)
		if rstd != nil {
			rstd[i] = rs
		}
	}
}

// RMSNormBackward sets dx = rstd·(g - x̂·avg(g·x̂)) with x̂ = x·rstd and
// g = dy·gamma, and adds dy·x̂ to dgamma unless it is nil. dx may be dy.
func RMSNormBackward(dx, dy, x, gamma, rstd []float32, rows, cols int, dgamma []float32) {
	checkNorm("RMSNormBackward", rows, cols, dx, x, gamma)
	normBackward("RMSNormBackward", dx, dy, x, gamma, nil, rstd, rows, cols, dgamma, nil)
}

// normBackward is both backward passes; mean is nil for RMSNorm, which does not
// subtract avg(g) either.
func normBackward(what string, dx, dy, x, gamma, mean, rstd []float32, rows, cols int, dgamma, dbeta []float32) {
	same(what, rows, len(rstd))
	same(what, rows*cols, len(dy))
	checkOptional(what+": dgamma", dgamma, cols)
	checkOptional(what+": dbeta", dbeta, cols)
	if cols == 0 {
		return
	}
	v := cur.vec
	for i := range rows {
		o := i * cols
		xr, dyr := x[o:][:cols], dy[o:][:cols]
		var mu float32
		if mean != nil {
			mu = mean[i]
		}
		if dgamma != nil || dbeta != nil {
			v.normParams(dgamma, dbeta, dyr, xr, mu, rstd[i])
		}
		g, gx := v.normSums(dyr, xr, gamma, mu, rstd[i])
		if mean == nil {
			g = 0
		}
		v.normGradRow(dx[o:][:cols], dyr, xr, gamma, mu, rstd[i], float32(g/float64(cols)), float32(gx/float64(cols)))
	}
}

func checkNorm(what string, rows, cols int, y, x, gamma []float32) {
	if rows < 0 || cols < 0 {
		panic(fmt.Sprintf("kernel: %s: %d rows of %d columns", what, rows, cols))
	}
	same(what, rows*cols, len(x), len(y))
	same(what+": gamma", cols, len(gamma))
}

func checkOptional(what string, s []float32, n int) {
	if s != nil {
		same(what, n, len(s))
	}
}

func goNormRow(y, x, gamma, beta []float32, mean, rstd float32) {
	for i, v := range x {
		t := (v - mean) * rstd * gamma[i]
		if beta != nil {
			t += beta[i]
		}
		y[i] = t
	}
}

func goNormSums(dy, x, gamma []float32, mean, rstd float32) (g, gx float64) {
	for i, d := range dy {
		t := float64(d) * float64(gamma[i])
		g += t
		gx += t * float64((x[i]-mean)*rstd)
	}
	return g, gx
}

func goNormGradRow(dx, dy, x, gamma []float32, mean, rstd, c1, c2 float32) {
	for i, d := range dy {
		dx[i] = rstd * (d*gamma[i] - c1 - (x[i]-mean)*rstd*c2)
	}
}

func goNormParams(dgamma, dbeta, dy, x []float32, mean, rstd float32) {
	if dgamma != nil {
		for i, d := range dy {
			dgamma[i] += d * ((x[i] - mean) * rstd)
		}
	}
	if dbeta != nil {
		for i, d := range dy {
			dbeta[i] += d
		}
	}
}
