package cuda

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/enginetest"
)

// libraryVariable names a built stand-in for libcuda to test with: how the
// test of mutants hands them to a process of its own.
const libraryVariable = "LSRSURGEON_TEST_LIBCUDA"

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// kernelSource is the translation unit of the kernels; edit, if not nil, changes
// a file.
func kernelSource(t testing.TB, edit func(name, text string) string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range kernelFiles {
		text, err := os.ReadFile(filepath.Join("kernels", name+".cu"))
		if err != nil {
			t.Fatal(err)
		}
		s := string(text)
		if edit != nil {
			s = edit(name, s)
		}
		fmt.Fprintf(&b, "#line 1 \"%s.cu\"\n%s\n", name, s)
	}
	return b.String()
}

var kernelName = regexp.MustCompile(`(?m)^KERNEL (\w+)\(`)

// compileFake builds the stand-ins for libcuda, from the given kernels, and for
// cuBLASLt in dir.
func compileFake(dir, source, optimize string) error {
	shim, err := filepath.Abs("testdata/shim")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "#include \"shim.h\"\n%s\n#include \"fakecuda.cpp\"\nKernel kernels[] = {\n", source)
	for _, m := range kernelName.FindAllStringSubmatch(source, -1) {
		fmt.Fprintf(&b, "{\"%s\", shim::Call<%s>::bind, 0},\n", m[1], m[1])
	}
	b.WriteString("};\nint kernel_count = sizeof kernels / sizeof *kernels;\n")
	main := filepath.Join(dir, "fake.cpp")
	if err := os.WriteFile(main, b.Bytes(), 0o644); err != nil {
		return err
	}
	for out, in := range map[string]string{"libfakecuda.so": main, "libfakecublaslt.so": filepath.Join(shim, "fakecublaslt.cpp")} {
		c := exec.Command("g++", "-std=c++17", optimize, "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wl,-soname,"+out,
			"-Wno-unknown-pragmas", "-I"+shim, "-o", filepath.Join(dir, out), in)
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, text)
		}
	}
	return nil
}

// fakeDir is where the stand-ins are; they are built on first use.
func fakeDir(t testing.TB) string {
	t.Helper()
	if at := os.Getenv(libraryVariable); at != "" {
		return filepath.Dir(at)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skipf("libraries are opened at run time on linux/amd64 and linux/arm64 only, not on %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := exec.LookPath("g++"); err != nil {
		t.Skip("g++ is not installed; with it the kernels run on the CPU")
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "lsrsurgeon-cuda-"); built.err == nil {
			built.err = compileFake(built.dir, kernelSource(t, nil), "-O1")
		}
	})
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
	f := &fake{path: filepath.Join(dir, "libfakecuda.so"), blas: filepath.Join(dir, "libfakecublaslt.so")}
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
