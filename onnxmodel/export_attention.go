package onnxmodel

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// embed sums rows of embedding tables.
func (x *exporter) embed(o *graph.Embed) error {
	scope, l := x.scope(o.Y), x.list
	sum := ""
	for i, table := range o.Tables {
		w := x.p.Weight(table)
		name, d, err := x.initializer(w)
		if err != nil {
			return err
		}
		index := ""
		switch {
		case w.In == 1: // one row for all, as RoBERTa's token types
			index = l.ints(true, 0)
		case o.Streams[i] == graph.StreamIDs:
			index = x.input(InputIDs)
		case o.Streams[i] == graph.StreamTypes:
			index = x.input(InputTypes)
		default:
			index = x.positions()
		}
		if off := o.Offsets[i]; off != 0 && w.In > 1 {
			index = l.node(scope, "Add", []string{index, l.ints(true, int64(off))})
		}
		rows := l.node(scope, "Gather", []string{name, index})
		if d != onnx.Float {
			rows = l.node(scope, "Cast", []string{rows}, onnx.IntAttr("to", int64(onnx.Float)))
		}
		if sum != "" {
			rows = l.node(scope, "Add", []string{sum, rows})
		}
		sum = rows
	}
	x.values[o.Y] = sum
	return nil
}

// counts is how many tokens of a sequence stand up to each: (batch, sequence).
func (x *exporter) counts() string {
	return x.shared("counts", func() string {
		return x.list.node("positions", "CumSum", []string{x.input(InputMask), x.list.ints(true, 1)})
	})
}

// positions is the place of each token in its sequence, padding left out:
// (batch, sequence).
func (x *exporter) positions() string {
	return x.shared("positions", func() string {
		before := x.list.node("positions", "Sub", []string{x.counts(), x.list.ints(true, 1)})
		return x.list.node("positions", "Max", []string{before, x.list.ints(true, 0)})
	})
}

// index is the place of the first or last token in its row: (batch, 1).
func (x *exporter) index(p graph.Pick) string {
	return x.shared("index "+p.String(), func() string {
		of := x.input(InputMask)
		if p == graph.PickLast {
			of = x.counts() // it is largest from the last token on
		}
		return x.list.node(p.String(), "ArgMax", []string{of}, onnx.IntAttr("axis", 1), onnx.IntAttr("keepdims", 1))
	})
}

// pick takes one row per sequence of (batch, sequence, ...): (batch, 1, ...).
func (x *exporter) pick(scope, v string, p graph.Pick) (string, error) {
	switch p {
	case graph.PickAll:
		return v, nil
	case graph.PickFirst, graph.PickLast:
		at := x.shared("rows "+p.String(), func() string {
			return x.list.node(p.String(), "Unsqueeze", []string{x.index(p), x.list.ints(false, -1)})
		})
		return x.list.node(scope, "GatherND", []string{v, at}, onnx.IntAttr("batch_dims", 1)), nil
	}
	return "", unsupported("a selection of rows %v", p)
}

// meanPool is the mean over the tokens.
func (x *exporter) meanPool(o *graph.MeanPool) error {
	scope, l := x.scope(o.Y), x.list
	axis := l.ints(false, 1)
	mask := l.node(scope, "Unsqueeze", []string{x.floatMask(), l.ints(false, -1)})
	sum := l.node(scope, "ReduceSum", []string{l.node(scope, "Mul", []string{x.value(o.X), mask}), axis})
	count := l.node(scope, "Max", []string{l.node(scope, "ReduceSum", []string{mask, axis}), x.float(1)})
	x.values[o.Y] = l.node(scope, "Div", []string{sum, count})
	return nil
}

func (x *exporter) floatMask() string {
	return x.shared("float mask", func() string {
		return x.list.node("mask", "Cast", []string{x.input(InputMask)}, onnx.IntAttr("to", int64(onnx.Float)))
	})
}

// rope rotates the heads of (batch, rows, heads·head_dim).
func (x *exporter) rope(o *graph.Rope) error {
	if o.Interleaved || o.Inverse {
		return unsupported("interleaved rotary positions")
	}
	scope, l := x.scope(o.Y), x.list
	cos, sin, err := x.angles(o)
	if err != nil {
		return err
	}
	n := int64(len(o.Freq))
	heads := l.node(scope, "Reshape", []string{x.value(o.X), l.ints(false, 0, 0, int64(o.Heads), int64(o.HeadDim))})
	first, second := l.columns(scope, heads, 0, n), l.columns(scope, heads, n, 2*n)
	mul := func(a, b string) string { return l.node(scope, "Mul", []string{a, b}) }
	parts := []string{
		l.node(scope, "Sub", []string{mul(first, cos), mul(second, sin)}),
		l.node(scope, "Add", []string{mul(second, cos), mul(first, sin)}),
	}
	if rest := int64(o.HeadDim); rest > 2*n {
		parts = append(parts, l.columns(scope, heads, 2*n, rest))
	}
	turned := l.node(scope, "Concat", parts, onnx.IntAttr("axis", -1))
	x.values[o.Y] = l.node(scope, "Reshape", []string{turned, l.ints(false, 0, 0, int64(o.Heads*o.HeadDim))})
	return nil
}

