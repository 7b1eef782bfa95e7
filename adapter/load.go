package adapter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// ErrMismatch is wrapped by errors about an adapter that does not fit its own
// configuration or the base model. AccountingError is one of them.
var ErrMismatch = errors.New("adapter does not fit")

// Unwrap makes errors.Is(err, ErrMismatch) hold.
func (e *AccountingError) Unwrap() error { return ErrMismatch }

// Load reads an adapter directory: one that Save wrote, a LoRA, DoRA, GraLoRA or
// LoKr adapter of PEFT (a LoKr becomes krona), or a checkpoint that WriteInto made
// of base and adapter. sites are the base model's linear layers; with nil, modules are
// taken as the files describe them, for looking at an adapter alone.
//
// Everything is accounted for: a configuration key, target, exclusion,
// override or layer without effect, a tensor that no targeted module owns, a
// targeted module without tensors, a missing head, a shape that does not fit
// and a NaN or infinity are errors.
func Load(dir string, sites []Site) (*Adapter, error) {
	path := filepath.Join(dir, ConfigFile)
	b, err := readConfig(dir, path)
	if err != nil {
		return nil, err
	}
	malformed := func(err error) error {
		return &formats.Error{Path: path, Reason: err.Error(), Hint: "correct the configuration, or save the adapter again", Err: formats.ErrMalformed}
	}
	o, err := parseObject(b)
	if err != nil {
		return nil, malformed(err)
	}
	var peftType string
	if err := o.decode("peft_type", &peftType); err != nil {
		return nil, malformed(err)
	}
	l := &loader{dir: dir, sites: sites, alone: sites == nil, tensors: map[string]formats.Tensor{}}
	var dims []Site
	switch i := slices.IndexFunc(kinds, func(k Kind) bool { return k.PEFTType() == peftType }); {
	case peftType == "LORA" || peftType == "LOKR" || peftType == "GRALORA":
		l.config, err = decodePEFT(o, peftType)
	case i >= 0:
		l.config, dims, err = decodeOwn(o, kinds[i])
	default:
		err = unknownType(peftType)
	}
	if err != nil {
		return nil, malformed(err)
	}
	l.lokr = peftType == "LOKR"
	l.sites = sitesOf(l.config.Method, sites)
	for i := range dims {
		dims[i].Block = OnBlocks(l.config.Method)
	}
	return l.load(path, dims)
}

func readConfig(dir, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return b, nil
	}
	e := &formats.Error{Path: dir, Reason: "no " + ConfigFile + " in it", Hint: "an adapter is a directory with " + ConfigFile + " and " + formats.AdapterFile, Err: formats.ErrNotFound}
	st, serr := os.Stat(dir)
	switch {
	case serr != nil:
		e.Reason = "no such directory"
	case !st.IsDir():
		e.Reason = "a file, not an adapter directory: without " + ConfigFile + " neither the scale nor the modules are known"
		e.Hint = "give the directory; for other formats write a " + ConfigFile + " and name the tensors as PEFT does"
	case !errors.Is(err, fs.ErrNotExist):
		e.Path, e.Reason, e.Err = path, err.Error(), err
	}
	return nil, e
}

func unknownType(peftType string) error {
	known := []string{"LOKR"}
	for _, k := range kinds {
		if !slices.Contains(known, k.PEFTType()) {
			known = append(known, k.PEFTType())
		}
	}
	if peftType == "" {
		return fmt.Errorf("key \"peft_type\" is missing")
	}
	return fmt.Errorf("peft_type %q is not supported: there are %s%s", peftType, suggest.Or(known), suggest.DidYouMean(peftType, known))
}

// loader is the state of one Load.
type loader struct {
	dir     string
	config  Config
	lokr    bool
	alone   bool   // no base model
	sites   []Site // as the base names them
	align   alignment
	ckpt    *formats.Checkpoint
	order   []string                  // cleaned tensor names, in file order
	tensors map[string]formats.Tensor // by cleaned name
	claimed map[string]bool
}

