package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
)

// faultCase is a command that writes. OUT in its arguments is the output's name,
// INTO that of a second one.
type faultCase struct {
	name string
	args string
	// step is how many operations lie between two that are made to fail.
	step int
}

var faultCases = []faultCase{
	{"inject", "inject BASE -o OUT --target q_proj --force", 1},
	{"inject into", "inject BASE -o OUT --into INTO --target q_proj --force", 3},
	{"inject into graph", "inject GRAPH.onnx -o OUT --into INTO.onnx --target q_proj --force", 1},
	{"inject into graph's directory", "inject GRAPH.onnx -o OUT --into INTO --target q_proj --force", 3},
	{"merge", "merge AD -o OUT --force", 1},
	{"merge reversible", "merge AD -o OUT --reversible --force", 2},
	{"merge shards", "merge AD -o OUT --max-shard-size 300KB --force", 2},
	{"merge dtype", "merge AD -o OUT --dtype bf16 --rounding stochastic --force", 4},
	{"merge file", "merge AD -o OUT.safetensors --force", 1},
	{"unmerge", "unmerge MERGED -o OUT --force", 3},
	{"convert", "convert AD -o OUT --to peft-lora --force", 1},
	{"extract", "extract --base BASE --tuned MERGED -o OUT --method lora --rank 2 --target q_proj --layers 0 --force", 1},
	{"combine", "combine AD AD -o OUT --method cat --force", 1},
}

// faultKinds are what operations fail with, in turn; a crash is all later ones too.
var faultKinds = []error{atomicfile.ErrFault, syscall.ENOSPC, syscall.EIO}

// TestFaults makes each operation on files of each command fail, as an error and
// as a kill, with and without an older output. Afterwards the inputs are what they
// were, and every output is the old one, the new one, or absent if there was none.
func TestFaults(t *testing.T) {
	in := faultInputs(t)
	total := 0
	for _, c := range faultCases {
		n := 0
		for _, old := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				n += in.all(t, c, old, crash)
			}
		}
		t.Logf("%s: %d faults", c.name, n)
		total += n
	}
	n := in.inPlace(t)
	t.Logf("merge --in-place: %d faults", n)
	total += n
	t.Logf("%d faults in all", total)
	if total < 1000 {
		t.Errorf("only %d faults", total)
	}
}

// inputs are what the commands read, and what it looked like.
type inputs struct {
	dir  string
	sums map[string]string
}

