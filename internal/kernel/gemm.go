package kernel

const (
	narrow     = 128  // a dimension up to which the paths for thin products are taken
	panelDepth = 1024 // steps of k that a thin product sums in one go
	outerDepth = 64   // rows that a product over long k takes at a time
	directLd   = 128  // row stride up to which a transposed operand is read in place
	directRows = 128  // rows of a thin product up to which packing B does not pay
	chunkRows  = 96   // rows of C in one job of a thin product
	chunkCols  = 128  // columns of C in one job of a product over long k
)

// Gemm sets C = alpha·op(A)·op(B) + beta·C, as BLAS defines it: op(A) is
// (m, k), op(B) is (k, n); A is stored (k, m) if transA, B (n, k) if transB.
// With beta = 0 the old C is not read. Sums are float32; bits do not depend on
// the number of threads. A nil pool runs on the caller, which may itself be a
// job of a pool. C must not overlap A or B. It panics when a slice is too short.
//
// Thin products (x·A, h·B, and xᵀ·dh, hᵀ·dy with a long k) read their large
// operand in place, those of few rows both; others pack both.
func Gemm(p *Pool, transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	checkGemm("Gemm", transA, transB, m, n, k, len(a), lda, len(b), ldb, len(c), ldc)
	g := gemm[float32]{p: p, kn: cur.row, narrow: cur.narrow, odd: cur.odd, half: cur.half, square: cur.f32, transA: transA, transB: transB, m: m, n: n, k: k,
		alpha: alpha, a: a, lda: lda, b: b, ldb: ldb, beta: beta, c: c, ldc: ldc, scale: cur.vec.scale}
	g.run()
}

// GemmF64 is Gemm in float64.
func GemmF64(p *Pool, transA, transB bool, m, n, k int, alpha float64, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int) {
	checkGemm("GemmF64", transA, transB, m, n, k, len(a), lda, len(b), ldb, len(c), ldc)
	g := gemm[float64]{p: p, kn: cur.f64, narrow: cur.f64, half: cur.half64, square: cur.f64, transA: transA, transB: transB, m: m, n: n, k: k,
		alpha: alpha, a: a, lda: lda, b: b, ldb: ldb, beta: beta, c: c, ldc: ldc, scale: goScale64}
	g.run()
}

func checkGemm(what string, transA, transB bool, m, n, k, la, lda, lb, ldb, lc, ldc int) {
	ar, ac, br, bc := m, k, k, n
	if transA {
		ar, ac = ac, ar
	}
	if transB {
		br, bc = bc, br
	}
	checkMatrix(what+": A", la, ar, ac, lda)
	checkMatrix(what+": B", lb, br, bc, ldb)
	checkMatrix(what+": C", lc, m, n, ldc)
}

func goScale64(alpha float64, x []float64) {
	for i := range x {
		x[i] *= alpha
	}
}

// gemm is one call of Gemm or GemmF64.
type gemm[T float] struct {
	p              *Pool
	kn, narrow     *tileKernel[T] // strided
	odd, half      *tileKernel[T] // or nil
	inPlace        bool           // B of a thin product is not packed
	square         *tileKernel[T]
	transA, transB bool
	m, n, k        int
	alpha          T
	a              []T
	lda            int
	b              []T
	ldb            int
	beta           T
	c              []T
	ldc            int
	scale          func(alpha T, x []T)
}

func (g *gemm[T]) run() {
	if g.m == 0 || g.n == 0 {
		return
	}
	if g.beta != 0 && g.beta != 1 || g.k == 0 || g.alpha == 0 {
		g.scaleC()
	}
	if g.k == 0 || g.alpha == 0 {
		return
	}
	switch {
	// Swapping moves C once more, not swapping packs A: the smaller one.
	case g.transA && !g.transB && (g.m <= narrow || g.n <= narrow && g.k < 2*g.n):
		g.outer(false)
	case g.transA && g.n <= narrow && g.m >= g.n:
		g.outer(true)
	case !g.transA && (g.n <= narrow || g.k <= narrow):
		g.thin()
	default:
		g.general()
	}
}

// scaleC sets C = beta·C; what follows adds to it.
func (g *gemm[T]) scaleC() {
	for i := range g.m {
		row := g.c[i*g.ldc:][:g.n]
		if g.beta == 0 {
			clear(row)
		} else if g.beta != 1 {
			g.scale(g.beta, row)
		}
	}
	g.beta = 1
}

// packedB packs alpha·op(B) into buf and returns it, panel after panel. A last panel that
// is not full is packed for the kernel edge.
func (g *gemm[T]) packedB(kn, edge *tileKernel[T], buf *[]T) []T {
	size := kn.depth(g.k) * kn.nr
	np := (g.n + kn.nr - 1) / kn.nr
	packed := grow(buf, np*size)
	g.p.Run(np, func(_, j int) {
		dst := packed[j*size:][:size]
		if g.n-j*kn.nr >= kn.nr {
			packPanel(kn, dst, g.b, g.ldb, g.transB, g.k, g.n, j)
		} else {
			dst = dst[:edge.depth(g.k)*edge.nr]
			packPanel(edge, dst, g.b, g.ldb, g.transB, g.k, g.n, j*(kn.nr/edge.nr))
		}
		if g.alpha != 1 {
			g.scale(g.alpha, dst)
		}
	})
	return packed
}

