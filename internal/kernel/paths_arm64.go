//go:build !purego

package kernel

// archPaths offers "neon": every arm64 processor has it.
func archPaths() []*path {
	return []*path{{name: "neon", vec: &neonVec, f32: &neonTile32, slim: &neonTile32, row: &neonTile32, narrow: &neonNarrow, f64: &neonTile64}}
}

var (
	neonTile32 = tileKernel[float32]{name: "neon-6x16", mr: 6, nr: 16, strided: neonStrided(6, 16, tileNEON6x16), transpose: neonTranspose, addTo: neonAddTo}
	neonNarrow = tileKernel[float32]{name: "neon-8x8", mr: 8, nr: 8, strided: neonStrided(8, 8, tileNEON8x8), transpose: neonTranspose, addTo: neonAddTo}
	neonTile64 = tileKernel[float64]{name: "neon-6x8", mr: 6, nr: 8, strided: neonStrided(6, 8, tileNEON64x6x8), transpose: goTranspose[float64], addTo: goAddTo[float64]}
)

// tileNEON6x16 computes one tile of 6x16 as tileKernel.strided does, with m from 1 to 6.
//
//go:noescape
func tileNEON6x16(k int, a *float32, ars, acs int, b *float32, brs int, c *float32, ldc, m, acc int)

// tileNEON8x8 computes one tile of 8x8 as tileKernel.strided does, with m from 1 to 8.
//
//go:noescape
func tileNEON8x8(k int, a *float32, ars, acs int, b *float32, brs int, c *float32, ldc, m, acc int)

// neonStrided makes a tileKernel.strided of a microkernel for one tile.
func neonStrided[T float](mr, nr int, tile func(k int, a *T, ars, acs int, b *T, brs int, c *T, ldc, m, acc int)) func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
	return func(k int, a *T, ars, acs int, b *T, brs, bjs int, c *T, ldc, m, nj, acc int) {
		for i := 0; i < m; i += mr {
			p, rows := a, min(mr, m-i)
			if k > 0 { // else there may be no A and no B
				p = at(a, i*ars)
			}
			for j := range nj {
				q := b
				if k > 0 {
					q = at(b, j*bjs)
				}
				tile(k, p, ars, acs, q, brs, at(c, i*ldc+j*nr), ldc, rows, acc)
			}
		}
	}
}