func faultInputs(t *testing.T) *inputs {
	t.Helper()
	in := &inputs{dir: t.TempDir()}
	path := func(n string) string { return filepath.Join(in.dir, n) }
	if err := copyModel(path("BASE")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"inject", path("BASE"), "-o", path("AD"), "--target", "q_proj", "--layers", "0,1", "--init", "paper"},
		{"merge", path("AD"), "-o", path("MERGED"), "--reversible"},
		{"convert", path("BASE"), "-o", path("GRAPH.onnx"), "--to", "onnx"},
	} {
		if code, _, stderr := call(args...); code != 0 {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	in.sums = sumTree(t, in.dir)
	return in
}

// sumTree maps the files below a path to the hashes of their contents.
func sumTree(t testing.TB, root string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(root, p)
		m[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return m
}

// run runs a command on a file system.
func (in *inputs) run(fsys atomicfile.FS, c faultCase, root string) (code int, stderr string) {
	was := atomicfile.OS
	defer func() { atomicfile.OS = was }()
	atomicfile.OS = fsys
	args := strings.Fields(c.args)
	for i, a := range args {
		switch {
		case a == "BASE" || a == "AD" || a == "MERGED" || a == "GRAPH.onnx":
			args[i] = filepath.Join(in.dir, a)
		case strings.HasPrefix(a, "OUT") || strings.HasPrefix(a, "INTO"):
			args[i] = filepath.Join(root, a)
		}
	}
	code, _, stderr = call(append(args, "--quiet", "--no-progress")...)
	return code, stderr
}

// all makes every step-th operation fail and returns how many did.
func (in *inputs) all(t *testing.T, c faultCase, old, crash bool) (faults int) {
	fast := atomicfile.Unsynced{FS: atomicfile.OS}
	good := t.TempDir()
	if code, stderr := in.run(fast, c, good); code != 0 {
		t.Fatalf("%s: %s", c.name, stderr)
	}
	want := sumTree(t, good)
	for n := 1; ; n += c.step {
		f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: crash, Err: faultKinds[n%len(faultKinds)]}
		root := t.TempDir()
		if old {
			for name := range want { // the same files with other contents
				p := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte("old"), 0o666); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := sumTree(t, root)
		code, stderr := in.run(f, c, root)
		what := fmt.Sprintf("%s, old %v, crash %v, operation %d (%s: %v)", c.name, old, crash, n, f.Failed(), f.Err)
		if f.Failed() == "" {
			if code != 0 {
				t.Errorf("%s: code %d without a fault: %s", what, code, stderr)
			}
			return faults
		}
		faults++
		if code == 0 && f.Failed() != "remove all" && f.Failed() != "remove" {
			t.Errorf("%s: no error", what)
		}
		// After a kill another worker's operation may be the one that is reported.
		if f.Err == syscall.ENOSPC && !crash && code != 0 && code != exitResource {
			t.Errorf("%s: code %d: %s", what, code, stderr)
		}
		checkOutputsWhole(t, what, root, before, want, crash)
		if got := sumTree(t, in.dir); !maps.Equal(got, in.sums) {
			t.Fatalf("%s: an input has changed", what)
		}
	}
}

// checkOutputsWhole looks at each output, a file or directory in root. Those of one
// command appear together, unless it is killed.
func checkOutputsWhole(t *testing.T, what, root string, before, want map[string]string, crash bool) {
	t.Helper()
	after := sumTree(t, root)
	part := func(m map[string]string, out string) map[string]string {
		p := map[string]string{}
		for n, s := range m {
			if first, _, _ := strings.Cut(filepath.ToSlash(n), "/"); first == out {
				p[n] = s
			}
		}
		return p
	}
	outs := map[string]bool{}
	for n := range want {
		first, _, _ := strings.Cut(filepath.ToSlash(n), "/")
		outs[first] = true
	}
	renewed := 0
	for out := range outs {
		got := part(after, out)
		isNew := maps.Equal(got, part(want, out))
		if isNew {
			renewed++
		}
		if !isNew && !maps.Equal(got, part(before, out)) {
			t.Errorf("%s: %s is neither the old nor the new one: %v", what, out, got)
		}
	}
	if !crash && renewed > 0 && renewed < len(outs) {
		t.Errorf("%s: %d of %d outputs are new", what, renewed, len(outs))
	}
	for n := range after {
		first, _, _ := strings.Cut(filepath.ToSlash(n), "/")
		if !outs[first] && (!atomicfile.IsTemp(first) || !crash && renewed == 0) {
			t.Errorf("%s: left over %s", what, n)
		}
	}
}

// inPlace does the same with a merge in place: the next opening leaves the old or
// the new model.
func (in *inputs) inPlace(t *testing.T) (faults int) {
	fast := atomicfile.Unsynced{FS: atomicfile.OS}
	c := faultCase{"merge --in-place", "merge AD --in-place --reversible --model", 1}
	merge := func(fsys atomicfile.FS) (dir string, code int, stderr string) {
		dir = filepath.Join(t.TempDir(), "model")
		if err := copyModel(dir); err != nil {
			t.Fatal(err)
		}
		x := c
		x.args += " " + dir
		code, stderr = in.run(fsys, x, "")
		return dir, code, stderr
	}
	good, code, stderr := merge(fast)
	if code != 0 {
		t.Fatal(stderr)
	}
	want, old := sumTree(t, good), sumTree(t, filepath.Join(in.dir, "BASE"))
	for _, crash := range []bool{false, true} {
		for n := 1; ; n++ {
			f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: crash, Err: faultKinds[n%len(faultKinds)]}
			dir, code, stderr := merge(f)
			what := fmt.Sprintf("%s, crash %v, operation %d (%s: %v)", c.name, crash, n, f.Failed(), f.Err)
			if f.Failed() == "" {
				if code != 0 {
					t.Errorf("%s: %s", what, stderr)
				}
				break
			}
			faults++
			if code, _, stderr := call("inspect", "tensors", dir); code != 0 {
				t.Errorf("%s: the model cannot be opened: %s", what, stderr)
			}
			got := sumTree(t, dir)
			for name := range got {
				if strings.HasPrefix(filepath.Base(name), ".") || name == "lsrsurgeon.journal" {
					delete(got, name) // of a merge that changed nothing
				}
			}
			if !maps.Equal(got, want) && !maps.Equal(got, old) {
				t.Errorf("%s: neither the old nor the new model: %v", what, got)
			}
		}
	}
	return faults
}

// TestTrainFaults makes operations of a training run fail, as an error and as a
// kill. Resumed, it ends with the adapter of a run that was left alone.
func TestTrainFaults(t *testing.T) {
	in := faultInputs(t)
	fast := atomicfile.Unsynced{FS: atomicfile.OS}
	c := faultCase{name: "train", args: "train AD -o OUT --model BASE --task lm --data " + filepath.Join(in.dir, "BASE", "demo_eval.txt") + " --limit 4 --max-length 16 --batch-size 1 --steps 2 --save-every 1 --threads 1"}
	good := t.TempDir()
	if code, stderr := in.run(fast, c, good); code != 0 {
		t.Fatal(stderr)
	}
	want := sumTree(t, filepath.Join(good, "OUT"))
	again := c
	again.args += " --resume"
	faults := 0
	for _, crash := range []bool{false, true} {
		for n := 1; ; n += 3 {
			f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: crash, Err: faultKinds[n%len(faultKinds)]}
			root := t.TempDir()
			code, _ := in.run(f, c, root)
			if f.Failed() == "" {
				break
			}
			faults++
			what := fmt.Sprintf("crash %v, operation %d (%s: %v)", crash, n, f.Failed(), f.Err)
			if code == 0 && f.Failed() != "remove" && f.Failed() != "remove all" {
				t.Errorf("%s: no error", what)
			}
			if code, stderr := in.run(fast, again, root); code != 0 {
				t.Fatalf("%s: resuming: %s", what, stderr)
			}
			got := sumTree(t, filepath.Join(root, "OUT"))
			for _, name := range []string{"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} {
				if got[name] != want[name] {
					t.Errorf("%s: %s is another one", what, name)
				}
			}
			if code, _, stderr := call("verify", filepath.Join(root, "OUT")); code != 0 {
				t.Errorf("%s: %s", what, stderr)
			}
			if got := sumTree(t, in.dir); !maps.Equal(got, in.sums) {
				t.Fatalf("%s: an input has changed", what)
			}
		}
	}
	t.Logf("%d faults", faults)
	if faults < 20 {
		t.Errorf("only %d faults", faults)
	}
}

