package kernel

import "unsafe"

// Blocking of large products, after Goto and van de Geijn (2008): a block of A
// of blockRows x blockDepth stays in the second-level cache while panels of B,
// blockDepth x nr, pass through the first-level one.
const (
	blockDepth = 768 // steps of k; 256 and 384 were 1 to 4 % slower on an AMD EPYC 7001 (32 KiB of L1)
	blockRows  = 192
	directCols = 4   // panels of B up to which packing A does not pay
	wideCols   = 192 // columns for which packing a block of A again is cheap
)

// product is one large product C (+)= op(A)·B with B in panels.
type product[T float] struct {
	kn      *tileKernel[T]
	m, n, k int
	a       []T
	lda     int
	transA  bool // a is (k, m)
	roundA  bool // to bf16
	c       []T
	ldc     int
	acc     bool // add to C

	// panel returns rows [k0, k0+d) (steps) of panel j; it may use buf, of
	// d*nr elements.
	panel func(j, k0, d int, buf *[]T) *T
	// finish is called for each tile when its sum is complete, unless nil.
	finish func(row, rows, col, cols int)
}

// run computes the product with all threads.
func (q *product[T]) run(p *Pool) {
	if q.m == 0 || q.n == 0 {
		return
	}
	mp := (q.m + q.kn.mr - 1) / q.kn.mr
	np := (q.n + q.kn.nr - 1) / q.kn.nr
	// Blocks of rows, as many for each thread if there are enough. Few rows:
	// split the columns too, above all where there are many. Each block of rows
	// reads all of B, and fewer rows than blockRows wait for it where it does not
	// fit into the cache. But rows are packed again for each part of the columns.
	gm := (q.m + blockRows - 1) / blockRows
	gn := 1
	if t := p.Threads(); t > 1 {
		if wide := (4*t + gm - 1) / gm; gm < 4*t && q.n >= wideCols*wide {
			gn = wide
		} else if mp >= 8*t {
			gm = min((gm+4*t-1)/(4*t)*4*t, mp)
		} else {
			gn = min(np, 4*t)
		}
	}
	p.Run(gm*gn, func(_, job int) {
		i, j := job%gm, job/gm
		q.block(mp*i/gm, mp*(i+1)/gm, np*j/gn, np*(j+1)/gn)
	})
}

// block computes panels of rows [p0, p1) by panels of columns [j0, j1).
func (q *product[T]) block(p0, p1, j0, j1 int) {
	kn := q.kn
	s := takeScratch[T]()
	defer s.release()
	steps := kn.depth(q.k)
	// Equal depths rather than one short last block.
	nk := max(1, (steps+blockDepth-1)/blockDepth)
	unit := max(8, kn.piece)
	kc := max(unit, roundUp((steps+nk-1)/nk, unit))
	// Rows that follow each other are packed as they are.
	packed := q.lda == q.k && steps <= kc
	direct := kn.packed == nil && !q.transA && !q.roundA && (packed || j1-j0 <= directCols)
	for k0 := 0; k0 == 0 || k0 < steps; k0 += kc {
		d := min(kc, steps-k0)
		t := tiles[T]{product: q, s: s, d: d, r0: p0 * kn.mr, acc: q.acc || k0 > 0, last: k0+d >= steps}
		switch {
		case d == 0: // no products at all: the kernel stores zeros
		case direct:
			t.a, t.ars, t.acs, t.aps = q.a[t.r0*q.lda+k0:], q.lda, 1, kn.mr*q.lda
		default:
			q.packA(&t, min(p1*kn.mr, q.m)-t.r0, k0, d)
		}
		for j := j0; j < j1; j++ {
			bp := q.panel(j, k0, d, &s.b)
			for p := p0; p < p1; p++ {
				t.tile(p, j, bp)
			}
		}
	}
}

// tiles is one block's view of A and how to finish C.
type tiles[T float] struct {
	*product[T]
	s             *scratch[T]
	d, r0         int
	a             []T
	ars, acs, aps int // strides of rows, of steps, of panels
	acc, last     bool
}

// tile computes the tile of panel of rows p and panel of columns j.
func (t *tiles[T]) tile(p, j int, b *T) {
	kn := t.kn
	row, col := p*kn.mr, j*kn.nr
	h, w := min(kn.mr, t.m-row), min(kn.nr, t.n-col)
	acc := 0
	if t.acc {
		acc = 1
	}
	var a *T
	if t.d > 0 {
		a = &t.a[(row-t.r0)/kn.mr*t.aps]
	}
	c := &t.c[row*t.ldc+col]
	switch {
	case kn.packed != nil:
		kn.packed(t.d/kn.piece, a, b, c, t.ldc, h, ^uint64(0)>>(64-w), acc)
	case w == kn.nr:
		kn.strided(t.d, a, t.ars, t.acs, b, kn.nr, 0, c, t.ldc, h, 1, acc)
	default:
		kn.strided(t.d, a, t.ars, t.acs, b, kn.nr, 0, &t.s.tile[0], kn.nr, h, 1, 0)
		kn.storeTile(t.c[row*t.ldc+col:], t.ldc, t.s.tile, kn.nr, h, w, t.acc)
	}
	if t.last && t.finish != nil {
		t.finish(row, h, col, w)
	}
}

