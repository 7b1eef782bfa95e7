package onnx

import (
	"regexp"
	"strings"
)

// Linear is a linear layer of the main graph: y = x W + bias, W (In, Out).
type Linear struct {
	Node   int    // the multiplication, index into Graph.Nodes
	Module string // dotted path, as well as it can be known
	Weight string // the parameter that holds W: an initializer, or a Constant's output
	In     int
	Out    int
	// Transposed says that the parameter is Wᵀ (Out, In).
	Transposed bool
	Bias       string // parameter of the bias, or ""
	// Problem says why the weight cannot be changed in place: it is
	// quantised, or scaled by Gemm's alpha. "" where it can.
	Problem string
	// Shared lists other nodes that read the parameter, by index, which would
	// change with it.
	Shared []int
}

// finder finds the parameters behind values.
type finder struct {
	g       *Graph
	maker   map[string]int
	readers map[string][]int
	params  map[string]*Tensor
}

func newFinder(g *Graph) *finder {
	f := &finder{g: g, maker: map[string]int{}, readers: map[string][]int{}, params: map[string]*Tensor{}}
	for i := range g.Initializers {
		f.params[g.Initializers[i].Name] = &g.Initializers[i]
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		for _, o := range n.Outputs {
			f.maker[o] = i
		}
		for _, x := range n.needs() {
			if k := len(f.readers[x]); k == 0 || f.readers[x][k-1] != i {
				f.readers[x] = append(f.readers[x], i)
			}
		}
		if t := n.Constant(); t != nil {
			f.params[n.Outputs[0]] = t
		}
	}
	return f
}

// weight is a parameter as a node sees it.
type weight struct {
	name       string
	t          *Tensor
	transposed bool
	problem    string
	path       []string // values from the node back to the parameter
}

// trace follows a value back to a matrix, through Identity, Cast, Transpose and
// DequantizeLinear.
func (f *finder) trace(value string) (w weight, ok bool) {
	for range 16 {
		w.path = append(w.path, value)
		if t := f.params[value]; t != nil {
			w.name, w.t = value, t
			return w, len(t.Dims) == 2
		}
		i, made := f.maker[value]
		if !made {
			return w, false
		}
		n := &f.g.Nodes[i]
		if len(n.Inputs) == 0 {
			return w, false
		}
		switch n.Op {
		case "Identity", "Cast":
		case "Transpose":
			p := n.Ints("perm")
			switch {
			case len(p) == 0, len(p) == 2 && p[0] == 1 && p[1] == 0:
				w.transposed = !w.transposed
			case len(p) != 2:
				return w, false
			}
		case "DequantizeLinear":
			w.problem = "quantised (DequantizeLinear)"
		default:
			return w, false
		}
		value = n.Inputs[0]
	}
	return w, false
}

// Linears lists the linear layers of the main graph in the order of its nodes:
// MatMul and Gemm with a constant matrix on the right, also behind Identity,
// Cast, Transpose and DequantizeLinear, the projection of queries, keys and
// values together in com.microsoft's Attention, and the quantised MatMulInteger,
// QLinearMatMul, DynamicQuantizeMatMul, QAttention and MatMulNBits.
func (m *Model) Linears() []Linear {
	f := newFinder(m.Graph)
	var list []Linear
	for i := range m.Graph.Nodes {
		if l, ok := f.linear(i); ok {
			list = append(list, l)
		}
	}
	f.distinct(list)
	return list
}

