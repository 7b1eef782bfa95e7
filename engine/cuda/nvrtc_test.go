package cuda

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda/standin"
)

var (
	update = flag.Bool("update", false, "rewrite kernels/kernels.ptx.gz with NVRTC")
	arches = flag.String("arches", "", "comma-separated targets of TestRegisters, as sm_80,sm_90; \"all\" for 8.0, 9.0 and the newest; empty for 8.0")
)

// nvrtc is NVIDIA's compiler as a library.
type nvrtc struct {
	library
	version                     func(major, minor *int32) int32
	create                      func(p *uintptr, source, name string, n int32, headers, names unsafe.Pointer) int32
	destroy                     func(p *uintptr) int32
	compile                     func(p uintptr, n int32, options unsafe.Pointer) int32
	ptxSize, cubinSize, logSize func(p uintptr, n *uintptr) int32
	ptx, cubin, log             func(p uintptr, to unsafe.Pointer) int32
	archCount, archList         func(a *int32) int32
}

// openNVRTC looks at LSRSURGEON_NVRTC, at the loader's places and into the
// Python environment whose interpreter LSRSURGEON_PYTHON names.
func openNVRTC(t *testing.T) *nvrtc {
	t.Helper()
	paths := []string{"libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so.1[2-9]"}
	if p := os.Getenv("LSRSURGEON_PYTHON"); p != "" {
		paths = append(paths, filepath.Join(filepath.Dir(filepath.Dir(p)), "lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so.1[2-9]"))
	}
	if p := os.Getenv("LSRSURGEON_NVRTC"); p != "" {
		paths = []string{p}
	}
	l, err := openLibrary(paths)
	if err != nil {
		t.Skipf("NVRTC was not found; set LSRSURGEON_NVRTC to libnvrtc.so, or LSRSURGEON_PYTHON to a Python with the wheel nvidia-cuda-nvrtc: %v", err)
	}
	c := &nvrtc{library: l}
	if err := l.bind([]symbol{{&c.version, "nvrtcVersion"}, {&c.create, "nvrtcCreateProgram"}, {&c.destroy, "nvrtcDestroyProgram"},
		{&c.compile, "nvrtcCompileProgram"}, {&c.ptxSize, "nvrtcGetPTXSize"}, {&c.ptx, "nvrtcGetPTX"}, {&c.cubinSize, "nvrtcGetCUBINSize"},
		{&c.cubin, "nvrtcGetCUBIN"}, {&c.logSize, "nvrtcGetProgramLogSize"}, {&c.log, "nvrtcGetProgramLog"},
		{&c.archCount, "nvrtcGetNumSupportedArchs"}, {&c.archList, "nvrtcGetSupportedArchs"}}); err != nil {
		t.Fatal(err)
	}
	return c
}

// build compiles for a target: PTX for compute_xx, and code for sm_xx.
func (c *nvrtc) build(t *testing.T, source, target string) (ptx []byte, log string) {
	t.Helper()
	var p uintptr
	if e := c.create(&p, source, "kernels.cu", 0, nil, nil); e != 0 {
		t.Fatalf("nvrtcCreateProgram: %d", e)
	}
	defer c.destroy(&p)
	var options []*byte
	for _, o := range []string{"--gpu-architecture=" + target, "--std=c++17", "--ptxas-options=-v"} {
		b := append([]byte(o), 0)
		options = append(options, &b[0])
	}
	e := c.compile(p, int32(len(options)), unsafe.Pointer(&options[0]))
	get := func(size func(uintptr, *uintptr) int32, read func(uintptr, unsafe.Pointer) int32) []byte {
		var n uintptr
		if size(p, &n) != 0 || n == 0 {
			return nil
		}
		b := make([]byte, n)
		if read(p, unsafe.Pointer(&b[0])) != 0 {
			return nil
		}
		return bytes.TrimRight(b, "\x00")
	}
	log = string(get(c.logSize, c.log))
	if e != 0 {
		t.Fatalf("compiling for %s: NVRTC error %d\n%s", target, e, log)
	}
	return get(c.ptxSize, c.ptx), log
}

// sourceLine is the first line of the embedded PTX: what it was made of.
func sourceLine(t *testing.T) string {
	return fmt.Sprintf("// kernels/*.cu, SHA-256 %x\n", sha256.Sum256([]byte(kernelSource(t, nil))))
}

var (
	versionLine = regexp.MustCompile(`(?m)^\.version .*$`)
	hintLine    = regexp.MustCompile(`(?m)^\s*\.pragma "used_bytes_mask [^"]*";\n`)
)

