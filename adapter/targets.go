package adapter

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Targets say which sites are adapted. Exactly one of Modules, Regex and
// AllLinear is set. The rules are those of PEFT 0.21.2 (check_target_module_
// exists), with one difference: layers limit all three forms.
type Targets struct {
	// Modules match a site whose path is equal or ends with "." and the name.
	Modules []string
	// Regex matches a site whose whole path it matches.
	Regex string
	// AllLinear matches every site but output layers and heads.
	AllLinear bool
	// Exclude removes sites, by the rule of Modules; ExcludeRegex by that of
	// Regex.
	Exclude      []string
	ExcludeRegex string
	// Layers, when not empty, keeps sites whose layer index is in it.
	Layers Layers
	// LayersPattern, when not empty, are the names before the number that is
	// the layer index: "layers" for model.layers.3. Otherwise it is the first
	// number of the path.
	LayersPattern []string
}

// LayerRange is the layers from Lo to Hi, both included.
type LayerRange struct{ Lo, Hi int }

// Layers is a set of layer indices.
type Layers []LayerRange

// maxLayer is beyond the depth of any model.
const maxLayer = 1 << 16

// ParseLayers reads "8-11" or "0,2,5-7".
func ParseLayers(s string) (Layers, error) {
	var l Layers
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			hi = lo
		}
		a, err1 := strconv.Atoi(strings.TrimSpace(lo))
		b, err2 := strconv.Atoi(strings.TrimSpace(hi))
		if err1 != nil || err2 != nil || a < 0 || b < a || b > maxLayer {
			return nil, fmt.Errorf("layers %q: write numbers and ranges, as 0,2,5-7", s)
		}
		l = append(l, LayerRange{a, b})
	}
	return l, nil
}

// String is what ParseLayers reads.
func (l Layers) String() string {
	parts := make([]string, len(l))
	for i, r := range l {
		if parts[i] = strconv.Itoa(r.Lo); r.Hi != r.Lo {
			parts[i] += "-" + strconv.Itoa(r.Hi)
		}
	}
	return strings.Join(parts, ",")
}

// Contains reports whether layer n is in l.
func (l Layers) Contains(n int) bool {
	return slices.ContainsFunc(l, func(r LayerRange) bool { return r.Lo <= n && n <= r.Hi })
}

// numbers lists the layers.
func (l Layers) numbers() []int {
	var ns []int
	for _, r := range l {
		for n := r.Lo; n <= r.Hi; n++ {
			ns = append(ns, n)
		}
	}
	return ns
}

// matchName is PEFT's rule for names: equal, or a suffix after a dot.
func matchName(name, module string) bool {
	return module == name || strings.HasSuffix(module, "."+name)
}

// compile makes a regular expression that matches whole paths, as Python's
// re.fullmatch.
func compile(what, expr string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(`^(?:` + expr + `)$`)
	if err == nil {
		return re, nil
	}
	if strings.Contains(expr, "(?!") || strings.Contains(expr, "(?=") || strings.Contains(expr, "(?<") && !strings.Contains(expr, "(?P<") {
		return nil, fmt.Errorf("%s %q: lookahead and lookbehind are not supported; list the modules, or exclude some: %w", what, expr, err)
	}
	return nil, fmt.Errorf("%s %q: %w", what, expr, err)
}

// compilePattern makes the regular expression of a rank_pattern key, as PEFT
// matches it: at the end of the path, after a dot or from the start.
func compilePattern(key string) (*regexp.Regexp, error) {
	return compile("pattern", `(?:.*\.)?(?:`+key+`)`)
}

// compileSaved makes the regular expression of a modules_to_save entry: the
// module of that name and all below it.
func compileSaved(name string) (*regexp.Regexp, error) {
	return compile("module to save", `(?:.*\.)?(?:`+name+`)(?:\..*)?`)
}

// layerIndex returns a site's layer under patterns, or -1.
func layerIndex(site Site, patterns []*regexp.Regexp) int {
	for _, p := range patterns {
		if m := p.FindStringSubmatch(site.Module); m != nil {
			n, err := strconv.Atoi(m[len(m)-1])
			if err != nil {
				return -1
			}
			return n
		}
	}
	switch {
	case len(patterns) > 0:
		return -1
	case site.Layer >= 0:
		return site.Layer
	}
	return layerOf(site.Module)
}

func compileLayerPatterns(names []string) ([]*regexp.Regexp, error) {
	var res []*regexp.Regexp
	for _, n := range names {
		re, err := regexp.Compile(`(?:^|\.)(?:` + n + `)\.(\d+)\.`)
		if err != nil {
			return nil, fmt.Errorf("layers pattern %q: %w", n, err)
		}
		res = append(res, re)
	}
	return res, nil
}