// weightInput is which input of a product is its right-hand matrix.
var weightInput = map[string]int{"MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "FusedGemm": 1, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3}

func (f *finder) linear(i int) (l Linear, ok bool) {
	n := &f.g.Nodes[i]
	l.Node = i
	if n.Op == "MatMulNBits" {
		return f.nBits(i)
	}
	at := weightInput[n.Op]
	if n.Domain == "com.microsoft" && (n.Op == "Attention" || n.Op == "QAttention") {
		at = 1
	}
	if at == 0 || len(n.Inputs) <= at || len(n.Outputs) == 0 {
		return l, false
	}
	w, ok := f.trace(n.Inputs[at])
	if !ok {
		return l, false
	}
	l.Weight, l.Transposed, l.Problem = w.name, w.transposed, w.problem
	switch n.Op {
	case "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QAttention":
		l.Problem = "quantised (" + n.Op + ")"
	case "Gemm", "FusedGemm", "FusedMatMul":
		if n.Int("transA", 0) != 0 || n.Int("transBatchA", 0) != 0 || n.Int("transBatchB", 0) != 0 {
			return l, false
		}
		if n.Int("transB", 0) != 0 {
			l.Transposed = !l.Transposed
		}
		if n.Float("alpha", 1) != 1 && l.Problem == "" {
			l.Problem = "scaled by alpha"
		}
	}
	l.In, l.Out = w.t.Dims[0], w.t.Dims[1]
	if l.Transposed {
		l.In, l.Out = l.Out, l.In
	}
	if l.In == 0 || l.Out == 0 {
		return l, false
	}
	if l.Problem == "" && !w.t.Type.DType().IsFloat() {
		l.Problem = "of type " + w.t.Type.String()
	}
	l.Shared = f.shared(&w, i)
	l.Bias = f.bias(n, l.Out)
	l.Module = f.module(n, &l)
	return l, true
}

// nBits is com.microsoft's MatMulNBits, whose weight is packed in blocks.
func (f *finder) nBits(i int) (l Linear, ok bool) {
	n := &f.g.Nodes[i]
	k, o := n.Int("K", 0), n.Int("N", 0)
	if k <= 0 || o <= 0 || len(n.Inputs) < 3 || len(n.Outputs) == 0 {
		return l, false
	}
	l = Linear{Node: i, Weight: n.Inputs[1], In: int(k), Out: int(o), Transposed: true, Problem: "quantised (MatMulNBits)"}
	if len(n.Inputs) > 5 {
		l.Bias = n.Inputs[5]
	} else {
		l.Bias = f.bias(n, l.Out)
	}
	l.Module = f.module(n, &l)
	return l, true
}

// shared lists the readers of the parameter beside node i and the nodes that
// lead to it, and every graph output on the way counts as node -1.
func (f *finder) shared(w *weight, i int) []int {
	own := map[int]bool{i: true}
	for _, v := range w.path {
		if j, ok := f.maker[v]; ok {
			own[j] = true
		}
	}
	var list []int
	for _, v := range w.path {
		for _, j := range f.readers[v] {
			if !own[j] {
				own[j] = true
				list = append(list, j)
			}
		}
		for k := range f.g.Outputs {
			if f.g.Outputs[k].Name == v {
				list = append(list, -1)
			}
		}
	}
	return list
}

// bias finds the parameter that is added to the result: Gemm's C, or that of an
// Add that is the only reader, through a Cast or the scaling of a quantised
// product.
func (f *finder) bias(n *Node, out int) string {
	is := func(v string) bool {
		t := f.params[v]
		return t != nil && len(t.Dims) >= 1 && t.Dims[len(t.Dims)-1] == out && t.Elements() == int64(out)
	}
	switch n.Op {
	case "Gemm", "FusedGemm", "Attention", "QAttention":
		if len(n.Inputs) > 2 && is(n.Inputs[2]) {
			return n.Inputs[2]
		}
		return ""
	}
	value := n.Outputs[0]
	for range 4 {
		r := f.readers[value]
		if len(r) != 1 {
			return ""
		}
		next := &f.g.Nodes[r[0]]
		switch next.Op {
		case "Add":
			for _, v := range next.Inputs {
				if v != value && is(v) {
					return v
				}
			}
			return ""
		case "Cast", "Mul", "Identity":
			value = next.Outputs[0]
		default:
			return ""
		}
	}
	return ""
}

var (
	// anonymous are names that exporters make up for folded constants.
	anonymous = regexp.MustCompile(`^(onnx::\w+?_\d+|val_\d+|_val_\d+|\d+|const\w*_\d+|\w*fold\w*)$`)
	scopeName = regexp.MustCompile(`'([^']*)'`)
	suffix    = regexp.MustCompile(`(_quantized|_Q4|_Q8|_q4|\.qweight|_transposed|_t)$`)
)

// module names the layer: after its weight, its bias, the scope that the
// exporter recorded, or the path that torch's exporter gives to nodes.
func (f *finder) module(n *Node, l *Linear) string {
	name := suffix.ReplaceAllString(l.Weight, "")
	own, ok := strings.CutSuffix(name, ".weight")
	if ok && len(l.Shared) == 0 { // a shared weight may have another module's name
		return own
	}
	if m, ok := strings.CutSuffix(l.Bias, ".bias"); ok {
		return m
	}
	for _, kv := range n.Metadata {
		if kv.Key != "pkg.torch.onnx.name_scopes" {
			continue
		}
		s := scopeName.FindAllStringSubmatch(kv.Value, -1)
		if len(s) >= 2 && s[len(s)-2][1] != "" {
			return s[len(s)-2][1]
		}
	}
	if parts := strings.Split(strings.Trim(n.Name, "/"), "/"); len(parts) > 1 {
		return strings.Join(parts[:len(parts)-1], ".")
	}
	if ok {
		return own
	}
	if !anonymous.MatchString(name) {
		return name
	}
	if n.Name != "" {
		return n.Name
	}
	return l.Weight
}

// distinct makes module names of different weights differ: where exporters give
// several one scope, they get the names of their nodes or outputs. A module
// that is called several times keeps its name.
func (f *finder) distinct(list []Linear) {
	weights := map[string]string{}
	clash := map[string]bool{}
	for i := range list {
		l := &list[i]
		if w, ok := weights[l.Module]; ok && w != l.Weight {
			clash[l.Module] = true
		}
		weights[l.Module] = l.Weight
	}
	used := map[string]bool{}
	for i := range list {
		l := &list[i]
		if clash[l.Module] {
			n := &f.g.Nodes[l.Node]
			id := strings.ReplaceAll(strings.Trim(n.Name, "/"), "/", ".")
			if id == "" || used[id] {
				id = l.Module + ":" + n.Outputs[0]
			}
			l.Module = id
			used[id] = true
		}
	}
}
