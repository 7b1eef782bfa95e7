package cuda

import "github.com/lsrsurgeon/lsrsurgeon/graph"

// columns is m from column at on, n of them.
func (m mat) columns(at, n int) mat {
	if m.p != 0 {
		m.p += ptr(4 * at)
	}
	m.cols = int32(n)
	return m
}

// blockMatMul is one product a part: each reads and writes columns in place.
func (x *executable) blockMatMul(o *graph.BlockMatMul) error {
	in, w, y := x.mat(o.X), x.mat(o.W), x.mat(o.Y)
	c := x.addend(o.C, y)
	rows, cols := int(in.cols), int(y.cols)
	if o.Trans {
		rows, cols = cols, rows
	}
	last := -1
	for _, p := range graph.BlockParts(o.Blocks, rows, cols, o.Shuffle) {
		a, b, addend := in.columns(p.Row, p.Rows), y.columns(p.Col, p.Cols), c.columns(p.Col, p.Cols)
		if o.Trans {
			a, b, addend = in.columns(p.Col, p.Cols), y.columns(p.Row, p.Rows), c.columns(p.Row, p.Rows)
			if p.Block == last { // the parts of a block add to the same columns
				addend = b
			}
		}
		last = p.Block
		g := gemmArgs{a: a.p, b: w.p + ptr(4*(p.Block*int(w.ld)+p.At)), c: addend.p, y: b.p, lda: a.ld, ldb: int32(p.Ld), ldc: addend.ld, ldy: b.ld,
			m: in.rows, n: b.cols, k: a.cols, tb: bit(o.Trans), splits: 1, alpha: o.Alpha}
		if err := x.gemm(x.valueKernel(), g, 0); err != nil {
			return err
		}
	}
	return nil
}

func (x *executable) blockMatMulGrad(o *graph.BlockMatMulGrad) error {
	in, dy, dw := x.mat(o.X), x.mat(o.DY), x.mat(o.DW)
	if o.Trans {
		in, dy = dy, in
	}
	for _, p := range graph.BlockParts(o.Blocks, int(in.cols), int(dy.cols), o.Shuffle) {
		a, b := in.columns(p.Row, p.Rows), dy.columns(p.Col, p.Cols)
		y := dw.p + ptr(4*(p.Block*int(dw.ld)+p.At))
		g := gemmArgs{a: a.p, b: b.p, y: y, lda: a.ld, ldb: b.ld, ldy: int32(p.Ld), m: a.cols, n: b.cols, k: in.rows, ta: 1, splits: 1, alpha: o.Alpha}
		if dw.add != 0 {
			g.c, g.ldc = y, int32(p.Ld)
		}
		if err := x.gemm(x.valueKernel(), g, 0); err != nil {
			return err
		}
	}
	return nil
}
