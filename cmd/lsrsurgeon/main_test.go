package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lsrsurgeon/lsrsurgeon/testdata/stories260k"
)

// asProgram is set for test binaries that are to be the program itself, which
// can then be killed.
const asProgram = "LSRSURGEON_TEST_AS_PROGRAM"

// TestMain lets scripts run the program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"lsrsurgeon": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script/*.txtar. Each finds the embedded model in
// $WORK/base and the tokenizer's cache shared between scripts.
func TestScripts(t *testing.T) {
	cache := t.TempDir()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("LSRSURGEON_CACHE", cache)
			e.Setenv("HOME", e.WorkDir)
			return copyModel(filepath.Join(e.WorkDir, "base"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"hash": hashCmd, "exitcode": exitCode},
	})
}

func copyModel(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return fs.WalkDir(stories260k.Files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(stories260k.Files, p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, p), b, 0o666)
	})
}
