package adapter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// formatVersion is the version of our own configuration, key
// "lsrsurgeon_format".
const formatVersion = 1

// ownKeys are the keys of our own configuration, in file order. target_modules
// is a list of names, "all-linear", or any other string: a regular expression.
// modules holds every module's dimensions, so that a directory can be read
// without its base model.
var ownKeys = []string{
	"peft_type", "lsrsurgeon_format", "base_model_name_or_path", "base_model_hash", "task_type",
	"rank", "terms", "alpha", "scaling", "init", "split", "split_out", "dropout", "seed",
	"target_modules", "exclude_modules", "exclude_regex", "layers", "layers_pattern",
	"overrides", "modules_to_save", "modules",
}

// encodeOwn is adapter_config.json for our own kinds.
func (a *Adapter) encodeOwn(k Kind) ([]byte, error) {
	c := &a.Config
	var o object
	o.set("peft_type", k.PEFTType())
	o.set("lsrsurgeon_format", formatVersion)
	o.set("base_model_name_or_path", stringOrNil(c.BaseModel))
	o.set("base_model_hash", stringOrNil(c.BaseHash))
	o.set("task_type", stringOrNil(c.TaskType))
	o.set("rank", c.Rank.String())
	o.set("terms", c.Terms)
	o.set("alpha", c.Alpha)
	o.set("scaling", c.Scaling)
	o.set("init", c.Init)
	o.set("split", splitOrNil(c.Split))
	o.set("split_out", splitOrNil(c.SplitOut))
	o.set("dropout", c.Dropout)
	o.set("seed", c.Seed)
	t := &c.Targets
	switch {
	case t.AllLinear:
		o.set("target_modules", "all-linear")
	case t.Regex != "":
		o.set("target_modules", t.Regex)
	default:
		o.set("target_modules", t.Modules)
	}
	o.set("exclude_modules", listOrNil(t.Exclude))
	o.set("exclude_regex", stringOrNil(t.ExcludeRegex))
	o.set("layers", stringOrNil(t.Layers.String()))
	o.set("layers_pattern", listOrNil(t.LayersPattern))
	overrides := make([]object, len(c.Overrides))
	for i, v := range c.Overrides {
		overrides[i] = v.encode()
	}
	o.set("overrides", overrides)
	o.set("modules_to_save", listOrNil(c.ModulesToSave))
	var modules object
	for _, m := range a.Modules {
		modules.set(m.Module, []int{m.In, m.Out})
	}
	o.set("modules", modules)
	return o.encode()
}

func (v Override) encode() object {
	var o object
	o.set("pattern", v.Pattern)
	if v.Rank != (Rank{}) {
		o.set("rank", v.Rank.String())
	}
	if v.Terms != 0 {
		o.set("terms", v.Terms)
	}
	if v.Alpha != 0 {
		o.set("alpha", v.Alpha)
	}
	if v.Split != [2]int{} {
		o.set("split", splitOrNil(v.Split))
	}
	if v.SplitOut != [2]int{} {
		o.set("split_out", splitOrNil(v.SplitOut))
	}
	return o
}

func splitOrNil(s [2]int) any {
	if s == [2]int{} {
		return nil
	}
	return fmt.Sprintf("%dx%d", s[0], s[1])
}

// decodeOwn reads our own configuration. dims are the modules' dimensions.
func decodeOwn(o object, k Kind) (c Config, dims []Site, err error) {
	if err := knownKeys(o, ownKeys); err != nil {
		return c, nil, err
	}
	var version int
	var rank, layers, scaling, init string
	c.Method = k.Method()
	for key, dst := range map[string]any{
		"lsrsurgeon_format": &version, "base_model_name_or_path": &c.BaseModel, "base_model_hash": &c.BaseHash,
		"task_type": &c.TaskType, "rank": &rank, "terms": &c.Terms, "alpha": &c.Alpha, "scaling": &scaling,
		"init": &init, "dropout": &c.Dropout, "seed": &c.Seed, "exclude_modules": &c.Targets.Exclude,
		"exclude_regex": &c.Targets.ExcludeRegex, "layers": &layers, "layers_pattern": &c.Targets.LayersPattern,
		"modules_to_save": &c.ModulesToSave,
	} {
		if err := o.decode(key, dst); err != nil {
			return c, nil, err
		}
	}
	if version != formatVersion {
		return c, nil, fmt.Errorf("lsrsurgeon_format %d: this version reads %d", version, formatVersion)
	}
	if err := decodeTargets(o, &c.Targets); err != nil {
		return c, nil, err
	}
	if c.Rank, err = ParseRank(rank); err != nil {
		return c, nil, err
	}
	if c.Scaling, err = ParseScaling(scaling); err != nil {
		return c, nil, err
	}
	if c.Init, err = ParseInit(init); err != nil {
		return c, nil, err
	}
	if layers != "" {
		if c.Targets.Layers, err = ParseLayers(layers); err != nil {
			return c, nil, err
		}
	}
	if err := decodeSplits(o, &c.Split, &c.SplitOut); err != nil {
		return c, nil, err
	}
	if c.Overrides, err = decodeOverrides(o); err != nil {
		return c, nil, err
	}
	dims, err = decodeDims(o)
	return c, dims, err
}

