package merge

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Errors for errors.Is.
var (
	// ErrMismatch: an adapter does not fit the base.
	ErrMismatch = errors.New("adapter does not fit the base")
	// ErrNonFinite: an adapter has NaN or infinite values.
	ErrNonFinite = errors.New("adapter is not finite")
	// ErrUnchanged: a tensor that should have changed kept every bit.
	ErrUnchanged = errors.New("no element changed")
	// ErrOverflow: a sum lies outside the range of the output's dtype.
	ErrOverflow = errors.New("sum outside the range of the dtype")
	// ErrSpace: the disk has too little free space.
	ErrSpace = errors.New("not enough free space")
)

// Update is the update of one weight. Delta is called when its turn comes and
// the result is dropped afterwards, so that a large adapter is never in memory
// in float64 as a whole.
type Update struct {
	Site  adapter.Site
	Delta func() (*adapter.Delta, error)
	// Rescaled, if not nil, takes the place of Delta: ΔW, and the norms m (out)
	// that the adapted weight gets, as [adapter.Rescaler] says. It stands alone on
	// its tensor, with weight 1.
	Rescaled func() (*adapter.Delta, []float64, error)
}

// delta is ΔW, to which a Rescaled update adds its magnitudes.
func (u *Update) delta() (*adapter.Delta, error) {
	if u.Rescaled == nil {
		return u.Delta()
	}
	d, _, err := u.Rescaled()
	return d, err
}

// Source is one adapter with its weight in the sum.
type Source struct {
	Name    string // for messages
	Weight  float64
	Updates []Update
	Head    []adapter.Tensor // take the place of base tensors, or are added

	adapter *adapter.Adapter // that it was made of
}

// FromAdapter makes a source of an adapter; its values must be finite.
func FromAdapter(a *adapter.Adapter, weight float64) (Source, error) {
	name := a.Dir
	if name == "" {
		name = "adapter"
	}
	if err := a.Finite(); err != nil {
		return Source{}, fmt.Errorf("%s: %w: %w", name, ErrNonFinite, err)
	}
	s := Source{Name: name, Weight: weight, Head: a.Head, adapter: a}
	for i := range a.Modules {
		m := &a.Modules[i]
		k, err := adapter.Lookup(m.Method)
		if err != nil {
			return Source{}, fmt.Errorf("%s: %w", name, err)
		}
		if m.Block {
			_, err := k.Delta(m.Site, m.Settings, m.Tensors)
			return Source{}, fmt.Errorf("%s: %w: it cannot be merged: %w", name, ErrMismatch, err)
		}
		u := Update{Site: m.Site, Delta: func() (*adapter.Delta, error) { return k.Delta(m.Site, m.Settings, m.Tensors) }}
		if r, ok := k.(adapter.Rescaler); ok {
			u.Rescaled = func() (*adapter.Delta, []float64, error) { return r.Rescaled(m.Site, m.Settings, m.Tensors) }
		}
		s.Updates = append(s.Updates, u)
	}
	return s, nil
}

// FromDelta is an update that is at hand.
func FromDelta(d adapter.NamedDelta) Update {
	return Update{Site: d.Site, Delta: func() (*adapter.Delta, error) { return d.Delta, nil }}
}

// Options of a merge. The zero value keeps dtypes and shards, rounds to
// nearest and uses every processor.
type Options struct {
	DType        tensor.DType // of float tensors; Invalid keeps each one's own
	Rounding     Rounding     // "" is Nearest
	Seed         uint64       // of stochastic rounding
	MaxShardSize int64        // bytes of tensor data per file; 0 keeps the base's files
	Workers      int          // 0: one per processor
	Replace      bool         // an existing output is replaced
	// Reversible adds UndoFile to the output, from which Unmerge restores the
	// base bit for bit.
	Reversible bool
	// AllowUnchanged accepts that rounding destroyed the whole update of a tensor.
	AllowUnchanged bool
	// Tied lists groups of tensor names that the model uses as one tensor, as
	// model.Model.Tied gives them. A group of which not all members change
	// alike is untied: absent members are added, config.json says so.
	Tied [][]string
	// Config sets further keys of the output's config.json, such as
	// architectures and labels that belong to a trained head.
	Config []ConfigValue
	// Manifest, if not nil, is where the output says that it comes from: it gets a
	// manifest with the checksums of its tensors. Those of tensors that are copied
	// are taken from the base's manifest, if it has one, so that a base that is damaged
	// shows in the output.
	Manifest *manifest.Provenance
	// Resume goes on with an output whose process died, if its base, adapters and
	// options were the same, else starts anew. The bytes are the same either way.
	Resume bool
	// SaveEvery is after how many bytes a long merge notes how far it is, for
	// Resume; 0 is 4 GiB.
	SaveEvery int64
	// FS replaces the file system of the output in tests.
	FS atomicfile.FS
}

