// Package kerneltest runs tests under every implementation of the kernels that
// the machine offers.
package kerneltest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// RequireEnv names paths, separated by commas, whose absence fails a test
// instead of passing unnoticed.
const RequireEnv = "LSRSURGEON_REQUIRE_KERNELS"

// known are the paths that some machine has.
var known = []string{"amx", "avx512", "avx2", "neon", "go"}

// ForEach runs f as a subtest under each path present; the subtests of known
// paths that are absent are skipped. Subtests must not be parallel: the selected
// path is global.
func ForEach(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if v := os.Getenv(RequireEnv); v != "" {
		for _, name := range strings.Split(v, ",") {
			if !slices.Contains(kernel.Paths(), strings.TrimSpace(name)) {
				t.Errorf("%s wants kernel path %q; this machine and build have %s", RequireEnv, name, strings.Join(kernel.Paths(), ", "))
			}
		}
	}
	for _, name := range kernel.Paths() {
		t.Run(name, func(t *testing.T) {
			defer kernel.Use(name)()
			f(t)
		})
	}
	for _, name := range known {
		if !slices.Contains(kernel.Paths(), name) {
			t.Run(name, func(t *testing.T) {
				t.Skipf("this machine and build have no kernel path %q, only %s", name, strings.Join(kernel.Paths(), ", "))
			})
		}
	}
}
