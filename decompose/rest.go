package decompose

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// compareRest looks at all tensors that the adapter's modules do not cover:
// those of o.Save are carried whole, others that differ are reported.
func (e *extraction) compareRest(ctx context.Context) error {
	covered := map[string]bool{}
	for _, m := range e.matched {
		covered[m.Weight] = true
	}
	b, other := newPart(), newPart()
	seen := map[string]bool{}
	for _, t := range e.tuned.ckpt.Tensors() {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := e.names.base(t.Name)
		x, ok := e.base.ckpt.Lookup(name)
		if !ok { // outside of the prefix, as heads are
			if x, ok = e.base.ckpt.Lookup(t.Name); ok {
				name = t.Name
			}
		}
		seen[name] = true
		switch {
		case ok && covered[name]:
			continue
		case e.saved(name) || e.saved(t.Name):
			data := make([]float32, t.Elements())
			if err := e.tuned.all(b, t, data); err != nil {
				return err
			}
			if !ok {
				name = t.Name
			}
			e.head = append(e.head, adapter.Tensor{Name: name, Shape: slices.Clone(t.Shape), Data: data})
			continue
		case !ok:
			e.report.Added = append(e.report.Added, t.Name)
			continue
		}
		same, err := e.pair.same(b, other, x, t)
		if err != nil {
			return err
		}
		if !same {
			e.report.Changed = append(e.report.Changed, name)
		}
	}
	for _, t := range e.base.ckpt.Tensors() {
		if !seen[t.Name] {
			e.report.Missing = append(e.report.Missing, t.Name)
		}
	}
	return nil
}

// saved says whether a tensor belongs to a module of Save.
func (e *extraction) saved(tensor string) bool {
	return slices.ContainsFunc(e.Save, func(n string) bool {
		return strings.HasPrefix(tensor, n+".") || strings.Contains(tensor, "."+n+".")
	})
}

// all reads a whole tensor.
func (r *reader) all(b *part, t formats.Tensor, dst []float32) error {
	for at := int64(0); at < t.Elements(); at += partElems {
		to := min(at+partElems, t.Elements())
		if err := r.float32s(b, t, at, to, dst[at:to]); err != nil {
			return err
		}
	}
	return nil
}

// same reports whether two tensors hold the same bytes in the same form.
func (p *pair) same(b, c *part, x, y formats.Tensor) (bool, error) {
	if x.DType != y.DType || !slices.Equal(x.Shape, y.Shape) {
		return false, nil
	}
	for at := int64(0); at < x.Bytes; at += int64(len(b.raw)) {
		n := min(int64(len(b.raw)), x.Bytes-at)
		if err := p.base.rawAt(x, at, b.raw[:n]); err != nil {
			return false, err
		}
		if err := p.tuned.rawAt(y, at, c.raw[:n]); err != nil {
			return false, err
		}
		if !bytes.Equal(b.raw[:n], c.raw[:n]) {
			return false, nil
		}
	}
	return true, nil
}
