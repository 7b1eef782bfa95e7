package onnxmodel

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

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
			index = x.shared("zeros", func() string { return l.node("zeros", "Mul", []string{x.input(InputIDs), l.ints(true, 0)}) })
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

// rows are the rows that are computed where the program picks p: all, as long
// as the rows that the head reads have not been made.
func (x *exporter) rows(p graph.Pick) graph.Pick {
	if x.late && (p == graph.PickFirst || p == graph.PickLast) {
		x.picked = p
		return graph.PickAll
	}
	return p
}

// pick takes one row per sequence of (batch, sequence, ...): (batch, 1, ...).
func (x *exporter) pick(scope, v string, p graph.Pick) (string, error) {
	switch p {
	case graph.PickAll:
		return v, nil
	case graph.PickFirst, graph.PickLast:
		at := x.shared("rows "+p.String(), func() string {
			l := x.list
			n := l.node("batch", "Gather", []string{l.node("batch", "Shape", []string{x.input(InputMask)}), l.ints(true, 0)})
			row := l.node("batch", "Range", []string{l.ints(true, 0), n, l.ints(true, 1)})
			row = l.node("batch", "Unsqueeze", []string{row, l.ints(false, 1)})
			return l.node(p.String(), "Concat", []string{row, x.index(p)}, onnx.IntAttr("axis", 1))
		})
		return x.list.node(scope, "Unsqueeze", []string{x.list.node(scope, "GatherND", []string{v, at}), x.list.ints(false, 1)}), nil
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
	part, rest := heads, int64(o.HeadDim)
	if rest > 2*n {
		part = l.columns(scope, heads, 0, 2*n)
	}
	// (x1, x2)·cos + (-x2, x1)·sin, as exporters write it and optimisers know it.
	second := l.node(scope, "Neg", []string{l.columns(scope, part, n, 2*n)})
	half := l.node(scope, "Concat", []string{second, l.columns(scope, part, 0, n)}, onnx.IntAttr("axis", -1))
	turned := l.node(scope, "Add", []string{l.node(scope, "Mul", []string{part, cos}), l.node(scope, "Mul", []string{half, sin})})
	if rest > 2*n {
		turned = l.node(scope, "Concat", []string{turned, l.columns(scope, heads, 2*n, rest)}, onnx.IntAttr("axis", -1))
	}
	x.values[o.Y] = l.node(scope, "Reshape", []string{turned, l.ints(false, 0, 0, int64(o.Heads*o.HeadDim))})
	return nil
}

// angles are cos and sin of position·frequency, times the scale:
// (batch, rows, 1, 2·pairs).
func (x *exporter) angles(o *graph.Rope) (cos, sin string, err error) {
	l := x.list
	pick := x.rows(o.Pick)
	at, err := x.pick("rope", x.positions(), pick)
	if err != nil {
		return "", "", err
	}
	key := fmt.Sprintf("angles %v %v %v", o.Freq, o.Scale, pick)
	angle := x.shared(key, func() string {
		var raw []byte
		for _, f := range slices.Concat(o.Freq, o.Freq) { // one for each half
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
		}
		freq := l.constant(onnx.Float, []int{2 * len(o.Freq)}, raw, "frequencies")
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

// attention is softmax(scale·q kᵀ + mask) v by heads. Keys and values that
// several query heads share are repeated.
func (x *exporter) attention(o *graph.Attention) error {
	scope, l := x.scope(o.Y), x.list
	h, kv, d := int64(o.Heads), int64(o.KVHeads), int64(o.HeadDim)
	split := func(v string, heads int64) string {
		r := l.node(scope, "Reshape", []string{v, l.ints(false, 0, 0, heads, d)})
		r = l.node(scope, "Transpose", []string{r}, onnx.IntsAttr("perm", 0, 2, 1, 3))
		if heads == h {
			return r
		}
		r = l.node(scope, "Expand", []string{l.node(scope, "Unsqueeze", []string{r, l.ints(false, 2)}), l.ints(false, 1, 1, h/kv, 1, 1)})
		return l.node(scope, "Reshape", []string{r, l.ints(false, 0, h, -1, d)})
	}
	bias, err := x.bias(o)
	if err != nil {
		return err
	}
	q := split(x.value(o.Q), h)
	k := l.node(scope, "Transpose", []string{split(x.value(o.K), kv)}, onnx.IntsAttr("perm", 0, 1, 3, 2))
	v := split(x.value(o.V), kv)
	s := l.node(scope, "Mul", []string{l.node(scope, "MatMul", []string{q, k}), x.float(float64(o.Scale))})
	s = l.node(scope, "Add", []string{s, bias})
	y := l.node(scope, "MatMul", []string{l.node(scope, "Softmax", []string{s}, onnx.IntAttr("axis", -1)), v})
	y = l.node(scope, "Transpose", []string{y}, onnx.IntsAttr("perm", 0, 2, 1, 3))
	x.values[o.Y] = l.node(scope, "Reshape", []string{y, l.ints(false, 0, 0, h*d)})
	return nil
}

// lowest is added to the scores of hidden keys. It is finite, so that a row of
// padding that sees no key stays free of NaN.
const lowest = -math.MaxFloat32

// bias is 0 for the keys that a query sees and lowest for the others:
// (batch, 1, rows or 1, sequence).
func (x *exporter) bias(o *graph.Attention) (string, error) {
	queries := x.rows(o.QueryPick)
	if queries == graph.PickRows {
		return "", unsupported("attention of picked rows")
	}
	l := x.list
	node := func(op string, in ...string) string { return l.node("mask", op, in) }
	return x.shared(fmt.Sprint("bias ", o.Causal, o.Window, queries), func() string {
		seen := x.shared("seen", func() string {
			m := l.node("mask", "Cast", []string{x.input(InputMask)}, onnx.IntAttr("to", int64(onnx.Bool)))
			return node("Unsqueeze", m, l.ints(false, 1, 2))
		})
		if o.Causal || o.Window > 0 {
			key := x.places()
			query := x.shared("query place "+queries.String(), func() string {
				if queries == graph.PickAll {
					return node("Unsqueeze", key, l.ints(false, 1))
				}
				return node("Unsqueeze", x.index(queries), l.ints(false, 1, 2))
			})
			if o.Causal {
				seen = node("And", seen, node("LessOrEqual", key, query))
			}
			if o.Window > 0 {
				seen = node("And", seen, node("Less", node("Sub", query, key), l.ints(true, int64(o.Window))))
			}
		}
		return node("Where", seen, x.float(0), x.float(lowest))
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
