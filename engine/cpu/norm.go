package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// gamma is a norm's scale: ones where there is none.
func (x *executable) gamma(w graph.WeightID, cols int) []float32 {
	if w != graph.NoWeight {
		return x.vectorOf(w)
	}
	for len(x.ones) < cols {
		x.ones = append(x.ones, 1)
	}
	return x.ones[:cols]
}

func (x *executable) norm(o *graph.Norm) {
	in, y, stats := x.matrix(o.X), x.matrix(o.Y), x.matrix(o.Stats)
	n := y.cols / o.Parts()
	gamma, beta := x.gamma(o.Gamma, n), x.vectorOf(o.Beta)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			for h := range o.Parts() {
				var mean, rstd []float32
				if o.Stats != graph.None {
					s := stats.row(i)
					mean, rstd = s[2*h:2*h+1], s[2*h+1:2*h+2]
				}
				dst, src := y.row(i)[h*n:(h+1)*n], in.row(i)[h*n:(h+1)*n]
				if !o.RMS {
					kernel.LayerNorm(dst, src, gamma, beta, o.Eps, 1, n, mean, rstd)
					continue
				}
				if mean != nil {
					mean[0] = 0
				}
				kernel.RMSNorm(dst, src, gamma, o.Eps, 1, n, rstd)
				if beta != nil {
					kernel.Add(dst, dst, beta)
				}
			}
		}
	})
}

func (x *executable) normGrad(o *graph.NormGrad) {
	in, stats, dy, c, dx := x.matrix(o.X), x.matrix(o.Stats), x.matrix(o.DY), x.matrix(o.C), x.matrix(o.DX)
	n := dx.cols / o.Parts()
	gamma := x.gamma(o.Gamma, n)
	x.eachRows(dx.rows, dx.cols, func(w, lo, hi int) {
		for i := lo; i < hi; i++ {
			s := stats.row(i)
			x.addend(w, dx, c, i, 1, func(dst []float32) {
				for h := range o.Parts() {
					from, to, mean, rstd := h*n, (h+1)*n, s[2*h:2*h+1], s[2*h+1:2*h+2]
					if o.RMS {
						kernel.RMSNormBackward(dst[from:to], dy.row(i)[from:to], in.row(i)[from:to], gamma, rstd, 1, n, nil)
					} else {
						kernel.LayerNormBackward(dst[from:to], dy.row(i)[from:to], in.row(i)[from:to], gamma, mean, rstd, 1, n, nil, nil)
					}
				}
			})
		}
	})
}
