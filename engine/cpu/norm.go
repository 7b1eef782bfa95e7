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
	gamma, beta := x.gamma(o.Gamma, y.cols), x.vectorOf(o.Beta)
	x.eachRows(y.rows, y.cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			var mean, rstd []float32
			if o.Stats != graph.None {
				s := stats.row(i)
				mean, rstd = s[:1], s[1:2]
			}
			if !o.RMS {
				kernel.LayerNorm(y.row(i), in.row(i), gamma, beta, o.Eps, 1, y.cols, mean, rstd)
				continue
			}
			if mean != nil {
				mean[0] = 0
			}
			kernel.RMSNorm(y.row(i), in.row(i), gamma, o.Eps, 1, y.cols, rstd)
			if beta != nil {
				kernel.Add(y.row(i), y.row(i), beta)
			}
		}
	})
}

func (x *executable) normGrad(o *graph.NormGrad) {
	in, stats, dy, c, dx := x.matrix(o.X), x.matrix(o.Stats), x.matrix(o.DY), x.matrix(o.C), x.matrix(o.DX)
	gamma := x.gamma(o.Gamma, dx.cols)
	x.eachRows(dx.rows, dx.cols, func(w, lo, hi int) {
		for i := lo; i < hi; i++ {
			s := stats.row(i)
			x.addend(w, dx, c, i, 1, func(dst []float32) {
				if o.RMS {
					kernel.RMSNormBackward(dst, dy.row(i), in.row(i), gamma, s[1:2], 1, dx.cols, nil)
				} else {
					kernel.LayerNormBackward(dst, dy.row(i), in.row(i), gamma, s[:1], s[1:2], 1, dx.cols, nil, nil)
				}
			})
		}
	})
}
