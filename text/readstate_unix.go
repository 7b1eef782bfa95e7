//go:build unix

package text

import (
	"os"
	"syscall"
)

// mapState returns the bytes of a state file, or nil, and what gives them back.
// They are mapped, not read: they are copied once, into the instance. State
// files are replaced by a rename and never written in place, so the mapping
// stays whole.
func mapState(path string) ([]byte, func()) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || st.Size() < int64(stateHeader) || st.Size() > 2*maxState {
		return nil, nil
	}
	b, err := syscall.Mmap(int(file.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil
	}
	return b, func() { _ = syscall.Munmap(b) }
}
