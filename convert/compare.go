package convert

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// Compare reports, for every module of an adapter, how far the update of the same
// module in got is from it, and for every tensor of the head whether it is the
// same. Paths in got may have a prefix.
//
// Updates are compared by their factors where these have the same shapes, else
// element by element; MaxError and Relative are of what was compared.
func Compare(want, got *adapter.Adapter) (*Report, error) {
	if len(want.Modules) != len(got.Modules) || len(want.Head) != len(got.Head) {
		return nil, fmt.Errorf("%s: %d modules and %d tensors of a head, written were %d and %d", got.Dir, len(got.Modules), len(got.Head), len(want.Modules), len(want.Head))
	}
	rep := &Report{}
	for i := range want.Modules {
		w := &want.Modules[i]
		g := sameModule(got.Modules, w)
		if g == nil {
			return nil, fmt.Errorf("%s: module %s (%d, %d) is missing", got.Dir, w.Module, w.In, w.Out)
		}
		d, err := moduleDeviation(w, g)
		if err != nil {
			return nil, err
		}
		rep.Tensors = append(rep.Tensors, d.report(g.Module, w.Module, "F32"))
	}
	for i := range want.Head {
		w, g := &want.Head[i], &got.Head[i] // in the order of the file
		var d deviation
		if !slices.Equal(w.Shape, g.Shape) {
			return nil, fmt.Errorf("%s: head tensor %s is %v, was %v", got.Dir, g.Name, g.Shape, w.Shape)
		}
		if err := d.all(w.Data, g.Data); err != nil {
			return nil, err
		}
		rep.Tensors = append(rep.Tensors, d.report(g.Name, w.Name, "F32"))
	}
	return rep, nil
}

// sameModule finds a module by its path and dimensions, or by a path that ends
// with its path or with which it ends.
func sameModule(ms []adapter.Module, w *adapter.Module) *adapter.Module {
	at := slices.IndexFunc(ms, func(g adapter.Module) bool { return g.Module == w.Module })
	if at < 0 {
		at = slices.IndexFunc(ms, func(g adapter.Module) bool {
			return strings.HasSuffix(g.Module, "."+w.Module) || strings.HasSuffix(w.Module, "."+g.Module)
		})
	}
	if at < 0 || ms[at].In != w.In || ms[at].Out != w.Out {
		return nil
	}
	return &ms[at]
}

// update is a module's ΔW, and what DoRA rescales by, or nil.
func update(m *adapter.Module) (*adapter.Delta, []float64, error) {
	k, err := adapter.Lookup(m.Method)
	if err != nil {
		return nil, nil, err
	}
	if r, ok := k.(adapter.Rescaler); ok {
		return r.Rescaled(m.Site, m.Settings, m.Tensors)
	}
	d, err := k.Delta(m.Site, m.Settings, m.Tensors)
	if errors.Is(err, adapter.ErrNoDelta) {
		err = unsupported("", m.Module, m.Method+" is no update of a weight, and no other form holds it", "use it in this program")
	}
	return d, nil, err
}

func moduleDeviation(w, g *adapter.Module) (deviation, error) {
	var d deviation
	x, mx, err := update(w)
	if err != nil {
		return d, err
	}
	y, my, err := update(g)
	if err != nil {
		return d, err
	}
	if len(mx) != len(my) {
		return d, fmt.Errorf("%s: one is rescaled and the other is not", g.Module)
	}
	d.slices(mx, my)
	if x.Kron == nil && y.Kron == nil && x.R == y.R && x.Scale == y.Scale {
		d.slices(x.A, y.A)
		d.slices(x.B, y.B)
		return d, nil
	}
	step := max(1, pieceElements/x.Out)
	for lo := 0; lo < x.In; lo += step {
		hi := min(lo+step, x.In)
		a, b := make([]float64, (hi-lo)*x.Out), make([]float64, (hi-lo)*x.Out)
		x.Rows(a, lo, hi)
		y.Rows(b, lo, hi)
		d.slices(a, b)
	}
	// Sums of float64 products in another order differ by rounding alone.
	if math.Sqrt(d.diff2) <= 1e-14*math.Sqrt(d.norm2) {
		d.diff2, d.top = 0, 0
	}
	return d, nil
}

// slices compares two slices of one length.
func (d *deviation) slices(x, y []float64) {
	for i, v := range x {
		d.add(v, y[i])
	}
}
