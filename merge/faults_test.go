package merge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// TestFaults makes every single file operation of a merge and of an unmerge
// fail, as an error and as a crash, with and without an old output. Afterwards
// the input is what it was, and the output is the old one or the new one whole.
func TestFaults(t *testing.T) {
	dir := makeBase(t)
	input := tree(t, dir)
	base := open(t, dir)
	ctx := context.Background()
	good := filepath.Join(t.TempDir(), "good")
	mustMerge(t, base, sources(1e-3), Options{Reversible: true}, good)
	merged := open(t, good)
	actions := map[string]struct {
		want map[string]string
		run  func(fs atomicfile.FS, out string) error
	}{
		"merge": {tree(t, good), func(fs atomicfile.FS, out string) error {
			p, err := NewPlan(base, sources(1e-3), Options{Reversible: true, Replace: true, Workers: 2, FS: fs})
			if err != nil {
				return err
			}
			_, err = p.Run(ctx, out, nil)
			return err
		}},
		"unmerge": {withoutLeftOut(tree(t, dir)), func(fs atomicfile.FS, out string) error {
			return Unmerge(ctx, merged, filepath.Join(good, UndoFile), out, UnmergeOptions{Replace: true, FS: fs}, nil)
		}},
	}
	faults := 0
	for name, a := range actions {
		for _, old := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				for n := 1; ; n++ {
					f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: crash}
					root := t.TempDir()
					out := filepath.Join(root, "out")
					if old {
						put(t, filepath.Join(out, "old"), "old")
					}
					err := a.run(f, out)
					what := fmt.Sprintf("%s, old %v, crash %v, operation %d (%s)", name, old, crash, n, f.Failed())
					if f.Failed() == "" {
						if err != nil {
							t.Errorf("%s: %v without a fault", what, err)
						}
						break
					}
					faults++
					checkAfterFault(t, what, root, err, old, crash, a.want)
				}
			}
		}
	}
	sameTree(t, "input", tree(t, dir), input)
	sameTree(t, "merged", tree(t, good), actions["merge"].want)
	t.Logf("%d faults", faults)
	if faults < 150 {
		t.Errorf("only %d faults", faults)
	}
}

func checkAfterFault(t *testing.T, what, root string, err error, old, crash bool, want map[string]string) {
	t.Helper()
	if err == nil && !strings.Contains(what, "(remove all)") {
		t.Errorf("%s: no error", what)
	}
	out := filepath.Join(root, "out")
	isNew := false
	switch st, serr := os.Lstat(out); {
	case serr != nil:
		if old {
			t.Errorf("%s: the old output is lost", what)
		}
	case !st.IsDir():
		t.Errorf("%s: output is %v", what, st.Mode())
	default:
		got := tree(t, out)
		if isNew = got["old"] == ""; isNew {
			sameTree(t, what, got, want)
		} else if len(got) != 1 {
			t.Errorf("%s: the old output has changed: %v", what, got)
		}
	}
	es, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if e.Name() != "out" && !crash && !isNew {
			t.Errorf("%s: left over %s", what, e.Name())
		}
		if e.Name() != "out" && !atomicfile.IsTemp(e.Name()) {
			t.Errorf("%s: %s is no temporary", what, e.Name())
		}
	}
}

// TestKilled kills real processes in the middle of a merge.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes: not with -short")
	}
	dir := filepath.Join(t.TempDir(), "base")
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, killedSpecs)
	input := tree(t, dir)
	base := open(t, dir)
	good := filepath.Join(t.TempDir(), "good")
	mustMerge(t, base, killedSources(), Options{}, good)
	want := tree(t, good)
	root := t.TempDir()
	out := filepath.Join(root, "out")
	killed := 0
	for i := range 8 {
		c := exec.Command(os.Args[0], "-test.run=^TestKilledVictim$")
		c.Env = append(os.Environ(), "MERGE_VICTIM_BASE="+dir, "MERGE_VICTIM_OUT="+out)
		pipe, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(pipe).ReadString('\n'); err != nil || !strings.HasPrefix(line, "begun") {
			t.Fatalf("%q %v", line, err)
		}
		time.Sleep(time.Duration(i) * 7 * time.Millisecond)
		_ = c.Process.Kill() // it may have ended: then the output must be whole
		_ = c.Wait()
		if _, err := os.Lstat(out); errors.Is(err, os.ErrNotExist) {
			killed++
			continue
		}
		sameTree(t, "killed late", tree(t, out), want)
	}
	sameTree(t, "input", tree(t, dir), input)
	p := mustPlan(t, base, killedSources(), Options{Replace: true})
	if _, err := p.Run(context.Background(), out, nil); err != nil {
		t.Fatal(err)
	}
	sameTree(t, "the next run", tree(t, out), want)
	if es, err := os.ReadDir(root); err != nil || len(es) != 1 {
		t.Errorf("temporaries of dead processes are left: %v %v", es, err)
	}
	t.Logf("%d of 8 processes died before the output appeared", killed)
}

var killedSpecs = []spec{
	{"a.weight", tensor.BF16, []int{1500, 1000}, 0.02}, {"b.weight", tensor.BF16, []int{1500, 1000}, 0.02}, {"c.weight", tensor.BF16, []int{1500, 1000}, 0.02},
}

func killedSources() []Source {
	s := []Source{{Name: "x", Weight: 1}}
	for i, k := range killedSpecs {
		s[0].Updates = append(s[0].Updates, update(k.name, true, randomDelta(1000, 1500, 4, 1e-3, uint64(i))))
	}
	return s
}

func TestKilledVictim(t *testing.T) {
	dir, out := os.Getenv("MERGE_VICTIM_BASE"), os.Getenv("MERGE_VICTIM_OUT")
	if dir == "" {
		t.Skip("runs only as the child process of TestKilled")
	}
	p := mustPlan(t, open(t, dir), killedSources(), Options{Replace: true})
	begun := false
	if _, err := p.Run(context.Background(), out, func(int64, int64) {
		if !begun {
			begun = true
			fmt.Println("begun")
		}
	}); err != nil {
		t.Fatal(err)
	}
}
