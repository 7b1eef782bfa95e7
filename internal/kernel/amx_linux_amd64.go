//go:build !purego

package kernel

import "golang.org/x/sys/unix"

// permitAMX asks Linux for the use of tiles, which it grants to a process only when
// asked (since 5.16), and reports whether it may use them. See
// Documentation/arch/x86/xstate.rst of the kernel.
func permitAMX() bool {
	const (
		archReqXcompPerm = 0x1023
		tileData         = 18
	)
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archReqXcompPerm, tileData, 0)
	return errno == 0
}
