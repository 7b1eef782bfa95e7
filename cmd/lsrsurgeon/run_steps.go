package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
)

// stepRunner runs checked steps and keeps the journal.
type stepRunner struct {
	a           *app
	plan        []*plannedStep
	out         io.Writer // standard output of the steps
	journalPath string    // "" where no step has an output
	journal     *recipe.Journal
	held        *atomicfile.Lock
	resume      bool
	study       bool                  // the steps are runs of a study
	sums        map[string]recipe.Sum // what is known of files, by path
	reran       map[string]bool       // outputs of steps that were not left out
	results     []*stepResult
}

// The states of a step's result.
const (
	stepDone    = "done"
	stepSkipped = "skipped" // done by an earlier run
	stepFailed  = "failed"
	stepStopped = "interrupted" // --resume goes on with it
	stepNotRun  = "not run"
)

// stepResult is a step in JSON.
type stepResult struct {
	Name     string          `json:"name"`
	Shell    string          `json:"shell"`
	State    string          `json:"state"`
	ExitCode *int            `json:"exit_code"` // null if it did not run
	Seconds  float64         `json:"seconds"`
	Outputs  []string        `json:"outputs"`
	Result   json.RawMessage `json:"result,omitempty"` // the last document that it printed
}

// decision is what is to be done with a step.
type decision struct {
	skip  bool
	force bool     // its outputs are its own, and are replaced
	more  []string // further flags
}

// failedStep is the error of a step, with its name.
type failedStep struct {
	name string
	error
}

func (e *failedStep) Error() string { return "step \"" + e.name + "\": " + e.error.Error() }
func (e *failedStep) Unwrap() error { return e.error }

// shell is the command line that does the same.
func (p *plannedStep) shell(more ...string) string {
	line := "lsrsurgeon " + recipe.ShellLine(append(p.words[:len(p.words):len(p.words)], more...))
	if p.Stdout.Value != "" {
		line += " > " + recipe.Quote(p.Stdout.Value)
	}
	return line
}

// forced says that the step itself asks for its outputs to be replaced.
func (p *plannedStep) forced() bool {
	for _, f := range p.Flags {
		if f.Name.Value == "force" && f.Values[0].Value == "true" {
			return true
		}
	}
	return false
}

// run runs the steps in their order, up to the first that fails.
func (s *stepRunner) run(ctx context.Context) error {
	s.list()
	for i, p := range s.plan {
		if err := s.step(ctx, i, p); err != nil {
			return &failedStep{p.Name, err}
		}
	}
	return nil
}

// list begins the results, of which there is one for each step.
func (s *stepRunner) list() {
	for _, p := range s.plan {
		s.results = append(s.results, &stepResult{Name: p.Name, Shell: p.shell(), State: stepNotRun, Outputs: append([]string{}, p.outputs...)})
	}
}

// step runs one step, or leaves it out.
func (s *stepRunner) step(ctx context.Context, i int, p *plannedStep) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := s.decide(ctx, p)
	if err != nil {
		return err
	}
	s.mark(p, d.skip)
	res := s.results[i]
	if d.skip {
		res.State = stepSkipped
		s.a.note("step %d of %d, %q, is done already", i+1, len(s.plan), p.Name)
		return nil
	}
	s.a.note("step %d of %d, %q: %s", i+1, len(s.plan), p.Name, p.shell(d.more...))
	e, err := s.begin(ctx, p)
	if err != nil {
		return err
	}
	start := time.Now()
	doc, err := s.execute(ctx, p, d)
	res.Seconds = time.Since(start).Seconds()
	code := exitOK
	if res.State = stepDone; err != nil {
		res.State = stepFailed
		if code, _, _ = verdict(err); code == exitInterrupted {
			res.State = stepStopped
		}
	}
	res.ExitCode, res.Result = &code, doc
	if err != nil {
		return err
	}
	return s.end(ctx, p, e, res.Seconds)
}

