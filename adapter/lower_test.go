package adapter_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// lowered is the program mean(x) -> W x + adapter -> squared error, over one
// adapted site.
type lowered struct {
	m       *adapter.Module
	exe     graph.Executable
	y       graph.Value
	batch   *graph.Batch
	x, w    []float64
	initial []float32
	forms   map[string]int
}

type weights map[string][]float32

func (w weights) ReadRows(t *graph.Weight, lo, hi int, dst []float32) error {
	c := t.StoredCols()
	copy(dst, w[t.Name][lo*c:hi*c])
	return nil
}

const loweredRows = 7

func lower(t *testing.T, m *adapter.Module) *lowered {
	t.Helper()
	rng := rand.New(rand.NewPCG(11, 12))
	l := &lowered{m: m, forms: map[string]int{}}
	draw := func(n int) ([]float32, []float64) {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x, testkit.Float64s(x)
	}
	table, x := draw(loweredRows * m.In)
	w, w64 := draw(m.In * m.Out)
	l.x, l.w = x, w64
	b := graph.NewBuilder()
	xv := b.Embed("x", []graph.WeightID{b.Weight("table", loweredRows, m.In, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	y := b.Linear("y", xv, b.Weight("w", m.In, m.Out, false), graph.NoWeight, graph.ActNone, graph.None)
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		t.Fatal(err)
	}
	frozen := weights{"table": table, "w": w}
	var params []graph.Value
	for i, s := range m.Specs {
		if s.Frozen {
			frozen[s.Name] = m.Tensors[i]
			params = append(params, graph.None)
			continue
		}
		params = append(params, b.Param(s.Name, s.Shape, s.Shape[0], s.Size()/s.Shape[0]))
		l.initial = append(l.initial, m.Tensors[i]...)
	}
	l.y = k.Lower(b, xv, y, m.Site, m.Settings, params)
	b.Output(l.y)
	b.SetLoss(b.MSE(b.Select("first", l.y, graph.PickFirst)))
	for _, op := range b.P.Ops {
		l.forms[op.Name()]++
	}
	if err := graph.Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	l.batch = &graph.Batch{Train: true, LossScale: 1}
	for i := range loweredRows {
		l.batch.IDs = append(l.batch.IDs, int32(i))
		l.batch.Positions = append(l.batch.Positions, 0)
		l.batch.CuSeqlens = append(l.batch.CuSeqlens, int32(i))
	}
	l.batch.CuSeqlens = append(l.batch.CuSeqlens, loweredRows)
	targets, _ := draw(loweredRows * m.Out)
	l.batch.Targets = targets
	l.exe, err = reference.New().Compile(b.P, frozen, l.batch.Dims())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.exe.SetParams(l.initial); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lowered) run(t *testing.T) []float32 {
	t.Helper()
	if err := l.exe.ZeroGrads(); err != nil {
		t.Fatal(err)
	}
	if err := l.exe.Run(context.Background(), l.batch); err != nil {
		t.Fatal(err)
	}
	y := make([]float32, loweredRows*l.m.Out)
	if err := l.exe.Read(l.y, y); err != nil {
		t.Fatal(err)
	}
	return y
}

// What a kind adds to the program is x ΔW of its Delta, and its parameters
// receive the gradient of that.
func TestLowerAgreesWithDelta(t *testing.T) {
	cases := variants()
	wide := config(adapter.MethodLSR)
	wide.Targets.Modules = []string{"query", "intermediate.dense"}
	wide.Rank, wide.Terms = adapter.Rank{R1: 16, R2: 16}, 1
	grid, pissa := config(adapter.MethodGraLoRA), config(adapter.MethodLoRA)
	grid.Terms, grid.Rank.R1, grid.HybridRank = 3, 6, 2
	grid.Targets.Modules = wide.Targets.Modules
	pissa.Init, pissa.Rank.R1 = adapter.InitPiSSA, 3
	cases = append(cases, wide, grid, pissa)
	for _, p := range plainForms(18) {
		cases = append(cases, p.Config)
	}
	for _, c := range cases {
		sites := robertaSites(1, 18, 31)
		if c.Method == adapter.MethodGraLoRA {
			sites = robertaSites(1, 18, 33)
		}
		if c.Rank.R1 == 16 && c.Method == adapter.MethodLSR {
			sites = robertaSites(1, 256, 250)
		}
		a := randomised(t, sites, c)
		for i := range a.Modules {
			m := &a.Modules[i]
			l := lower(t, m)
			sandwich := l.forms["kron_apply"] > 0
			if want := (m.Method == adapter.MethodKronA || m.Method == adapter.MethodKAdaptation || m.Method == adapter.MethodLSR) && (m.Method != adapter.MethodLSR || m.Rank.R1 == 16); sandwich && !want {
				t.Errorf("%s %v: forms %v", m.Method, m.Rank, l.forms)
			}
			if m.Rank.R1 == 16 && m.Method == adapter.MethodLSR && !sandwich {
				t.Errorf("rank 256 with one term is thin: %v", l.forms)
			}
			y := l.run(t)
			deltas, err := a.Deltas()
			if err != nil {
				t.Fatal(err)
			}
			delta := deltas[i].Dense()
			want := make([]float64, loweredRows*m.Out)
			for r := range loweredRows {
				for o := range m.Out {
					for j := range m.In {
						want[r*m.Out+o] += l.x[r*m.In+j] * (l.w[j*m.Out+o] + delta[j*m.Out+o])
					}
				}
			}
			testkit.Compare(t, m.Method, y, want, 1e-3, 1e-5)
			l.checkGradients(t)
		}
	}
}

// checkGradients compares gradients with the difference quotients of
// Σ (y - target)² over every tensor, two elements each. y is linear in each
// element, so central differences are exact but for float32 outputs.
func (l *lowered) checkGradients(t *testing.T) {
	t.Helper()
	grads := make([]float32, len(l.initial))
	if err := l.exe.Grads(grads); err != nil {
		t.Fatal(err)
	}
	loss := func(at int, d float32) float64 {
		p := append([]float32(nil), l.initial...)
		p[at] += d
		if err := l.exe.SetParams(p); err != nil {
			t.Fatal(err)
		}
		var sum float64
		for i, v := range l.run(t) {
			e := float64(v) - float64(l.batch.Targets[i])
			sum += e * e
		}
		return sum
	}
	at := 0
	for i, s := range l.m.Specs {
		if s.Frozen {
			continue
		}
		for _, j := range []int{at, at + s.Size() - 1} {
			const h = 1. / 64
			want := (loss(j, h) - loss(j, -h)) / (2 * h)
			if !testkit.Near(float64(grads[j]), want, 0.05, 2e-3) {
				t.Errorf("%s %s element %d: gradient %v, quotient %v", l.m.Method, s.Name, j-at, grads[j], want)
			}
		}
		at += len(l.m.Tensors[i])
	}
}
