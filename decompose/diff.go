package decompose

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// State says how a tensor of one checkpoint relates to that of another.
type State string

// The states.
const (
	Same     State = "same"     // the same bytes
	Changed  State = "changed"  // other values
	Reshaped State = "reshaped" // another shape: values are not compared
	Added    State = "added"    // only in the second checkpoint
	Missing  State = "missing"  // only in the first
)

// TensorDiff compares one tensor of two checkpoints.
type TensorDiff struct {
	Name       string // as the first checkpoint has it, where it is there
	State      State
	Shape      []int // in the second checkpoint, or the first if missing
	From, To   tensor.DType
	Norm       float64 // ‖second - first‖, Frobenius
	Relative   float64 // Norm/‖first‖; +Inf where first is 0
	MaxChange  float64 // largest |second - first|
	NotFinite  int     // elements whose difference is NaN or infinite; nothing else is then computed
	Components int     // singular triplets that were looked for, 0 if none were

	// EffectiveRank is ‖Δ‖²/σ₁² (the stable rank of Rudelson and Vershynin,
	// 2007), from 1 for a rank-one change up.
	EffectiveRank float64
	// Rank90 is how many singular triplets hold 90 % of ‖Δ‖², and
	// SeparationRank90 how many Kronecker products do, with the default splits
	// of both sides. Components + 1 stands for more than that.
	Rank90, SeparationRank90 int
}

// DiffOptions are options of [Diff].
type DiffOptions struct {
	// Components is how many singular triplets and Kronecker products of a
	// changed matrix to look for; 0 for none, which is much faster.
	Components int
	// Match, unless nil, limits the comparison to tensors whose name it accepts.
	Match    func(name string) bool
	Pool     *kernel.Pool // nil computes on the caller
	Progress func(done, total int64)
}

// Diff compares two checkpoints tensor by tensor, in the order of the first,
// then what only the second has. One that names its tensors with a prefix more
// or less is recognised. Memory is about five times that of the largest matrix
// in float32.
func Diff(ctx context.Context, first, second *formats.Checkpoint, o DiffOptions) (ds []TensorDiff, err error) {
	p, err := newPair(first, second)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var names []string
	var total int64
	for _, t := range first.Tensors() {
		if len(t.Shape) == 2 {
			names = append(names, t.Name)
		}
		total += t.Elements()
	}
	naming := namingOf(names, second)
	b, c, d := newPart(), newPart(), &difference{}
	seen := map[string]bool{}
	var done int64
	for _, x := range first.Tensors() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := naming.tuned(x.Name)
		y, ok := second.Lookup(name)
		if !ok { // outside of the prefix, as heads are
			y, ok = second.Lookup(x.Name)
		}
		seen[y.Name] = ok
		if o.Match == nil || o.Match(x.Name) {
			one, err := p.compare(b, c, d, x, y, ok, o)
			if err != nil {
				return nil, err
			}
			ds = append(ds, one)
		}
		done += x.Elements()
		if o.Progress != nil {
			o.Progress(done, total)
		}
	}
	for _, y := range second.Tensors() {
		if !seen[y.Name] && (o.Match == nil || o.Match(y.Name)) {
			ds = append(ds, TensorDiff{Name: y.Name, State: Added, Shape: y.Shape, From: tensor.Invalid, To: y.DType})
		}
	}
	return ds, nil
}

// compare compares x of the first checkpoint with y of the second.
func (p *pair) compare(b, c *part, d *difference, x, y formats.Tensor, ok bool, o DiffOptions) (TensorDiff, error) {
	if !ok {
		return TensorDiff{Name: x.Name, State: Missing, Shape: x.Shape, From: x.DType}, nil
	}
	t := TensorDiff{Name: x.Name, State: Same, Shape: y.Shape, From: x.DType, To: y.DType}
	if !slices.Equal(x.Shape, y.Shape) {
		t.State = Reshaped
		return t, nil
	}
	same, err := p.same(b, c, x, y)
	if err != nil || same {
		return t, err
	}
	t.State = Changed
	if !tensor.Convertible(x.DType) || !tensor.Convertible(y.DType) {
		return t, nil
	}
	matrix := len(x.Shape) == 2 && o.Components > 0 && min(x.Shape[0], x.Shape[1]) > 1
	n := x.Elements()
	if matrix && int64(cap(d.d)) < n {
		d.d = make([]float32, n)
	}
	st, base2 := kernel.NoStatistics(), 0.0
	for at := int64(0); at < n; at += partElems {
		to := min(at+partElems, n)
		dst := c.y[:to-at]
		if matrix {
			dst = d.d[at:to]
		}
		s, err := p.part(b, x, y, at, to, dst)
		if err != nil {
			return t, err
		}
		base2 += s
		st.Add(kernel.Stats(dst))
	}
	if t.NotFinite = st.NaN + st.Inf; t.NotFinite > 0 {
		return t, nil
	}
	t.Norm, t.MaxChange = math.Sqrt(st.SumSquares), float64(max(st.Max, -st.Min))
	t.Relative = t.Norm / math.Sqrt(base2)
	if t.Norm == 0 { // only the dtype, or the sign of a zero
		t.Relative = 0
		return t, nil
	}
	if matrix {
		err = p.spectra(&t, d.d[:n], o)
	}
	return t, err
}

// spectra fills the ranks of a changed matrix w.
func (p *pair) spectra(t *TensorDiff, w []float32, o DiffOptions) error {
	m, n := t.Shape[0], t.Shape[1]
	t.Components = o.Components
	d, norm2, err := Leading(o.Pool, w, m, n, min(o.Components, m, n), 0)
	if err != nil {
		return err
	}
	t.EffectiveRank, t.Rank90 = norm2/(d.S[0]*d.S[0]), holding(d.S, norm2)
	a1, a2 := kron.Split(m)
	b1, b2 := kron.Split(n)
	// The larger part of one side goes with the smaller of the other.
	s := kron.Shape{S: 1, A1: a1, R1: b2, A2: a2, R2: b1, N: m, M: n}
	m1, m2 := a1*b2, a2*b1
	r := make([]float32, m1*m2)
	kron.Rearrange(r, w, s)
	if d, norm2, err = Leading(o.Pool, r, m1, m2, min(o.Components, m1, m2), 0); err != nil {
		return err
	}
	t.SeparationRank90 = holding(d.S, norm2)
	return nil
}

// holding is how many of s hold 90 % of norm2, or one more than there are.
func holding(s []float64, norm2 float64) int {
	sum := 0.0
	for i, v := range s {
		if sum += v * v; sum >= 0.9*norm2*(1-1e-9) {
			return i + 1
		}
	}
	return len(s) + 1
}
