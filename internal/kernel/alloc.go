package kernel

import (
	"sync"
	"unsafe"
)

const (
	cacheLine = 64
	mapFrom   = 256 << 10 // bytes; smaller slices come from the Go heap
)

// mapped remembers what Alloc mapped, by the address of the first element.
var mapped = struct {
	sync.Mutex
	m map[*float32][]byte
}{m: map[*float32][]byte{}}

// Alloc returns n zeroed float32, aligned to 64 bytes. Large slices lie
// outside the garbage collector's heap where the system has mmap, on huge
// pages where it grants them; they must be given back with Free.
func Alloc(n int) []float32 {
	if n <= 0 {
		return nil
	}
	if 4*n >= mapFrom {
		if raw, off := mapMemory(4 * n); raw != nil {
			s := unsafe.Slice((*float32)(unsafe.Pointer(&raw[off])), n)
			mapped.Lock()
			mapped.m[&s[0]] = raw
			mapped.Unlock()
			return s
		}
	}
	s := make([]float32, n+cacheLine/4)
	o := int(-uintptr(unsafe.Pointer(&s[0])) % cacheLine / 4)
	return s[o : o+n : o+n]
}

// Free gives back what Alloc returned; the slice, cut at neither front nor
// shared with anyone, must not be used afterwards. Freeing a slice of the Go
// heap, or nil, does nothing.
func Free(s []float32) {
	if len(s) == 0 {
		return
	}
	mapped.Lock()
	raw := mapped.m[&s[0]]
	delete(mapped.m, &s[0])
	mapped.Unlock()
	if raw != nil {
		unmapMemory(raw)
	}
}
