package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// app carries what every command shares: streams, global flags, and the
// facts about terminal and environment that libraries must not read
// themselves. A fresh one is made per call of run.
type app struct {
	in       io.Reader
	out, err io.Writer

	json       bool
	quiet      bool
	verbose    bool
	noProgress bool
	force      bool
	// brief leaves the lines of single modules out of tables, for the demo.
	brief bool
	// cmd is the command that runs.
	cmd *cobra.Command

	getenv func(string) string
	// errTTY says that err is a terminal, so a progress bar may redraw its line.
	errTTY bool
	outTTY bool
	width  int
}

func newApp(in io.Reader, out, err io.Writer) *app {
	a := &app{in: in, out: &results{to: out}, err: err, getenv: os.Getenv, width: 100}
	a.outTTY, _ = terminal(out)
	var w int
	a.errTTY, w = terminal(err)
	if w > 0 {
		a.width = w
	}
	return a
}

// results is where data go. It keeps the first error, so that a report that is
// printed by parts and got lost on its way ends the command as a failure.
type results struct {
	to  io.Writer
	err error
}

func (r *results) Write(b []byte) (int, error) {
	n, err := r.to.Write(b)
	if r.err == nil {
		r.err = err
	}
	return n, err
}

func terminal(w io.Writer) (bool, int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return true, width
}

// schemaVersion is the version of every JSON document on stdout. Keys are only
// ever added under one version.
const schemaVersion = 1

// printJSON writes v as one document on stdout.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	if a.outTTY {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

// note writes a line on stderr unless --quiet.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// warn writes a warning on stderr, also with --quiet.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.err, "lsrsurgeon: warning: "+format+"\n", args...)
}

// detail writes a line on stderr with --verbose.
func (a *app) detail(format string, args ...any) {
	if a.verbose && !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// cacheDir is where the compiled tokenizer module is kept, or "" when the
// system has no cache directory.
func (a *app) cacheDir() string {
	if d := a.getenv("LSRSURGEON_CACHE"); d != "" {
		return d
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(d, "lsrsurgeon")
}

// open opens a checkpoint: a path, or a model name of the local Hugging Face cache.
// A merge in place that was interrupted in it is ended first.
func (a *app) open(path string) (*formats.Checkpoint, error) {
	if _, err := a.recoverMerge(path); err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return formats.OpenWith(path, formats.OpenOptions{HubCache: formats.HubCacheDir(a.getenv, home)})
}

// threads is the number of worker threads when the user gave none.
func threads(n int) int {
	if n > 0 {
		return n
	}
	return runtime.NumCPU()
}
