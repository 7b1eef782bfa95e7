package adapter

import (
	"fmt"
	"math"
	"slices"
)

// Module is an adapted site with its tensors.
type Module struct {
	Site
	Settings
	Specs   []ParamSpec
	Tensors [][]float32 // in the order of Specs; shared ones are one slice
}

// Tensor is a whole tensor that travels with an adapter.
type Tensor struct {
	Name  string // as the checkpoint names it: "classifier.weight"
	Shape []int
	Data  []float32
}

// Adapter is a set of updates of one model, and a trained head.
type Adapter struct {
	Config
	Modules []Module
	Head    []Tensor
	Dir     string // where it was loaded from, or ""
}

// NamedDelta is the update of one site.
type NamedDelta struct {
	Site
	*Delta
}

// New makes the adapter that c describes for a model's sites, its linear layers,
// with its starting values. w is needed by InitSVD, InitPiSSA, InitOLoRA and dora. Unless c.Init is InitPaper,
// every ΔW is checked to be 0.
func New(sites []Site, c Config, w WeightReader) (*Adapter, error) {
	a, err := plan(sites, c)
	if err != nil {
		return nil, err
	}
	kind, err := Lookup(c.Method)
	if err != nil {
		return nil, err
	}
	shared := map[string][]float32{}
	for i := range a.Modules {
		m := &a.Modules[i]
		if m.Tensors, err = kind.Init(m.Site, m.Settings, Source{c.Seed}, w); err != nil {
			return nil, err
		}
		m.share(shared)
		if err := m.checkStart(kind); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// share replaces shared tensors by the first slice of their name.
func (m *Module) share(shared map[string][]float32) {
	for i, p := range m.Specs {
		if !p.Shared {
			continue
		}
		if t, ok := shared[p.Name]; ok {
			m.Tensors[i] = t
		} else {
			shared[p.Name] = m.Tensors[i]
		}
	}
}

// linearMap is what the update does to its input before any rescaling: ΔW, or the
// connection around a block.
func (m *Module) linearMap(k Kind) (*Delta, error) {
	switch k := k.(type) {
	case Rescaler:
		d, _, err := k.Rescaled(m.Site, m.Settings, m.Tensors)
		return d, err
	case lor2c:
		return k.connection(m.Site, m.Settings, m.Tensors)
	}
	return k.Delta(m.Site, m.Settings, m.Tensors)
}

// checkStart fails unless ΔW is what the initialisation promises.
func (m *Module) checkStart(k Kind) error {
	d, err := m.linearMap(k)
	if err != nil {
		return err
	}
	if m.Init == InitPaper {
		return nil
	}
	if !d.IsZero() {
		return fmt.Errorf("%s: the update is not 0 at the start (norm %.3g)", m.Module, d.Norm())
	}
	return nil
}

// Start is the state of a new adapter: the largest ‖ΔW‖ of a module, and
// whether all are exactly 0, so that the adapted model computes what the base
// computes, but for rounding where StartRounds says so.
func (a *Adapter) Start() (norm float64, noOp bool, err error) {
	noOp = true
	for i := range a.Modules {
		k, err := Lookup(a.Modules[i].Method)
		if err != nil {
			return 0, false, err
		}
		d, err := a.Modules[i].linearMap(k)
		if err != nil {
			return 0, false, err
		}
		if d.IsZero() {
			continue
		}
		noOp = false
		norm = max(norm, d.Norm())
	}
	return norm, noOp, nil
}

// StartRounds reports whether an adapted model whose update is 0 computes what the
// base computes only up to rounding: where it multiplies with m/‖W‖ (a
// [Rescaler]), or adds x A₀ B₀ and takes it off again (InitPiSSA, InitOLoRA).
func (a *Adapter) StartRounds() bool {
	k, err := Lookup(a.Method)
	if err != nil {
		return false
	}
	_, rescales := k.(Rescaler)
	return rescales || a.Settings.rebased()
}

// plan is New without values: modules with Specs.
func plan(sites []Site, c Config) (*Adapter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	matched, _, err := Match(sitesOf(c.Method, sites), c)
	if err != nil {
		return nil, err
	}
	a := &Adapter{Config: c}
	for _, m := range matched {
		k, err := Lookup(m.Method)
		if err != nil {
			return nil, err
		}
		specs, err := k.Params(m.Site, m.Settings)
		if err != nil {
			return nil, err
		}
		if err := checkSize(m.Site, m.Settings, specs); err != nil {
			return nil, err
		}
		a.Modules = append(a.Modules, Module{Site: m.Site, Settings: m.Settings, Specs: specs})
	}
	return a, sharedShapes(a.Modules)
}

// The least bounds of checkSize, for small layers.
const (
	mostRank   = 4096
	mostParams = 1 << 24
)

// checkSize refuses an update that is much larger than the layer: it would say nothing
// that a smaller one could not, and take memory and time without end.
func checkSize(s Site, set Settings, specs []ParamSpec) error {
	if r, most := set.Rank.R(), max(mostRank, s.In+s.Out); r > most {
		return fmt.Errorf("%w: %s: rank %v is %d, and the layer is %dx%d: give at most %d", ErrMismatch, s.Module, set.Rank, r, s.In, s.Out, most)
	}
	most := max(mostParams, 4*s.In*s.Out)
	n := 0
	for _, p := range specs {
		n += p.Size()
	}
	if n > most {
		return fmt.Errorf("%w: %s: %v has %d parameters, and the layer %dx%d: lower rank or terms to come below %d", ErrMismatch, s.Module, set.Method, n, s.In, s.Out, most)
	}
	return nil
}

// sharedShapes fails when modules that share a tensor want different shapes.
func sharedShapes(modules []Module) error {
	shapes := map[string][]int{}
	for _, m := range modules {
		for _, p := range m.Specs {
			if s, ok := shapes[p.Name]; ok && (!p.Shared || !slices.Equal(s, p.Shape)) {
				return fmt.Errorf("%s: tensor %s is %v here and %v in another module", m.Module, p.Name, p.Shape, s)
			}
			shapes[p.Name] = p.Shape
		}
	}
	return nil
}

// check validates what the configuration says without a model.
func (c *Config) check() error {
	if _, err := Lookup(c.Method); err != nil {
		return err
	}
	if c.Method == MethodGraLoRA && len(c.Overrides) > 0 {
		return fmt.Errorf("gralora has the same rank, terms and alpha in all modules: it takes no overrides")
	}
	return c.Settings.Check()
}

// Plan returns the modules that c would make for a model's sites, with Specs
// and without values: what an adapter costs before it is made.
func Plan(sites []Site, c Config) ([]Module, error) {
	a, err := plan(sites, c)
	if err != nil {
		return nil, err
	}
	return a.Modules, nil
}

// ParamCount returns the number of trainable elements of modules, shared
// tensors once, without the head.
func ParamCount(modules []Module) int64 {
	seen := map[string]bool{}
	var n int64
	for _, m := range modules {
		for _, p := range m.Specs {
			if !p.Frozen && !(p.Shared && seen[p.Name]) {
				seen[p.Name] = true
				n += int64(p.Size())
			}
		}
	}
	return n
}

// Deltas returns the update of every module, in order. Kinds without ΔW make an
// error that wraps [ErrNoDelta].
func (a *Adapter) Deltas() ([]NamedDelta, error) {
	ds := make([]NamedDelta, len(a.Modules))
	for i := range a.Modules {
		m := &a.Modules[i]
		k, err := Lookup(m.Method)
		if err != nil {
			return nil, err
		}
		d, err := k.Delta(m.Site, m.Settings, m.Tensors)
		if err != nil {
			return nil, err
		}
		ds[i] = NamedDelta{Site: m.Site, Delta: d}
	}
	return ds, nil
}

// Finite returns an error naming the first tensor with a NaN or an infinity.
func (a *Adapter) Finite() error {
	for _, m := range a.Modules {
		for i, t := range m.Tensors {
			if err := finite(m.Specs[i].Name, t); err != nil {
				return err
			}
		}
	}
	for _, t := range a.Head {
		if err := finite(filePrefix+t.Name, t.Data); err != nil {
			return err
		}
	}
	return nil
}

func finite(name string, x []float32) error {
	for i, v := range x {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("tensor %s: element %d is %v", name, i, v)
		}
	}
	return nil
}
