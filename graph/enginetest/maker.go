package enginetest

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// maker builds one program with random weights, parameters and a batch. All
// randomness follows from the name, so every engine sees the same data.
type maker struct {
	*graph.Builder
	batch *graph.Batch
	rng   *rand.Rand
	data  weights
	sigma map[string]float64 // standard deviation by parameter, 1 if absent

	views  bool // token matrices are columns of wider ones
	addend bool // operations with an addend get one

	hot   graph.Value   // (T, T) identity
	spare []graph.Value // views that tile a base together with an input
	names int
}

// weights is a graph.WeightSource in memory, rows as stored.
type weights map[string][]float32

// ReadRows implements graph.WeightSource.
func (w weights) ReadRows(t *graph.Weight, lo, hi int, dst []float32) error {
	data, ok := w[t.Name]
	if !ok {
		return fmt.Errorf("no tensor %s", t.Name)
	}
	n := t.StoredCols()
	if len(data) != t.In*t.Out || len(dst) != (hi-lo)*n {
		return fmt.Errorf("tensor %s: rows [%d, %d) into %d floats", t.Name, lo, hi, len(dst))
	}
	copy(dst, data[lo*n:hi*n])
	return nil
}

// newMaker prepares a batch of sequences of the given lengths. rows < 0 picks
// all but every fourth token, otherwise that many tokens.
func newMaker(name string, lens []int, rows int) *maker {
	h := fnv.New64a()
	h.Write([]byte(name))
	m := &maker{Builder: graph.NewBuilder(), rng: rand.New(rand.NewPCG(h.Sum64(), 1)), data: weights{}, sigma: map[string]float64{}}
	m.batch = newBatch(m.rng, lens, rows)
	return m
}

// newBatch draws a batch; its token ids are a permutation of the tokens.
func newBatch(rng *rand.Rand, lens []int, rows int) *graph.Batch {
	b := &graph.Batch{CuSeqlens: []int32{0}, LossScale: 0.25, Seed: rng.Uint64(), Step: 3}
	for _, n := range lens {
		for i := range n {
			b.Positions = append(b.Positions, int32(i))
			b.TypeIDs = append(b.TypeIDs, int32(rng.IntN(2)))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.Positions)))
	}
	for _, i := range rng.Perm(len(b.Positions)) {
		b.IDs = append(b.IDs, int32(i))
	}
	for t := range b.IDs {
		if rows < 0 && t%4 != 3 || t < rows {
			b.Rows = append(b.Rows, int32(t))
		}
	}
	return b
}

// labels gives the batch n labels below classes, about one in five ignored.
func (m *maker) labels(n, classes int) {
	m.batch.Labels = nil
	for range n {
		l := int32(m.rng.IntN(classes))
		if m.rng.IntN(5) == 0 {
			l = -1
		}
		m.batch.Labels = append(m.batch.Labels, l)
	}
}

// targets gives the batch n targets; binary ones are 0 or 1.
func (m *maker) targets(n int, binary bool) {
	m.batch.Targets = m.normal(n, 1)
	for i, t := range m.batch.Targets {
		if binary {
			m.batch.Targets[i] = 0
			if t > 0 {
				m.batch.Targets[i] = 1
			}
		}
	}
}

// normal draws n numbers of the given standard deviation.
func (m *maker) normal(n int, sigma float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(m.rng.NormFloat64() * sigma)
	}
	return x
}

func (m *maker) name(prefix string) string {
	m.names++
	return fmt.Sprintf("%s.%d", prefix, m.names)
}

// weight declares a random frozen matrix.
func (m *maker) weight(name string, in, out int, transposed bool) graph.WeightID {
	if _, ok := m.data[name]; !ok {
		m.data[name] = m.normal(in*out, 0.5)
	}
	return m.Weight(name, in, out, transposed)
}

// vector declares a random frozen vector around mean.
func (m *maker) vector(name string, n int, mean float32) graph.WeightID {
	if _, ok := m.data[name]; !ok {
		m.data[name] = m.normal(n, 0.3)
		for i := range m.data[name] {
			m.data[name][i] += mean
		}
	}
	return m.Vector(name, n)
}

// fixed is a parameter (rows, cols).
func (m *maker) fixed(rows, cols int) graph.Value {
	return m.Param(m.name("p"), []int{rows, cols}, rows, cols)
}

// fixedAct is a fixed-size activation.
func (m *maker) fixedAct(rows, cols int) graph.Value {
	return m.Axpby(m.name("a"), 1, m.fixed(rows, cols), 0, graph.None)
}