// general packs both operands.
func (g *gemm[T]) general() {
	kn := g.square
	s := takeScratch[T]()
	defer s.release()
	packed := g.packedB(kn, kn, &s.c)
	depth := kn.depth(g.k)
	q := product[T]{kn: kn, m: g.m, n: g.n, k: g.k, a: g.a, lda: g.lda, transA: g.transA, c: g.c, ldc: g.ldc, acc: g.beta == 1,
		panel: func(j, k0, _ int, _ *[]T) *T { return &packed[(j*depth+k0)*kn.nr] }}
	q.run(g.p)
}

// fit takes other tiles than the usual ones where those would leave columns over, or
// compute more than there are.
func (g *gemm[T]) fit(cols int) {
	switch {
	case cols%g.kn.nr == 0:
	case g.odd != nil && cols%g.odd.nr == 0:
		g.kn = g.odd
	case g.half != nil && cols <= g.half.nr && g.half.nr < g.kn.nr:
		g.kn = g.half
	}
}

// rest is the kernel for the columns that whole tiles leave over.
func (g *gemm[T]) rest(cols int) *tileKernel[T] {
	if g.half != nil && cols%g.kn.nr <= g.half.nr && g.half.nr < g.kn.nr {
		return g.half
	}
	return g.kn
}

// thin is A·op(B) where B is small: rows of A are read in place.
func (g *gemm[T]) thin() {
	s := takeScratch[T]()
	defer s.release()
	if g.n <= g.narrow.nr {
		g.kn = g.narrow
	}
	g.fit(g.n)
	var packed []T
	if g.inPlace = g.readsB(); !g.inPlace {
		packed = g.packedB(g.kn, g.rest(g.n), &s.c)
	}
	jobs := (g.m + chunkRows - 1) / chunkRows
	g.p.Run(jobs, func(_, job int) {
		s := takeScratch[T]()
		defer s.release()
		i := job * chunkRows
		g.thinRows(i, min(chunkRows, g.m-i), packed, s.tile)
	})
}

// readsB says whether a thin product reads B where it lies: it has too few rows for packing
// to pay, and whole tiles.
func (g *gemm[T]) readsB() bool {
	rest := g.n % g.kn.nr
	return g.m <= directRows && g.alpha == 1 && !g.transB && (rest == 0 || rest == g.rest(g.n).nr)
}

// thinB is columns from col on of B for steps from k0 on, with the distances from one step
// and from one tile of kn to the next.
func (g *gemm[T]) thinB(kn *tileKernel[T], packed []T, k0, col int) (b *T, brs, bjs int) {
	if g.inPlace {
		return &g.b[k0*g.ldb+col], g.ldb, kn.nr
	}
	return &packed[col*g.k+k0*kn.nr], kn.nr, g.k * kn.nr
}

// thinRows computes rows [i, i+h) of C, those of a job.
func (g *gemm[T]) thinRows(i, h int, packed, tile []T) {
	kn := g.kn
	nk := (g.k + panelDepth - 1) / panelDepth
	kc := (g.k + nk - 1) / nk
	full := g.n / kn.nr
	w := g.n - full*kn.nr
	acc := 0
	if g.beta == 1 {
		acc = 1
	}
	for k0 := 0; k0 < g.k; k0 += kc {
		d := min(kc, g.k-k0)
		a := &g.a[i*g.lda+k0]
		if full > 0 {
			b, brs, bjs := g.thinB(kn, packed, k0, 0)
			kn.strided(d, a, g.lda, 1, b, brs, bjs, &g.c[i*g.ldc], g.ldc, h, full, acc)
		}
		if w > 0 {
			g.thinEdge(i, h, k0, d, packed, full*kn.nr, tile, acc)
		}
		acc = 1
	}
}

// thinEdge computes the columns from col on, which whole tiles left over, with d steps
// from k0 on.
func (g *gemm[T]) thinEdge(i, h, k0, d int, packed []T, col int, tile []T, acc int) {
	kn, w := g.rest(g.n), g.n-col
	b, brs, _ := g.thinB(kn, packed, k0, col)
	if w == kn.nr {
		kn.strided(d, &g.a[i*g.lda+k0], g.lda, 1, b, brs, 0, &g.c[i*g.ldc+col], g.ldc, h, 1, acc)
		return
	}
	for p := i; p < i+h; p += kn.mr {
		rows := min(kn.mr, i+h-p)
		kn.strided(d, &g.a[p*g.lda+k0], g.lda, 1, b, brs, 0, &tile[0], kn.nr, rows, 1, 0)
		kn.storeTile(g.c[p*g.ldc+col:], g.ldc, tile, kn.nr, rows, w, acc != 0)
	}
}

