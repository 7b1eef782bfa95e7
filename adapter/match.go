package adapter

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// Override changes settings of the modules whose path matches Pattern, a
// regular expression for the end of the path from a dot on (PEFT's
// rank_pattern). Zero fields change nothing; for each field the first
// override that sets it and matches wins.
type Override struct {
	Pattern  string
	Rank     Rank
	Terms    int
	Alpha    float64
	Split    [2]int
	SplitOut [2]int
}

// Config describes an adapter.
type Config struct {
	Settings  // of modules that no override matches
	Targets   Targets
	Overrides []Override
	Seed      uint64
	// BaseModel names the base checkpoint and BaseHash its content, if known.
	BaseModel string
	BaseHash  string
	TaskType  string // PEFT's: "SEQ_CLS", "CAUSAL_LM", or ""
	// ModulesToSave are trained whole and saved with the adapter: the head.
	ModulesToSave []string
}

// saved returns the modules that are trained whole, and so never adapted:
// ModulesToSave and, as in PEFT, the usual names of heads for classification.
func (c *Config) saved() []string {
	if c.TaskType != "SEQ_CLS" && c.TaskType != "TOKEN_CLS" {
		return c.ModulesToSave
	}
	names := slices.Clone(c.ModulesToSave)
	for _, n := range headNames {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// headNames are the classification heads that PEFT saves unasked.
var headNames = []string{"classifier", "score"}

// Matched is an adapted site with its settings.
type Matched struct {
	Site
	Settings
}

// Use is how often something in a configuration found a module.
type Use struct {
	What  string // "target", "exclude", "override", "layer"
	Name  string
	Count int
}

// Accounting says what every part of a configuration matched.
type Accounting struct {
	Uses      []Use
	Matched   []string // module paths
	Unmatched []string // the other sites
}

// AccountingError lists everything that was left over.
type AccountingError struct{ Problems []string }

func (e *AccountingError) Error() string { return strings.Join(e.Problems, "; ") }

// err returns an *AccountingError for what matched nothing, or nil.
func (a *Accounting) err(sites []Site) error {
	e := &AccountingError{}
	for _, u := range a.Uses {
		if u.Count > 0 {
			continue
		}
		msg := fmt.Sprintf("%s %q matches no module", u.What, u.Name)
		switch u.What {
		case "layer":
			msg += layerHint(sites)
		default:
			msg += suggest.DidYouMean(u.Name, nameCandidates(u.Name, sites))
		}
		e.Problems = append(e.Problems, msg)
	}
	if len(e.Problems) == 0 && len(a.Matched) == 0 {
		e.Problems = append(e.Problems, "the targets match no module: everything is excluded")
	}
	if len(e.Problems) == 0 {
		return nil
	}
	return e
}

func layerHint(sites []Site) string {
	lo, hi := -1, -1
	for _, s := range sites {
		if n := layerIndex(s, nil); n >= 0 {
			if lo < 0 || n < lo {
				lo = n
			}
			hi = max(hi, n)
		}
	}
	if lo < 0 {
		return " (the model has no numbered layers)"
	}
	return fmt.Sprintf(" (the layers are %d to %d)", lo, hi)
}

// nameCandidates lists the path endings with as many elements as name.
func nameCandidates(name string, sites []Site) []string {
	n := strings.Count(name, ".") + 1
	var names []string
	seen := map[string]bool{}
	for _, s := range sites {
		parts := strings.Split(s.Module, ".")
		c := strings.Join(parts[max(0, len(parts)-n):], ".")
		if !seen[c] {
			seen[c] = true
			names = append(names, c)
		}
	}
	return names
}

// matcher is a compiled configuration.
type matcher struct {
	c         Config
	acc       *Accounting
	regex     *regexp.Regexp
	exclude   *regexp.Regexp
	saved     []*regexp.Regexp
	overrides []*regexp.Regexp
	layers    []*regexp.Regexp
	uses      map[[2]string]int
}

func newMatcher(c Config) (m *matcher, err error) {
	m = &matcher{c: c, acc: &Accounting{}, uses: map[[2]string]int{}}
	t := &c.Targets
	forms := 0
	for _, set := range []bool{len(t.Modules) > 0, t.Regex != "", t.AllLinear} {
		if set {
			forms++
		}
	}
	if forms != 1 {
		return nil, fmt.Errorf("targets: want a list of modules, a regular expression or all-linear, exactly one of them")
	}
	if t.Regex != "" {
		if m.regex, err = compile("target regex", t.Regex); err != nil {
			return nil, err
		}
		m.use("target", t.Regex)
	}
	if t.ExcludeRegex != "" {
		if m.exclude, err = compile("exclude regex", t.ExcludeRegex); err != nil {
			return nil, err
		}
		m.use("exclude", t.ExcludeRegex)
	}
	if t.AllLinear {
		m.use("target", "all-linear")
	}
	for _, n := range t.Modules {
		m.use("target", n)
	}
	for _, n := range t.Exclude {
		m.use("exclude", n)
	}
	for _, n := range t.Layers.numbers() {
		m.use("layer", strconv.Itoa(n))
	}
	for _, s := range c.saved() {
		re, err := compileSaved(s)
		if err != nil {
			return nil, err
		}
		m.saved = append(m.saved, re)
	}
	for _, o := range c.Overrides {
		re, err := compilePattern(o.Pattern)
		if err != nil {
			return nil, err
		}
		m.overrides = append(m.overrides, re)
		m.use("override", o.Pattern)
	}
	m.layers, err = compileLayerPatterns(t.LayersPattern)
	return m, err
}

// use declares something that has to find a module.
func (m *matcher) use(what, name string) {
	k := [2]string{what, name}
	if _, ok := m.uses[k]; ok {
		return
	}
	m.uses[k] = len(m.acc.Uses)
	m.acc.Uses = append(m.acc.Uses, Use{What: what, Name: name})
}

func (m *matcher) used(what, name string) { m.acc.Uses[m.uses[[2]string{what, name}]].Count++ }

// targeted decides about one site.
func (m *matcher) targeted(s Site) bool {
	t := &m.c.Targets
	excluded := false
	for _, n := range t.Exclude {
		if matchName(n, s.Module) {
			m.used("exclude", n)
			excluded = true
		}
	}
	if m.exclude != nil && m.exclude.MatchString(s.Module) {
		m.used("exclude", t.ExcludeRegex)
		excluded = true
	}
	if excluded || slices.ContainsFunc(m.saved, func(re *regexp.Regexp) bool { return re.MatchString(s.Module) }) {
		return false
	}
	layer := -1
	if len(t.Layers) > 0 {
		layer = layerIndex(s, m.layers)
	}
	in := len(t.Layers) == 0 || t.Layers.Contains(layer)
	found := false
	switch {
	case t.AllLinear:
		if found = !s.Output && in; found {
			m.used("target", "all-linear")
		}
	case m.regex != nil:
		if found = m.regex.MatchString(s.Module) && in; found {
			m.used("target", t.Regex)
		}
	default:
		for _, n := range t.Modules {
			if matchName(n, s.Module) && in {
				m.used("target", n)
				found = true
			}
		}
	}
	if found && len(t.Layers) > 0 {
		m.used("layer", strconv.Itoa(layer))
	}
	return found
}

// settings applies the overrides to one module.
func (m *matcher) settings(module string) Settings {
	s := m.c.Settings
	var done Override
	for i, o := range m.c.Overrides {
		if !m.overrides[i].MatchString(module) {
			continue
		}
		m.used("override", o.Pattern)
		first(&s.Rank, &done.Rank, o.Rank)
		first(&s.Terms, &done.Terms, o.Terms)
		first(&s.Alpha, &done.Alpha, o.Alpha)
		first(&s.Split, &done.Split, o.Split)
		first(&s.SplitOut, &done.SplitOut, o.SplitOut)
	}
	return s
}

// first sets a field to v unless v is zero or done says that it was set.
func first[T comparable](field, done *T, v T) {
	var zero T
	if v != zero && *done == zero {
		*field, *done = v, v
	}
}

// Match returns the sites that c adapts, in the order of sites, with their
// settings. Whatever in c finds no module makes an *AccountingError; the
// accounting is returned with it.
func Match(sites []Site, c Config) ([]Matched, *Accounting, error) {
	m, err := newMatcher(c)
	if err != nil {
		return nil, nil, err
	}
	var matched []Matched
	for _, s := range sites {
		if !m.targeted(s) {
			m.acc.Unmatched = append(m.acc.Unmatched, s.Module)
			continue
		}
		set := m.settings(s.Module)
		if err := set.Check(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.Module, err)
		}
		m.acc.Matched = append(m.acc.Matched, s.Module)
		matched = append(matched, Matched{Site: s, Settings: set})
	}
	return matched, m.acc, m.acc.err(sites)
}