// begin notes in the journal that a step starts. A step without outputs, which nothing
// can be said of afterwards, is not noted.
func (s *stepRunner) begin(ctx context.Context, p *plannedStep) (*recipe.Entry, error) {
	if len(p.outputs) == 0 {
		return nil, nil
	}
	e := &recipe.Entry{Name: p.Name, Command: p.shell(), Outputs: map[string]recipe.Sum{}}
	for _, out := range p.outputs {
		e.Outputs[out] = recipe.Sum{}
	}
	var err error
	if e.Inputs, err = s.sumAll(ctx, p.inputs); err != nil {
		return nil, err
	}
	s.journal.Begin(p.key, e)
	return e, s.save()
}

// end notes in the journal that a step is done.
func (s *stepRunner) end(ctx context.Context, p *plannedStep, e *recipe.Entry, seconds float64) (err error) {
	if e == nil {
		return nil
	}
	e.Done, e.Seconds = true, seconds
	if e.Outputs, err = s.sumAll(ctx, withData(p.outputs)); err != nil {
		return err
	}
	return s.save()
}

// execute runs a step's command in this process, with a command tree of its own. With
// --json it returns the last document that the command printed.
func (s *stepRunner) execute(ctx context.Context, p *plannedStep, d decision) (doc json.RawMessage, err error) {
	out, last := s.out, &lastLine{}
	if s.a.json {
		out = last
	}
	if p.Stdout.Value != "" {
		if err := os.MkdirAll(filepath.Dir(p.Stdout.Value), 0o777); err != nil {
			return nil, err
		}
		f, err := atomicfile.CreateFS(atomicfile.OS, p.Stdout.Value, 0o666)
		if err != nil {
			return nil, err
		}
		defer f.Abort()
		b := bufio.NewWriter(f)
		if err := s.command(ctx, p, d, b); err != nil {
			return nil, err
		}
		return nil, errors.Join(b.Flush(), f.Commit())
	}
	if err := s.command(ctx, p, d, out); err != nil {
		return nil, err
	}
	return last.document(), nil
}

func (s *stepRunner) command(ctx context.Context, p *plannedStep, d decision, out io.Writer) error {
	a := newApp(s.a.in, out, s.a.err)
	root := newRoot(a) // sets the global flags to their defaults
	a.json, a.quiet, a.verbose, a.noProgress = s.a.json, s.a.quiet, s.a.verbose, s.a.noProgress
	a.force = d.force || s.a.force && !s.study
	root.SetArgs(joinInit(append(p.words[:len(p.words):len(p.words)], d.more...)))
	root.SetIn(a.in)
	root.SetOut(out)
	root.SetErr(a.err)
	if err := root.ExecuteContext(ctx); err != nil {
		return flagRules(err)
	}
	return nil
}

// save writes the journal, whole or not at all.
func (s *stepRunner) save() error {
	s.journal.Tool = "lsrsurgeon " + version
	b, err := s.journal.Encode()
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(s.journalPath, 0o666, func(w io.Writer) error { _, err := w.Write(b); return err })
}

// mark notes whether a step's outputs are new, for the steps that read them.
func (s *stepRunner) mark(p *plannedStep, skipped bool) {
	if skipped {
		return
	}
	for _, out := range p.outputs {
		s.reran[realPath(out)] = true
	}
}

