//go:build (!amd64 && !arm64) || purego

package kernel

// fmaLoop returns the loop of the selected path and the FLOP of one turn.
func fmaLoop() (f func(n int), flop int) { return goFMALoop, goFMALoopFLOP }
