package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.json")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, 0o640, func(w io.Writer) error { _, err := io.WriteString(w, text); return err }); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	boom := errors.New("boom")
	err = WriteFile(path, 0o640, func(w io.Writer) error { fmt.Fprint(w, "three"); return boom })
	if !errors.Is(err, boom) || read(t, path) != "two" || len(names(t, dir)) != 1 {
		t.Errorf("after a failed write: %v, %q, %v", err, read(t, path), names(t, dir))
	}
	if err := WriteFile(dir, 0o640, func(io.Writer) error { return nil }); err == nil {
		t.Error("a file may not take the place of a directory")
	}
}

func TestNewDir(t *testing.T) {
	root := t.TempDir()
	final := filepath.Join(root, "deep", "er", "out")
	d, err := NewDir(final, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("sub/x", 0o644, func(w io.Writer) error { _, err := io.WriteString(w, "x"); return err }); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.Path(), "y"), "y") // by other means
	if _, err := os.Stat(final); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("visible before Commit: %v", err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	d.Abort()
	if read(t, filepath.Join(final, "sub", "x")) != "x" || read(t, filepath.Join(final, "y")) != "y" {
		t.Error("contents differ")
	}
	if err := d.Commit(); err == nil {
		t.Error("a second Commit succeeded")
	}
	if _, err := NewDir(final, false); !errors.Is(err, ErrExists) {
		t.Errorf("existing output: %v", err)
	}
	write(t, filepath.Join(root, "file"), "")
	if _, err := NewDir(filepath.Join(root, "file"), true); !errors.Is(err, ErrExists) {
		t.Errorf("a file in the way: %v", err)
	}
	d, err = NewDir(final, true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.Path(), "z"), "z")
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, final); len(got) != 1 || got[0] != "z" {
		t.Errorf("after replacing: %v", got)
	}
	if got := names(t, filepath.Dir(final)); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
}

func TestAbortRemovesParents(t *testing.T) {
	root := t.TempDir()
	d, err := NewDir(filepath.Join(root, "a", "b", "out"), false)
	if err != nil {
		t.Fatal(err)
	}
	d.Abort()
	if got := names(t, root); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

// TestCommitRace: an output made by someone else meanwhile is not replaced.
func TestCommitRace(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	d, err := NewDir(final, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(final, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); !errors.Is(err, ErrExists) {
		t.Errorf("got %v", err)
	}
	if got := names(t, filepath.Dir(final)); len(got) != 1 {
		t.Errorf("left over: %v", got)
	}
}

// noExchange is a system that cannot swap two names at once.
type noExchange struct{ FS }

func (noExchange) Exchange(a, b string) error { return errors.ErrUnsupported }

// TestFaults makes every single operation fail, as an error and as a crash.
// The name must hold the old or the new contents whole; after an error before
// the renaming nothing else may be left.
func TestFaults(t *testing.T) {
	systems := map[string]FS{"exchange": OS, "rename": noExchange{OS}}
	for sysName, under := range systems {
		for _, old := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/old=%v/crash=%v", sysName, old, crash), func(t *testing.T) {
					for n := 1; ; n++ {
						f := &Faults{Under: under, FailAt: n, Crash: crash}
						if !faultRun(t, f, old, sysName == "rename") {
							if n < 8 {
								t.Errorf("only %d operations", n)
							}
							return
						}
					}
				})
			}
		}
	}
}

