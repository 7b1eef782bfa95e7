package cuda

import (
	"strings"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// gemmArgs mirrors struct Gemm of kernels/gemm.cu.
type gemmArgs struct {
	a, b, c, y, pre, bias, partial, byCol, byRow ptr

	lda, ldb, ldc, ldy, ldpre int32
	m, n, k                   int32
	m0, mcap                  int32
	ta, tb, act, splits       int32
	alpha                     float32
	_                         int32
}

// product is y = act(a W + bias) + c, or a Wᵀ when backward.
type product struct {
	a         mat
	w         graph.WeightID
	backward  bool
	bias      graph.WeightID
	act       graph.Act
	pre, c, y mat
	r0, cap   int   // rows [r0, r0+cap) only; a, y start there
	scratchAt int64 // scratch in use before this byte
}

func (x *executable) linear(o *graph.Linear) error {
	y := x.mat(o.Y)
	return x.weightProduct(product{a: x.mat(o.X), w: o.W, bias: o.Bias, act: o.Act, pre: x.mat(o.Pre), c: x.mat(o.Residual), y: y})
}

// weightProduct multiplies with a frozen matrix: by cuBLASLt where it is there
// and takes the operands, else by our own kernels.
func (x *executable) weightProduct(p product) error {
	w, s := x.p.Weight(p.w), x.weights[p.w]
	g := gemmArgs{a: p.a.p, b: s.p, c: p.c.p, y: p.y.p, pre: p.pre.p, bias: x.vector(p.bias),
		lda: p.a.ld, ldb: int32(w.StoredCols()), ldc: p.c.ld, ldy: p.y.ld, ldpre: p.pre.ld,
		m: p.a.rows, n: int32(w.Out), k: int32(w.In), m0: int32(p.r0), mcap: int32(p.cap),
		tb: bit(w.Transposed != p.backward), act: int32(p.act), splits: 1, alpha: 1}
	g.byCol = s.scales
	if p.backward {
		g.n, g.k, g.byCol, g.byRow = g.k, g.n, 0, s.scales
	}
	if done, err := x.libraryProduct(p, g); done || err != nil {
		return err
	}
	return x.gemm(x.weightKernel(s.as), g, p.scratchAt)
}

// weightKernel multiplies a matrix of float32 and a frozen one.
func (x *executable) weightKernel(as storage) string {
	switch {
	case as == storeF32:
		return x.valueKernel()
	case as == storeBF16 && x.e.opt.Precision == "bf16":
		return "gemm_bf16"
	}
	return "gemm_" + x.e.opt.Precision + "_" + as.String()
}

// valueKernel multiplies two matrices of float32.
func (x *executable) valueKernel() string {
	if x.e.opt.Precision == "f32" {
		return "gemm_f32"
	}
	return "gemm_tf32"
}

func (x *executable) matMul(o *graph.MatMul) error {
	a, b, y := x.mat(o.A), x.mat(o.B), x.mat(o.Y)
	c := x.addend(o.C, y)
	g := gemmArgs{a: a.p, b: b.p, c: c.p, y: y.p, lda: a.ld, ldb: b.ld, ldc: c.ld, ldy: y.ld,
		m: a.rows, k: a.cols, n: b.cols, ta: bit(o.TransA), tb: bit(o.TransB), splits: 1, alpha: o.Alpha}
	if o.TransA {
		g.m, g.k = g.k, g.m
	}
	if o.TransB {
		g.n = b.rows
	}
	return x.gemm(x.valueKernel(), g, 0)
}

// wideElems is the largest frozen matrix that is widened for cuBLASLt: 256 MiB.
const wideElems = 1 << 26

// narrowCols is the width up to which the narrow tiles are used.
const narrowCols = 64

// gemm launches one of our own kernels, in parts along the inner dimension
// where the result is small and that dimension long.
func (x *executable) gemm(kernel string, g gemmArgs, scratchAt int64) error {
	m, n, k := x.count(g.m), x.count(g.n), x.count(g.k)
	if g.mcap > 0 {
		m = min(m, int(g.mcap))
	}
	bm, bn, block := 128, 128, 256
	switch {
	case strings.HasPrefix(kernel, "gemm_f32"):
		bm, bn = 64, 64
	case n <= narrowCols && strings.Count(kernel, "_") == 1: // of operands as they are stored

		kernel, bn, block = kernel+"_narrow", 32, 128
	}
	blocks := grid{x: (m + bm - 1) / bm, y: (n + bn - 1) / bn}
	if g.m >= 0 && g.n >= 0 && g.mcap == 0 {
		// As many parts as fill the device twice, each of 256 at least.
		g.splits = int32(max(1, min(2*x.info.Multiprocessors/max(blocks.x*blocks.y, 1), k/256, 64)))
	}
	if g.splits > 1 {
		g.partial = x.shared(scratchAt, 4*int64(g.splits)*int64(m)*int64(n))
	}
	blocks.z = int(g.splits)
	if err := x.emit(kernel, blocks, block, 0, x.batch.p, unsafe.Pointer(&g)); err != nil || g.splits == 1 {
		return err
	}
	return x.emit("gemm_reduce", flat(int64(m)*int64(n)), 256, 0, x.batch.p, unsafe.Pointer(&g))
}

// libraryProduct multiplies by cuBLASLt; done is false where it does not take
// the operands. It computes the rows of the whole bucket: those beyond the
// batch are read by nobody. Activations are our own kernel, because the
// library's GELU is the approximation by tanh. A frozen matrix of another type
// than its operands is widened before, if it is not too large.
func (x *executable) libraryProduct(p product, g gemmArgs) (done bool, err error) {
	m := x.count(g.m)
	if g.mcap > 0 {
		m = min(m-int(g.m0), int(g.mcap))
	}
	if x.blas == nil || m <= 0 {
		return false, nil
	}
	w, s := x.p.Weight(p.w), x.weights[p.w]
	half, elems := x.e.opt.Precision == "bf16" && s.as != storeF32, int64(w.In)*int64(w.Out)
	wide := s.as == storeInt8 || s.as == storeBF16 && !half
	if wide && elems > wideElems {
		return false, nil
	}
	out, after := p.y, p.act != graph.ActNone || p.pre.p != 0
	if p.pre.p != 0 {
		out = p.pre
	}
	spec := blasSpec{m: int(g.n), n: m, k: int(g.k), transA: g.tb == 1, lda: int(g.ldb), ldb: int(g.lda), ldd: int(out.ld), ldc: int(out.ld),
		half: half, tf32: x.e.opt.Precision != "f32", bias: g.bias != 0}
	a, b, c, at := p.a.p, g.b, out.p, p.scratchAt
	if !after && p.c.p != 0 {
		spec.beta, spec.ldc, c = true, int(p.c.ld), p.c.p
	}
	if wide {
		b = x.shared(at, 4*elems)
		at += (4*elems + 255) &^ 255
	}
	if half {
		a, spec.ldb = x.shared(at, 2*int64(m)*int64(g.k)), int(g.k)
	}
	if x.pass != enqueue {
		return true, nil // the scratch of our own kernels is not needed
	}
	spec.align = alignment(b, a, c, out.p)
	if spec.align < 16 || spec.strideBytes()%16 != 0 {
		return false, nil
	}
	plan, err := x.blas.plan(spec, g.bias)
	if err != nil {
		return false, nil // no algorithm: our own kernels take any operands
	}
	if wide {
		if err := x.emit("widen", flat(elems), 256, 0, s.p, elems, w.StoredCols(), int(bit(w.Transposed)), s.scales, int(bit(half)), b); err != nil {
			return true, err
		}
	}
	if half {
		in := p.a
		if g.mcap > 0 {
			in.rows = int32(m)
		}
		if err := x.over(in, "cast_rows", in, a); err != nil {
			return true, err
		}
	}
	if err := x.blas.multiply(plan, x.stream, b, a, c, out.p, g.bias); err != nil {
		return true, err
	}
	if !after {
		return true, nil
	}
	return true, x.over(p.y, "epilogue", out, int(p.act), p.c, p.y)
}

// alignment is the largest power of two up to 256 that divides all addresses.
func alignment(ps ...ptr) int {
	all := ptr(256)
	for _, p := range ps {
		all |= p
	}
	return int(all & -all)
}