// storeTile moves h x w elements of a tile to C, or adds them.
func (kn *tileKernel[T]) storeTile(c []T, ldc int, tile []T, ldt, h, w int, acc bool) {
	for i := range h {
		dst, src := c[i*ldc:][:w], tile[i*ldt:][:w]
		switch {
		case !acc:
			copy(dst, src)
		case w < 8:
			goAddTo(dst, src)
		default:
			kn.addTo(dst, src)
		}
	}
}

// packA copies rows x d (steps) of op(A), from row t.r0 and step k0, in the
// layout that the microkernel wants.
func (q *product[T]) packA(t *tiles[T], rows, k0, d int) {
	kn := q.kn
	panels := (rows + kn.mr - 1) / kn.mr
	buf := grow(&t.s.a, max(1, panels*kn.mr*d))
	t.a, t.aps = buf, kn.mr*d
	switch {
	case kn.packed != nil:
		q.packPieces(t, buf, rows, k0, d)
	case q.transA:
		t.ars, t.acs = 1, kn.mr
		for p := range panels {
			packColumns(buf[p*t.aps:][:t.aps], kn.mr, q.a, q.lda, t.r0+p*kn.mr, min(kn.mr, rows-p*kn.mr), k0, d)
		}
	default:
		t.ars, t.acs = d, 1
		for i := range rows {
			copy(buf[i*d:][:d], q.a[(t.r0+i)*q.lda+k0:])
		}
		if q.roundA {
			roundBF16(any(buf[:rows*d]).([]float32))
		}
	}
}

// packColumns copies h columns of a, from column i0, as [d][mr].
func packColumns[T float](dst []T, mr int, a []T, lda, i0, h, k0, d int) {
	if h == mr && mr == 6 {
		for k := range d {
			*(*[6]T)(dst[k*6:]) = *(*[6]T)(a[(k0+k)*lda+i0:])
		}
		return
	}
	for k := range d {
		copy(dst[k*mr:][:h], a[(k0+k)*lda+i0:])
	}
}

// packPieces packs for kernels with pieces of several steps, [pieces][mr][piece].
// The end of k is filled with zeros; rows past the end are left as they are,
// since the kernel drops them.
func (q *product[T]) packPieces(t *tiles[T], buf []T, rows, k0, d int) {
	mr, piece := q.kn.mr, q.kn.piece
	if q.transA {
		q.packPiecesTrans(buf, t.r0, rows, k0, d)
		return
	}
	if q.kn.pairs {
		q.packPiecesBF16(t, any(buf).([]float32), rows, k0, d)
		return
	}
	n := min(d, q.k-k0)
	for i := range rows {
		dst, src := buf[i/mr*mr*d+i%mr*piece:], q.a[(t.r0+i)*q.lda+k0:][:n]
		copyPieces(dst, src, piece, mr*piece)
		if n < d {
			clear(dst[n/piece*mr*piece+n%piece:][:piece-n%piece])
		}
	}
}

// copyPieces scatters src in pieces, stride apart in dst.
func copyPieces[T float](dst, src []T, piece, stride int) {
	for o := 0; len(src) > 0; o += stride {
		n := min(piece, len(src))
		switch n { // copies of a fixed size need no call
		case 8:
			*(*[8]T)(dst[o:]) = *(*[8]T)(src)
		case 16:
			*(*[16]T)(dst[o:]) = *(*[16]T)(src)
		default:
			copy(dst[o:], src[:n])
		}
		src = src[n:]
	}
}

func (q *product[T]) packPiecesTrans(buf []T, r0, rows, k0, d int) {
	mr, piece := q.kn.mr, q.kn.piece
	for i := 0; i < rows; i += mr {
		h := min(mr, rows-i)
		for s := 0; s < d; s += piece {
			dst := buf[i*d+s*mr:][:mr*piece]
			kk := min(piece, q.k-k0-s)
			if kk < piece {
				clear(dst)
			}
			q.kn.transpose(dst, piece, q.a[(k0+s)*q.lda+r0+i:], q.lda, kk, h)
		}
	}
}

// packPiecesBF16 rounds rows of A; a step is two elements.
func (q *product[T]) packPiecesBF16(t *tiles[T], buf []float32, rows, k0, d int) {
	mr, piece := q.kn.mr, q.kn.piece
	n := min(2*d, q.k-2*k0)
	line := any(grow(&t.s.c, d)).([]float32)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&line[0])), 4*d)
	clear(bytes[2*n:])
	for i := range rows {
		cur.vec.f32ToBF16(bytes[:2*n], any(q.a[(t.r0+i)*q.lda+2*k0:][:n]).([]float32))
		copyPieces(buf[i/mr*mr*d+i%mr*piece:], line, piece, mr*piece)
	}
}
