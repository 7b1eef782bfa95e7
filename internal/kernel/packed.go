package kernel

import (
	"fmt"
	"unsafe"
)

// PackedB is a right-hand matrix B (K x N), stored once in the layout of the
// microkernel: panels of nr columns, each with its rows in sequence. It is
// meant for frozen weights, which are multiplied many times.
type PackedB struct {
	K, N  int
	kn    *tileKernel[float32]
	depth int       // rows of a panel in memory (pairs of rows for bf16 in hardware)
	f32   []float32 // (panels, depth, nr); also pairs of bf16
	half  []uint16  // (panels, depth, nr), bf16 widened inside Mul
	bytes []int8    // (panels, depth, nr), times scale
	scale []float32 // (panels*nr), for bytes

	roundA bool // Mul rounds A to bf16 as well
}

// Epilogue is what Mul does with a tile of the product while it is in cache:
//
//	C = act(A·B [+ C] + Bias)·Factor + Residual
type Epilogue struct {
	Bias       []float32 // (N), or nil
	Pre        []float32 // (m, N), receives the argument of act, or nil
	LdPre      int
	Slope      bool // Pre receives the derivative of act at its argument instead
	Act        Act
	Factor     []float32 // (m, N), or nil
	LdFactor   int
	Residual   []float32 // (m, N), or nil; may be C itself only without Accumulate
	LdRes      int
	Accumulate bool // add the product to C before the rest
}

// PackB packs b. It is (k, n) with row stride ldb, or (n, k) if transposed, as
// torch's nn.Linear stores its weight.
func PackB(p *Pool, k, n int, b []float32, ldb int, transposed bool) *PackedB {
	checkB("PackB", b, k, n, ldb, transposed)
	pb := newPackedB(k, n)
	pb.f32 = Alloc(pb.panels() * pb.depth * pb.kn.nr)
	pb.pack(p, b, ldb, transposed)
	return pb
}

// RepackB is PackB into memory of the Go heap, *buf, which is made anew where it is too
// short. It is meant for matrices that are multiplied a few times.
func RepackB(buf *[]float32, p *Pool, k, n int, b []float32, ldb int, transposed bool) *PackedB {
	checkB("RepackB", b, k, n, ldb, transposed)
	pb := newPackedB(k, n)
	pb.f32 = grow(buf, pb.panels()*pb.depth*pb.kn.nr)
	pb.pack(p, b, ldb, transposed)
	return pb
}

func (b *PackedB) pack(p *Pool, from []float32, ldb int, transposed bool) {
	p.Run(b.panels(), func(_, j int) {
		packPanel(b.kn, b.f32[j*b.depth*b.kn.nr:], from, ldb, transposed, b.K, b.N, j)
	})
}

func newPackedB(k, n int) *PackedB {
	if k < 0 || n < 0 {
		panic(fmt.Sprintf("kernel: packed matrix of %d x %d", k, n))
	}
	kn := cur.f32
	if n <= 2*cur.slim.nr {
		kn = cur.slim
	}
	return &PackedB{K: k, N: n, kn: kn, depth: kn.depth(k)}
}

func (b *PackedB) panels() int { return (b.N + b.kn.nr - 1) / b.kn.nr }

// Row copies row i to dst (N), of a matrix of PackB.
func (b *PackedB) Row(dst []float32, i int) {
	if i < 0 || i >= b.K || len(dst) != b.N || b.f32 == nil || b.kn.pairs {
		panic(fmt.Sprintf("kernel: row %d of a packed matrix %d x %d into %d floats", i, b.K, b.N, len(dst)))
	}
	nr := b.kn.nr
	for j := range b.panels() {
		copy(dst[j*nr:], b.f32[(j*b.depth+i)*nr:][:nr])
	}
}

// Bytes is the memory that the packed matrix takes.
func (b *PackedB) Bytes() int64 {
	return int64(4*len(b.f32) + 2*len(b.half) + len(b.bytes) + 4*len(b.scale))
}

// Free gives the memory back; the matrix must not be used afterwards.
func (b *PackedB) Free() {
	Free(b.f32)
	b.f32, b.half, b.bytes, b.scale = nil, nil, nil, nil
}

// packRows hands the float32 image of each panel, (depth, nr) with zeros at
// the edges, to store. Without transposition a panel needs a part of every row,
// so all rows of a group of panels are loaded into memory first.
func (b *PackedB) packRows(p *Pool, transposed bool, load func(dst []float32, row int), store func(j int, panel []float32)) {
	nr := b.kn.nr
	if transposed {
		p.Run(b.panels(), func(_, j int) {
			s := takeScratch[float32]()
			defer s.release()
			w := min(nr, b.N-j*nr)
			rows := grow(&s.a, w*b.K)
			for i := range w {
				load(rows[i*b.K:][:b.K], j*nr+i)
			}
			panel := grow(&s.b, b.depth*nr)
			packPanel(b.kn, panel, rows, b.K, true, b.K, w, 0)
			store(j, panel)
		})
		return
	}
	whole := Alloc(b.K * b.N)
	defer Free(whole)
	p.Run(b.K, func(_, i int) { load(whole[i*b.N:][:b.N], i) })
	p.Run(b.panels(), func(_, j int) {
		s := takeScratch[float32]()
		defer s.release()
		panel := grow(&s.b, b.depth*nr)
		packPanel(b.kn, panel, whole, b.N, false, b.K, b.N, j)
		store(j, panel)
	})
}