func (l *loader) load(path string, dims []Site) (a *Adapter, err error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	defer func() {
		if e := l.ckpt.Close(); err == nil {
			err = e
		}
	}()
	files, err := l.group()
	if err != nil {
		return nil, err
	}
	switch {
	case l.alone && dims != nil:
		l.sites = dims
	case l.alone:
		if l.sites, err = l.bareSites(files); err != nil {
			return nil, err
		}
	}
	l.align = align(files, l.sites)
	if err := l.checkDims(path, dims); err != nil {
		return nil, err
	}
	if a, err = l.modules(path, files); err != nil {
		return nil, err
	}
	if err := l.rest(a); err != nil {
		return nil, err
	}
	a.Dir = l.dir
	if err := l.provenance(a); err != nil {
		return nil, err
	}
	if err := a.missingHead(); err != nil {
		return nil, l.mismatch("", err.Error(), "add the head's tensors, or take the name out of modules_to_save")
	}
	if err := a.Finite(); err != nil {
		return nil, &formats.Error{Path: l.ckpt.Path(), Reason: err.Error(), Hint: "training diverged or the file is damaged", Err: formats.ErrMalformed}
	}
	return a, nil
}

// open opens the tensors: of the adapter file, or of a combined checkpoint.
func (l *loader) open() (err error) {
	path := filepath.Join(l.dir, formats.AdapterFile)
	combined := false
	if _, err := os.Stat(path); err != nil {
		if _, err := os.Stat(filepath.Join(l.dir, "adapter_model.bin")); err == nil {
			return &formats.Error{Path: filepath.Join(l.dir, "adapter_model.bin"), Reason: "a pickled PyTorch file: pickles can run code and are not read",
				Hint: "load the adapter in Python and save it with save_pretrained(safe_serialization=True)", Err: formats.ErrUnsupported}
		}
		path, combined = l.dir, true
	}
	if l.ckpt, err = formats.Open(path); err != nil {
		return err
	}
	for _, t := range l.ckpt.Tensors() {
		name := cleanName(t.Name)
		if combined && !strings.HasPrefix(name, "base_model.") {
			continue
		}
		if _, ok := l.tensors[name]; ok {
			return l.mismatch(t.Name, "stands there with and without the adapter's name", "save the adapter again")
		}
		l.tensors[name] = t
		l.order = append(l.order, name)
	}
	if len(l.order) == 0 {
		return &formats.Error{Path: path, Reason: "no adapter tensors in it", Hint: "want " + formats.AdapterFile + " beside " + ConfigFile, Err: formats.ErrNotFound}
	}
	return nil
}

func (l *loader) mismatch(tensor, reason, hint string) error {
	return &formats.Error{Path: l.ckpt.Path(), Tensor: tensor, Reason: reason, Hint: hint, Err: ErrMismatch}
}

// group lists the adapted modules that the tensors name, in file order, and
// refuses tensors that cannot be understood.
func (l *loader) group() ([]string, error) {
	var files []string
	for _, name := range l.order {
		if strings.HasPrefix(name, sharedPrefix) {
			continue
		}
		module, suffix, head, ok := splitName(name)
		switch {
		case !ok:
			return nil, l.mismatch(name, "its name does not start with "+filePrefix, "this is no adapter of PEFT or of this program")
		case head:
		case suffixes[suffix] != "":
			return nil, l.mismatch(name, suffixes[suffix], "")
		case !slices.Contains(files, module):
			files = append(files, module)
		}
	}
	return files, nil
}

// bareSites makes sites of the shapes of LoRA, LoKr or GraLoRA tensors.
func (l *loader) bareSites(files []string) ([]Site, error) {
	var sites []Site
	for _, m := range files {
		in, out := l.size(m, "lora_A.weight", 1), l.size(m, "lora_B.weight", 0)
		if l.lokr {
			in = max(l.size(m, "lokr_w1", 1), l.size(m, "lokr_w1_b", 1)) * max(l.size(m, "lokr_w2", 1), l.size(m, "lokr_w2_b", 1))
			out = max(l.size(m, "lokr_w1", 0), l.size(m, "lokr_w1_a", 0)) * max(l.size(m, "lokr_w2", 0), l.size(m, "lokr_w2_a", 0))
		}
		if l.config.Method == MethodGraLoRA {
			a, b := l.tensors[filePrefix+m+".gralora_A"], l.tensors[filePrefix+m+".gralora_B"]
			if len(a.Shape) == 3 && len(b.Shape) == 3 {
				in, out = a.Shape[0]*a.Shape[1], b.Shape[0]*b.Shape[2]
			}
		}
		if in < 1 || out < 1 {
			return nil, l.mismatch("", fmt.Sprintf("module %s has not both factors of its update", m), "the file is incomplete")
		}
		sites = append(sites, bareSite(m, in, out))
	}
	return sites, nil
}

