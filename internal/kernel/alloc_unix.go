//go:build linux || darwin || freebsd

package kernel

import (
	"syscall"
	"unsafe"
)

const hugePage = 2 << 20

// mapMemory maps n bytes of zeroed memory; raw[off] is the first one to use.
// It returns nil when the system refuses.
func mapMemory(n int) (raw []byte, off int) {
	size := n
	if n >= hugePage {
		size += hugePage // room to start on a boundary
	}
	raw, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, 0
	}
	if n >= hugePage {
		off = int(-uintptr(unsafe.Pointer(&raw[0])) % hugePage)
		adviseHuge(raw[off : off+n&^(hugePage-1)]) // whole pages only: the rest would waste most of one
	}
	return raw, off
}

func unmapMemory(raw []byte) {
	// It can only fail for memory that mapMemory did not return.
	if err := syscall.Munmap(raw); err != nil {
		panic("kernel: munmap: " + err.Error())
	}
}
