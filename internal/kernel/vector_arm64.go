//go:build !purego

package kernel

// neonVec is singleVec but for the simplest loops.
var neonVec = func() vecOps {
	v := singleVec
	v.add = func(dst, a, b []float32) {
		n := len(dst) &^ 15
		if n > 0 {
			addNEON(&dst[0], &a[0], &b[0], n/16)
		}
		goAdd(dst[n:], a[n:], b[n:])
	}
	v.mul = func(dst, a, b []float32) {
		n := len(dst) &^ 15
		if n > 0 {
			mulNEON(&dst[0], &a[0], &b[0], n/16)
		}
		goMul(dst[n:], a[n:], b[n:])
	}
	v.axpy = func(alpha float32, x, y []float32) {
		n := len(y) &^ 15
		if n > 0 {
			axpyNEON(alpha, &x[0], &y[0], n/16)
		}
		goAxpy(alpha, x[n:], y[n:])
	}
	v.scale = func(alpha float32, x []float32) {
		n := len(x) &^ 15
		if n > 0 {
			scaleNEON(alpha, &x[0], n/16)
		}
		goScale(alpha, x[n:])
	}
	return v
}()

// neonAddTo implements tileKernel.addTo.
func neonAddTo(dst, src []float32) { neonVec.add(dst, dst, src) }

// addNEON sets dst = a + b, for n pieces of sixteen elements; n > 0 here and below.
//
//go:noescape
func addNEON(dst, a, b *float32, n int)

// mulNEON sets dst = a·b.
//
//go:noescape
func mulNEON(dst, a, b *float32, n int)

// axpyNEON adds alpha·x to y, rounding once.
//
//go:noescape
func axpyNEON(alpha float32, x, y *float32, n int)

// scaleNEON multiplies x by alpha.
//
//go:noescape
func scaleNEON(alpha float32, x *float32, n int)

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
