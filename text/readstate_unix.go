//go:build unix

package text

import (
	"os"
	"syscall"
)

// readState gives f the bytes of a state file. They are mapped, not read: they
// are copied once, into the instance. State files are replaced by a rename
// and never written in place, so the mapping stays whole.
func readState(path string, f func([]byte) bool) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || st.Size() < int64(stateHeader) || st.Size() > 2*maxState {
		return false
	}
	b, err := syscall.Mmap(int(file.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return false
	}
	ok := f(b)
	return syscall.Munmap(b) == nil && ok
}