// TestPTX checks that the embedded PTX is of these sources and, with -update
// and NVRTC, makes it. The version that NVRTC writes is the newest one it
// knows, which older drivers refuse; but for a hint, which is left
// out, nothing in the code is newer than 7.1: ptxas of CUDA 11.8 takes it.
func TestPTX(t *testing.T) {
	if *update {
		c := openNVRTC(t)
		text, _ := c.build(t, kernelSource(t, nil), "compute_80")
		text = versionLine.ReplaceAll(text, []byte(".version "+ptxVersion))
		text = hintLine.ReplaceAll(text, nil)
		var major, minor int32
		c.version(&major, &minor)
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(z, "%s// NVRTC %d.%d, compute_80\n%s", sourceLine(t), major, minor, text)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("kernels/kernels.ptx.gz", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("wrote %d bytes; run the tests again without -update", b.Len())
		return
	}
	text, err := ptx()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte(sourceLine(t))) {
		t.Error("kernels.ptx.gz was made of other sources; run go test ./engine/cuda -run TestPTX -update where NVRTC is")
	}
	for _, want := range []string{".version " + ptxVersion + "\n", ".target sm_80\n"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the PTX lacks the line %q", want)
		}
	}
	code, err := splitPTX(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range standin.Kernel.FindAllStringSubmatch(kernelSource(t, nil), -1) {
		image, err := code.module(m[1])
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range []string{".version ", ".visible .entry "} {
			if n := bytes.Count(image, []byte("\n"+part)); n != 1 {
				t.Errorf("the module of %s has %d lines with %s", m[1], n, part)
			}
		}
	}
	if _, err := code.module("gemm"); err == nil {
		t.Error("there is a module of a kernel that does not exist")
	}
}

// newest is the last target that the compiler knows.
func (c *nvrtc) newest() string {
	var n int32
	c.archCount(&n)
	list := make([]int32, n)
	c.archList(&list[0])
	return fmt.Sprintf("sm_%d", list[len(list)-1])
}

var (
	entryLine    = regexp.MustCompile(`Compiling entry function '(\w+)'`)
	spillLine    = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	registerLine = regexp.MustCompile(`Used (\d+) registers`)
)

// usage is what a thread of a kernel takes; spilled is in bytes, stores and loads.
type usage struct{ registers, spilled int }

// usageOf reads the assembler's report, which has both lines for every kernel.
func usageOf(t *testing.T, log string) map[string]usage {
	t.Helper()
	out := map[string]usage{}
	kernel, u, seen := "", usage{}, false
	for _, line := range strings.Split(log, "\n") {
		if m := entryLine.FindStringSubmatch(line); m != nil {
			kernel, u, seen = m[1], usage{}, false
		}
		if m := spillLine.FindStringSubmatch(line); m != nil {
			stores, _ := strconv.Atoi(m[2])
			loads, _ := strconv.Atoi(m[3])
			u.spilled, seen = stores+loads, true
		}
		if m := registerLine.FindStringSubmatch(line); m != nil {
			if !seen {
				t.Fatalf("the report says nothing about spills of %s:\n%.2000s", kernel, log)
			}
			u.registers, _ = strconv.Atoi(m[1])
			out[kernel] = u
		}
	}
	return out
}

// TestSpillsAreSeen checks the reading of reports with a kernel that keeps 128
// numbers where a thread has 64 registers.
func TestSpillsAreSeen(t *testing.T) {
	const source = `extern "C" __global__ void __launch_bounds__(1024) spills(float *p, int n) {
  float a[128];
#pragma unroll
  for (int i = 0; i < 128; i++) a[i] = p[i * 1024 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 128; i++) p[(i * 1024 + threadIdx.x) * n] = a[127 - i];  // any of the loads' places
}`
	_, log := openNVRTC(t).build(t, source, "sm_80")
	if u := usageOf(t, log)["spills"]; u.registers == 0 || u.registers > 64 || u.spilled == 0 {
		t.Errorf("%+v, want up to 64 registers and spills:\n%s", u, log)
	}
}

// TestRegisters compiles for real targets and reads the assembler's report:
// no kernel spills.
func TestRegisters(t *testing.T) {
	if testing.Short() {
		t.Skip("compiling all kernels takes half a minute; run without -short")
	}
	t.Parallel() // a thread of its own for most of the time
	c := openNVRTC(t)
	targets := []string{"sm_80"}
	if *arches == "all" {
		targets = []string{"sm_80", "sm_90", c.newest()}
	} else if *arches != "" {
		targets = strings.Split(*arches, ",")
	}
	for _, target := range targets {
		t.Run(target, func(t *testing.T) {
			_, log := c.build(t, kernelSource(t, nil), target)
			used := usageOf(t, log)
			for _, kernel := range slices.Sorted(maps.Keys(used)) {
				u := used[kernel]
				t.Logf("%-24s %3d registers, %d bytes spilled", kernel, u.registers, u.spilled)
				if u.spilled != 0 {
					t.Errorf("%s spills %d bytes", kernel, u.spilled)
				}
			}
			if want := len(standin.Kernel.FindAllString(kernelSource(t, nil), -1)); len(used) != want {
				t.Errorf("the report has %d kernels, want %d", len(used), want)
			}
		})
	}
}
