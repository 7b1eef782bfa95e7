//go:build !linux && !purego

package kernel

// permitAMX says no: how other systems hand out tiles has not been tried.
func permitAMX() bool { return false }
