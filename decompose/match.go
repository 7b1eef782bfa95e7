package decompose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// naming is how the tuned checkpoint names what the base names: with add
// before it, or with strip taken off. A model saved with a head has
// "bert.encoder..." where the bare encoder has "encoder...".
type naming struct{ add, strip string }

// tuned is the tuned checkpoint's name of a tensor of the base.
func (n naming) tuned(base string) string { return n.add + strings.TrimPrefix(base, n.strip) }

// base is the base's name of a tensor of the tuned checkpoint.
func (n naming) base(tuned string) string {
	if n.add != "" {
		return strings.TrimPrefix(tuned, n.add)
	}
	return n.strip + tuned
}

// namingOf finds the naming under which the tuned checkpoint has all of
// weights; the identity if there is none.
func namingOf(weights []string, tuned *formats.Checkpoint) naming {
	has := func(n naming) bool {
		return !slices.ContainsFunc(weights, func(w string) bool { _, ok := tuned.Lookup(n.tuned(w)); return !ok })
	}
	if len(weights) == 0 || has(naming{}) {
		return naming{}
	}
	for _, t := range tuned.Tensors() {
		var n naming
		switch {
		case strings.HasSuffix(t.Name, "."+weights[0]):
			n.add = strings.TrimSuffix(t.Name, weights[0])
		case strings.HasSuffix(weights[0], "."+t.Name):
			n.strip = strings.TrimSuffix(weights[0], t.Name)
		default:
			continue
		}
		if has(n) {
			return n
		}
	}
	return naming{}
}

// checkPair checks, by the headers alone, that every matched module has its
// weight in both checkpoints, in the shape that the base's layer has.
func checkPair(base, tuned *formats.Checkpoint, matched []adapter.Matched, n naming) error {
	var missing []string
	for _, m := range matched {
		rows, cols := m.In, m.Out
		if m.Transposed {
			rows, cols = cols, rows
		}
		for _, c := range []*formats.Checkpoint{base, tuned} {
			name := m.Weight
			if c == tuned {
				name = n.tuned(name)
			}
			t, ok := c.Lookup(name)
			if !ok {
				missing = append(missing, fmt.Sprintf("%s has no %s", c.Path(), name))
				continue
			}
			if !slices.Equal(t.Shape, []int{rows, cols}) {
				return &formats.Error{Path: c.Path(), Tensor: name, Reason: fmt.Sprintf("shape %v, the base's module %s wants [%d %d]", t.Shape, m.Module, rows, cols), Hint: "base and tuned model must be of one architecture", Err: ErrMismatch}
			}
			if !t.DType.IsFloat() {
				return &formats.Error{Path: c.Path(), Tensor: name, Reason: fmt.Sprintf("dtype %v holds no weights to subtract", t.DType), Hint: "use checkpoints in F32, F16, BF16 or F8", Err: formats.ErrUnsupported}
			}
		}
	}
	if len(missing) > 0 {
		more := ""
		if len(missing) > 3 {
			more = fmt.Sprintf(" (and %d more)", len(missing)-3)
			missing = missing[:3]
		}
		return &formats.Error{Path: tuned.Path(), Reason: strings.Join(missing, ", ") + more, Hint: "base and tuned model must be of one architecture; --target leaves modules out", Err: ErrMismatch}
	}
	return nil
}
