package kernel_test

import (
	"math"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// layerNorm is LayerNorm of one row in float64; rms leaves out the mean.
func layerNorm(x, gamma, beta []float64, eps float64, rms bool) []float64 {
	n := float64(len(x))
	var mean, sq float64
	if !rms {
		for _, v := range x {
			mean += v / n
		}
	}
	for _, v := range x {
		sq += (v - mean) * (v - mean) / n
	}
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = (v-mean)/math.Sqrt(sq+eps)*gamma[i] + beta[i]
	}
	return y
}

// vjp is the gradient of Σ dy·f(x) by x, by central differences.
func vjp(f func(x []float64) []float64, x, dy []float64) []float64 {
	const h = 1e-5
	dx := make([]float64, len(x))
	z := append([]float64(nil), x...)
	for i := range x {
		z[i] = x[i] + h
		up := f(z)
		z[i] = x[i] - h
		down := f(z)
		z[i] = x[i]
		for j := range dy {
			dx[i] += dy[j] * (up[j] - down[j]) / (2 * h)
		}
	}
	return dx
}

func TestNorms(t *testing.T) {
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, cols := range []int{1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100} {
			for _, rms := range []bool{false, true} {
				testNorm(t, 3, cols, rms)
			}
		}
	})
}

func testNorm(t *testing.T, rows, cols int, rms bool) {
	t.Helper()
	const eps = 1e-3
	x, dy, gamma, beta := randn(rows*cols, 1), randn(rows*cols, 2), randn(cols, 3), randn(cols, 4)
	for i := range x {
		x[i] += 3 // a mean to take away
	}
	if rms {
		clear(beta)
	}
	y, guardY := testkit.Guarded[float32](t, rows*cols, 1)
	dx, guardX := testkit.Guarded[float32](t, rows*cols, 2)
	dgamma, guardG := testkit.Guarded[float32](t, cols, 3)
	dbeta, guardB := testkit.Guarded[float32](t, cols, 1)
	mean, rstd := make([]float32, rows), make([]float32, rows)
	if rms {
		kernel.RMSNorm(y, x, gamma, eps, rows, cols, rstd)
		kernel.RMSNormBackward(dx, dy, x, gamma, rstd, rows, cols, dgamma)
	} else {
		kernel.LayerNorm(y, x, gamma, beta, eps, rows, cols, mean, rstd)
		kernel.LayerNormBackward(dx, dy, x, gamma, mean, rstd, rows, cols, dgamma, dbeta)
	}
	guardY()
	guardX()
	guardG()
	guardB()
	g, b := testkit.Float64s(gamma), testkit.Float64s(beta)
	var wantY, wantX []float64
	wantG, wantB := make([]float64, cols), make([]float64, cols)
	for i := range rows {
		xr, dr := testkit.Float64s(x[i*cols:][:cols]), testkit.Float64s(dy[i*cols:][:cols])
		wantY = append(wantY, layerNorm(xr, g, b, eps, rms)...)
		wantX = append(wantX, vjp(func(x []float64) []float64 { return layerNorm(x, g, b, eps, rms) }, xr, dr)...)
		dg := vjp(func(g []float64) []float64 { return layerNorm(xr, g, b, eps, rms) }, g, dr)
		for j := range cols {
			wantG[j] += dg[j]
			if !rms {
				wantB[j] += dr[j]
			}
		}
	}
	// Rounding x-mean to float32 is amplified by rstd, at most 1/√eps.
	const tol = 2e-5
	testkit.Compare(t, "y", y, wantY, tol, tol)
	testkit.Compare(t, "dx", dx, wantX, 2e-4, 2e-5)
	testkit.Compare(t, "dgamma", dgamma, wantG, 1e-4, 1e-5)
	testkit.Compare(t, "dbeta", dbeta, wantB, 1e-5, 0)
	if rms {
		kernel.RMSNormBackward(dy, dy, x, gamma, rstd, rows, cols, nil)
	} else {
		kernel.LayerNormBackward(dy, dy, x, gamma, mean, rstd, rows, cols, nil, nil)
	}
	testkit.EqualBits(t, "dx in place of dy", dy, dx)
}
