// Package standin builds stand-ins for libcuda and cuBLASLt out of the
// kernels' sources, with g++: the kernels run on the CPU, one fibre per thread
// of a block, behind the C interface of the driver. Package cuda opens them like the
// real libraries. They are for tests and for trying scripts on a machine
// without a GPU.
//
// The environment variable [Variable] sets what the device is like, as
// "DRIVER=11030 MEMORY=1000000": DEVICES, DRIVER (in CUDA's numbering), MEMORY
// in bytes, MAJOR and MINOR of the compute capability, ORDER (0 to 2) of the
// threads of a block.
package standin

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// Variable is the environment variable that describes the device.
const Variable = "LSRSURGEON_STANDIN"

// Files are the parts of the kernels' translation unit, in order.
var Files = []string{"common", "gemm", "elementwise", "norm", "attention", "attention_tc", "kron", "loss", "optimizer"}

// Kernel finds the names of kernels in [Source].
var Kernel = regexp.MustCompile(`(?m)^KERNEL (\w+)\(`)

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

// Build builds both libraries in dir, from the given kernels; optimize is a
// flag of g++, as "-O1".
func Build(dir, source, optimize string) error {
	from, err := here()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "#include \"shim.h\"\n%s\n#include \"fakecuda.cpp\"\nKernel kernels[] = {\n", source)
	for _, m := range Kernel.FindAllStringSubmatch(source, -1) {
		fmt.Fprintf(&b, "{\"%s\", shim::Call<%s>::bind, 0},\n", m[1], m[1])
	}
	b.WriteString("};\nint kernel_count = sizeof kernels / sizeof *kernels;\n")
	main := filepath.Join(dir, "fake.cpp")
	if err := os.WriteFile(main, b.Bytes(), 0o644); err != nil {
		return err
	}
	for out, in := range map[string]string{CUDA: main, CuBLASLt: filepath.Join(from, "shim/fakecublaslt.cpp")} {
		c := exec.Command("g++", "-std=c++17", optimize, "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wl,-soname,"+out,
			"-Wno-unknown-pragmas", "-I"+filepath.Join(from, "shim"), "-o", filepath.Join(dir, out), in)
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, text)
		}
	}
	return nil
}