// TestConcurrent starts six merges and injections of one output each at the same
// time: one or more succeed, the others say why not, and the output is whole.
func TestConcurrent(t *testing.T) {
	in := faultInputs(t)
	for _, c := range faultCases[:4] {
		good := t.TempDir()
		if code, stderr := in.run(atomicfile.OS, c, good); code != 0 {
			t.Fatal(stderr)
		}
		want := sumTree(t, good)
		root := t.TempDir()
		var wg sync.WaitGroup
		codes, texts := make([]int, 6), make([]string, 6)
		args := strings.Fields(strings.NewReplacer("GRAPH.onnx", filepath.Join(in.dir, "GRAPH.onnx"), "BASE", filepath.Join(in.dir, "BASE"), "AD", filepath.Join(in.dir, "AD"), "OUT", filepath.Join(root, "OUT"), "INTO", filepath.Join(root, "INTO")).Replace(c.args))
		for i := range codes {
			wg.Go(func() { codes[i], _, texts[i] = call(append(args, "--quiet", "--no-progress")...) })
		}
		wg.Wait()
		won := 0
		for i, code := range codes {
			switch {
			case code == 0:
				won++
			case !strings.Contains(texts[i], "another process is writing"):
				t.Errorf("%s: code %d: %s", c.name, code, texts[i])
			}
		}
		if won == 0 {
			t.Errorf("%s: none of six succeeded", c.name)
		}
		if got := sumTree(t, root); !maps.Equal(got, want) {
			t.Errorf("%s: the output is not whole: %v", c.name, got)
		}
	}
}
