//go:build darwin || freebsd

package kernel

func adviseHuge([]byte) {}
