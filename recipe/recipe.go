package recipe

import (
	"fmt"
	"strings"
)

// Recipe is a list of commands that run one after the other.
type Recipe struct {
	Path  string
	Steps []Step
	// Unused are variables that nothing refers to.
	Unused []Text
}

// Step is one command with its arguments and flags, as they would stand on a command
// line.
type Step struct {
	Name    string // unique among the steps
	Command Text   // as "inject" or "inspect tensors"
	Args    []Text
	Flags   []Flag
	// Stdout is the file that takes what the command prints, if it is not empty.
	Stdout Text
}

// Flag is a flag by its long name, with its value or, where List is set, its values:
// the flag is then given once for each.
type Flag struct {
	Name   Text
	Values []Text
	List   bool
}

// Parse reads a recipe. set gives variables other values than the file does. The
// errors are of type *Error.
func Parse(path string, text []byte, set map[string]string) (*Recipe, error) {
	f := &file{path: path, text: text}
	root, err := f.root(set, "a recipe", []string{"version", "vars", "steps"})
	if err != nil {
		return nil, err
	}
	r := &Recipe{Path: path}
	steps := root.get("steps")
	if steps == nil {
		return nil, f.errorf(root.pos, "a recipe has steps, and this file has none")
	}
	if err := f.want(steps, sequence, "steps"); err != nil {
		return nil, err
	}
	if len(steps.items) == 0 {
		return nil, f.errorf(steps.pos, "there are no steps")
	}
	names := map[string]bool{}
	for i, n := range steps.items {
		s, err := f.step(n, i+1)
		if err != nil {
			return nil, err
		}
		if names[s.Name] {
			return nil, f.errorf(n.pos, "a second step has the name %q", s.Name)
		}
		names[s.Name] = true
		r.Steps = append(r.Steps, s)
	}
	r.Unused = f.unusedVars()
	return r, nil
}

// root parses the file, checks the keys of its mapping and the version, and takes the
// variables.
func (f *file) root(set map[string]string, what string, keys []string) (*node, error) {
	n, err := f.parse()
	if err != nil {
		return nil, err
	}
	if err := f.want(n, mapping, what); err != nil {
		return nil, err
	}
	if err := f.keys(n, what, keys); err != nil {
		return nil, err
	}
	v := n.get("version")
	if v == nil {
		return nil, f.errorf(n.pos, "it has no version; the first line is \"version: 1\"")
	}
	if v.kind != scalar || v.text != "1" {
		return nil, f.errorf(v.pos, "this program reads version 1 of files like this")
	}
	return n, f.readVars(n.get("vars"), set)
}

// get is the value of a key, or nil.
func (n *node) get(key string) *node {
	for _, p := range n.pairs {
		if p.key.Value == key {
			return p.value
		}
	}
	return nil
}

// keys refuses keys that are not among the known.
func (f *file) keys(n *node, what string, known []string) error {
	for _, p := range n.pairs {
		ok := false
		for _, k := range known {
			ok = ok || k == p.key.Value
		}
		if !ok {
			return f.unknown(p.key, what, known)
		}
	}
	return nil
}

// step reads one step: its name, where its output goes, and one command.
func (f *file) step(n *node, number int) (Step, error) {
	var s Step
	if err := f.want(n, mapping, fmt.Sprintf("step %d", number)); err != nil {
		return s, err
	}
	var command *node
	for _, p := range n.pairs {
		var err error
		switch p.key.Value {
		case "name":
			var t Text
			if t, err = f.scalar(p.value, "name"); err == nil && strings.TrimSpace(t.Value) == "" {
				err = f.errorf(p.value.pos, "a name is not empty")
			}
			s.Name = t.Value
		case "stdout":
			if s.Stdout, err = f.scalar(p.value, "stdout"); err == nil && s.Stdout.Value == "" {
				err = f.errorf(p.value.pos, "stdout names a file")
			}
		default:
			if command != nil {
				return s, f.errorf(p.key.Pos, "a step is one command: this one has %s and %s", s.Command.Value, p.key.Value)
			}
			s.Command, command = Text{strings.Join(strings.Fields(p.key.Value), " "), p.key.Pos}, p.value
		}
		if err != nil {
			return s, err
		}
	}
	if command == nil {
		return s, f.errorf(n.pos, "step %d has no command", number)
	}
	if s.Name == "" {
		s.Name = fmt.Sprintf("%d %s", number, s.Command.Value)
	}
	if command.null { // a command without arguments or flags
		return s, nil
	}
	if err := f.want(command, mapping, s.Command.Value); err != nil {
		return s, err
	}
	var err error
	if a := command.get("args"); a != nil {
		if s.Args, err = f.scalars(a, "args"); err != nil {
			return s, err
		}
		for _, t := range s.Args {
			if len(t.Value) > 1 && t.Value[0] == '-' {
				e := f.errorf(t.Pos, "args are no flags, and %q would be one", t.Value)
				e.Hint = "flags are keys beside args; a file whose name begins with - is written ./-name"
				return s, e
			}
		}
	}
	s.Flags, err = f.flags(command, "args")
	return s, err
}

// flags reads a mapping of flags, leaving one key out.
func (f *file) flags(n *node, but string) ([]Flag, error) {
	var out []Flag
	for _, p := range n.pairs {
		if p.key.Value == but {
			continue
		}
		v, err := f.scalars(p.value, p.key.Value)
		if err != nil {
			return nil, err
		}
		if len(v) == 0 {
			return nil, f.errorf(p.value.pos, "%s is an empty list", p.key.Value)
		}
		out = append(out, Flag{Name: p.key, Values: v, List: p.value.kind == sequence})
	}
	return out, nil
}
