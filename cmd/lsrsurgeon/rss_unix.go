//go:build unix

package main

import (
	"runtime"
	"syscall"
)

// peakRSS is the largest resident memory of this process so far, in MiB.
func peakRSS() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	kib := float64(u.Maxrss)
	if runtime.GOOS == "darwin" { // bytes there
		kib /= 1024
	}
	return kib / 1024
}

// cpuSeconds is the processor time of the process so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
