package reference

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// query is one row of q with the keys that it sees: tokens [first, last).
type query struct {
	row         int // of q and y
	seqStart    int // first token of its sequence
	first, last int
}

// queries lists the rows of q of a batch.
func (x *Executable) queries(o *graph.Attention) []query {
	var qs []query
	for s := range x.dims.S {
		lo, hi := x.sequence(s)
		switch o.QueryPick {
		case graph.PickFirst:
			qs = append(qs, see(o, s, lo, lo, hi))
		case graph.PickLast:
			qs = append(qs, see(o, s, hi-1, lo, hi))
		default:
			for t := lo; t < hi; t++ {
				qs = append(qs, see(o, t, t, lo, hi))
			}
		}
	}
	return qs
}

// see returns the query of a row that stands at token t of the sequence
// [lo, hi).
func see(o *graph.Attention, row, t, lo, hi int) query {
	q := query{row: row, seqStart: lo, first: lo, last: hi}
	if o.Causal {
		q.last = t + 1
	}
	if o.Window > 0 {
		q.first = max(lo, t-o.Window+1)
	}
	return q
}

// head gives the scores of one query and head: the columns of q and y, those of
// k and v, the probabilities of its keys and their log-sum-exp.
type head struct {
	qcol, kcol int
	p          []float64
	lse        float64
}

func (x *Executable) head(o *graph.Attention, q query, h int) head {
	qm, km := x.get(o.Q), x.get(o.K)
	w := head{qcol: h * o.HeadDim, kcol: h / (o.Heads / o.KVHeads) * o.HeadDim, p: make([]float64, q.last-q.first)}
	largest := math.Inf(-1)
	for i := range w.p {
		w.p[i] = float64(o.Scale) * sum(o.HeadDim, func(d int) float64 { return qm.at(q.row, w.qcol+d) * km.at(q.first+i, w.kcol+d) })
		largest = max(largest, w.p[i])
	}
	w.lse = largest + math.Log(sum(len(w.p), func(i int) float64 { return math.Exp(w.p[i] - largest) }))
	for i := range w.p {
		w.p[i] = math.Exp(w.p[i] - w.lse)
	}
	return w
}

// probMask is the dropout factor of the probability of key token k.
func (x *Executable) probMask(o *graph.Attention, q query, h, k int) float64 {
	i := uint64(q.row*o.Heads+h)<<20 + uint64(k-q.seqStart)
	return x.mask(o.DropP, o.Site, i)
}

func (x *Executable) attention(o *graph.Attention) {
	v, y := x.get(o.V), x.get(o.Q)
	out, lse := newMatrix(y.rows, y.cols), newMatrix(y.rows, o.Heads)
	for _, q := range x.queries(o) {
		for h := range o.Heads {
			w := x.head(o, q, h)
			lse.set(q.row, h, w.lse)
			for i, p := range w.p {
				p *= x.probMask(o, q, h, q.first+i)
				for d := range o.HeadDim {
					out.add(q.row, w.qcol+d, p*v.at(q.first+i, w.kcol+d))
				}
			}
		}
	}
	x.put(o.Y, out, none)
	x.put(o.LSE, lse, none)
}

// attentionGrad: with probabilities p, their dropout factors m and scores s,
// dv += m·p·dy, dp = m·(dy·v), ds = p·(dp - Σ p·dp), dq = scale·ds k,
// dk += scale·ds q.
func (x *Executable) attentionGrad(g *graph.AttentionGrad) {
	o := g.Fwd
	q, k, v, dy := x.get(o.Q), x.get(o.K), x.get(o.V), x.get(g.DY)
	dq, dk, dv := newMatrix(q.rows, q.cols), newMatrix(k.rows, k.cols), newMatrix(v.rows, v.cols)
	for _, qu := range x.queries(o) {
		for h := range o.Heads {
			w := x.head(o, qu, h)
			dp := make([]float64, len(w.p))
			total := 0.0
			for i, p := range w.p {
				m := x.probMask(o, qu, h, qu.first+i)
				for d := range o.HeadDim {
					dp[i] += m * dy.at(qu.row, w.qcol+d) * v.at(qu.first+i, w.kcol+d)
					dv.add(qu.first+i, w.kcol+d, m*p*dy.at(qu.row, w.qcol+d))
				}
				total += p * dp[i]
			}
			for i, p := range w.p {
				ds := float64(o.Scale) * p * (dp[i] - total)
				for d := range o.HeadDim {
					dq.add(qu.row, w.qcol+d, ds*k.at(qu.first+i, w.kcol+d))
					dk.add(qu.first+i, w.kcol+d, ds*q.at(qu.row, w.qcol+d))
				}
			}
		}
	}
	x.put(g.DQ, dq, none)
	x.put(g.DK, dk, none)
	x.put(g.DV, dv, none)
}