// faultRun writes one directory and reports whether the fault was reached.
func faultRun(t *testing.T, f *Faults, old, twoSteps bool) bool {
	root := t.TempDir()
	final := filepath.Join(root, "out")
	if old {
		if err := os.Mkdir(final, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(final, "v"), "old")
	}
	err := func() error {
		d, err := NewDirFS(f, final, true)
		if err != nil {
			return err
		}
		defer d.Abort()
		if err := d.WriteFile("v", 0o644, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
			return err
		}
		return d.Commit()
	}()
	what := fmt.Sprintf("operation %d (%s)", f.FailAt, f.Failed())
	if f.Failed() == "" {
		if err != nil {
			t.Errorf("no fault, but %v", err)
		}
		return false
	}
	if err == nil && f.Failed() != "remove all" {
		t.Errorf("%s failed without an error", what)
	}
	b, rerr := os.ReadFile(filepath.Join(final, "v"))
	switch {
	case rerr == nil && (string(b) == "new" || old && string(b) == "old"):
	case errors.Is(rerr, os.ErrNotExist) && !old:
		if _, err := os.Stat(final); err == nil {
			t.Errorf("%s: the output is there and empty", what)
		}
	case errors.Is(rerr, os.ErrNotExist) && twoSteps && f.Crash:
		// Died between the two renamings: the old one waits for Sweep.
		if m, _ := filepath.Glob(filepath.Join(root, ".out*"+oldSuffix, "v")); len(m) != 1 {
			t.Errorf("%s: the old output is lost: %v", what, names(t, root))
		}
	default:
		t.Errorf("%s: output %q, %v", what, b, rerr)
	}
	if !f.Crash && string(b) != "new" {
		for _, n := range names(t, root) {
			if n != "out" {
				t.Errorf("%s: left over %s", what, n)
			}
		}
	}
	return true
}

// unlocked are the names without those of locks.
func unlocked(t *testing.T, dir string) []string {
	return slices.DeleteFunc(names(t, dir), func(n string) bool { return strings.HasSuffix(n, lockSuffix) })
}

