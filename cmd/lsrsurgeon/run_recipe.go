package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
)

type recipeOptions struct {
	set            []string
	dryRun, resume bool
}

func newRunRecipe(a *app) *cobra.Command {
	o := &recipeOptions{}
	c := &cobra.Command{
		Use:   "run RECIPE.yaml",
		Short: "Run the steps of a recipe one after the other",
		Long: `Runs the steps of a recipe: commands of this program with their own flags, as a
YAML file (docs/recipes.md). All steps are checked before the first one starts.
The first step that fails ends the run with its exit code.

What is done is noted in a journal beside the first output. With --resume, steps
whose outputs are whole and whose settings and inputs are the same are left out; an
interrupted training goes on where it was; a step runs again when one that it
builds on does. Paths are relative to the current directory.`,
		Example: `  lsrsurgeon run recipe.yaml --dry-run
  lsrsurgeon run recipe.yaml --set out=second --set rank=4x4
  lsrsurgeon run recipe.yaml --resume`,
		Args: exactArgs("RECIPE.yaml"),
		RunE: func(cmd *cobra.Command, args []string) error { return runRecipe(cmd.Context(), a, args[0], o) },
	}
	f := c.Flags()
	f.StringArrayVar(&o.set, "set", nil, "another value for a variable: name=value (repeatable)")
	f.BoolVar(&o.dryRun, "dry-run", false, "check the recipe and print the command lines that it stands for")
	f.BoolVar(&o.resume, "resume", false, "leave out steps that are done")
	return c
}

func runRecipe(ctx context.Context, a *app, path string, o *recipeOptions) error {
	text, set, err := readRecipe(path, o.set)
	if err != nil {
		return err
	}
	r, err := recipe.Parse(path, text, set)
	if err != nil {
		return err
	}
	for _, v := range r.Unused {
		a.warn("%s:%d: nothing uses the variable %s", path, v.Pos.Line, v.Value)
	}
	plan, err := planSteps(path, r.Steps)
	if err != nil {
		return err
	}
	s := &stepRunner{a: a, plan: plan, resume: o.resume, out: a.out}
	for _, p := range plan {
		if len(p.outputs) > 0 {
			name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
			s.journalPath = filepath.Join(filepath.Dir(p.outputs[0]), name+".journal.json")
			break
		}
	}
	defer s.close()
	if err := s.open(o.dryRun); err != nil {
		return err
	}
	if o.dryRun {
		return s.print(ctx, path)
	}
	if err := s.checkOutputs(); err != nil {
		return err
	}
	err = s.run(ctx)
	if a.json {
		doc := map[string]any{"schema": schemaVersion, "recipe": path, "journal": s.journalPath, "steps": s.results, "exit_code": exitOK}
		if err != nil {
			doc["exit_code"], _, _ = verdict(err)
		}
		return errors.Join(err, a.printJSON(doc))
	}
	return err
}

// readRecipe reads a recipe's text, no more of it than one can have, and the values of
// --set.
func readRecipe(path string, set []string) ([]byte, map[string]string, error) {
	vars := map[string]string{}
	for _, s := range set {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, nil, usagef("--set %s: write name=value", s)
		}
		vars[name] = value
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &formats.Error{Path: path, Reason: "there is no such file", Err: formats.ErrNotFound}
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, recipe.MaxBytes+1))
	return text, vars, err
}

// open reads the journal of an earlier run, if that is to go on, or begins one. Unless it
// is only to be looked at, it keeps other runs away until close.
func (s *stepRunner) open(look bool) error {
	s.journal, s.sums, s.reran = recipe.NewJournal(), map[string]recipe.Sum{}, map[string]bool{}
	if !look {
		if err := s.lock(); err != nil {
			return err
		}
	}
	if s.journalPath == "" || !s.resume {
		return nil
	}
	b, err := os.ReadFile(s.journalPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	j, err := recipe.ReadJournal(b)
	if err != nil {
		return &formats.Error{Path: s.journalPath, Reason: "it cannot be read: " + err.Error(), Hint: "remove it, and give other outputs or --force", Err: formats.ErrMalformed}
	}
	s.journal = j
	for _, e := range j.Steps {
		for _, sums := range []map[string]recipe.Sum{e.Inputs, e.Outputs} {
			for p, sum := range sums {
				if sum.Stat != "" {
					s.sums[p] = sum
				}
			}
		}
	}
	return nil
}

// lock keeps a second run with the same journal away.
func (s *stepRunner) lock() (err error) {
	if s.journalPath == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.journalPath), 0o777); err != nil {
		return err
	}
	s.held, err = atomicfile.NewLock(s.journalPath)
	return err
}

func (s *stepRunner) close() { s.held.Unlock() }

// checkOutputs refuses outputs that exist, unless they may be replaced or an earlier run
// wrote them.
func (s *stepRunner) checkOutputs() error {
	if s.a.force {
		return nil
	}
	for _, p := range s.plan {
		for _, out := range p.outputs {
			if exists(out) && !s.journal.Wrote(out) && !p.forced() {
				return &usageError{msg: fmt.Sprintf("output %s of step %q exists", out, p.Name), hint: "--resume goes on with an earlier run, --force replaces what is there"}
			}
		}
	}
	return nil
}

// print shows the command lines instead of running them.
func (s *stepRunner) print(ctx context.Context, path string) error {
	type line struct {
		Name  string `json:"name"`
		Shell string `json:"shell"`
		Done  bool   `json:"done"` // it would be left out
	}
	lines := []line{}
	for _, p := range s.plan {
		d, err := s.decide(ctx, p)
		if err != nil {
			return err
		}
		s.mark(p, d.skip)
		lines = append(lines, line{p.Name, p.shell(d.more...), d.skip})
	}
	if s.a.json {
		return s.a.printJSON(map[string]any{"schema": schemaVersion, "recipe": path, "journal": s.journalPath, "steps": lines})
	}
	for _, l := range lines {
		if l.Done {
			fmt.Fprintf(s.a.out, "# done: %s\n", l.Shell)
		} else {
			fmt.Fprintln(s.a.out, l.Shell)
		}
	}
	return nil
}