// ConfigValue is a key of config.json and its value, which is encoded as JSON.
type ConfigValue struct {
	Key   string
	Value any
}

// Plan is a checked merge.
type Plan struct {
	base    *formats.Checkpoint
	sources []Source
	o       Options
	files   []outFile
	config  []ConfigValue
	carried []formats.Companion
	left    []string
	untied  []string
	whole   int // tensors that lie whole in gaps
	touched map[string]bool
}

// planned collects what happens to one tensor.
type planned struct {
	updates []plannedUpdate
	head    *adapter.Tensor
}

type plannedUpdate struct {
	Update
	weight float64
	from   string
}

// NewPlan checks a merge of sources into base and lays out its result. No
// tensor data is read.
//
// Without sources the output is the base again, with the shards and the dtype that the
// options ask for.
func NewPlan(base *formats.Checkpoint, sources []Source, o Options) (*Plan, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if base.Format() == formats.FormatONNX {
		return newONNXPlan(base, sources, o)
	}
	if base.Format() != "safetensors" {
		return nil, fmt.Errorf("%s: %w: merging into %s files", base.Path(), formats.ErrUnsupported, base.Format())
	}
	p := &Plan{base: base, sources: sources, o: o, config: slices.Clone(o.Config)}
	todo, err := p.assign(sources)
	if err != nil {
		return nil, err
	}
	p.untie(todo)
	if err := p.layOut(todo); err != nil {
		return nil, err
	}
	if o.DType != tensor.Invalid {
		p.configDType()
	}
	return p, p.findCarried()
}

func (o *Options) check() error {
	r, err := ParseRounding(string(o.Rounding))
	if err != nil {
		return err
	}
	o.Rounding = r
	switch o.DType {
	case tensor.Invalid, tensor.F32, tensor.BF16, tensor.F16:
	default:
		return fmt.Errorf("output dtype %v: want keep, f32, bf16 or f16", o.DType)
	}
	if o.Reversible && o.DType != tensor.Invalid {
		return errors.New("a reversible merge keeps the dtype: leave out one of the two options")
	}
	if o.MaxShardSize < 0 || o.Workers < 0 {
		return errors.New("negative shard size or number of workers")
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.FS == nil {
		o.FS = atomicfile.OS
	}
	if o.SaveEvery == 0 {
		o.SaveEvery = 4 << 30
	}
	return nil
}

// assign finds the tensor of every update and head tensor.
func (p *Plan) assign(sources []Source) (map[string]*planned, error) {
	todo := map[string]*planned{}
	at := func(name string) *planned {
		if todo[name] == nil {
			todo[name] = &planned{}
		}
		return todo[name]
	}
	for _, s := range sources {
		if math.IsNaN(s.Weight) || math.IsInf(s.Weight, 0) {
			return nil, fmt.Errorf("%s: %w: weight %v", s.Name, ErrNonFinite, s.Weight)
		}
		seen := map[string]bool{}
		for _, u := range s.Updates {
			if seen[u.Site.Weight] {
				return nil, fmt.Errorf("%s: %w: two updates of %s", s.Name, ErrMismatch, u.Site.Weight)
			}
			seen[u.Site.Weight] = true
			if err := p.checkUpdate(s.Name, u); err != nil {
				return nil, err
			}
			t := at(u.Site.Weight)
			if err := alone(s, u, t.updates); err != nil {
				return nil, err
			}
			t.updates = append(t.updates, plannedUpdate{u, s.Weight, s.Name})
		}
		for i := range s.Head {
			h := &s.Head[i]
			if err := p.checkHead(s.Name, h); err != nil {
				return nil, err
			}
			t := at(h.Name)
			if t.head != nil && !sameTensor(t.head, h) {
				return nil, fmt.Errorf("%s: %w: an earlier adapter has another %s, and whole tensors cannot be added", s.Name, ErrMismatch, h.Name)
			}
			t.head = h
		}
	}
	for name, t := range todo {
		if t.head != nil && len(t.updates) > 0 {
			return nil, fmt.Errorf("%w: %s is both replaced and updated", ErrMismatch, name)
		}
	}
	if len(todo) == 0 && len(sources) > 0 {
		return nil, fmt.Errorf("%w: nothing to merge: no adapter has an update", ErrMismatch)
	}
	p.touched = map[string]bool{}
	for name := range todo {
		p.touched[name] = true
	}
	return todo, nil
}

// alone fails where an update that rescales its weight meets a weight other than
// 1 or another update.
func alone(s Source, u Update, before []plannedUpdate) error {
	switch {
	case u.Rescaled == nil && (len(before) == 0 || before[0].Rescaled == nil):
		return nil
	case u.Rescaled != nil && s.Weight != 1:
		return fmt.Errorf("%s: %w: %s has its weight rescaled (DoRA), which has no multiple %v; to take it out again, merge with an undo file", s.Name, ErrMismatch, u.Site.Module, s.Weight)
	case len(before) > 0:
		return fmt.Errorf("%s: %w: %s has its weight rescaled (DoRA) by one of two adapters, and the two do not add up: merge one after the other", s.Name, ErrMismatch, u.Site.Module)
	}
	return nil
}

func (p *Plan) checkUpdate(from string, u Update) error {
	t, ok := p.find(u.Site.Weight)
	mismatch := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", from, ErrMismatch, fmt.Sprintf(format, args...))
	}
	if !ok {
		return mismatch("%s has no tensor %s for module %s; merge into the model that the adapter was made for", p.base.Path(), u.Site.Weight, u.Site.Module)
	}
	want := []int{u.Site.In, u.Site.Out}
	if u.Site.Transposed {
		want = []int{u.Site.Out, u.Site.In}
	}
	if !slices.Equal(t.Shape, want) {
		return mismatch("tensor %s has shape %v, the adapter's update %v", t.Name, t.Shape, want)
	}
	if !tensor.Convertible(t.DType) || t.DType == tensor.F8E8M0 {
		return mismatch("tensor %s has dtype %v: merge into the checkpoint in F32, F16 or BF16 that it was made from", t.Name, t.DType)
	}
	for _, suffix := range []string{"_scale_inv", "_scale", ".absmax", ".SCB"} {
		if _, quantised := p.base.Lookup(t.Name + suffix); quantised {
			return mismatch("tensor %s is quantised (%s%s): merge into the checkpoint that it was made from", t.Name, t.Name, suffix)
		}
	}
	return nil
}

