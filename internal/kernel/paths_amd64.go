//go:build !purego

package kernel

func archPaths() []*path { return nil }
