package decompose

import (
	"context"
	"errors"
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// Residual makes a LoRA of what a merge lost by rounding: for every module that one
// of the adapters updates, the leading singular triplets of
//
//	R = base + Σ weight·ΔW - merged
//
// so that merged with it is nearer to the exact sum. Where rounding lost the whole
// update R is ΔW, and a rank as large as the adapters' restores it; of rounding
// noise, whose spectrum is flat, little is kept. The report says how much, module by
// module, relative to R. o.Config gives rank, seed and provenance; its
// targets are those of the adapters. sites are the base's linear layers.
//
// When nothing was lost the error wraps [ErrMismatch].
func Residual(ctx context.Context, base, merged *formats.Checkpoint, adapters []*adapter.Adapter, weights []float64, sites []adapter.Site, o ExtractOptions) (*adapter.Adapter, *ExtractReport, error) {
	updates := map[string][]update{}
	o.Config.Method, o.Config.Terms, o.Config.Targets = adapter.MethodLoRA, 1, adapter.Targets{}
	for i, a := range adapters {
		deltas, err := a.Deltas()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: the residual of the merge: %w", ErrMismatch, err)
		}
		for _, d := range deltas {
			if updates[d.Site.Module] == nil {
				o.Config.Targets.Modules = append(o.Config.Targets.Modules, d.Site.Module)
			}
			updates[d.Site.Module] = append(updates[d.Site.Module], update{weights[i], d.Delta})
		}
	}
	e, err := newExtraction(merged, base, sites, o) // the difference is base - merged
	if err != nil {
		return nil, nil, err
	}
	e.add = func(site adapter.Site, d *difference) { addUpdates(site, updates[site.Module], d) }
	if e.pair, err = newPair(merged, base); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(e.run(ctx), e.pair.close()); err != nil {
		return nil, nil, err
	}
	return e.finish()
}

type update struct {
	weight float64
	delta  *adapter.Delta
}

// addUpdates adds Σ weight·ΔW to a difference as it is stored.
func addUpdates(site adapter.Site, us []update, d *difference) {
	for _, u := range us {
		x := u.delta
		if site.Transposed {
			x = x.Transpose()
		}
		for i, v := range x.Dense() {
			d.d[i] += float32(u.weight * v)
		}
	}
}
