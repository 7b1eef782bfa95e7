//go:build amd64 && !purego

package kernel

// fmaLoopAVX2 does 12 independent multiply-adds of 8 floats, n times; n > 0.
//
//go:noescape
func fmaLoopAVX2(n int)

// fmaLoopAVX512 does 24 independent multiply-adds of 16 floats, n times; n > 0.
//
//go:noescape
func fmaLoopAVX512(n int)

// fmaLoop returns the loop of the selected path and the FLOP of one turn.
func fmaLoop() (f func(n int), flop int) {
	switch cur.name {
	case "amx", "avx512":
		return fmaLoopAVX512, 2 * 24 * 16
	case "avx2":
		return fmaLoopAVX2, 2 * 12 * 8
	}
	return goFMALoop, goFMALoopFLOP
}