// size is a dimension of a module's matrix, or 0.
func (l *loader) size(module, suffix string, dim int) int {
	t, ok := l.tensors[filePrefix+module+"."+suffix]
	if !ok || len(t.Shape) != 2 {
		return 0
	}
	return t.Shape[dim]
}

// checkDims compares the dimensions that the configuration holds with the
// base's.
func (l *loader) checkDims(path string, dims []Site) error {
	if l.alone {
		return nil
	}
	byFile := map[string]Site{}
	for _, s := range l.sites {
		byFile[l.align.file(s)] = s
	}
	for _, d := range dims {
		s, ok := byFile[d.Module]
		if !ok {
			return &formats.Error{Path: path, Reason: "module " + d.Module + " is not in the base model" + l.near(d.Module), Hint: "this adapter belongs to another model", Err: ErrMismatch}
		}
		if s.In != d.In || s.Out != d.Out {
			return &formats.Error{Path: path, Reason: fmt.Sprintf("module %s is for (%d, %d), the base model has (%d, %d)", d.Module, d.In, d.Out, s.In, s.Out),
				Hint: "this adapter belongs to another model", Err: ErrMismatch}
		}
	}
	return nil
}

func (l *loader) near(module string) string {
	names := make([]string, len(l.sites))
	for i, s := range l.sites {
		names[i] = l.align.file(s)
	}
	return suggest.DidYouMean(module, names)
}

// modules matches the configuration with the sites and reads the tensors of
// every targeted module.
func (l *loader) modules(path string, files []string) (*Adapter, error) {
	named := make([]Site, len(l.sites))
	original := map[string]Site{}
	for i, s := range l.sites {
		named[i] = s
		named[i].Module = l.align.file(s)
		original[named[i].Module] = s
	}
	matched, acc, err := Match(named, l.config)
	if err != nil && !(l.alone && onlyExclusions(acc)) {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "every part of the configuration must fit the base model", Err: err}
	}
	a := &Adapter{Config: l.config}
	l.claimed = map[string]bool{}
	shared := map[string][]float32{}
	for _, m := range matched {
		mod, err := l.module(m)
		if err != nil {
			return nil, err
		}
		mod.share(shared)
		// From here on with the base's names.
		mod.Site = original[m.Module]
		k, err := Lookup(mod.Method)
		if err != nil {
			return nil, err
		}
		if mod.Specs, err = k.Params(mod.Site, mod.Settings); err != nil {
			return nil, err
		}
		a.Modules = append(a.Modules, mod)
	}
	if err := sharedShapes(a.Modules); err != nil {
		return nil, err
	}
	if l.lokr {
		a.Settings.Method, a.Settings.Rank = MethodKronA, Rank{1, 1}
	}
	if l.lokr || l.align != (alignment{}) {
		a.Config = explicit(a.Config, a.Modules)
	}
	return a, nil
}

// onlyExclusions reports whether nothing but exclusions found no module: an
// adapter alone does not show the modules that were excluded.
func onlyExclusions(acc *Accounting) bool {
	return acc != nil && len(acc.Matched) > 0 && !slices.ContainsFunc(acc.Uses, func(u Use) bool { return u.Count == 0 && u.What != "exclude" })
}

// explicit returns c with targets and overrides that name every module.
func explicit(c Config, modules []Module) Config {
	c.Targets = Targets{}
	for _, m := range modules {
		c.Targets.Modules = append(c.Targets.Modules, m.Module)
	}
	c.Overrides = OverridesFor(c.Settings, modules)
	return c
}

