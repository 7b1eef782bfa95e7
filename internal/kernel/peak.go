package kernel

import "time"

// Peak measures the float32 multiply-add peak of the selected path, in GFLOP/s
// over all threads of p: registers only, no memory, for about 20 ms. It is what
// products are compared with.
func Peak(p *Pool) float64 {
	loop, flop := fmaLoop()
	n := 1 << 10
	for {
		start := time.Now()
		p.Run(p.Threads(), func(_, _ int) { loop(n) })
		if d := time.Since(start); d > 20*time.Millisecond {
			return float64(p.Threads()) * float64(n) * float64(flop) / d.Seconds() / 1e9
		}
		n *= 2
	}
}

const goFMALoopFLOP = 2 * 8

// sink keeps the compiler from dropping the loop.
var sink [8]float32

// goFMALoop does 8 independent multiply-adds, n times.
func goFMALoop(n int) {
	var a [8]float32
	x, y := sink[0], sink[1]
	for range n {
		for i := range a {
			a[i] += x * y
		}
	}
	if a[0] != a[0] {
		sink = a
	}
}
