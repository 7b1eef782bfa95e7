package merge

import (
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// BenchmarkTile computes one tile of a (2048, 2048) weight with an update of
// rank 16, on one worker and without writing it.
func BenchmarkTile(b *testing.B) {
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		for _, mode := range []Rounding{Nearest, Stochastic, ErrorFeedback} {
			b.Run(d.String()+"/"+string(mode), func(b *testing.B) {
				dir := filepath.Join(b.TempDir(), "base")
				writeSafetensors(b, mkdir(b, dir, formats.ModelFile), 1, []spec{{"w.weight", d, []int{512, 2048}, 0.02}})
				base := open(b, dir)
				p := mustPlan(b, base, []Source{{Name: "x", Weight: 1, Updates: []Update{update("w.weight", true, randomDelta(2048, 512, 16, 1e-4, 1))}}}, Options{Rounding: mode})
				jobs, _ := p.jobs()
				target, err := jobs[0].work.ready(nil)
				if err != nil {
					b.Fatal(err)
				}
				buf := buffers{src: tensorBytes(b, base, "w.weight"), dst: make([]byte, jobs[0].n)}
				r := run{p: p}
				for b.Loop() {
					if err := r.compute(&jobs[0], target, &buf); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)*512*2048/b.Elapsed().Seconds()/1e6, "Melement/s")
			})
		}
	}
}
