//go:build !purego

package kernel

import (
	"math/bits"
	"unsafe"
)

// amxConfig describes eight tiles of sixteen rows of 64 bytes (Intel SDM, volume 1,
// section 18.2: palette 1, bytes of a row from byte 16 on, rows from byte 48 on).
var amxConfig = func() (c [64]byte) {
	c[0] = 1
	for t := range 8 {
		c[16+2*t], c[48+t] = 64, 16
	}
	return c
}()

// packedAMX is amxBF16x32x32 with the meaning of tileKernel.packed. Tiles are stored
// whole, so what lies at an edge of C goes through memory of its own. The state of
// tiles belongs to a thread, which a goroutine may leave between two calls: each call
// configures and releases them.
func packedAMX(pieces int, a, b, c *float32, ldc, m int, mask uint64, acc int) {
	const mr, nr = 32, 32
	cols := bits.Len64(mask)
	if m >= mr && cols >= nr {
		amxBF16x32x32(&amxConfig, pieces, a, b, c, ldc, acc)
		return
	}
	var tile [mr * nr]float32
	amxBF16x32x32(&amxConfig, pieces, a, b, &tile[0], nr, 0)
	for i := range min(m, mr) {
		dst, src := unsafe.Slice(at(c, i*ldc), cols), tile[i*nr:][:cols]
		if acc != 0 {
			goAddTo(dst, src)
		} else {
			copy(dst, src)
		}
	}
}
