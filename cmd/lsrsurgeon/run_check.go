package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
)

// notSteps are commands that a recipe may not have: those that run others, and what
// cobra adds.
var notSteps = []string{"run", "study", "completion", "help"}

// Flags whose values are files or directories that a command reads or writes. demo's
// --keep is told from convert's by the command.
var (
	inputFlags  = []string{"model", "data", "eval-data", "names-from", "adapter", "sidecar", "base", "tuned", "against"}
	outputFlags = []string{"output", "into", "keep-residual", "heat-map", "demo keep"}
)

// keyFree are flags that say nothing about a step's outputs. --check and the like, whose
// verdict is a result, are not among them.
var keyFree = []string{"json", "quiet", "verbose", "no-progress", "force", "workers", "threads", "resume", "profile", "save-every", "save-interval", "cache-prefix-dir", "cache-limit"}

// plannedStep is a step of a recipe that was checked.
type plannedStep struct {
	recipe.Step
	words           []string // its command line
	key             string
	inputs, outputs []string      // files and directories; inputs may be names of models too
	needed          []recipe.Text // inputs that have to be files or directories
	stdin           bool          // it reads standard input, of which nothing is known afterwards
}

// planSteps checks all steps against the command tree: commands, flags, values of flags,
// arguments, what is required, and how the steps' files fit together.
func planSteps(path string, steps []recipe.Step) ([]*plannedStep, error) {
	var plan []*plannedStep
	for _, s := range steps {
		p, err := planStep(path, s)
		if err != nil {
			return nil, err
		}
		plan = append(plan, p)
	}
	return plan, checkOrder(path, plan)
}

// stepError is a fault of a step in its file.
func stepError(path string, s *recipe.Step, at recipe.Pos, err error) *recipe.Error {
	_, msg, hint := verdict(err)
	return &recipe.Error{Path: path, Pos: at, Reason: "step \"" + s.Name + "\": " + msg, Hint: hint, Err: recipe.ErrMalformed}
}

// placeOf is the place of the flag that a message begins with, else that of the command.
func placeOf(s *recipe.Step, err error) recipe.Pos {
	rest, ok := strings.CutPrefix(err.Error(), "--")
	for _, f := range s.Flags {
		after, found := strings.CutPrefix(rest, f.Name.Value)
		if ok && found && (after == "" || after[0] == ' ' || after[0] == ':') {
			return f.Name.Pos
		}
	}
	return s.Command.Pos
}

func planStep(path string, s recipe.Step) (*plannedStep, error) {
	a := newApp(strings.NewReader(""), discard{}, discard{})
	c, err := stepCommand(newRoot(a), s.Command.Value)
	if err != nil {
		return nil, stepError(path, &s, s.Command.Pos, err)
	}
	c.InheritedFlags() // makes the global flags known to c.Flags
	p := &plannedStep{Step: s}
	for _, f := range s.Flags {
		if err := setFlag(c, f); err != nil {
			return nil, stepError(path, &s, f.Name.Pos, err)
		}
		role := f.Name.Value
		for _, v := range f.Values {
			switch {
			case slices.Contains(outputFlags, role), slices.Contains(outputFlags, c.Name()+" "+role):
				p.outputs = append(p.outputs, v.Value)
			case slices.Contains(inputFlags, role) && v.Value == "-":
				p.stdin = true
			case slices.Contains(inputFlags, role):
				p.inputs = append(p.inputs, v.Value)
				if role != "model" || isPath(v.Value) {
					p.needed = append(p.needed, v)
				}
			case role == "init" && strings.HasPrefix(v.Value, "from-"):
				p.inputs = append(p.inputs, v.Value[strings.IndexAny(v.Value+" ", "= ")+1:])
			}
		}
	}
	var args []string
	for _, t := range s.Args {
		args = append(args, t.Value)
		p.inputs = append(p.inputs, t.Value)
		if isPath(t.Value) {
			p.needed = append(p.needed, t)
		}
	}
	values := func() error { // what the command itself says of its values before it reads anything
		if c.PreRunE == nil {
			return nil
		}
		return c.PreRunE(c, args)
	}
	for _, check := range []func() error{func() error { return c.ValidateArgs(args) }, c.ValidateRequiredFlags, c.ValidateFlagGroups, values} {
		if err := check(); err != nil {
			return nil, stepError(path, &s, placeOf(&s, err), err)
		}
	}
	if f := c.Flags().Lookup("in-place"); f != nil && f.Value.String() == "true" {
		return nil, stepError(path, &s, s.Command.Pos, &usageError{msg: "a step may not change its inputs: a second time it would change them again", hint: "give output instead of in-place"})
	}
	if s.Stdout.Value != "" {
		p.outputs = append(p.outputs, s.Stdout.Value)
	}
	isBool := func(name string) bool { return c.Flags().Lookup(name).NoOptDefVal != "" }
	for _, paths := range [][]string{p.inputs, p.outputs} {
		for i := range paths {
			paths[i] = filepath.Clean(paths[i])
		}
	}
	p.words = s.Words(isBool)
	p.key = s.Key(isBool, func(name string) bool { return slices.Contains(keyFree, name) })
	return p, nil
}

