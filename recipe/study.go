package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Study is a set of configurations of adapter and training, each to be trained with
// every one of some seeds.
type Study struct {
	Path    string
	Output  string   // directory of all runs
	Seeds   []uint64 // in the order of the file, distinct
	Configs []Config
	Unused  []Text // variables that nothing refers to
	model   Text
}

// Config is one configuration.
type Config struct {
	// Slug names it and the directory of its runs.
	Slug string
	// Inject and Train are the flags of the two commands, without seed and output.
	Inject, Train []Flag
	pos           Pos
}

// Run is one configuration with one seed: two steps.
type Run struct {
	Config        int // its index
	Seed          uint64
	Dir           string // where the trained run is
	Inject, Train Step
}

// MaxRuns is the largest number of runs of a study.
const MaxRuns = 1000

// given are the flags that the study itself gives, or that would take a run out of its
// place.
var given = map[string]string{
	"seed": "seeds: gives it", "output": "output: of the study gives it", "into": "a study writes adapters and runs only",
	"model": "model: of the study gives it", "resume": "a study resumes by itself", "dry-run": "--dry-run of study does that", "force": "--force of study does that",
}

// axis is a flag with the values that it takes in turn.
type axis struct {
	command string // inject or train
	flag    Flag
}

// ParseStudy reads a study. set gives variables other values than the file does. The
// errors are of type *Error.
func ParseStudy(path string, text []byte, set map[string]string) (*Study, error) {
	f := &file{path: path, text: text}
	root, err := f.root(set, "a study", []string{"version", "vars", "model", "output", "inject", "train", "configs", "grid", "seeds"})
	if err != nil {
		return nil, err
	}
	s := &Study{Path: path}
	if s.model, err = f.required(root, "model"); err != nil {
		return nil, err
	}
	out, err := f.required(root, "output")
	if err != nil {
		return nil, err
	}
	s.Output = filepath.Clean(out.Value)
	if s.Seeds, err = f.seeds(root); err != nil {
		return nil, err
	}
	base, err := f.config(root, root.pos)
	if err != nil {
		return nil, err
	}
	variants, err := f.variants(root)
	if err != nil {
		return nil, err
	}
	axes, err := f.axes(root)
	if err != nil {
		return nil, err
	}
	if s.Configs, err = f.spread(base, variants, axes, len(s.Seeds)); err != nil {
		return nil, err
	}
	s.Unused = f.unusedVars()
	return s, nil
}

// required is the single value of a key that has to be there.
func (f *file) required(root *node, key string) (Text, error) {
	n := root.get(key)
	if n == nil {
		return Text{}, f.errorf(root.pos, "a study has %s, and this file has none", key)
	}
	t, err := f.scalar(n, key)
	if err == nil && t.Value == "" {
		err = f.errorf(n.pos, "%s is empty", key)
	}
	return t, err
}

// seeds reads the list of seeds.
func (f *file) seeds(root *node) ([]uint64, error) {
	n := root.get("seeds")
	if n == nil {
		return nil, f.errorf(root.pos, "a study has seeds, and this file has none; \"seeds: [0, 1, 2]\" are three runs of each configuration")
	}
	if err := f.want(n, sequence, "seeds"); err != nil {
		return nil, err
	}
	texts, err := f.scalars(n, "a seed")
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, f.errorf(n.pos, "there are no seeds")
	}
	var seeds []uint64
	for _, t := range texts {
		v, err := strconv.ParseUint(t.Value, 10, 64)
		if err != nil {
			return nil, f.errorf(t.Pos, "%q is no seed: seeds are whole numbers from 0 up", t.Value)
		}
		if slices.Contains(seeds, v) {
			return nil, f.errorf(t.Pos, "the seed %d stands here a second time", v)
		}
		seeds = append(seeds, v)
	}
	return seeds, nil
}

// config reads the keys inject and train of a mapping.
func (f *file) config(n *node, pos Pos) (Config, error) {
	c := Config{pos: pos}
	for _, key := range []string{"inject", "train"} {
		v := n.get(key)
		if v == nil {
			continue
		}
		err := f.want(v, mapping, key)
		if err != nil {
			return c, err
		}
		own := c.flags(key)
		if *own, err = f.flags(v, ""); err != nil {
			return c, err
		}
		if err := f.free(key, *own); err != nil {
			return c, err
		}
	}
	return c, nil
}