// packPanel writes panel j of b (k, n), or (n, k) if transposed, to dst
// (depth, nr), with zeros past the edges. For kernels of bf16 pairs see
// PackBBF16.
func packPanel[T float](kn *tileKernel[T], dst, b []T, ldb int, transposed bool, k, n, j int) {
	nr := kn.nr
	dst = dst[:kn.depth(k)*nr]
	c0 := j * nr
	w := min(nr, n-c0)
	if w < nr {
		clear(dst)
	} else {
		clear(dst[k*nr:])
	}
	if k == 0 {
		return
	}
	if transposed {
		kn.transpose(dst, nr, b[c0*ldb:], ldb, w, k)
		return
	}
	for i := range k {
		copy(dst[i*nr:][:w], b[i*ldb+c0:])
	}
}

func checkB(what string, b []float32, k, n, ldb int, transposed bool) {
	if transposed {
		k, n = n, k
	}
	checkMatrix(what, len(b), k, n, ldb)
}

// Mul sets C = act(A·B + bias)·factor + residual for A (m, K) with row stride lda and
// C (m, N) with row stride ldc; e may be nil. The sum is accumulated in
// float32, in blocks of at most 768 steps of K. C must not overlap A. It panics
// when a slice is too short.
func (b *PackedB) Mul(p *Pool, m int, a []float32, lda int, c []float32, ldc int, e *Epilogue) {
	checkMatrix("Mul: A", len(a), m, b.K, lda)
	checkMatrix("Mul: C", len(c), m, b.N, ldc)
	if m == 0 || b.N == 0 {
		return
	}
	q := product[float32]{kn: b.kn, m: m, n: b.N, k: b.K, a: a, lda: lda, c: c, ldc: ldc, panel: b.panel,
		roundA: b.roundA}
	if e != nil {
		e.check(m, b.N)
		q.acc = e.Accumulate
		if e.Bias != nil || e.Pre != nil || e.Act != ActNone || e.Factor != nil || e.Residual != nil {
			q.finish = func(row, rows, col, cols int) { e.apply(c, ldc, row, rows, col, cols) }
		}
	}
	q.run(p)
}

// panel implements product.panel.
func (b *PackedB) panel(j, k0, d int, buf *[]float32) *float32 {
	nr := b.kn.nr
	o := (j*b.depth + k0) * nr
	if d == 0 {
		return nil
	}
	switch {
	case b.half != nil:
		t := grow(buf, d*nr)
		src := b.half[o:][:d*nr]
		cur.vec.bf16ToF32(t, unsafe.Slice((*byte)(unsafe.Pointer(&src[0])), 2*len(src)))
		return &t[0]
	case b.bytes != nil:
		t := grow(buf, d*nr)
		cur.vec.unpackInt8(t, b.bytes[o:][:d*nr], b.scale[j*nr:][:nr])
		return &t[0]
	}
	return &b.f32[o]
}

func (e *Epilogue) check(m, n int) {
	e.Act.check()
	checkOptional("Mul: Bias", e.Bias, n)
	if e.Pre != nil {
		checkMatrix("Mul: Pre", len(e.Pre), m, n, e.LdPre)
	}
	if e.Factor != nil {
		checkMatrix("Mul: Factor", len(e.Factor), m, n, e.LdFactor)
	}
	if e.Residual != nil {
		checkMatrix("Mul: Residual", len(e.Residual), m, n, e.LdRes)
	}
}

// apply does the epilogue of one tile of C.
func (e *Epilogue) apply(c []float32, ldc, row, rows, col, cols int) {
	if cols >= 8 && e.applyVector(&c[row*ldc+col], ldc, row, rows, col, cols/8) {
		col, cols = col+cols&^7, cols&7
		if cols == 0 {
			return
		}
	}
	v := cur.vec
	for i := row; i < row+rows; i++ {
		x := c[i*ldc+col:][:cols]
		if e.Bias != nil {
			v.add(x, x, e.Bias[col:][:cols])
		}
		if e.Pre != nil {
			pre := e.Pre[i*e.LdPre+col:][:cols]
			if e.Slope {
				for j := range pre {
					pre[j] = 1
				}
				v.actGrad[e.Act](pre, pre, x)
			} else {
				copy(pre, x)
			}
		}
		if e.Act != ActNone {
			v.act[e.Act](x, x)
		}
		if e.Factor != nil {
			v.mul(x, x, e.Factor[i*e.LdFactor+col:][:cols])
		}
		if e.Residual != nil {
			v.add(x, x, e.Residual[i*e.LdRes+col:][:cols])
		}
	}
}

// applyVector does the epilogue of rows of 8·n8 elements from c on, if the
// selected path has it in that form.
func (e *Epilogue) applyVector(c *float32, ldc, row, rows, col, n8 int) bool {
	v := cur.vec
	f := v.epilogue[e.Act]
	if e.Slope && e.Pre != nil {
		f = v.slope[e.Act]
	}
	if f == nil || e.Factor != nil && e.Residual != nil {
		return false
	}
	var bias, pre, res *float32
	if e.Bias != nil {
		bias = &e.Bias[col]
	}
	if e.Pre != nil {
		pre = &e.Pre[row*e.LdPre+col]
	}
	if e.Residual != nil {
		res = &e.Residual[row*e.LdRes+col]
	}
	if e.Factor == nil || bias != nil || pre != nil || e.Act != ActNone {
		f(c, ldc, bias, pre, e.LdPre, res, e.LdRes, rows, n8)
	}
	if e.Factor != nil {
		v.timesRows(c, ldc, &e.Factor[row*e.LdFactor+col], e.LdFactor, rows, n8)
	}
	return true
}
