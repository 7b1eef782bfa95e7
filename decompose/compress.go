package decompose

import (
	"fmt"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// CompressLSR makes an LSR adapter that is near to a, module by module, with
// the rank, terms and splits of set: a LoRA of rank 16 as an LSR of rank 4x4,
// for example. The scale becomes 1; the head stays. The report says what the
// compression loses of each update. See [FitLSR] for the method; the result
// depends on seed and not on the pool, which may be nil.
func CompressLSR(a *adapter.Adapter, set adapter.Settings, seed uint64, p *kernel.Pool) (*adapter.Adapter, []CombinedModule, error) {
	set.Method, set.Scaling, set.Init = adapter.MethodLSR, adapter.ScaleLoRA, adapter.InitZero
	set.Alpha = unitAlpha(set.Method, set.Rank)
	out := &adapter.Adapter{Config: a.Config, Head: a.Head}
	out.Settings, out.Overrides, out.Seed = set, nil, seed
	ds, err := a.Deltas()
	if err != nil {
		return nil, nil, err
	}
	var report []CombinedModule
	for _, d := range ds {
		sa, sb, err := lsrShapes(d.Site, set)
		if err != nil {
			return nil, nil, err
		}
		x := d.Dense()
		w := make([]float32, len(x))
		narrowInto(w, x)
		fa, fb, error2, err := FitLSR(p, w, sa, sb, seed)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", d.Module, err)
		}
		m, err := moduleOf(d.Site, set, fa.F1, fa.F2, fb.F1, fb.F2)
		if err != nil {
			return nil, nil, err
		}
		line := CombinedModule{Module: d.Module, Rank: set.Rank.R(), Terms: set.Terms, Norm: norm(x)}
		if line.Norm > 0 {
			line.Error = math.Sqrt(error2) / line.Norm
		}
		out.Modules, report = append(out.Modules, m), append(report, line)
	}
	explicit(out, true)
	return out, report, nil
}
