//go:build !purego

package kernel

// fmaLoopNEON does 24 independent multiply-adds of 4 floats, n times.
//
//go:noescape
func fmaLoopNEON(n int)

// fmaLoop returns the loop of the selected path and the FLOP of one turn.
func fmaLoop() (f func(n int), flop int) {
	if cur.name == "neon" {
		return fmaLoopNEON, 2 * 24 * 4
	}
	return goFMALoop, goFMALoopFLOP
}
