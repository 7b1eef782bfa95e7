//go:build !unix

package main

// peakRSS is not known on this system.
func peakRSS() float64 { return 0 }

func cpuSeconds() float64 { return 0 }
