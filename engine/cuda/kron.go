package cuda

import (
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// kronArgs mirrors struct Kron of kernels/kron.cu.
type kronArgs struct {
	f1, f2, k, d1, d2 ptr

	ld1, ld2, ldk, ldd1, ldd2 int32
	terms, a1, r1, a2, r2     int32
	n, m                      int32
	add1, add2                int32
}

const kronBytes = int64(unsafe.Sizeof(kronArgs{}))

// kronShape is the layout of Σ f1 ⊗ f2.
type kronShape struct{ terms, a1, r1, a2, r2, n, m int }

// entry describes a sum to the kernels.
func (x *executable) entry(s kronShape, f1, f2 graph.Value, k mat, d1, d2 graph.Value) kronArgs {
	a, b, g1, g2 := x.mat(f1), x.mat(f2), x.mat(d1), x.mat(d2)
	return kronArgs{f1: a.p, f2: b.p, k: k.p, d1: g1.p, d2: g2.p, ld1: a.ld, ld2: b.ld, ldk: k.ld, ldd1: g1.ld, ldd2: g2.ld,
		terms: int32(s.terms), a1: int32(s.a1), r1: int32(s.r1), a2: int32(s.a2), r2: int32(s.r2), n: int32(s.n), m: int32(s.m), add1: g1.add, add2: g2.add}
}

// sumEntry is the entry of operation op, a sum or the gradient of one.
func (x *executable) sumEntry(op graph.Op) kronArgs {
	switch o := op.(type) {
	case *graph.KronSum:
		y := x.mat(o.Y)
		return x.entry(kronShape{o.Terms, o.A1, o.R1, o.A2, o.R2, int(y.rows), int(y.cols)}, o.F1, o.F2, y, graph.None, graph.None)
	case *graph.KronSumGrad:
		dy := x.mat(o.DY)
		return x.entry(kronShape{o.Terms, o.A1, o.R1, o.A2, o.R2, int(dy.rows), int(dy.cols)}, o.F1, o.F2, dy, o.DF1, o.DF2)
	}
	return kronArgs{}
}

// kronRun is the number of operations from i on that one launch can do: sums,
// or gradients of sums, none of which touches what another writes. It is 0
// where operation i is neither.
func (x *executable) kronRun(i int) int {
	var list []kronArgs
	_, sums := x.p.Ops[i].(*graph.KronSum)
	for _, op := range x.p.Ops[i:] {
		if name := op.Name(); name != "kron_sum" && name != "kron_sum_grad" {
			break
		}
		if _, sum := op.(*graph.KronSum); sum != sums {
			break
		}
		e := x.sumEntry(op)
		for _, other := range list {
			if e.meets(other, sums) || other.meets(e, sums) {
				return len(list)
			}
		}
		list = append(list, e)
	}
	return len(list)
}

// span is memory [lo, hi).
type span struct{ lo, hi ptr }

func spanOf(p ptr, rows, ld, cols int32) span {
	if p == 0 || rows == 0 {
		return span{}
	}
	return span{p, p + ptr(4*(int64(rows-1)*int64(ld)+int64(cols)))}
}

// meets reports whether e writes what o reads or writes.
func (e kronArgs) meets(o kronArgs, sum bool) bool {
	spans := func(k kronArgs) [5]span {
		return [5]span{spanOf(k.k, k.n, k.ldk, k.m), spanOf(k.d1, k.terms, k.ldd1, k.a1*k.r1), spanOf(k.d2, k.terms, k.ldd2, k.a2*k.r2),
			spanOf(k.f1, k.terms, k.ld1, k.a1*k.r1), spanOf(k.f2, k.terms, k.ld2, k.a2*k.r2)}
	}
	mine, theirs := spans(e), spans(o)
	writes := mine[1:3]
	if sum {
		writes = mine[:1]
	}
	for _, w := range writes {
		for _, t := range theirs {
			if w.lo < t.hi && t.lo < w.hi {
				return true
			}
		}
	}
	return false
}

// kronAll runs sums, or gradients of sums, in one launch.
func (x *executable) kronAll(ops []graph.Op) error {
	_, sum := ops[0].(*graph.KronSum)
	var entries []kronArgs
	for _, op := range ops {
		entries = append(entries, x.sumEntry(op))
	}
	return x.kronLaunch(sum, entries)
}

// kronLaunch runs entries, which lie in the table in the order of the passes.
func (x *executable) kronLaunch(sum bool, entries []kronArgs) error {
	at := x.kronAt
	x.kronAt += len(entries)
	work := 0
	for i, e := range entries {
		switch x.pass {
		case measure:
			x.kronList = append(x.kronList, e)
		case record:
			x.kronList[at+i] = e
		}
		n := int(e.n) * int(e.m) / 256
		if !sum {
			n = int(e.terms) * int(e.a1*e.r1+e.a2*e.r2) / 8
		}
		work = max(work, n+1)
	}
	name := "kron_sum_grad"
	if sum {
		name = "kron_sum"
	}
	return x.emit(name, grid{x: min(work, 1<<16), y: len(entries)}, 256, 0, x.krons.p+ptr(int64(at)*kronBytes))
}

func (x *executable) uploadKrons() error {
	if len(x.kronList) == 0 {
		return nil
	}
	return x.uploadBytes(x.krons.p, unsafe.Slice((*byte)(unsafe.Pointer(&x.kronList[0])), len(x.kronList)*int(kronBytes)))
}

// formed is scratch memory for K of a KronApply, and the first free byte
// behind it.
func (x *executable) formed(n, m int) (mat, int64) {
	bytes := (4*int64(n)*int64(m) + 255) &^ 255
	return mat{p: x.shared(0, bytes), ld: int32(m), rows: int32(n), cols: int32(m)}, bytes
}

// kronApply forms K and multiplies with it: two products of the sandwich
// A1ᵀ X A2 per term cost more than one on tensor cores.
func (x *executable) kronApply(o *graph.KronApply) error {
	k, after := x.formed(o.N, o.M)
	e := x.entry(kronShape{o.Terms, o.A1, o.R1, o.A2, o.R2, o.N, o.M}, o.F1, o.F2, k, graph.None, graph.None)
	if err := x.kronLaunch(true, []kronArgs{e}); err != nil {
		return err
	}
	in, y := x.mat(o.X), x.mat(o.Y)
	c := x.addend(o.C, y)
	return x.gemm(x.valueKernel(), gemmArgs{a: in.p, b: k.p, c: c.p, y: y.p, lda: in.ld, ldb: k.ld, ldc: c.ld, ldy: y.ld,
		m: in.rows, n: y.cols, k: in.cols, tb: bit(o.Trans), splits: 1, alpha: o.Alpha}, after)
}

// kronApplyGrad forms dK = alpha·xᵀ dy, transposed for Trans, and takes the
// gradients of the factors from it.
func (x *executable) kronApplyGrad(o *graph.KronApplyGrad) error {
	k, after := x.formed(o.N, o.M)
	a, b := x.mat(o.X), x.mat(o.DY)
	if o.Trans {
		a, b = b, a
	}
	err := x.gemm(x.valueKernel(), gemmArgs{a: a.p, b: b.p, y: k.p, lda: a.ld, ldb: b.ld, ldy: k.ld,
		m: int32(o.N), n: int32(o.M), k: a.rows, ta: 1, splits: 1, alpha: o.Alpha}, after)
	if err != nil {
		return err
	}
	return x.kronLaunch(false, []kronArgs{x.entry(kronShape{o.Terms, o.A1, o.R1, o.A2, o.R2, o.N, o.M}, o.F1, o.F2, k, o.DF1, o.DF2)})
}