// ParseSplit reads "32x24".
func ParseSplit(s string) ([2]int, error) {
	first, second, ok := strings.Cut(strings.ToLower(s), "x")
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(second)
	if !ok || err1 != nil || err2 != nil || a < 1 || b < 1 || a > maxDimension || b > maxDimension {
		return [2]int{}, fmt.Errorf("split %q: write two numbers, as 32x24", s)
	}
	return [2]int{a, b}, nil
}

// decodeSplits reads split and split_out.
func decodeSplits(o object, split, out *[2]int) error {
	for key, dst := range map[string]*[2]int{"split": split, "split_out": out} {
		var s string
		if err := o.decode(key, &s); err != nil {
			return err
		}
		if s == "" {
			continue
		}
		var err error
		if *dst, err = ParseSplit(s); err != nil {
			return err
		}
	}
	return nil
}

// decodeTargets reads target_modules in its three forms.
func decodeTargets(o object, t *Targets) error {
	list, one, err := o.names("target_modules")
	switch {
	case err != nil:
		return err
	case strings.EqualFold(one, "all-linear"):
		t.AllLinear = true
	case one != "":
		t.Regex = one
	case len(list) > 0:
		t.Modules = list
	default:
		return fmt.Errorf("key \"target_modules\" is missing or empty")
	}
	return nil
}

func decodeOverrides(o object) ([]Override, error) {
	var raw []rawObject
	if err := o.decode("overrides", &raw); err != nil {
		return nil, err
	}
	var vs []Override
	for _, r := range raw {
		if err := knownKeys(object(r), []string{"pattern", "rank", "terms", "alpha", "split", "split_out"}); err != nil {
			return nil, fmt.Errorf("overrides: %w", err)
		}
		var v Override
		var rank string
		for key, dst := range map[string]any{"pattern": &v.Pattern, "rank": &rank, "terms": &v.Terms, "alpha": &v.Alpha} {
			if err := object(r).decode(key, dst); err != nil {
				return nil, fmt.Errorf("overrides: %w", err)
			}
		}
		if rank != "" {
			var err error
			if v.Rank, err = ParseRank(rank); err != nil {
				return nil, fmt.Errorf("overrides: %w", err)
			}
		}
		if err := decodeSplits(object(r), &v.Split, &v.SplitOut); err != nil {
			return nil, fmt.Errorf("overrides: %w", err)
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// rawObject is an object inside a list.
type rawObject object

func (r *rawObject) UnmarshalJSON(b []byte) error {
	o, err := parseObject(b)
	*r = rawObject(o)
	return err
}

// decodeDims reads the dimensions of modules.
func decodeDims(o object) ([]Site, error) {
	var raw rawObject
	if err := o.decode("modules", &raw); err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("key \"modules\" is missing or empty")
	}
	var sites []Site
	for _, m := range raw {
		var d []int
		if err := object(raw).decode(m.key, &d); err != nil || len(d) != 2 || d[0] < 1 || d[1] < 1 || d[0] > maxDimension || d[1] > maxDimension {
			return nil, fmt.Errorf("modules: %q: want [in, out], found %s", m.key, m.value)
		}
		sites = append(sites, bareSite(m.key, d[0], d[1]))
	}
	return sites, nil
}

// bareSite is a site of which only path and dimensions are known.
func bareSite(module string, in, out int) Site {
	return Site{Module: module, In: in, Out: out, Weight: module + ".weight", Transposed: true,
		Layer: layerOf(module), Kind: module[strings.LastIndexByte(module, '.')+1:]}
}

// knownKeys returns an error naming the first key that is not among known.
func knownKeys(o object, known []string) error {
	for _, m := range o {
		if !slices.Contains(known, m.key) {
			return fmt.Errorf("unknown key %q%s", m.key, suggest.DidYouMean(m.key, known))
		}
	}
	return nil
}