// OverridesFor returns an override for each module whose rank, terms, alpha or
// splits differ from s, so that s with them gives every module its own.
func OverridesFor(s Settings, modules []Module) []Override {
	var list []Override
	for _, m := range modules {
		o := Override{Pattern: regexp.QuoteMeta(m.Module)}
		if m.Rank != s.Rank {
			o.Rank = m.Rank
		}
		if m.Terms != s.Terms {
			o.Terms = m.Terms
		}
		if m.Alpha != s.Alpha {
			o.Alpha = m.Alpha
		}
		if m.Split != s.Split {
			o.Split = m.Split
		}
		if m.SplitOut != s.SplitOut {
			o.SplitOut = m.SplitOut
		}
		if o != (Override{Pattern: o.Pattern}) {
			list = append(list, o)
		}
	}
	return list
}

// module reads one targeted module.
func (l *loader) module(m Matched) (Module, error) {
	if l.lokr {
		return l.readLoKr(m)
	}
	mod := Module{Site: m.Site, Settings: m.Settings}
	k, err := Lookup(m.Method)
	if err != nil {
		return mod, err
	}
	if mod.Specs, err = k.Params(m.Site, m.Settings); err != nil {
		return mod, err
	}
	for _, p := range mod.Specs {
		x, err := l.read(p.Name, p.Shape, m)
		if err != nil {
			return mod, err
		}
		mod.Tensors = append(mod.Tensors, x)
	}
	return mod, nil
}

// read reads one tensor that has to be there in that shape.
func (l *loader) read(name string, shape []int, m Matched) ([]float32, error) {
	t, ok := l.tensors[name]
	if !ok {
		return nil, l.mismatch(name, fmt.Sprintf("missing, though the configuration targets module %s", m.Module),
			"the file is incomplete, or the targets are wider than what was trained")
	}
	if !slices.Equal(t.Shape, shape) {
		return nil, l.mismatch(name, fmt.Sprintf("shape %v, but rank %v and the layer's (%d, %d) want %v", t.Shape, m.Rank, m.In, m.Out, shape),
			"the adapter belongs to another model, or the rank in its configuration is wrong")
	}
	l.claimed[name] = true
	x := make([]float32, t.Elements())
	return x, l.ckpt.ReadF32(t, 0, t.Elements(), x)
}

// rest takes the head and refuses tensors that nobody claimed.
func (l *loader) rest(a *Adapter) error {
	for _, name := range l.order {
		if l.claimed[name] {
			continue
		}
		module, _, head, _ := splitName(name)
		if !head || strings.HasPrefix(name, sharedPrefix) {
			return l.mismatch(name, l.unclaimed(module), "an adapter tensor without effect means that adapter and configuration or base do not fit")
		}
		saved, err := inSaved(l.config.saved(), module)
		if err != nil {
			return err
		}
		if !saved {
			return l.mismatch(name, "it belongs to no adapted module and to none of modules_to_save", "add its module to modules_to_save if it is a trained head")
		}
		t := l.tensors[name]
		x := make([]float32, t.Elements())
		if err := l.ckpt.ReadF32(t, 0, t.Elements(), x); err != nil {
			return err
		}
		a.Head = append(a.Head, Tensor{Name: l.align.base(module, l.sites), Shape: t.Shape, Data: x})
	}
	return nil
}

// unclaimed says why an adapter tensor's module does not take it.
func (l *loader) unclaimed(module string) string {
	for _, s := range l.sites {
		if l.align.file(s) == module {
			return "module " + module + " is not among the configuration's targets, or has no such tensor"
		}
	}
	if module == "" {
		return "no module uses it"
	}
	return "the base model has no linear layer " + module + l.near(module)
}

// provenance reads the metadata entry, where there is one.
func (l *loader) provenance(a *Adapter) error {
	var p provenance
	v, ok := l.ckpt.Metadata()[metadataKey]
	if !ok || json.Unmarshal([]byte(v), &p) != nil {
		return nil
	}
	a.Seed, a.BaseHash = p.Seed, p.BaseHash
	init, err := ParseInit(string(p.Init))
	if err != nil {
		return nil // of a later version: it says nothing about the values
	}
	if s := (Settings{Init: init}); s.rebased() {
		if a.Method != MethodLoRA {
			return nil
		}
		return a.takeApart(init)
	}
	a.Init = init
	return nil
}
