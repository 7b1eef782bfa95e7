package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// hashCmd is "hash save NAME PATH" and "hash same NAME PATH": the contents of a
// file or directory are what they were. "! hash same" demands a change.
func hashCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: hash save|same NAME PATH")
	}
	h := treeHash(ts, ts.MkAbs(args[2]))
	key := "HASH_" + args[1]
	switch args[0] {
	case "save":
		ts.Setenv(key, h)
	case "same":
		if same := ts.Getenv(key) == h; same == neg {
			ts.Fatalf("%s: contents equal to %s: %v", args[2], args[1], same)
		}
	default:
		ts.Fatalf("hash %s is unknown", args[0])
	}
}

func treeHash(ts *testscript.TestScript, root string) string {
	var files []string
	ts.Check(filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, p)
		}
		return err
	}))
	sort.Strings(files)
	h := sha256.New()
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		rel, err := filepath.Rel(root, f)
		ts.Check(err)
		h.Write([]byte(rel + "\x00" + strconv.Itoa(len(b)) + "\x00"))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// exitCode is "exitcode N COMMAND...": the command ends with just this code.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
