//go:build !(linux || darwin || freebsd)

package kernel

func mapMemory(int) (raw []byte, off int) { return nil, 0 }

func unmapMemory([]byte) {}