func (p *Plan) checkHead(from string, h *adapter.Tensor) error {
	n, err := tensor.Elements(h.Shape)
	if err != nil || n != int64(len(h.Data)) {
		return fmt.Errorf("%s: %w: %s has %d elements for shape %v", from, ErrMismatch, h.Name, len(h.Data), h.Shape)
	}
	if t, ok := p.base.Lookup(h.Name); ok && !slices.Equal(t.Shape, h.Shape) {
		return fmt.Errorf("%s: %w: tensor %s has shape %v, the adapter's %v", from, ErrMismatch, h.Name, t.Shape, h.Shape)
	}
	for i, x := range h.Data {
		if x-x != 0 {
			return fmt.Errorf("%s: %w: element %d of %s is %v", from, ErrNonFinite, i, h.Name, x)
		}
	}
	return nil
}

func sameTensor(a, b *adapter.Tensor) bool {
	return slices.Equal(a.Shape, b.Shape) && slices.EqualFunc(a.Data, b.Data, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// find looks a tensor up by its name, or by that of one it is tied to.
func (p *Plan) find(name string) (formats.Tensor, bool) {
	if t, ok := p.base.Lookup(name); ok {
		return t, true
	}
	for _, g := range p.o.Tied {
		if !slices.Contains(g, name) {
			continue
		}
		for _, other := range g {
			if t, ok := p.base.Lookup(other); ok {
				return t, true
			}
		}
	}
	return formats.Tensor{}, false
}

// untie adds the absent members of tied groups that change, and has
// config.json say that they are tied no more.
func (p *Plan) untie(todo map[string]*planned) {
	for _, g := range p.o.Tied {
		changed := 0
		for _, name := range g {
			if todo[name] != nil {
				changed++
			}
		}
		if changed == 0 {
			continue
		}
		for _, name := range g {
			p.untied = append(p.untied, name)
			if _, ok := p.base.Lookup(name); !ok && todo[name] == nil {
				todo[name] = &planned{}
			}
		}
		p.config = append(p.config, ConfigValue{"tie_word_embeddings", false})
	}
}

// configDType makes the dtype that config.json names agree with the output.
func (p *Plan) configDType() {
	name := map[tensor.DType]string{tensor.F32: "float32", tensor.BF16: "bfloat16", tensor.F16: "float16"}[p.o.DType]
	b, err := os.ReadFile(filepath.Join(p.base.Dir(), configFile))
	if err != nil {
		return
	}
	var c map[string]json.RawMessage
	if json.Unmarshal(b, &c) != nil {
		return
	}
	for _, key := range []string{"torch_dtype", "dtype"} {
		if _, ok := c[key]; ok {
			p.config = append(p.config, ConfigValue{key, name})
		}
	}
}

// Files lists the weight files of the output and their sizes in bytes.
func (p *Plan) Files() (names []string, sizes []int64) {
	for i := range p.files {
		names, sizes = append(names, p.files[i].name), append(sizes, p.files[i].size)
	}
	return names, sizes
}

// Bytes is the size of the output: weights and carried files.
func (p *Plan) Bytes() int64 {
	var n int64
	for i := range p.files {
		n += p.files[i].size
	}
	for _, c := range p.carried {
		n += c.Size
	}
	return n
}

// LeftOut lists the files of the base's directory that the output does not get
// because they hold the old weights or are hidden.
func (p *Plan) LeftOut() []string { return p.left }