// angles are cos and sin of position·frequency, times the scale:
// (batch, rows, 1, pairs).
func (x *exporter) angles(o *graph.Rope) (cos, sin string, err error) {
	key := fmt.Sprintf("angles %v %v %v", o.Freq, o.Scale, o.Pick)
	l := x.list
	at, err := x.pick("rope", x.positions(), o.Pick)
	if err != nil {
		return "", "", err
	}
	angle := x.shared(key, func() string {
		raw := make([]byte, 0, 4*len(o.Freq))
		for _, f := range o.Freq {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
		freq := l.constant(onnx.Float, []int{len(o.Freq)}, raw, "frequencies")
		p := l.node("rope", "Cast", []string{at}, onnx.IntAttr("to", int64(onnx.Float)))
		return l.node("rope", "Mul", []string{l.node("rope", "Unsqueeze", []string{p, l.ints(false, 2, 3)}), freq})
	})
	part := func(op string) string {
		return x.shared(key+op, func() string {
			y := l.node("rope", op, []string{angle})
			if o.Scale != 1 {
				y = l.node("rope", "Mul", []string{y, x.float(float64(o.Scale))})
			}
			return y
		})
	}
	return part("Cos"), part("Sin"), nil
}

// attention is softmax(scale·q kᵀ + mask) v by heads. Where several query heads
// share a key head, they stand on an axis of their own, along which the keys
// are repeated by broadcasting: (batch, kv heads, group, rows, head_dim).
func (x *exporter) attention(o *graph.Attention) error {
	scope, l := x.scope(o.Y), x.list
	h, kv, d := int64(o.Heads), int64(o.KVHeads), int64(o.HeadDim)
	split := func(v string, heads []int64, perm ...int64) string {
		shape := append([]int64{0, 0}, heads...)
		r := l.node(scope, "Reshape", []string{v, l.ints(false, append(shape, d)...)})
		return l.node(scope, "Transpose", []string{r}, onnx.IntsAttr("perm", perm...))
	}
	var q, k, v string
	if h == kv {
		q = split(x.value(o.Q), []int64{h}, 0, 2, 1, 3)
		k = split(x.value(o.K), []int64{h}, 0, 2, 3, 1)
		v = split(x.value(o.V), []int64{h}, 0, 2, 1, 3)
	} else {
		q = split(x.value(o.Q), []int64{kv, h / kv}, 0, 2, 3, 1, 4)
		k = split(x.value(o.K), []int64{kv, 1}, 0, 2, 3, 4, 1)
		v = split(x.value(o.V), []int64{kv, 1}, 0, 2, 3, 1, 4)
	}
	bias, err := x.bias(o, h != kv)
	if err != nil {
		return err
	}
	s := l.node(scope, "Mul", []string{l.node(scope, "MatMul", []string{q, k}), x.float(float64(o.Scale))})
	s = l.node(scope, "Add", []string{s, bias})
	y := l.node(scope, "MatMul", []string{l.node(scope, "Softmax", []string{s}, onnx.IntAttr("axis", -1)), v})
	back := []int64{0, 2, 1, 3}
	if h != kv {
		back = []int64{0, 3, 1, 2, 4}
	}
	y = l.node(scope, "Transpose", []string{y}, onnx.IntsAttr("perm", back...))
	x.values[o.Y] = l.node(scope, "Reshape", []string{y, l.ints(false, 0, 0, h*d)})
	return nil
}

// lowest is added to the scores of hidden keys. It is finite, so that a row of
// padding that sees no key stays free of NaN.
const lowest = -math.MaxFloat32

// bias is 0 for the keys that a query sees and lowest for the others:
// (batch, 1, rows or 1, sequence), with another 1 for grouped heads.
func (x *exporter) bias(o *graph.Attention, grouped bool) (string, error) {
	l := x.list
	node := func(op string, in ...string) string { return l.node("mask", op, in) }
	base := x.shared(fmt.Sprint("bias ", o.Causal, o.Window, o.QueryPick), func() string {
		seen := x.shared("seen", func() string {
			m := l.node("mask", "Cast", []string{x.input(InputMask)}, onnx.IntAttr("to", int64(onnx.Bool)))
			return node("Unsqueeze", m, l.ints(false, 1, 2))
		})
		if o.Causal || o.Window > 0 {
			key := x.places()
			query := ""
			if o.QueryPick == graph.PickAll {
				query = x.shared("query places", func() string { return node("Unsqueeze", key, l.ints(false, 1)) })
			} else {
				query = x.shared("query place "+o.QueryPick.String(), func() string { return node("Unsqueeze", x.index(o.QueryPick), l.ints(false, 1, 2)) })
			}
			if o.Causal {
				seen = node("And", seen, node("LessOrEqual", key, query))
			}
			if o.Window > 0 {
				seen = node("And", seen, node("Less", node("Sub", query, key), l.ints(true, int64(o.Window))))
			}
		}
		return node("Where", seen, x.float(0), x.float(lowest))
	})
	if o.QueryPick == graph.PickRows {
		return "", unsupported("attention of picked rows")
	}
	if !grouped {
		return base, nil
	}
	return x.shared(fmt.Sprint("grouped bias ", o.Causal, o.Window, o.QueryPick), func() string {
		return node("Unsqueeze", base, l.ints(false, 1))
	}), nil
}

// places are the numbers 0, 1, … of the columns of the batch: (sequence).
func (x *exporter) places() string {
	l := x.list
	return x.shared("places", func() string {
		shape := l.node("mask", "Shape", []string{x.input(InputMask)})
		n := l.node("mask", "Gather", []string{shape, l.ints(true, 1)})
		return l.node("mask", "Range", []string{l.ints(true, 0), n, l.ints(true, 1)})
	})
}