// outer is op(A)·op(B) as a sum of outer products, with A stored (k, m): one
// operand, X (k, few), is read by columns, the other, Y (k, many), in place by
// rows. Swapped, Y is A and the product is Cᵀ.
type outer[T float] struct {
	*gemm[T]
	few, many int
	x, y      []T
	xrs, xcs  int // strides in X of a step and of a column within a panel
	xps       int // and of a panel of mr columns
	ldy       int
	swapped   bool
}

func (g *gemm[T]) outer(swapped bool) {
	s := takeScratch[T]()
	defer s.release()
	o := outer[T]{gemm: g, few: g.m, many: g.n, y: g.b, ldy: g.ldb, swapped: swapped}
	x, ldx, transX := g.a, g.lda, false
	if swapped {
		o.few, o.many, o.y, o.ldy = g.n, g.m, g.a, g.lda
		x, ldx, transX = g.b, g.ldb, g.transB
	}
	if o.many <= chunkCols {
		g.fit(o.many)
	}
	o.packX(x, ldx, transX, &s.c)
	rows := (o.few + chunkRows - 1) / chunkRows
	cols := (o.many + chunkCols - 1) / chunkCols
	g.p.Run(rows*cols, func(_, job int) {
		i := job % rows * chunkRows
		o.block(i, min(i+chunkRows, o.few), job/rows*chunkCols)
	})
}

// packX copies alpha·X to panels [k][mr], unless it can be read in place.
func (o *outer[T]) packX(x []T, ldx int, transX bool, buf *[]T) {
	mr := o.kn.mr
	if o.alpha == 1 && !transX && ldx <= directLd {
		o.x, o.xrs, o.xcs, o.xps = x, ldx, 1, mr
		return
	}
	panels := (o.few + mr - 1) / mr
	o.x, o.xrs, o.xcs, o.xps = grow(buf, panels*mr*o.k), mr, 1, mr*o.k
	o.p.Run(panels, func(_, p int) {
		dst, h := o.x[p*o.xps:][:o.xps], min(mr, o.few-p*mr)
		if transX {
			o.kn.transpose(dst, mr, x[p*mr*ldx:], ldx, h, o.k)
		} else {
			packColumns(dst, mr, x, ldx, p*mr, h, 0, o.k)
		}
		if o.alpha != 1 {
			o.scale(o.alpha, dst)
		}
	})
}

// block computes rows [i0, i1) and columns from j0 on, at most chunkCols, of C,
// or of Cᵀ.
func (o *outer[T]) block(i0, i1, j0 int) {
	s := takeScratch[T]()
	defer s.release()
	kn := o.kn
	cols := min(chunkCols, o.many-j0)
	var c []T
	ldc, acc := o.ldc, 0
	if o.swapped {
		c, ldc = grow(&s.a, (i1-i0)*chunkCols), chunkCols
	} else {
		c = o.c[i0*ldc+j0:]
		if o.beta == 1 {
			acc = 1
		}
	}
	full, right := cols/kn.nr, o.rest(cols)
	col := full * kn.nr
	w := cols - col
	whole := w == 0 || w == right.nr
	for k0 := 0; k0 < o.k; k0 += outerDepth {
		d := min(outerDepth, o.k-k0)
		y := o.y[k0*o.ldy+j0:]
		edge, lde := y[min(col, len(y)):], o.ldy
		if !whole {
			edge, lde = grow(&s.b, outerDepth*right.nr), right.nr
			for i := range d {
				copy(edge[i*lde:][:w], y[i*o.ldy+col:])
			}
		}
		step := kn.mr
		if o.xps == kn.mr && whole { // panels that follow each other: all in one call
			step = i1 - i0
		}
		for i := i0; i < i1; i += step {
			h := min(step, i1-i)
			x := &o.x[i/kn.mr*o.xps+k0*o.xrs]
			ci := (i - i0) * ldc
			if full > 0 {
				kn.strided(d, x, o.xcs, o.xrs, &y[0], o.ldy, kn.nr, &c[ci], ldc, h, full, acc)
			}
			switch {
			case w == 0:
			case whole:
				right.strided(d, x, o.xcs, o.xrs, &edge[0], lde, 0, &c[ci+col], ldc, h, 1, acc)
			default:
				right.strided(d, x, o.xcs, o.xrs, &edge[0], lde, 0, &s.tile[0], right.nr, h, 1, 0)
				right.storeTile(c[ci+col:], ldc, s.tile, right.nr, h, w, acc != 0)
			}
		}
		acc = 1
	}
	if o.swapped {
		o.storeTransposed(c, i0, i1, j0, cols, s)
	}
}

// storeTransposed moves rows of Cᵀ to columns [i0, i1) of C, rows from j0 on.
func (o *outer[T]) storeTransposed(ct []T, i0, i1, j0, cols int, s *scratch[T]) {
	c := o.c[j0*o.ldc+i0:]
	if o.beta != 1 {
		o.kn.transpose(c, o.ldc, ct, chunkCols, i1-i0, cols)
		return
	}
	t := grow(&s.b, cols*(i1-i0))
	o.kn.transpose(t, i1-i0, ct, chunkCols, i1-i0, cols)
	o.kn.storeTile(c, o.ldc, t, i1-i0, cols, i1-i0, true)
}
