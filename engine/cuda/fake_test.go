package cuda

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda/standin"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// libraryVariable names a built stand-in for libcuda to test with: how the
// test of mutants hands them to a process of its own.
const libraryVariable = "LSRSURGEON_TEST_LIBCUDA"

var built struct {
	once sync.Once
	dir  string
	err  error
}

// kernelSource is the translation unit of the kernels; edit, if not nil, changes
// a file.
func kernelSource(t testing.TB, edit func(name, text string) string) string {
	t.Helper()
	s, err := standin.Source(edit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fakeDir is where the stand-ins are; they are built where they are not in the
// user's cache.
func fakeDir(t testing.TB) string {
	t.Helper()
	if at := os.Getenv(libraryVariable); at != "" {
		return filepath.Dir(at)
	}
	if s := standin.Missing(); s != "" {
		t.Skip(s)
	}
	built.once.Do(func() { built.dir, built.err = standin.Cached() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// The settings of the stand-in, by the numbers of its enum.
const (
	setOrder = iota
	setMemory
	setDevices
	setDriver
	setMajor
	setMinor
	getLaunches
	getGraphs
	getGuards
	getLive
	setEager
)

// fake is the stand-in for libcuda of a test.
type fake struct {
	path, blas string
	set        func(setting int32, v int64) int32
	get        func(setting int32) int64
}

// openFake loads the stand-in with its first settings, which it restores
// afterwards; then no memory may be left, nor any guard around memory changed.
func openFake(t testing.TB) *fake {
	t.Helper()
	dir := fakeDir(t)
	f := &fake{path: filepath.Join(dir, standin.CUDA), blas: filepath.Join(dir, standin.CuBLASLt)}
	l, err := openLibrary([]string{f.path})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.bind([]symbol{{&f.set, "fake_set"}, {&f.get, "fake_get"}}); err != nil {
		t.Fatal(err)
	}
	f.reset()
	t.Cleanup(func() {
		if n := f.get(getGuards); n != 0 {
			t.Errorf("%d buffers were written beyond their ends", n)
		}
		if n := f.get(getLive); n != 0 {
			t.Errorf("%d bytes of device memory were not given back", n)
		}
		f.reset()
	})
	return f
}

func (f *fake) reset() {
	for setting, v := range map[int32]int64{setOrder: 0, setMemory: 1 << 30, setDevices: 1, setDriver: 12080, setMajor: 9, setMinor: 0, getLaunches: 0, getGraphs: 0, getGuards: 0, getLive: 0, setEager: 0} {
		f.set(setting, v)
	}
}

// open opens an engine on the stand-in, by its own kernels unless o names
// cuBLASLt.
func (f *fake) open(t testing.TB, o Options) *Engine {
	t.Helper()
	o.LibCUDA = f.path
	o.NoCuBLASLt = o.CuBLASLt == ""
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// opener opens engines for package enginetest.
func (f *fake) opener(o Options) enginetest.Open {
	return func(t testing.TB) graph.Engine { return f.open(t, o) }
}
