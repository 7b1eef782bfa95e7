package main

import (
	"encoding/json"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda/standin"
)

// TestCUDAScripts runs testdata/cuda/*.txtar with a stand-in for the driver, on
// which the kernels run on the CPU.
func TestCUDAScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("building the stand-in for libcuda takes a while; run without -short")
	}
	if s := standin.Missing(); s != "" {
		t.Skip(s)
	}
	dir, err := standin.Cached()
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cuda",
		Setup: func(e *testscript.Env) error {
			e.Setenv("LSRSURGEON_CACHE", cache)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("LSRSURGEON_LIBCUDA", filepath.Join(dir, standin.CUDA))
			e.Setenv("CUBLASLT", filepath.Join(dir, standin.CuBLASLt))
			return copyModel(filepath.Join(e.WorkDir, "base"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode, "losses": compareLosses, "oneline": oneLine},
	})
}

// oneLine is "oneline PATTERN": the only line of the last command's stderr that
// is not a hint or the status is an error that matches.
func oneLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: oneline PATTERN")
	}
	n := 0
	for _, l := range strings.Split(strings.TrimSpace(ts.ReadFile("stderr")), "\n") {
		if regexp.MustCompile(args[0]).MatchString(l) {
			n++
		} else if strings.Contains(l, "cuda") {
			ts.Fatalf("a second line about the device: %q", l)
		}
	}
	if n != 1 {
		ts.Fatalf("%d lines match %s", n, args[0])
	}
}

// compareLosses is "losses A B TOLERANCE": the losses of two files of events are
// as many and equal within the tolerance.
func compareLosses(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: losses A B TOLERANCE")
	}
	tolerance, err := strconv.ParseFloat(args[2], 64)
	ts.Check(err)
	a, b := eventLosses(ts, args[0]), eventLosses(ts, args[1])
	if len(a) == 0 || len(a) != len(b) {
		ts.Fatalf("%d and %d losses", len(a), len(b))
	}
	equal := true
	for i := range a {
		equal = equal && math.Abs(a[i]-b[i]) <= tolerance
	}
	if equal == neg {
		ts.Fatalf("losses %v and %v", a, b)
	}
}

func eventLosses(ts *testscript.TestScript, file string) []float64 {
	var out []float64
	for _, l := range strings.Split(ts.ReadFile(file), "\n") {
		var e struct{ Loss *float64 }
		if json.Unmarshal([]byte(l), &e) == nil && e.Loss != nil {
			out = append(out, *e.Loss)
		}
	}
	return out
}
