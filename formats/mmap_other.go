//go:build !unix

package formats

import (
	"fmt"
	"os"
)

// mapFile reads the file where there is no mmap.
func mapFile(path string, size int64) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("size was %d bytes and is %d now", size, len(b))
	}
	return b, err
}

// forgetPages has nothing to do: the file is in memory.
func forgetPages([]byte, int64, int64) {}

func unmapFile([]byte) error { return nil }
