//go:build !linux

package atomicfile

import (
	"errors"
	"runtime"
)

func exchange(a, b string) error { return errors.ErrUnsupported }

// unsupportedSync: Windows cannot flush a directory; elsewhere an error
// counts.
func unsupportedSync(error) bool { return runtime.GOOS == "windows" }

// alive cannot be known portably: another process's temporary is left alone.
func alive(int) bool { return true }
