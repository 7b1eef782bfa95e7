package cpu

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// The score matrix exists only in tiles of queryTile x keyTile, which stay in
// the second-level cache with the keys and values that they come from. Half of a
// causal tile on the diagonal is for nothing, so those have fewer queries.
const (
	queryTile  = 128
	causalTile = 64
	keyTile    = 256
)

// forwardScratch and backwardScratch are the floats of a worker's scratch.
func forwardScratch(d graph.Dims) int {
	q, k := min(queryTile, d.MaxLen), rowStride(min(keyTile, d.MaxLen))
	return q*k + 2*q
}

func backwardScratch(d graph.Dims) int {
	q, k := min(queryTile, d.MaxLen), rowStride(min(keyTile, d.MaxLen))
	return 3*q*k + q
}

// rowStride is the length of a row of a tile with nk keys. Rows go on with
// zeros, so that dropout can draw whole vectors of its mask.
func rowStride(nk int) int { return (nk + 31) &^ 31 }

// queryBlock is n queries of a sequence: rows [row, row+n) of q, standing at
// positions [pos, pos+n) of the sequence, which is tokens [first, first+len).
type queryBlock struct{ row, pos, n, first, len int }

// heads is one attention operation on the current batch.
type heads struct {
	*executable
	o              *graph.Attention
	q, k, v, y     matrix
	lse            matrix
	group          int     // query heads per key/value head
	alpha          float32 // factor of the product q kᵀ
	scale          float32 // factor of the scores in the exponent, positive
	dropP          float32
	dy, dq, dk, dv matrix // backward pass only
}

func (x *executable) heads(o *graph.Attention) *heads {
	a := &heads{executable: x, o: o, q: x.matrix(o.Q), k: x.matrix(o.K), v: x.matrix(o.V), y: x.matrix(o.Y), lse: x.matrix(o.LSE),
		group: o.Heads / o.KVHeads, alpha: 1, scale: o.Scale}
	if o.Scale <= 0 { // the kernels want the largest score first
		a.alpha, a.scale = o.Scale, 1
	}
	if x.batch.Train {
		a.dropP = o.DropP
	}
	return a
}

// queriesOf appends the query blocks of sequence s.
func (a *heads) queriesOf(dst []queryBlock, s int) []queryBlock {
	first := int(a.batch.CuSeqlens[s])
	n := int(a.batch.CuSeqlens[s+1]) - first
	switch a.o.QueryPick {
	case graph.PickFirst:
		return append(dst, queryBlock{s, 0, 1, first, n})
	case graph.PickLast:
		return append(dst, queryBlock{s, n - 1, 1, first, n})
	}
	size := queryTile
	if a.o.Causal {
		size = causalTile
	}
	for i := 0; i < n; i += size {
		dst = append(dst, queryBlock{first + i, i, min(size, n-i), first, n})
	}
	return dst
}

// visible returns the keys [lo, hi) that a query at position pos sees.
func (a *heads) visible(pos, n int) (lo, hi int) {
	hi = n
	if a.o.Causal {
		hi = min(pos+1, n)
	}
	if a.o.Window > 0 {
		lo = max(0, pos-a.o.Window+1)
	}
	return lo, hi
}

// visibleTo returns the keys that any query of the block sees.
func (a *heads) visibleTo(b queryBlock) (lo, hi int) {
	lo, _ = a.visible(b.pos, b.len)
	_, hi = a.visible(b.pos+b.n-1, b.len)
	return lo, hi
}

// element is the index of key 0 in the dropout mask of a row and a head.
func (a *heads) element(row, head int) uint64 {
	return (uint64(row)*uint64(a.o.Heads) + uint64(head)) << 20
}

func (x *executable) attention(o *graph.Attention) {
	a := x.heads(o)
	x.queries = x.queries[:0]
	for s := range x.dims.S {
		x.queries = a.queriesOf(x.queries, s)
	}
	x.pool.Run(len(x.queries)*o.Heads, func(w, job int) {
		a.forward(x.work[w], x.queries[job/o.Heads], job%o.Heads)
	})
}

// forward computes one head of a block of queries, with a running maximum and
// sum over tiles of keys (FlashAttention, arXiv 2205.14135, algorithm 1).
func (a *heads) forward(work []float32, b queryBlock, head int) {
	hd := a.o.HeadDim
	qc, kc := head*hd, head/a.group*hd
	most, sums, tile := work[:b.n], work[b.n:2*b.n], work[2*b.n:]
	lo, hi := a.visibleTo(b)
	y := a.y.data[b.row*a.y.ld+qc:]
	for k0 := lo; k0 < hi; k0 += keyTile {
		nk := min(keyTile, hi-k0)
		ns := rowStride(nk)
		s := tile[:b.n*ns]
		key := b.first + k0
		kernel.Gemm(nil, false, true, b.n, nk, hd, a.alpha, a.q.data[b.row*a.q.ld+qc:], a.q.ld, a.k.data[key*a.k.ld+kc:], a.k.ld, 0, s, ns)
		for i := range b.n {
			row := s[i*ns:][:ns]
			from, to := a.clip(row, b, i, k0)
			out := y[i*a.y.ld:][:hd]
			a.exponents(row[from:to], &most[i], &sums[i], out, k0 == lo)
			a.dropKeys(row, row, b.row+i, head, k0, to)
		}
		beta := float32(1)
		if k0 == lo {
			beta = 0
		}
		kernel.Gemm(nil, false, false, b.n, hd, nk, 1, s, ns, a.v.data[key*a.v.ld+kc:], a.v.ld, beta, y, a.y.ld)
	}
	for i := range b.n {
		kernel.Scale(1/sums[i], y[i*a.y.ld:][:hd])
		if a.lse.data != nil {
			a.lse.row(b.row + i)[head] = most[i] + float32(math.Log(float64(sums[i])))
		}
	}
}

// dropKeys applies the dropout mask to the first to elements of a row of a
// tile, keys from k0 on; the rest of both rows is zero.
func (a *heads) dropKeys(dst, src []float32, row, head, k0, to int) {
	if a.dropP > 0 {
		to = min(rowStride(to), len(src))
		kernel.Dropout(dst[:to], src[:to], a.dropP, a.batch.Seed, a.stream(a.o.Site), a.element(row, head)+uint64(k0))
	}
}

// clip returns the part [from, to) of a row of a tile, keys from k0 on, that
// query i of the block sees, and clears the rest.
func (a *heads) clip(row []float32, b queryBlock, i, k0 int) (from, to int) {
	lo, hi := a.visible(b.pos+i, b.len)
	from = min(max(lo-k0, 0), len(row))
	to = max(min(hi-k0, len(row)), from)
	clear(row[:from])
	clear(row[to:])
	return from, to
}

// exponents replaces scores by exponentials and brings the row's maximum, sum
// and output so far to the same maximum.
func (a *heads) exponents(row []float32, most, sum *float32, out []float32, first bool) {
	if first {
		*most, *sum = kernel.SoftmaxRow(row, a.scale)
		return
	}
	if len(row) == 0 {
		return
	}
	m := max(*most, a.scale*kernel.Max(row))
	if m > *most {
		shrink := float32(math.Exp(float64(*most) - float64(m)))
		*sum *= shrink
		kernel.Scale(shrink, out)
		*most = m
	}
	*sum += kernel.ExpSumScaled(row, row, a.scale, m)
}
