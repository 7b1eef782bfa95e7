// Package standin builds stand-ins for libcuda and cuBLASLt out of the
// kernels' sources, with g++: the kernels run on the CPU, one fibre per thread
// of a block, behind the C interface of the driver. Package cuda opens them like the
// real libraries. They are for tests and for trying scripts on a machine
// without a GPU.
//
// The environment variable [Variable] sets what the device is like, as
// "DRIVER=11030 MEMORY=1000000": DEVICES, DRIVER (in CUDA's numbering), MEMORY
// in bytes, MAJOR and MINOR of the compute capability, ORDER (0 to 2) of the
// threads of a block, COPY (see [Copy]).
package standin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Variable is the environment variable that describes the device.
const Variable = "LSRSURGEON_STANDIN"

// Files are the parts of the kernels' translation unit, in order.
var Files = []string{"common", "gemm", "elementwise", "norm", "attention", "attention_tc", "kron", "loss", "optimizer"}

// Kernel finds the names of kernels in [Source].
var Kernel = regexp.MustCompile(`(?m)^KERNEL (\w+)\(`)

// short finds kernels of one line.
var short = regexp.MustCompile(`(?m)^KERNEL (\w+)\(.*\}$`)

// The names of the libraries.
const (
	CUDA     = "libfakecuda.so"
	CuBLASLt = "libfakecublaslt.so"
)

// here is the directory of this package's sources.
func here() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if ok {
		if _, err := os.Stat(file); err == nil {
			return filepath.Dir(file), nil
		}
	}
	return "", fmt.Errorf("the sources of the stand-in are not at %s; build from a checkout, without -trimpath", file)
}

// Source is the translation unit of the kernels; edit, if not nil, changes a
// file.
func Source(edit func(name, text string) string) (string, error) {
	dir, err := here()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range Files {
		text, err := os.ReadFile(filepath.Join(dir, "../kernels", name+".cu"))
		if err != nil {
			return "", err
		}
		s := string(text)
		if edit != nil {
			s = edit(name, s)
		}
		fmt.Fprintf(&b, "#line 1 \"%s.cu\"\n%s\n", name, s)
	}
	return b.String(), nil
}

// Missing says why the stand-ins cannot be built or opened here; empty if they can.
func Missing() string {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return fmt.Sprintf("libraries are opened at run time on linux/amd64 and linux/arm64 only, not on %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := exec.LookPath("g++"); err != nil {
		return "g++ is not installed; with it the kernels run on the CPU"
	}
	return ""
}

// A Copy is a changed copy of some kernels, for tests of tests: with COPY=n in
// [Variable] the n-th one's kernels, counted from 1, run in place of those of the
// same names.
type Copy struct {
	Edit    func(name, text string) string
	Kernels *regexp.Regexp // the names of those that are replaced
}

// build builds both libraries in dir of the kernels' source. The object files
// stay there for [CachedCopies].
func build(dir, source string) error {
	var table []string
	for _, m := range Kernel.FindAllStringSubmatch(source, -1) {
		table = append(table, entry("", m[1], 0))
	}
	shim, err := shimDir()
	if err != nil {
		return err
	}
	kernels := filepath.Join(dir, "kernels.cpp")
	if err := writeUnit(kernels, source, "kernels", "kernel_count", table); err != nil {
		return err
	}
	others := make(chan error)
	go func() { // beside the kernels
		others <- errors.Join(
			gpp("-O1", "-shared", "-Wl,-soname,"+CuBLASLt, "-o", filepath.Join(dir, CuBLASLt), filepath.Join(shim, "fakecublaslt.cpp")),
			gpp("-O1", "-c", "-o", filepath.Join(dir, "fakecuda.o"), filepath.Join(shim, "fakecuda.cpp")))
	}()
	err = gpp("-O1", "-c", "-o", filepath.Join(dir, "kernels.o"), kernels)
	if err := errors.Join(err, <-others); err != nil {
		return err
	}
	return link(dir, dir)
}

// Cached returns a directory of the user's cache with both libraries, built of
// the present sources where they are not there yet.
func Cached() (dir string, err error) {
	source, err := Source(nil)
	if err != nil {
		return "", err
	}
	return cached("libraries "+source, func(dir string) error { return build(dir, source) })
}

