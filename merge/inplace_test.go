package merge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

var madeBy = &manifest.Provenance{Tool: "test", Command: "merge"}

// copyTree copies the files below a directory.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// weightsOf are the hashes of a tree without what only one of two ways of merging
// leaves: hidden and stale files, journal, undo file and manifest.
func weightsOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := withoutLeftOut(tree(t, dir))
	for _, n := range []string{JournalFile, UndoFile, manifest.File, formats.IndexFile, undoPending} {
		delete(m, n)
	}
	return m
}

// runInPlace merges into a copy of the base and returns its directory.
func runInPlace(t testing.TB, base string, o Options) (string, *Report, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	copyTree(t, base, dir)
	c := open(t, dir)
	p, err := NewPlan(c, sources(1e-3), o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.RunInPlace(context.Background(), nil)
	return dir, r, err
}

// TestInPlace: the same bytes as a merge to another place, the rest untouched, and
// the undo file takes it back.
func TestInPlace(t *testing.T) {
	base := makeBase(t)
	good := filepath.Join(t.TempDir(), "good")
	want := mustMerge(t, open(t, base), sources(1e-3), Options{}, good)
	for _, reversible := range []bool{false, true} {
		dir, rep, err := runInPlace(t, base, Options{Reversible: reversible, Manifest: madeBy, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, "in place", weightsOf(t, dir), weightsOf(t, good))
		if rep.Total.DeltaNorm != want.Total.DeltaNorm || rep.Total.Unchanged != want.Total.Unchanged {
			t.Errorf("report %+v, want %+v", rep.Total, want.Total)
		}
		all := tree(t, dir)
		if all[JournalFile] != "" || all["pytorch_model.bin"] == "" || all[filepath.Join(".cache", "x")] == "" {
			t.Errorf("files after: %v", all)
		}
		m, err := manifest.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := manifest.Check(context.Background(), open(t, dir), m, manifest.CheckOptions{AllowNonFinite: true}); err != nil || r.Err() != nil || r.Hashed < 10 {
			t.Errorf("manifest: %+v, %v", r, err)
		}
		if !reversible {
			continue
		}
		back := filepath.Join(t.TempDir(), "back")
		if err := Unmerge(context.Background(), open(t, dir), filepath.Join(dir, UndoFile), back, UnmergeOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		sameTree(t, "unmerged", weightsOf(t, back), weightsOf(t, base))
	}
}

// TestInPlaceFaults makes every single operation of a merge in place fail, as an
// error and as a crash. Recover then leaves the old or the new model whole, and the merge
// done again gives the new one.
func TestInPlaceFaults(t *testing.T) {
	base := makeBase(t)
	good, _, err := runInPlace(t, base, Options{Reversible: true, Manifest: madeBy})
	if err != nil {
		t.Fatal(err)
	}
	old, want := tree(t, base), tree(t, good)
	faults, ended := 0, 0
	for _, crash := range []bool{false, true} {
		for n := 1; ; n++ {
			f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: crash, Reads: !crash}
			dir, _, err := runInPlace(t, base, Options{Reversible: true, Manifest: madeBy, FS: f})
			what := fmt.Sprintf("crash %v, operation %d (%s)", crash, n, f.Failed())
			if f.Failed() == "" {
				if err != nil {
					t.Errorf("%s: %v without a fault", what, err)
				}
				break
			}
			faults++
			if err == nil && !strings.Contains(what, "(chmod") {
				t.Errorf("%s: no error", what)
			}
			if _, rerr := Recover(fast, dir); rerr != nil {
				t.Fatalf("%s: recover: %v", what, rerr)
			}
			if got := tree(t, dir); got["model-00001-of-00002.safetensors"] == want["model-00001-of-00002.safetensors"] {
				ended++
				sameTree(t, what, clean(got), want)
			} else {
				sameTree(t, what, clean(got), old)
			}
		}
	}
	t.Logf("%d faults, after %d of which the merge was ended", faults, ended)
	if faults < 100 || ended < 20 {
		t.Errorf("only %d faults, %d of them after the journal was complete", faults, ended)
	}
}

// clean takes out what a crash may leave that changes nothing: an incomplete
// journal and its companion, temporaries, locks.
func clean(m map[string]string) map[string]string {
	for n := range m {
		if n == JournalFile || n == undoPending || atomicfile.IsTemp(filepath.Base(n)) {
			delete(m, n)
		}
	}
	return m
}

// TestRecoverFaults kills the recovery itself at every operation; the next one
// ends it.
func TestRecoverFaults(t *testing.T) {
	base := makeBase(t)
	good, _, err := runInPlace(t, base, Options{Manifest: madeBy})
	if err != nil {
		t.Fatal(err)
	}
	want := tree(t, good)
	for n := 1; ; n++ {
		dir := halfApplied(t, base)
		f := &atomicfile.Faults{Under: fast, FailAt: n, Crash: true}
		src, err := Recover(f, dir)
		if f.Failed() != "" {
			if err == nil && f.Failed() != "chmod" {
				t.Errorf("operation %d (%s): no error", n, f.Failed())
			}
			if src, err = Recover(fast, dir); err != nil {
				t.Fatal(err)
			}
		}
		sameTree(t, fmt.Sprintf("operation %d (%s)", n, f.Failed()), clean(tree(t, dir)), want)
		if f.Failed() == "" {
			if n < 10 || src == "" {
				t.Errorf("%d operations, sources %q", n, src)
			}
			return
		}
	}
}

// halfApplied is a model whose merge in place died while it was applied.
func halfApplied(t testing.TB, base string) string {
	t.Helper()
	f := &atomicfile.Faults{Under: fast}
	if _, _, err := runInPlace(t, base, Options{Manifest: madeBy, FS: f, Workers: 1}); err != nil {
		t.Fatal(err)
	}
	// The last operations are: sync, write and close of the second file, the manifest, removal.
	f = &atomicfile.Faults{Under: fast, FailAt: f.Count() - 14, Crash: true}
	dir, _, err := runInPlace(t, base, Options{Manifest: madeBy, FS: f, Workers: 1})
	if !errors.Is(err, ErrPending) {
		t.Fatalf("%s: %v", f.Failed(), err)
	}
	return dir
}

// TestInPlaceRefuses: what would change more than tensors, or other people's files.
func TestInPlaceRefuses(t *testing.T) {
	base := makeBase(t)
	plan := func(dir string, o Options) *Plan {
		p, err := NewPlan(open(t, dir), sources(1e-3), o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	refused := func(what, dir string, o Options, want error, says string) {
		t.Helper()
		before := tree(t, dir)
		if _, err := plan(dir, o).RunInPlace(context.Background(), nil); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		sameTree(t, what, tree(t, dir), before)
	}
	refused("dtype", base, Options{DType: tensor.F32}, ErrInPlace, "other ones")
	refused("shards", base, Options{MaxShardSize: 4096}, ErrInPlace, "other ones")

	linked := filepath.Join(t.TempDir(), "linked")
	copyTree(t, base, linked)
	shard := filepath.Join(linked, "model-00002-of-00002.safetensors")
	if err := os.Rename(shard, shard+".blob"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shard+".blob", shard); err != nil {
		t.Fatal(err)
	}
	refused("a link to a file", linked, Options{}, atomicfile.ErrShared, "model-00002")

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	if _, err := plan(link, Options{}).RunInPlace(context.Background(), nil); !errors.Is(err, ErrInPlace) || !strings.Contains(err.Error(), "it is a link") {
		t.Errorf("a link to the directory: %v", err)
	}

	hub := filepath.Join(t.TempDir(), "models--org--name", "snapshots", "abc")
	copyTree(t, base, hub)
	refused("the hub's cache", hub, Options{}, ErrInPlace, "Hugging Face cache")

	l, err := atomicfile.NewLock(lockName(base))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan(base, Options{}).RunInPlace(context.Background(), nil); !errors.Is(err, atomicfile.ErrLocked) {
		t.Errorf("a second merge at the same time: %v", err)
	}
	l.Unlock()

	half := halfApplied(t, base)
	before := tree(t, half)
	if _, err := plan(half, Options{}).RunInPlace(context.Background(), nil); !errors.Is(err, ErrPending) {
		t.Errorf("before the last one is ended: %v", err)
	}
	sameTree(t, "half applied", tree(t, half), before)
}

// TestJournalDamaged: a journal that is not what was written is not applied.
func TestJournalDamaged(t *testing.T) {
	base := makeBase(t)
	dir := halfApplied(t, base)
	path := filepath.Join(dir, JournalFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 0; at < len(good); at += 37 {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x10
		put(t, path, string(bad))
		if _, err := Recover(fast, dir); err != nil {
			refused++
			if !errors.Is(err, formats.ErrMalformed) {
				t.Fatalf("byte %d: %v", at, err)
			}
		} else if _, err := os.Lstat(path); err != nil {
			t.Fatalf("byte %d: a damaged journal was applied", at)
		}
	}
	if refused < 20 {
		t.Errorf("only %d refused", refused)
	}
}
