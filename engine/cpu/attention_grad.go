package cpu

import (
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// attentionGrad runs one job per sequence and key/value head: the gradients of
// its keys and values are sums over all queries of its group, taken in order.
func (x *executable) attentionGrad(o *graph.AttentionGrad) {
	a := x.heads(o.Fwd)
	a.dy, a.dq, a.dk, a.dv = x.matrix(o.DY), x.matrix(o.DQ), x.matrix(o.DK), x.matrix(o.DV)
	x.pool.Run(x.dims.S*o.Fwd.KVHeads, func(w, job int) {
		a.backward(w, job/o.Fwd.KVHeads, job%o.Fwd.KVHeads)
	})
}

// backward computes the gradients of one key/value head of a sequence, tile by
// tile, with probabilities recomputed from LSE (FlashAttention, arXiv
// 2205.14135, algorithm 4). With P = exp(scale·Q Kᵀ - LSE), M the dropout mask
// over 1-p, and D = Σ_j dY·Y:
//
//	dV = (P∘M)ᵀ dY, dP = (dY Vᵀ)∘M, dS = P∘(dP - D), dQ = scale·dS K, dK = scale·dSᵀ Q
func (a *heads) backward(worker, s, kvHead int) {
	var few [8]queryBlock
	blocks := a.queriesOf(few[:0], s)
	n := blocks[0].len
	for k0 := 0; k0 < n; k0 += keyTile {
		t := keyTiles{heads: a, work: a.work[worker], seq: s, kvHead: kvHead, k0: k0, nk: min(keyTile, n-k0)}
		for _, b := range blocks {
			lo, hi := a.visibleTo(b)
			if lo >= k0+t.nk || hi <= k0 {
				continue
			}
			part := t.part(lo, hi)
			if !t.seen && part.nk < t.nk {
				t.clear()
				part.seen = true
			}
			t.seen = true
			for g := range a.group {
				part.add(b, kvHead*a.group+g, k0 <= lo)
				part.seen = true
			}
		}
		if !t.seen {
			t.clear()
		}
	}
}

// keyTiles is a tile of keys of one key/value head.
type keyTiles struct {
	*heads
	work        []float32
	seq, kvHead int
	k0, nk      int
	seen        bool // a block was added, or the gradients cleared
}

// part is the keys of t that a block sees, from lo up to hi: from a multiple of
// 32 on, so that dropout draws whole vectors of its mask.
func (t keyTiles) part(lo, hi int) keyTiles {
	end := min(t.k0+t.nk, hi)
	t.k0 += max(0, lo-t.k0) &^ 31
	t.nk = end - t.k0
	return t
}

// clear sets the gradients of the tile's keys to zero: no query sees them, or
// the first block that is added sees a part of them.
func (t *keyTiles) clear() {
	a, first, hd := t.heads, int(t.batch.CuSeqlens[t.seq])+t.k0, t.o.HeadDim
	for i := first; i < first+t.nk; i++ {
		for _, m := range []matrix{a.dk, a.dv} {
			if m.data != nil {
				clear(m.row(i)[t.kvHead*hd:][:hd])
			}
		}
	}
}

// add adds what a block of queries of one head contributes. firstKeys says that
// the tile holds the first keys that the block sees, so that dq is new.
func (t *keyTiles) add(b queryBlock, head int, firstKeys bool) {
	a, hd, nk := t.heads, t.o.HeadDim, t.nk
	qc, kc := head*hd, t.kvHead*hd
	key := b.first + t.k0
	ns := rowStride(nk)
	size := b.n * ns
	d, p, ds, pm := t.work[:b.n], t.work[b.n:][:size], t.work[b.n+size:][:size], t.work[b.n+2*size:]
	q, k, v, dy := a.q.data[b.row*a.q.ld+qc:], a.k.data[key*a.k.ld+kc:], a.v.data[key*a.v.ld+kc:], a.dy.data[b.row*a.dy.ld+qc:]
	for i := range d {
		d[i] = kernel.Dot(dy[i*a.dy.ld:][:hd], a.y.row(b.row + i)[qc:][:hd])
	}
	kernel.Gemm(nil, false, true, b.n, nk, hd, a.alpha, q, a.q.ld, k, a.k.ld, 0, p, ns)
	if a.dq.data != nil || a.dk.data != nil {
		kernel.Gemm(nil, false, true, b.n, nk, hd, 1, dy, a.dy.ld, v, a.v.ld, 0, ds, ns)
	}
	if a.dropP == 0 {
		pm = p
	} else {
		pm = pm[:size]
	}
	for i := range b.n {
		row := p[i*ns:][:ns]
		from, to := a.clip(row, b, i, t.k0)
		kernel.ExpSumScaled(row[from:to], row[from:to], a.scale, a.lse.row(b.row + i)[head])
		if a.dropP > 0 {
			masked := pm[i*ns:][:ns]
			clear(masked[to:])
			a.dropKeys(masked, row, b.row+i, head, t.k0, to)
		}
	}
	fresh := float32(1)
	if !t.seen {
		fresh = 0
	}
	if a.dv.data != nil {
		kernel.Gemm(nil, true, false, nk, hd, b.n, 1, pm, ns, dy, a.dy.ld, fresh, a.dv.data[key*a.dv.ld+kc:], a.dv.ld)
	}
	if a.dq.data == nil && a.dk.data == nil {
		return
	}
	kernel.Mul(ds, ds, pm)
	for i := range b.n {
		row := ds[i*ns:][:nk]
		kernel.Axpy(-d[i], p[i*ns:][:nk], row)
		if lo, hi := a.visible(b.pos+i, b.len); hi-lo == 1 {
			clear(row) // the one probability is 1 whatever its score: exactly no gradient
		}
	}
	if a.dq.data != nil {
		beta := float32(1)
		if firstKeys {
			beta = 0
		}
		kernel.Gemm(nil, false, false, b.n, hd, nk, a.o.Scale, ds, ns, k, a.k.ld, beta, a.dq.data[b.row*a.dq.ld+qc:], a.dq.ld)
	}
	if a.dk.data != nil {
		kernel.Gemm(nil, true, false, nk, hd, b.n, a.o.Scale, ds, ns, q, a.q.ld, fresh, a.dk.data[key*a.dk.ld+kc:], a.dk.ld)
	}
}