// TestResume: the directory of a process that died goes on, if it is accepted.
func TestResume(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	f := &Faults{Under: OS, FailAt: 4, Crash: true} // mkdir, create, write, close
	d, err := NewDirFS(f, final, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFile("half", 0o644, func(w io.Writer) error { _, err := io.WriteString(w, "half"); return err }); !errors.Is(err, ErrFault) {
		t.Fatalf("got %v", err)
	}
	d.Abort() // as if dead: nothing is removed
	d, err = ResumeDirFS(OS, final, false, func(temp string) bool { return read(t, filepath.Join(temp, "half")) == "half" })
	if err != nil || !d.Resumed() {
		t.Fatalf("resumed %v, %v", d.Resumed(), err)
	}
	if _, err := ResumeDirFS(OS, final, false, func(string) bool { t.Error("asked for a living one"); return true }); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one at the same time: %v", err)
	}
	h, err := d.Open("half")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte("done"), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	d.Leave()
	d, err = ResumeDirFS(OS, final, false, func(temp string) bool { return read(t, filepath.Join(temp, "half")) == "done" })
	if err != nil || !d.Resumed() {
		t.Fatalf("resumed %v, %v", d.Resumed(), err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(final, "half")) != "done" || len(names(t, filepath.Dir(final))) != 1 {
		t.Errorf("after Commit: %v", names(t, filepath.Dir(final)))
	}
	f = &Faults{Under: OS, FailAt: 2, Crash: true}
	d, err = NewDirFS(f, final+"2", false)
	if err != nil {
		t.Fatal(err)
	}
	d.Abort()
	if d, err = ResumeDirFS(OS, final+"2", false, func(string) bool { return false }); err != nil || d.Resumed() {
		t.Fatalf("resumed what was not accepted: %v", err)
	}
	if got := unlocked(t, filepath.Dir(final)); len(got) != 2 {
		t.Errorf("what was not accepted is left: %v", got)
	}
	d.Abort()
}

// TestModes: what is replaced keeps its permissions.
func TestModes(t *testing.T) {
	root := t.TempDir()
	dir, file := filepath.Join(root, "out"), filepath.Join(root, "f")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := NewDir(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(file, 0o666, func(w io.Writer) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, file: 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}

// TestOpenWrite: nothing is written through links or to a file with other
// names.
func TestOpenWrite(t *testing.T) {
	root := t.TempDir()
	file, link, hard := filepath.Join(root, "f"), filepath.Join(root, "l"), filepath.Join(root, "h")
	write(t, file, "x")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	h, err := OS.OpenWrite(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OS.OpenWrite(link); !errors.Is(err, ErrShared) {
		t.Errorf("a symbolic link: %v", err)
	}
	if err := os.Link(file, hard); err != nil {
		t.Fatal(err)
	}
	if _, err := OS.OpenWrite(file); !errors.Is(err, ErrShared) {
		t.Errorf("a hard link: %v", err)
	}
}

// TestSweep kills a real process in the middle of its work.
func TestSweep(t *testing.T) {
	root := t.TempDir()
	final := filepath.Join(root, "out")
	c := exec.Command(os.Args[0], "-test.run=^TestSweepVictim$")
	c.Env = append(os.Environ(), "ATOMICFILE_VICTIM="+final)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("%q %v", line, err)
	}
	if got := unlocked(t, root); len(got) != 1 || !IsTemp(got[0]) {
		t.Fatalf("victim made %v", got)
	}
	Sweep(OS, final)
	if len(unlocked(t, root)) != 1 {
		t.Fatal("the temporary of a living process was removed")
	}
	if _, err := NewDir(final, false); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d on ", c.Process.Pid)) {
		t.Errorf("a second writer: %v", err)
	}
	_ = c.Process.Kill()
	_ = c.Wait() // killed: its state says nothing new
	d, err := NewDir(final, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := unlocked(t, root); len(got) != 1 || filepath.Join(root, got[0]) != d.Path() {
		t.Errorf("after the next start: %v", got)
	}
	d.Abort()
	// A directory that was renamed away and not yet replaced comes back.
	dead := filepath.Join(root, strings.Replace(filepath.Base(tempName(final)), fmt.Sprintf("-%d-", os.Getpid()), fmt.Sprintf("-%d-", c.Process.Pid), 1)+oldSuffix)
	if err := os.Mkdir(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dead, "v"), "old")
	Sweep(OS, final)
	if got := read(t, filepath.Join(final, "v")); got != "old" {
		t.Errorf("got %q", got)
	}
	// Names that only look alike stay.
	for _, n := range []string{".out.lsrsurgeon-1x-00", ".outer" + filepath.Base(dead)[4:], ".out.lsrsurgeon-" + fmt.Sprint(c.Process.Pid) + "-short"} {
		write(t, filepath.Join(root, n), "")
	}
	Sweep(OS, final)
	if got := unlocked(t, root); len(got) != 4 {
		t.Errorf("other files were removed, left: %v", got)
	}
}

func TestSweepVictim(t *testing.T) {
	final := os.Getenv("ATOMICFILE_VICTIM")
	if final == "" {
		t.Skip("runs only as the child process of TestSweep")
	}
	d, err := NewDir(final, false)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.Path(), "half"), "half")
	fmt.Println("ready ")
	select {}
}

func TestCopyAt(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	write(t, filepath.Join(dir, "src"), string(data))
	src, err := os.Open(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	copies := map[string]func(h Handle, from, to, n int64) error{
		"kernel": func(h Handle, from, to, n int64) error { return h.CopyAt(src, from, to, n) },
		"bytes":  func(h Handle, from, to, n int64) error { return copyBytes(h, src, from, to, n) },
	}
	for name, cp := range copies {
		h, err := OS.Create(filepath.Join(dir, name), 0o644)
		if err != nil {
			t.Fatal(err)
		}
		const from, to, n = 1001, 5, 2<<20 + 3
		if err := cp(h, from, to, n); err != nil {
			t.Fatal(err)
		}
		got := read(t, h.Name())
		if len(got) != to+n || got[:to] != "\x00\x00\x00\x00\x00" || got[to:] != string(data[from:from+n]) {
			t.Errorf("%s: bytes differ", name)
		}
		if err := cp(h, int64(len(data))-10, 0, 11); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: past the end: %v", name, err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
