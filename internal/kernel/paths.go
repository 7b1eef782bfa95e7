package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// path is one set of implementations.
type path struct {
	name   string
	vec    *vecOps
	f32    *tileKernel[float32] // square products, packed operands
	slim   *tileKernel[float32] // narrow products, if another kernel is better there
	row    *tileKernel[float32] // strided operands, narrow products (never packed)
	narrow *tileKernel[float32] // as row, for products of at most narrow.nr columns
	odd    *tileKernel[float32] // as row, for columns that its width divides and row's does not; or nil
	half   *tileKernel[float32] // as row, of as many rows and half as wide, for what row leaves over at the right; or nil
	f64    *tileKernel[float64] // all products in float64
	half64 *tileKernel[float64] // half for f64; or nil
	bf16   *tileKernel[float32] // multiplies pairs of bf16, or nil
}

var goPath = path{name: "go", vec: &goVec, f32: &goTile32, slim: &goTile32, row: &goTile32, narrow: &goTile32, f64: &goTile64}

// present lists the paths of this machine, best first; cur is the one in use.
var (
	present = append(archPaths(), &goPath)
	cur     = present[0]
)

// Paths names the paths that this machine and build can run, best first.
func Paths() []string {
	names := make([]string, len(present))
	for i, p := range present {
		names[i] = p.name
	}
	return names
}

// Selected names the path in use.
func Selected() string { return cur.name }

// Use switches to the named path and returns a function that switches back. It
// is meant for tests and benchmarks, and must not be called while kernels run.
// Matrices that are already packed keep the kernel they were packed for. It
// panics when the path is not among Paths.
func Use(name string) (undo func()) {
	i := slices.IndexFunc(present, func(p *path) bool { return p.name == name })
	if i < 0 {
		panic(fmt.Sprintf("kernel: no path %q on this machine; present: %s", name, strings.Join(Paths(), ", ")))
	}
	old := cur
	cur = present[i]
	return func() { cur = old }
}

// HasBF16 reports whether the selected path multiplies bf16 in hardware.
func HasBF16() bool { return cur.bf16 != nil }
