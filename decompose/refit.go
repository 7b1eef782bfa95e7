package decompose

import (
	"context"
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// Refit makes an adapter of another kind that is near to a, module by module: a
// LoRA of rank 16 as an LSR of rank 4x4, for example. o.Config gives method (lora,
// lsr or krona), rank, terms, splits and seed; targets and base are those of a,
// and so are the head and the task. As in [Extract], the size is the
// configuration's, or the smallest within o.MaxError, or spread by o.Budget, and
// the scale becomes 1. The report's norms of W are not known: Relative is 1.
func Refit(ctx context.Context, a *adapter.Adapter, o ExtractOptions) (*adapter.Adapter, *ExtractReport, error) {
	own := a.Config
	own.Settings, own.Seed = o.Config.Settings, o.Config.Seed
	own.Targets, own.Overrides = adapter.Targets{}, nil
	sites := make([]adapter.Site, len(a.Modules))
	for i, m := range a.Modules {
		sites[i] = m.Site
		own.Targets.Modules = append(own.Targets.Modules, m.Module)
	}
	o.Config = own
	e, err := planExtraction(sites, o)
	if err != nil {
		return nil, nil, err
	}
	e.head = a.Head
	deltas, err := a.Deltas()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	pool := kernel.NewPool(max(1, e.Threads))
	defer pool.Close()
	updated := false
	for pass := range e.passes() {
		e.between(pass)
		for i, m := range e.matched {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			x := deltas[i].Dense()
			d := &difference{rows: m.In, cols: m.Out, d: make([]float32, len(x))}
			narrowInto(d.d, x)
			site := m.Site
			site.Transposed = false // ΔW is (in, out) here
			f := &fitting{extraction: e, pool: pool, site: site, set: m.Settings, d: d}
			if err := f.climb(i); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", m.Module, err)
			}
			l := e.ladders[i]
			l.base2 = l.norm2
			updated = updated || l.norm2 > 0
			e.done += int64(len(x))
			if e.Progress != nil {
				e.Progress(e.done, e.total)
			}
		}
	}
	if !updated {
		return nil, nil, fmt.Errorf("%w: every update is 0", ErrMismatch)
	}
	return e.finish()
}
