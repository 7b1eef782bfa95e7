package onnxmodel

import (
	"errors"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// fusedRules are operators of com.microsoft, as ONNX Runtime's transformer
// optimizer makes them.
var fusedRules = map[string]func(*nodeCall) ([]value, error){
	"EmbedLayerNormalization": embedNormRule, "SkipLayerNormalization": skipNormRule, "SkipSimplifiedLayerNormalization": skipNormRule,
	"SimplifiedLayerNormalization": one(rmsNormRule), "BiasGelu": biased(graph.ActGELU), "FastGelu": biased(graph.ActGELUTanh), "Gelu": activation(graph.ActGELU),
	"QuickGelu": one(swishRule), "FusedMatMul": one(fusedMatMulRule), "Attention": one(packedAttentionRule), "MultiHeadAttention": one(multiHeadRule),
	"GroupQueryAttention": one(groupQueryRule), "RotaryEmbedding": one(rotaryRule),
}

// biased is act(x + bias).
func biased(act graph.Act) func(*nodeCall) ([]value, error) {
	return view(func(c *nodeCall, m *mat) (value, error) {
		if c.arg(1) != nil {
			v, err := c.addVector(m, c.arg(1))
			if err != nil {
				return nil, err
			}
			m = v.(*mat)
		}
		return c.elementwise(act, m, 1)
	})
}

// embedNormRule is norm(word[ids] + position[t] + type[types]).
func embedNormRule(c *nodeCall) ([]value, error) {
	var tables []lookup
	cols := 0
	for _, x := range []struct{ index, table int }{{0, 2}, {8, 3}, {1, 4}} {
		p, ok := c.arg(x.table).(*param)
		if !ok || len(p.t.Dims) != 2 {
			if c.arg(x.table) == nil {
				continue
			}
			return nil, c.fail("table %d is no parameter", x.table)
		}
		cols = p.t.Dims[1]
		l := lookup{table: p.name, entries: p.t.Dims[0], stream: graph.StreamPositions}
		if c.arg(x.index) != nil || x.index != 8 {
			a, err := c.im.array(c.arg(x.index))
			if err != nil {
				return nil, c.fail("%v", err)
			}
			if l, ok = c.im.lookup(p, a); !ok {
				return nil, c.fail("input %d is neither token ids, type ids nor positions", x.index)
			}
		}
		tables = append(tables, l)
	}
	t := c.im.add(&term{op: opEmbed, tables: tables, cols: cols, node: nodeLabel(c.n)})
	rows := []axis{{{dimBatch, c.im.batch, 0}}, {{dimToken, c.im.tokens, 0}}}
	sum := c.rows(t, rows)
	y, err := c.norm(sum, c.arg(5), c.arg(6), float64(c.n.Float("epsilon", 1e-12)), false)
	// The second output counts the tokens of each sequence.
	return []value{y, newArray(kindInt, c.im.batch).mapped(kindInt, func(float64) float64 { return float64(c.im.tokens) }), sum}, err
}

// skipNormRule is norm(x + skip + bias).
func skipNormRule(c *nodeCall) ([]value, error) {
	rms := c.n.Op == "SkipSimplifiedLayerNormalization"
	beta, bias := c.arg(3), c.arg(4)
	if rms {
		beta, bias = nil, c.arg(3)
	}
	x, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	if bias != nil {
		v, err := c.addVector(x, bias)
		if err != nil {
			return nil, err
		}
		x = v.(*mat)
	}
	skip, err := c.mat(c.arg(1))
	if err != nil {
		return nil, err
	}
	sum, err := c.sum(x, skip, 1)
	if err != nil {
		return nil, err
	}
	y, err := c.norm(sum, c.arg(2), beta, float64(c.n.Float("epsilon", 1e-5)), rms)
	return []value{y, nil, nil, sum}, err
}

func fusedMatMulRule(c *nodeCall) (value, error) {
	if c.n.Int("transA", 0)+c.n.Int("transBatchA", 0)+c.n.Int("transBatchB", 0) != 0 {
		return nil, c.fail("transA or transposed batches")
	}
	alpha := float64(c.n.Float("alpha", 1))
	if known([]value{c.arg(1)}) {
		w, err := c.weight(c.arg(1), c.n.Int("transB", 0) != 0)
		if err != nil {
			return nil, err
		}
		m, err := c.linear(c.arg(0), w, nil)
		if err != nil {
			return nil, err
		}
		return m.times(alpha), nil
	}
	a, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	b, err := c.mat(c.arg(1))
	if err != nil {
		return nil, err
	}
	if n := len(b.axes); c.n.Int("transB", 0) != 0 && n > 1 {
		axes := slices.Clone(b.axes)
		axes[n-2], axes[n-1] = axes[n-1], axes[n-2]
		b = b.with(axes)
	}
	v, err := c.contract(a, b)
	if err != nil {
		return nil, err
	}
	return v.(*mat).times(alpha), nil
}

// byHead sees (sequences, tokens, heads·dim) as (sequences, heads, tokens, dim).
func (c *nodeCall) byHead(m *mat, heads int) (*mat, error) {
	if len(m.axes) == 4 {
		return m, nil
	}
	n, _ := m.block()
	if len(m.axes) != 3 || heads < 1 || n%heads != 0 {
		return nil, c.fail("shape %v of the probe for %d heads", m.dims(), heads)
	}
	d := m.dims()
	x, ok := m.reshape([]int{d[0], d[1], heads, n / heads})
	if !ok {
		return nil, c.fail("shape %v of the probe for %d heads", d, heads)
	}
	return x.with([]axis{x.axes[0], x.axes[2], x.axes[1], x.axes[3]}), nil
}

// multiHead is a whole attention in one operator. Queries, keys and values are (sequences,
// tokens, columns) or by head; the result is as the queries.
type multiHead struct {
	q, k, v   *mat
	heads, kv int
	scale     float64 // 0 means 1/√dim
	add       *array  // to the scores, or nil
	causal    bool
	window    int
}

func (c *nodeCall) multiHead(o multiHead) (value, error) {
	flat := len(o.q.axes) == 3
	q, err := c.byHead(o.q, o.heads)
	if err != nil {
		return nil, err
	}
	k, err := c.byHead(o.k, o.kv)
	if err != nil {
		return nil, err
	}
	v, err := c.byHead(o.v, o.kv)
	if err != nil {
		return nil, err
	}
	s, err := c.scores(q, k)
	if err != nil {
		return nil, err
	}
	if o.scale == 0 {
		o.scale = 1 / math.Sqrt(float64(s.t.heads.dim))
	}
	s = s.times(o.scale)
	if o.add != nil {
		if s, err = c.masked(s, o.add); err != nil {
			return nil, err
		}
	}
	p := c.softmax(s)
	if o.causal {
		p.t.visible = intersect(p.t.visible, causalMask(c.im.tokens, o.window))
	}
	y, err := c.attend(p, v)
	if err != nil || !flat {
		return y, err
	}
	y = y.with([]axis{y.axes[0], y.axes[2], slices.Concat(y.axes[1], y.axes[3])})
	return y, nil
}

// intersect is what both masks leave; nil leaves all.
func intersect(a, b []bool) []bool {
	if a == nil {
		return b
	}
	out := slices.Clone(a)
	for i := range out {
		out[i] = out[i] && b[i]
	}
	return out
}

// padding checks that a mask of keys, or lengths of sequences, hides nothing
// under the probe, which has no padding.
func (c *nodeCall) padding(v value) error {
	if v == nil {
		return nil
	}
	a, err := c.im.array(v)
	if err != nil {
		return c.fail("%v", err)
	}
	for _, x := range a.data {
		if x != 1 && x != float64(c.im.tokens) && x != float64(c.im.tokens-1) {
			return c.fail("a mask of shape %v that hides tokens of a sequence", a.dims)
		}
	}
	return nil
}

// noPast checks that inputs for past keys and values are absent or empty.
func (c *nodeCall) noPast(inputs ...int) error {
	for _, i := range inputs {
		if a, ok := c.arg(i).(*array); c.arg(i) != nil && (!ok || len(a.data) > 0) {
			return c.fail("past keys or values")
		}
	}
	return nil
}

// columns is a view of columns [from, from+n) of the last axis.
func (c *nodeCall) columns(m *mat, from, n int) (*mat, error) {
	return c.cut(m, len(m.axes)-1, span{from, 1, n})
}

// packedAttentionRule projects to queries, keys and values together first.
func packedAttentionRule(c *nodeCall) (value, error) {
	if c.arg(5) != nil {
		return nil, c.fail("a bias of the scores")
	}
	if err := errors.Join(c.noPast(4), c.padding(c.arg(3))); err != nil {
		return nil, err
	}
	w, err := c.weight(c.arg(1), false)
	if err != nil {
		return nil, err
	}
	all, err := c.linear(c.arg(0), w, c.arg(2))
	if err != nil {
		return nil, err
	}
	n := w.out / 3
	if s := c.n.Ints("qkv_hidden_sizes"); s != nil && (s[0] != s[1] || s[1] != s[2]) || n*3 != w.out {
		return nil, c.fail("queries, keys and values of unequal sizes")
	}
	o := multiHead{heads: int(c.n.Int("num_heads", 0)), scale: float64(c.n.Float("scale", 0)), causal: c.n.Int("unidirectional", 0) != 0}
	o.kv = o.heads
	for i, p := range []**mat{&o.q, &o.k, &o.v} {
		if *p, err = c.columns(all, i*n, n); err != nil {
			return nil, err
		}
	}
	return c.multiHead(o)
}

// three reads queries, keys and values.
func (c *nodeCall) three(o *multiHead) (err error) {
	for i, p := range []**mat{&o.q, &o.k, &o.v} {
		if *p, err = c.mat(c.arg(i)); err != nil {
			return err
		}
	}
	return nil
}

func multiHeadRule(c *nodeCall) (value, error) {
	o := multiHead{heads: int(c.n.Int("num_heads", 0)), scale: float64(c.n.Float("scale", 0)), causal: c.n.Int("unidirectional", 0) != 0}
	o.kv = o.heads
	if err := c.three(&o); err != nil {
		return nil, err
	}
	if err := errors.Join(c.noPast(6, 7), c.padding(c.arg(4))); err != nil {
		return nil, err
	}
	if b := c.arg(3); b != nil {
		a, err := c.im.array(b)
		if err != nil || len(a.data)%3 != 0 {
			return nil, c.fail("a bias that is no vector for queries, keys and values")
		}
		n := len(a.data) / 3
		for i, p := range []**mat{&o.q, &o.k, &o.v} {
			x, err := c.addVector(*p, vector(kindFloat, a.data[i*n:(i+1)*n]...))
			if err != nil {
				return nil, err
			}
			*p = x.(*mat)
		}
	}
	if b := c.arg(5); b != nil {
		a, err := c.im.array(b)
		if err != nil {
			return nil, c.fail("%v", err)
		}
		o.add = a
	}
	return c.multiHead(o)
}

func groupQueryRule(c *nodeCall) (value, error) {
	o := multiHead{heads: int(c.n.Int("num_heads", 0)), kv: int(c.n.Int("kv_num_heads", 0)), scale: float64(c.n.Float("scale", 0)), causal: true,
		window: int(max(c.n.Int("local_window_size", -1), 0))}
	if c.n.Float("softcap", 0) != 0 {
		return nil, c.fail("softcap")
	}
	if err := c.noPast(3, 4); err != nil {
		return nil, err
	}
	if o.heads < 1 || o.kv < 1 {
		return nil, c.fail("%d and %d heads", o.heads, o.kv)
	}
	var err error
	if c.arg(1) != nil {
		if err := c.three(&o); err != nil {
			return nil, err
		}
	} else {
		all, err := c.mat(c.arg(0))
		if err != nil {
			return nil, err
		}
		n, _ := all.block()
		d := n / (o.heads + 2*o.kv)
		for _, p := range []struct {
			m          **mat
			from, size int
		}{{&o.q, 0, o.heads}, {&o.k, o.heads, o.kv}, {&o.v, o.heads + o.kv, o.kv}} {
			if *p.m, err = c.columns(all, p.from*d, p.size*d); err != nil {
				return nil, err
			}
		}
	}
	if c.n.Int("do_rotary", 0) != 0 {
		inter := c.n.Int("rotary_interleaved", 0) != 0
		if o.q, err = c.rotaryByCache(o.q, o.heads, c.arg(7), c.arg(8), nil, inter); err != nil {
			return nil, err
		}
		if o.k, err = c.rotaryByCache(o.k, o.kv, c.arg(7), c.arg(8), nil, inter); err != nil {
			return nil, err
		}
	}
	return c.multiHead(o)
}

// rotaryRule is RotaryEmbedding of com.microsoft and of operator set 23.
func rotaryRule(c *nodeCall) (value, error) {
	m, err := c.mat(c.arg(0))
	if err != nil {
		return nil, err
	}
	cos, sin, at := c.arg(1), c.arg(2), c.arg(3)
	if c.n.Domain == "com.microsoft" {
		at, cos, sin = c.arg(1), c.arg(2), c.arg(3)
	}
	if c.n.Float("scale", 1) != 1 {
		return nil, c.fail("scale %v", c.n.Float("scale", 1))
	}
	return c.rotaryByCache(m, int(c.n.Int("num_heads", 0)), cos, sin, at, c.n.Int("interleaved", 0) != 0)
}

// rotaryByCache rotates by tables (positions, half of the rotated columns), or
// those already looked up.
func (c *nodeCall) rotaryByCache(m *mat, heads int, cos, sin, at value, interleaved bool) (*mat, error) {
	flat := len(m.axes) == 3
	tables := [2][][]float64{}
	for i, v := range []value{cos, sin} {
		a, err := c.im.array(v)
		if err != nil {
			return nil, c.fail("%v", err)
		}
		n := a.dims[len(a.dims)-1]
		for t := range c.im.tokens {
			if (t+1)*n > len(a.data) {
				return nil, c.fail("rotary tables of shape %v", a.dims)
			}
			tables[i] = append(tables[i], a.data[t*n:(t+1)*n])
		}
	}
	if at != nil {
		a, err := c.im.array(at)
		if err != nil {
			return nil, c.fail("%v", err)
		}
		for i, v := range a.data {
			if v != float64(i%c.im.tokens) && len(a.data) > 1 || len(a.data) == 1 && v != 0 {
				return nil, c.fail("positions that do not count from 0")
			}
		}
	}
	if flat && heads == 0 {
		if n, ok := m.block(); ok {
			heads = n / (2 * len(tables[0][0]))
		}
	}
	x, err := c.byHead(m, heads)
	if err != nil {
		return nil, err
	}
	rot := x
	if n, k := 2*len(tables[0][0]), x.axes[3].size(); n < k {
		if rot, err = c.columns(x, 0, n); err != nil {
			return nil, err
		}
	}
	v, err := c.rotate(rot, tables[0], tables[1], interleaved)
	if err != nil {
		return nil, err
	}
	y := c.whole(v.(*mat).t, x).times(v.(*mat).mul)
	if flat {
		y = y.with([]axis{y.axes[0], y.axes[2], slices.Concat(y.axes[1], y.axes[3])})
	}
	return y, nil
}

// onnxAttentionRule is Attention of operator set 23.
func onnxAttentionRule(c *nodeCall) ([]value, error) {
	o := multiHead{heads: int(c.n.Int("q_num_heads", 0)), kv: int(c.n.Int("kv_num_heads", 0)), scale: float64(c.n.Float("scale", 0)), causal: c.n.Int("is_causal", 0) != 0}
	if c.n.Float("softcap", 0) != 0 || c.n.Int("qk_matmul_output_mode", 0) != 0 {
		return nil, c.fail("softcap or scores as an output")
	}
	if err := errors.Join(c.noPast(4, 5), c.three(&o)); err != nil {
		return nil, err
	}
	if m := c.arg(3); m != nil {
		a, err := c.im.array(m)
		if err != nil {
			return nil, c.fail("%v", err)
		}
		if a.kind == kindBool {
			a = a.mapped(kindFloat, func(v float64) float64 {
				if v != 0 {
					return 0
				}
				return math.Inf(-1)
			})
		}
		o.add = a
	}
	y, err := c.multiHead(o)
	if err != nil {
		return nil, err
	}
	return []value{y, o.k, o.v}, nil
}
