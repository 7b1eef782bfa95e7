package onnx

import "fmt"

// Check checks the structure of the graph: names defined once, every value that
// is used is defined in its graph or around it, no cycle. It says nothing about
// operators, types or shapes.
func (m *Model) Check() error {
	for _, o := range m.Opsets {
		if o.Version < 1 {
			return &Error{Reason: fmt.Sprintf("operator set %q has version %d", o.Domain, o.Version), Hint: damaged, Err: ErrMalformed}
		}
	}
	return m.Graph.check(nil)
}

// scope is the names that are visible in a graph.
type scope struct {
	outer *scope
	names map[string]bool
}

func (s *scope) has(name string) bool {
	for ; s != nil; s = s.outer {
		if s.names[name] {
			return true
		}
	}
	return false
}

func nodeError(n *Node, format string, args ...any) *Error {
	return &Error{Node: n.label(), Offset: n.Span.Offset, Reason: fmt.Sprintf(format, args...), Hint: damaged, Err: ErrMalformed}
}

func (g *Graph) check(outer *scope) error {
	given := &scope{outer: outer, names: map[string]bool{}}
	for i := range g.Inputs {
		given.names[g.Inputs[i].Name] = true
	}
	seen := map[string]bool{}
	initializer := func(t *Tensor) error {
		if t.Name == "" {
			return t.fail("an initializer without a name")
		}
		if seen[t.Name] {
			return t.fail("two initializers have this name")
		}
		seen[t.Name] = true
		given.names[t.Name] = true
		return nil
	}
	for i := range g.Initializers {
		if err := initializer(&g.Initializers[i]); err != nil {
			return err
		}
	}
	for _, s := range g.Sparse {
		if err := initializer(s.Values); err != nil {
			return err
		}
	}
	maker := map[string]int{}
	for i := range g.Nodes {
		for _, o := range g.Nodes[i].Outputs {
			if o == "" {
				continue
			}
			if _, twice := maker[o]; twice || given.names[o] {
				return nodeError(&g.Nodes[i], "its output %q is defined twice", o)
			}
			maker[o] = i
		}
	}
	order, err := g.order(given, maker)
	if err != nil {
		return err
	}
	for _, o := range g.Outputs {
		if _, made := maker[o.Name]; !made && !given.has(o.Name) {
			return &Error{Reason: fmt.Sprintf("graph output %q is not defined: no input, initializer or node has this name", o.Name), Hint: damaged, Err: ErrMalformed}
		}
	}
	for o := range maker {
		given.names[o] = true
	}
	for _, i := range order {
		for _, sub := range g.Nodes[i].subgraphs() {
			if err := sub.check(given); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Node) subgraphs() []*Graph {
	var list []*Graph
	for i := range n.Attributes {
		if g := n.Attributes[i].G; g != nil {
			list = append(list, g)
		}
		list = append(list, n.Attributes[i].Graphs...)
	}
	return list
}

// needs lists the values that a node reads: its inputs and the free names of
// its subgraphs.
func (n *Node) needs() []string {
	list := n.Inputs
	for _, g := range n.subgraphs() {
		list = append(list[:len(list):len(list)], g.free()...)
	}
	return list
}

// free lists the names that a graph uses and does not define.
func (g *Graph) free() []string {
	own := map[string]bool{"": true}
	for i := range g.Inputs {
		own[g.Inputs[i].Name] = true
	}
	for i := range g.Initializers {
		own[g.Initializers[i].Name] = true
	}
	for _, s := range g.Sparse {
		own[s.Values.Name] = true
	}
	for i := range g.Nodes {
		for _, o := range g.Nodes[i].Outputs {
			own[o] = true
		}
	}
	var list []string
	add := func(name string) {
		if !own[name] {
			own[name] = true
			list = append(list, name)
		}
	}
	for i := range g.Nodes {
		for _, name := range g.Nodes[i].needs() {
			add(name)
		}
	}
	for i := range g.Outputs {
		add(g.Outputs[i].Name)
	}
	return list
}

// order sorts the nodes so that values are made before they are read; nodes
// that are in order already stay so.
func (g *Graph) order(given *scope, maker map[string]int) ([]int, error) {
	waiting := make([]int, len(g.Nodes)) // inputs that are not there yet
	readers := make([][]int, len(g.Nodes))
	for i := range g.Nodes {
		for _, name := range g.Nodes[i].needs() {
			if name == "" || given.has(name) {
				continue
			}
			j, ok := maker[name]
			if !ok {
				return nil, nodeError(&g.Nodes[i], "its input %q is not defined: no graph input, initializer or node has this name", name)
			}
			waiting[i]++
			readers[j] = append(readers[j], i)
		}
	}
	order := make([]int, 0, len(g.Nodes))
	for i := range g.Nodes {
		if waiting[i] == 0 {
			order = append(order, i)
		}
	}
	for k := 0; k < len(order); k++ {
		for _, i := range readers[order[k]] {
			if waiting[i]--; waiting[i] == 0 {
				order = append(order, i)
			}
		}
	}
	if len(order) < len(g.Nodes) {
		for i := range waiting {
			if waiting[i] > 0 {
				return nil, nodeError(&g.Nodes[i], "it is part of a cycle, or reads from one")
			}
		}
	}
	return order, nil
}

// Order returns the indices of the main graph's nodes in an order in which
// every value is made before it is read.
func (m *Model) Order() ([]int, error) {
	g := m.Graph
	given := &scope{names: map[string]bool{}}
	for i := range g.Inputs {
		given.names[g.Inputs[i].Name] = true
	}
	for i := range g.Initializers {
		given.names[g.Initializers[i].Name] = true
	}
	for _, s := range g.Sparse {
		given.names[s.Values.Name] = true
	}
	maker := map[string]int{}
	for i := range g.Nodes {
		for _, o := range g.Nodes[i].Outputs {
			maker[o] = i
		}
	}
	order, err := g.order(given, maker)
	return order, withPath(err, m.Path)
}
