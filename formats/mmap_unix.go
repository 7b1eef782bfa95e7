//go:build unix

package formats

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file read-only. The size is the one seen when it was opened:
// a different one now is an error.
func mapFile(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() != size {
		return nil, fmt.Errorf("size was %d bytes and is %d now", size, st.Size())
	}
	return unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
}

// forgetPages drops the pages around bytes [from, to) of a mapping from the process.
// What is read again later comes back, from the system's cache if it is still there.
func forgetPages(m []byte, from, to int64) {
	page := int64(os.Getpagesize())
	from, to = from&^(page-1), min((to+page-1)&^(page-1), int64(len(m)))
	if from < to {
		_ = unix.Madvise(m[from:to], unix.MADV_DONTNEED) // a hint
	}
}

func unmapFile(b []byte) error { return unix.Munmap(b) }
