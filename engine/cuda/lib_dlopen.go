//go:build linux && (amd64 || arm64) && !nogpu

package cuda

import "github.com/ebitengine/purego"

// dlopen opens a shared library.
func dlopen(path string) (uintptr, error) {
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

func (l library) bindOne(s symbol) error {
	at, err := purego.Dlsym(l.handle, s.name)
	if err != nil {
		return err
	}
	if raw, ok := s.fn.(*uintptr); ok {
		*raw = at
		return nil
	}
	purego.RegisterFunc(s.fn, at)
	return nil
}

// call calls a C function of integers and pointers.
func call(fn uintptr, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(fn, args...)
	return r
}