// tokens is a (T, cols) activation whose elements are those of a parameter:
// the identity, looked up row by row, times it.
func (m *maker) tokens(cols int) graph.Value {
	t := len(m.batch.IDs)
	if m.hot == graph.None {
		table := make([]float32, t*t)
		for i, id := range m.batch.IDs {
			table[int(id)*t+i] = 1
		}
		m.data["identity"] = table
		m.hot = m.Embed("identity", []graph.WeightID{m.Weight("identity", t, t, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	}
	wide := cols
	if m.views {
		wide += 3
	}
	x := m.MatMul(m.name("x"), m.hot, m.fixed(t, wide), false, false, 1, graph.None)
	if !m.views {
		return x
	}
	m.spare = append(m.spare, m.View(x, 0, 3))
	return m.View(x, 3, cols)
}

// in is a random matrix with the given rows.
func (m *maker) in(rows graph.Rows, cols int) graph.Value {
	switch rows.Kind {
	case graph.Tokens:
		return m.tokens(cols)
	case graph.Seqs, graph.Picked:
		views := m.views
		m.views = false
		x := m.tokens(cols)
		m.views = views
		pick := graph.PickFirst
		if rows.Kind == graph.Picked {
			pick = graph.PickRows
		}
		return m.Select(m.name("s"), x, pick)
	}
	return m.fixedAct(rows.N, cols)
}

// c is an addend, or None.
func (m *maker) c(rows graph.Rows, cols int) graph.Value {
	if !m.addend {
		return graph.None
	}
	return m.in(rows, cols)
}

// out is a value for the result of a hand-made operation: plain, or columns of a
// wider one.
func (m *maker) out(rows graph.Rows, cols int) graph.Value {
	if !m.views || rows.Kind == graph.Fixed {
		return m.P.NewValue(graph.Info{Name: m.name("y"), Rows: rows, Cols: cols})
	}
	return m.View(m.P.NewValue(graph.Info{Name: m.name("y"), Rows: rows, Cols: cols + 5}), 2, cols)
}

// grad is the gradient of a fresh parameter: operations add to it.
func (m *maker) grad(rows, cols int) graph.Value {
	m.fixed(rows, cols)
	return m.P.GradOf(len(m.P.Params) - 1)
}

// emit appends a hand-made operation and makes its results outputs.
func (m *maker) emit(op graph.Op) {
	m.P.Ops = append(m.P.Ops, op)
	m.P.Forward = len(m.P.Ops)
	for _, y := range op.Outputs(nil) {
		if m.P.Info(y).Kind != graph.ParamGrad {
			m.result(y)
		}
	}
}

// result makes y, or a copy of it if it is a view, an output.
func (m *maker) result(y graph.Value) {
	if m.P.Info(y).Kind == graph.ViewValue {
		y = m.Axpby(m.name("copy"), 1, y, 0, graph.None)
	}
	m.Output(y)
}

// loss reduces y to the squared error of random targets. Columns that were
// made only to widen inputs join in, so that every element has a gradient.
func (m *maker) loss(y graph.Value) {
	cols := m.P.Info(y).Cols
	if rows := m.P.Info(y).Rows; rows.Kind == graph.Fixed {
		name := m.name("mix")
		m.data[name] = m.normal(len(m.batch.IDs)*rows.N, 0.5)
		mix := m.Embed(name, []graph.WeightID{m.Weight(name, len(m.batch.IDs), rows.N, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
		y = m.MatMul(name, mix, y, false, false, 1, graph.None)
	}
	if m.P.Info(y).Rows == graph.PerToken {
		y = m.Select("picked", y, graph.PickRows)
	}
	for _, s := range m.spare {
		if m.P.Info(y).Rows == graph.PerSeq {
			s = m.MeanPool("spare", s)
		} else {
			s = m.Select("spare", s, graph.PickRows)
		}
		y = m.MatMul("joined", s, m.fixed(3, cols), false, false, 0.3, y)
	}
	m.targets(m.P.Info(y).Rows.Count(m.batch.Dims())*cols, false)
	m.SetLoss(m.MSE(y))
}

// params draws the parameters.
func (m *maker) params() []float32 {
	var all []float32
	for _, p := range m.P.Params {
		sigma, ok := m.sigma[p.Name]
		if !ok {
			sigma = 1
		}
		all = append(all, m.normal(p.Size, sigma)...)
	}
	return all
}