// free refuses flags that the study gives.
func (f *file) free(command string, flags []Flag) error {
	for _, x := range flags {
		if why, ok := given[x.Name.Value]; ok {
			return f.errorf(x.Name.Pos, "%s has no place in %s of a study: %s", x.Name.Value, command, why)
		}
		if x.Name.Value == "args" {
			return f.errorf(x.Name.Pos, "the arguments of %s are model: and what inject writes", command)
		}
	}
	return nil
}

// variants reads configs:, a list of names and of flags that go before those of all.
func (f *file) variants(root *node) ([]Config, error) {
	list := root.get("configs")
	if list == nil {
		return []Config{{pos: root.pos}}, nil
	}
	if err := f.want(list, sequence, "configs"); err != nil {
		return nil, err
	}
	if len(list.items) == 0 {
		return nil, f.errorf(list.pos, "there are no configs")
	}
	var out []Config
	for _, n := range list.items {
		if err := f.want(n, mapping, "a configuration"); err != nil {
			return nil, err
		}
		if err := f.keys(n, "a configuration", []string{"name", "inject", "train"}); err != nil {
			return nil, err
		}
		c, err := f.config(n, n.pos)
		if err != nil {
			return nil, err
		}
		if name := n.get("name"); name != nil {
			t, err := f.scalar(name, "name")
			if err != nil {
				return nil, err
			}
			if c.Slug = slug(t.Value); c.Slug == "" || c.Slug != t.Value {
				return nil, f.errorf(t.Pos, "the name %q would name a directory: use letters, digits and . _ + = -", t.Value)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// axes reads grid:, flags of inject and train with lists of values.
func (f *file) axes(root *node) ([]axis, error) {
	grid := root.get("grid")
	if grid == nil {
		return nil, nil
	}
	if err := f.want(grid, mapping, "grid"); err != nil {
		return nil, err
	}
	if err := f.keys(grid, "grid", []string{"inject", "train"}); err != nil {
		return nil, err
	}
	var out []axis
	for _, p := range grid.pairs {
		command := p.key.Value
		if err := f.want(p.value, mapping, command); err != nil {
			return nil, err
		}
		flags, err := f.flags(p.value, "")
		if err == nil {
			err = f.free(command, flags)
		}
		if err != nil {
			return nil, err
		}
		for _, x := range flags {
			out = append(out, axis{command, x})
		}
	}
	return out, nil
}

// flags are those of one of the two commands.
func (c *Config) flags(command string) *[]Flag {
	if command == "inject" {
		return &c.Inject
	}
	return &c.Train
}

func hasFlag(flags []Flag, name string) bool {
	return slices.ContainsFunc(flags, func(f Flag) bool { return f.Name.Value == name })
}

// spread makes every variant with every combination of the grid's values, the last flag
// of the grid changing fastest.
func (f *file) spread(base Config, variants []Config, axes []axis, seeds int) ([]Config, error) {
	n := len(variants) * seeds
	for _, a := range axes {
		if n *= len(a.flag.Values); n > MaxRuns {
			break
		}
	}
	if n > MaxRuns {
		return nil, f.errorf(Pos{}, "it has more than %d runs", MaxRuns)
	}
	var out []Config
	for _, v := range variants {
		for _, a := range axes {
			for _, c := range []Config{base, v} {
				if hasFlag(*c.flags(a.command), a.flag.Name.Value) {
					return nil, f.errorf(a.flag.Name.Pos, "the grid's %s is given elsewhere too", a.flag.Name.Value)
				}
			}
		}
		level := []Config{named(v)}
		for _, a := range axes {
			var next []Config
			for _, c := range level {
				for _, value := range a.flag.Values {
					d := Config{Slug: c.Slug, Inject: slices.Clone(c.Inject), Train: slices.Clone(c.Train), pos: value.Pos}
					if v.pos != base.pos {
						d.pos = v.pos
					}
					own := d.flags(a.command)
					*own = append(*own, Flag{Name: a.flag.Name, Values: []Text{value}})
					d.Slug = strings.TrimPrefix(d.Slug+"_"+slug(a.flag.Name.Value+"-"+value.Value), "_")
					next = append(next, d)
				}
			}
			level = next
		}
		for _, c := range level {
			c.Inject, c.Train = over(base.Inject, c.Inject), over(base.Train, c.Train)
			out = append(out, c)
		}
	}
	return out, f.distinct(out)
}

// named is a variant whose slug, if it has none, is made of its flags.
func named(c Config) Config {
	if c.Slug != "" {
		return c
	}
	var parts []string
	for _, x := range slices.Concat(c.Inject, c.Train) {
		parts = append(parts, slug(x.Name.Value+"-"+values(x)))
	}
	c.Slug = strings.Join(parts, "_")
	return c
}

func values(f Flag) string {
	var s []string
	for _, v := range f.Values {
		s = append(s, v.Value)
	}
	return strings.Join(s, ",")
}

// over are the flags of base, replaced by those of own that have the same name, with
// the others of own behind.
func over(base, own []Flag) []Flag {
	out := slices.DeleteFunc(slices.Clone(base), func(f Flag) bool { return hasFlag(own, f.Name.Value) })
	return append(out, own...)
}

// distinct refuses configurations that are the same, and makes slugs short and distinct.
func (f *file) distinct(all []Config) error {
	isBool := func(string) bool { return false }
	seen, sums := map[string]Pos{}, make([]string, len(all))
	slugs := map[string]int{}
	for i := range all {
		c := &all[i]
		step := Step{Command: Text{Value: "inject"}, Flags: c.Inject}
		rest := Step{Command: Text{Value: "train"}, Flags: c.Train}
		none := func(string) bool { return false }
		sums[i] = step.Key(isBool, none) + rest.Key(isBool, none)
		if first, ok := seen[sums[i]]; ok {
			return f.errorf(c.pos, "this configuration is the same as that of line %d", first.Line)
		}
		seen[sums[i]] = c.pos
		if c.Slug == "" {
			c.Slug = "base"
		}
		slugs[strings.ToLower(c.Slug)]++ // some file systems do not tell capitals apart
	}
	for i := range all {
		const longest = 100
		if c := &all[i]; slugs[strings.ToLower(c.Slug)] > 1 || len(c.Slug) > longest {
			sum := sha256.Sum256([]byte(sums[i]))
			c.Slug = c.Slug[:min(len(c.Slug), longest)] + "-" + hex.EncodeToString(sum[:4])
		}
	}
	return nil
}

// slug is s as a part of a directory's name.
func slug(s string) string {
	const keep = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+=-"
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(keep, r) {
			return r
		}
		return '-'
	}, s)
	return strings.TrimLeft(s, ".-")
}

// Runs are all runs, configuration by configuration.
func (s *Study) Runs() []Run {
	var out []Run
	for i, c := range s.Configs {
		for _, seed := range s.Seeds {
			dir := filepath.Join(s.Output, c.Slug)
			adapter := filepath.Join(dir, fmt.Sprintf("adapter-%d", seed))
			r := Run{Config: i, Seed: seed, Dir: filepath.Join(dir, fmt.Sprintf("seed-%d", seed))}
			name := fmt.Sprintf("%s, seed %d", c.Slug, seed)
			r.Inject = c.step("inject", name, s.model, seed, adapter, c.Inject)
			r.Train = c.step("train", name, Text{adapter, c.pos}, seed, r.Dir, c.Train)
			out = append(out, r)
		}
	}
	return out
}

func (c *Config) step(command, name string, arg Text, seed uint64, out string, flags []Flag) Step {
	own := func(flag, value string) Flag {
		return Flag{Name: Text{flag, c.pos}, Values: []Text{{value, c.pos}}}
	}
	return Step{Name: name + ": " + command, Command: Text{command, c.pos}, Args: []Text{arg},
		Flags: append(slices.Clone(flags), own("seed", strconv.FormatUint(seed, 10)), own("output", out))}
}