// stepCommand finds a command by its words.
func stepCommand(root *cobra.Command, path string) (*cobra.Command, error) {
	words := strings.Fields(path)
	if len(words) > 0 && slices.Contains(notSteps, words[0]) {
		return nil, &usageError{msg: words[0] + " cannot be a step", hint: "a step is one of the other commands"}
	}
	c := root
	for _, w := range words {
		i := slices.IndexFunc(c.Commands(), func(s *cobra.Command) bool { return s.Name() == w })
		if i < 0 {
			u := &usageError{msg: "unknown command \"" + path + "\""}
			names := append(stepNames(root, ""), "name", "stdout")
			if near := suggest.Nearest(path, names, 3); len(near) > 0 {
				u.hint = "did you mean " + strings.Join(near, ", ") + "?"
			} else {
				u.hint = "commands: " + strings.Join(stepNames(root, ""), ", ")
			}
			return nil, u
		}
		c = c.Commands()[i]
	}
	if c.HasSubCommands() || len(words) == 0 {
		return nil, &usageError{msg: "\"" + path + "\" is no command of its own", hint: "there are " + strings.Join(stepNames(c, path+" "), ", ")}
	}
	return c, nil
}

// stepNames are the commands below c that can be steps.
func stepNames(c *cobra.Command, prefix string) (names []string) {
	for _, s := range c.Commands() {
		switch {
		case !s.IsAvailableCommand() || slices.Contains(notSteps, s.Name()):
		case s.HasSubCommands():
			names = append(names, stepNames(s, prefix+s.Name()+" ")...)
		default:
			names = append(names, prefix+s.Name())
		}
	}
	return names
}

// setFlag gives a flag of a command its values, as the command line would.
func setFlag(c *cobra.Command, f recipe.Flag) error {
	name := f.Name.Value
	known := c.Flags().Lookup(name)
	if known == nil || name == "help" {
		u := &usageError{msg: "unknown flag \"" + name + "\" of " + c.CommandPath()}
		near := suggest.Nearest(name, append(flagNames(c), "args"), 3)
		if len(name) == 1 {
			if long := c.Flags().ShorthandLookup(name); long != nil {
				near = []string{long.Name}
			}
		}
		if u.hint = "see " + c.CommandPath() + " --help"; len(near) > 0 {
			u.hint = "did you mean " + strings.Join(near, ", ") + "?"
		}
		return u
	}
	if _, repeatable := known.Value.(pflag.SliceValue); f.List && !repeatable {
		return &usageError{msg: name + " has a list, and takes one value", hint: "write it as on the command line: " + name + ": " + joinTexts(f.Values, ",")}
	}
	for _, v := range f.Values {
		if err := c.Flags().Set(name, v.Value); err != nil {
			return &usageError{msg: err.Error()}
		}
	}
	return nil
}

func joinTexts(t []recipe.Text, sep string) string {
	var s []string
	for _, v := range t {
		s = append(s, v.Value)
	}
	return strings.Join(s, sep)
}

// isPath says that a value can only be a path, and no model's name.
func isPath(s string) bool {
	return filepath.IsAbs(s) || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}

// checkOrder refuses two steps that write to one place, a step that writes what an
// earlier one reads, and inputs that are not there and that no earlier step writes.
func checkOrder(path string, plan []*plannedStep) error {
	writer := map[string]*plannedStep{} // of a path
	reader := map[string]*plannedStep{} // of a path or of something below it, the first
	inputs := map[string]*plannedStep{} // of just that path
	for _, p := range plan {
		for _, t := range p.needed {
			if !exists(t.Value) && above(writer, t.Value) == nil {
				e := stepError(path, &p.Step, t.Pos, &usageError{msg: t.Value + " is not there, and no step before this one writes it"})
				e.Err = formats.ErrNotFound
				return e
			}
		}
		for _, in := range p.inputs {
			inputs[realPath(in)] = p
			for d, last := realPath(in), ""; d != last; d, last = filepath.Dir(d), d {
				if reader[d] == nil {
					reader[d] = p
				}
			}
		}
		for _, out := range p.outputs {
			real := realPath(out)
			if other := above(writer, out); other != nil {
				return stepError(path, &p.Step, p.Command.Pos, usagef("%s is, or lies in, an output of step %q", out, other.Name))
			}
			if other := reader[real]; other != nil && other != p {
				return stepError(path, &p.Step, p.Command.Pos, usagef("it writes %s, which step %q reads before", out, other.Name))
			}
		}
		for _, out := range p.outputs {
			writer[realPath(out)] = p
		}
	}
	for _, p := range plan {
		if err := checkStdout(path, p, inputs); err != nil {
			return err
		}
	}
	return nil
}

// checkStdout refuses a file for what a step prints that is an input of any step, or
// would become a part of one. The other outputs the commands check themselves.
func checkStdout(path string, p *plannedStep, inputs map[string]*plannedStep) error {
	if p.Stdout.Value == "" {
		return nil
	}
	out := realPath(p.Stdout.Value)
	for _, place := range []string{out, filepath.Dir(out)} {
		if other := inputs[place]; other != nil {
			return stepError(path, &p.Step, p.Stdout.Pos, &usageError{msg: p.Stdout.Value + " is an input of step \"" + other.Name + "\", or lies in one", hint: "write to another place: inputs are never changed"})
		}
	}
	return nil
}

// above is the step that has a path or a directory above it, or nil.
func above(of map[string]*plannedStep, path string) *plannedStep {
	for d, last := realPath(path), ""; d != last; d, last = filepath.Dir(d), d {
		if of[d] != nil {
			return of[d]
		}
	}
	return nil
}