// decide says whether a step has to run, and how.
func (s *stepRunner) decide(ctx context.Context, p *plannedStep) (decision, error) {
	if s.study {
		return s.decideStudy(ctx, p)
	}
	var d decision
	e := s.journal.Steps[p.key]
	same := false
	if e != nil && !s.upstream(p) {
		in, err := s.sumAll(ctx, p.inputs)
		if err != nil {
			return d, err
		}
		same = sameContents(in, e.Inputs)
	}
	if same && e.Done && len(p.outputs) > 0 && !p.stdin {
		out, err := s.sumAll(ctx, slices.Collect(maps.Keys(e.Outputs)))
		if err != nil {
			return d, err
		}
		if sameContents(out, e.Outputs) && !slices.Contains(slices.Collect(maps.Values(out)), recipe.Sum{}) {
			return decision{skip: true}, nil
		}
	}
	if same && !e.Done && resumable(p) {
		return decision{more: []string{"--resume"}}, nil
	}
	for _, out := range p.outputs {
		if exists(out) {
			if d.force = s.journal.Wrote(out); !d.force {
				break // the command refuses it
			}
		}
	}
	return d, nil
}

// resumable says whether a step that was begun can go on where it was: a training whose
// directory is there, a merge whose output is not there yet.
func resumable(p *plannedStep) bool {
	switch p.Command.Value {
	case "train":
		return exists(p.outputs[0])
	case "merge":
		return !slices.ContainsFunc(p.outputs, exists)
	}
	return false
}

// upstream says whether the step reads what a step before it has written anew.
func (s *stepRunner) upstream(p *plannedStep) bool {
	for _, in := range p.inputs {
		for d, last := realPath(in), ""; d != last; d, last = filepath.Dir(d), d {
			if s.reran[d] {
				return true
			}
		}
	}
	return false
}

// withData adds the files beside ONNX graphs that hold their data.
func withData(outputs []string) []string {
	all := slices.Clone(outputs)
	for _, out := range outputs {
		if filepath.Ext(out) == ".onnx" {
			for _, pattern := range []string{"*.data", "_data"} {
				more, _ := filepath.Glob(out + pattern) // a name that is no pattern has none
				all = append(all, more...)
			}
		}
	}
	return all
}

func sameContents(x, y map[string]recipe.Sum) bool {
	return maps.EqualFunc(x, y, func(a, b recipe.Sum) bool { return a.Contents == b.Contents })
}

// sumAll identifies the contents of files and directories; those that are not there
// have the zero Sum.
func (s *stepRunner) sumAll(ctx context.Context, paths []string) (map[string]recipe.Sum, error) {
	out := map[string]recipe.Sum{}
	for _, p := range paths {
		stat, err := statText(p)
		if err != nil {
			return nil, err
		}
		known, ok := s.sums[p]
		switch {
		case stat == "":
			out[p] = recipe.Sum{}
			continue
		case !ok || known.Stat != stat:
			known.Stat = stat
			if known.Contents, err = manifest.SumPath(ctx, p); err != nil {
				return nil, err
			}
			s.sums[p] = known
		}
		out[p] = known
	}
	return out, nil
}

// statText is a hash of the sizes and times of a file, or of the files directly in a
// directory; "" for what is not there or is no file, as a pipe.
func statText(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() && !st.Mode().IsRegular() {
		return "", nil
	}
	h := sha256.New()
	line := func(st os.FileInfo) {
		fmt.Fprintf(h, "%q %d %d\n", st.Name(), st.Size(), st.ModTime().UnixNano())
	}
	if !st.IsDir() {
		line(st)
	} else {
		entries, err := os.ReadDir(path)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if st, err := os.Stat(filepath.Join(path, e.Name())); err == nil && st.Mode().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
				line(st)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// lastLine keeps the last whole line that was written to it.
type lastLine struct{ cur, last []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	l.cur = append(l.cur, p...)
	if i := bytes.LastIndexByte(l.cur, '\n'); i >= 0 {
		whole := l.cur[:i]
		l.last = append(l.last[:0], whole[bytes.LastIndexByte(whole, '\n')+1:]...)
		l.cur = append(l.cur[:0], l.cur[i+1:]...)
	}
	return len(p), nil
}

// document is the line if it is JSON, else nil.
func (l *lastLine) document() json.RawMessage {
	if !json.Valid(l.last) {
		return nil
	}
	return l.last
}
