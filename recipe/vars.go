package recipe

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// variable is a value by name.
type variable struct {
	at    Text // its name
	value string
	used  bool
}

var varName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// readVars takes the variables of n, which may be nil, replacing those that set names.
func (f *file) readVars(n *node, set map[string]string) error {
	f.vars = map[string]*variable{}
	if n != nil {
		if err := f.want(n, mapping, "vars"); err != nil {
			return err
		}
		for _, p := range n.pairs {
			if !varName.MatchString(p.key.Value) {
				return f.errorf(p.key.Pos, "%q is no name of a variable: letters, digits, _ and - are", p.key.Value)
			}
			t, err := f.scalar(p.value, "variable "+p.key.Value)
			if err != nil {
				return err
			}
			v := &variable{at: p.key, value: t.Value}
			if given, ok := set[p.key.Value]; ok {
				v.value = given
			}
			f.vars[p.key.Value] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if f.vars[name] == nil {
			names := slices.Sorted(maps.Keys(f.vars))
			return &Error{Path: f.path, Reason: "it has no variable " + name + suggest.DidYouMean(name, names), Hint: "it has " + strings.Join(names, ", "), Err: ErrVariable}
		}
	}
	return nil
}

// unusedVars are the names of variables that nothing uses, in the file's order.
func (f *file) unusedVars() []Text {
	var out []Text
	for _, v := range f.vars {
		if !v.used {
			out = append(out, v.at)
		}
	}
	slices.SortFunc(out, func(x, y Text) int { return x.Pos.Line - y.Pos.Line })
	return out
}

// scalar is the text of a single value, its variables filled in.
func (f *file) scalar(n *node, what string) (Text, error) {
	if err := f.want(n, scalar, what); err != nil {
		return Text{}, err
	}
	v, err := f.fill(n)
	return Text{v, n.pos}, err
}

// scalars are the texts of a list, or of a single value as a list of one.
func (f *file) scalars(n *node, what string) ([]Text, error) {
	items := []*node{n}
	if n.kind == sequence {
		items = n.items
	}
	var out []Text
	for _, i := range items {
		t, err := f.scalar(i, what)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// fill puts the values of variables in the places of ${name}; $${ is a literal ${.
func (f *file) fill(n *node) (string, error) {
	var b strings.Builder
	rest := n.text
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		name, after, ok := strings.Cut(rest[i+2:], "}")
		if !ok {
			return "", f.errorf(n.pos, "${%s has no }", rest[i+2:])
		}
		v := f.vars[name]
		if v == nil {
			e := f.errorf(n.pos, "there is no variable %q above this place", name)
			if names := slices.Sorted(maps.Keys(f.vars)); len(names) > 0 {
				e.Reason += suggest.DidYouMean(name, names)
			}
			e.Hint = "name it under vars:; a literal ${ is written $${"
			return "", e
		}
		v.used = true
		b.WriteString(v.value)
		rest = after
		if b.Len() > maxText {
			break
		}
	}
	if b.Len() > maxText {
		return "", f.errorf(n.pos, "with its variables filled in it has more than %d bytes", maxText)
	}
	return b.String(), nil
}