// CachedCopies is [Cached] for libraries that have copies beside the kernels;
// from is where those are.
func CachedCopies(from string, copies []Copy) (dir string, err error) {
	var b strings.Builder
	var table []string
	for i, c := range copies {
		source, err := Source(c.Edit)
		if err != nil {
			return "", err
		}
		space := fmt.Sprintf("copy_%d", i+1)
		fmt.Fprintf(&b, "namespace %s {\n%s\n}\n", space, source)
		// The others would be compiled as well: they instantiate templates.
		source = short.ReplaceAllStringFunc(source, func(line string) string {
			if c.Kernels.MatchString(short.FindStringSubmatch(line)[1]) {
				return line
			}
			return ""
		})
		n := len(table)
		for _, m := range Kernel.FindAllStringSubmatch(source, -1) {
			if c.Kernels.MatchString(m[1]) {
				table = append(table, entry(space+"::", m[1], i+1))
			}
		}
		if len(table) == n {
			return "", fmt.Errorf("no kernel is named %s", c.Kernels)
		}
	}
	return cached("copies "+b.String()+strings.Join(table, ""), func(dir string) error {
		unit, object := filepath.Join(dir, "copies.cpp"), filepath.Join(dir, "copies.o")
		if err := writeUnit(unit, b.String(), "copies", "copy_count", table); err != nil {
			return err
		}
		if err := gpp("-O0", "-c", "-o", object, unit); err != nil {
			return err
		}
		blas, err := os.ReadFile(filepath.Join(from, CuBLASLt))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, CuBLASLt), blas, 0o755); err != nil {
			return err
		}
		return link(dir, from, object)
	})
}

// unused is after how long what nobody took from the cache is removed.
const unused = 7 * 24 * time.Hour

// cached returns the directory that is named by what build makes it of: content,
// the sources of the libraries, the commands of this file and the compiler.
func cached(content string, build func(dir string) error) (dir string, err error) {
	shim, err := shimDir()
	if err != nil {
		return "", err
	}
	root, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root = filepath.Join(root, "lsrsurgeon", "standin")
	h := sha256.New()
	io.WriteString(h, content)
	for _, name := range []string{"shim.h", "fakecuda.cpp", "fakecublaslt.cpp", "../standin.go"} {
		text, err := os.ReadFile(filepath.Join(shim, name))
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	version, err := exec.Command("g++", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("g++ --version: %w", err)
	}
	h.Write(version)
	dir = filepath.Join(root, fmt.Sprintf("%x", h.Sum(nil)[:16]))
	now := time.Now()
	if os.Chtimes(dir, now, now) == nil { // it is there, and used
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o777); err != nil {
		return "", err
	}
	old, err := os.ReadDir(root)
	if err != nil {
		return "", err
	}
	for _, e := range old {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > unused {
			os.RemoveAll(filepath.Join(root, e.Name())) // another process may be faster
		}
	}
	building, err := os.MkdirTemp(root, "building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(building)
	if err := build(building); err != nil {
		return "", err
	}
	if err := os.Rename(building, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			return "", err
		} // else another process was faster
	}
	return dir, nil
}

// entry is a line of a table of kernels.
func entry(space, name string, copyNumber int) string {
	return fmt.Sprintf("{\"%s\", shim::Call<%s%s>::bind, %d, 0},\n", name, space, name, copyNumber)
}

// writeUnit writes a translation unit of kernels and their table.
func writeUnit(path, source, name, count string, table []string) error {
	return os.WriteFile(path, fmt.Appendf(nil, "#include \"shim.h\"\n%s\nshim::Kernel %s[] = {\n%s};\nint %s = %d;\n",
		source, name, strings.Join(table, ""), count, len(table)), 0o644)
}

// link makes libcuda in dir of the objects of build in from and others.
func link(dir, from string, others ...string) error {
	args := append([]string{"-shared", "-Wl,-soname," + CUDA, "-o", filepath.Join(dir, CUDA),
		filepath.Join(from, "kernels.o"), filepath.Join(from, "fakecuda.o")}, others...)
	return gpp(args...)
}

// shimDir is where the sources of the libraries are.
func shimDir() (string, error) {
	dir, err := here()
	return filepath.Join(dir, "shim"), err
}

// gpp runs the compiler.
func gpp(args ...string) error {
	shim, err := shimDir()
	if err != nil {
		return err
	}
	c := exec.Command("g++", append([]string{"-std=c++17", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-I" + shim}, args...)...)
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}
