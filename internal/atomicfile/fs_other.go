//go:build !linux

package atomicfile

import (
	"errors"
	"os"
)

func renameNew(from, to string) error { return renameIfAbsent(from, to) }

func exchange(a, b string) error {
	return &os.LinkError{Op: "exchange", Old: a, New: b, Err: errors.ErrUnsupported}
}

func copyRange(dst, src *os.File, from, to, n int64) (int64, error) { return 0, nil }

func willNeed(*os.File, int64, int64) {}
