package merge

import (
	"math"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// TestRoundingDefinition: stochastic rounding and error feedback give what their definitions do,
// element by element, from updates in rational arithmetic; in both orientations, from and to every
// format that has kernels, in shapes that leave rests of every kind.
func TestRoundingDefinition(t *testing.T) {
	const in, out = 331, 77
	for _, from := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		dir := filepath.Join(t.TempDir(), "base")
		writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, []spec{{"rows.weight", from, []int{out, in}, 0.02}, {"cols.weight", from, []int{in, out}, 0.02}})
		base := open(t, dir)
		d := randomDelta(in, out, 3, 1e-4, 3)
		s := []Source{{Name: "x", Weight: 0.7, Updates: []Update{update("rows.weight", true, d), update("cols.weight", false, d)}}}
		exact := exactUpdates(d, 0.7)
		for _, to := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
			t.Run(from.String()+" to "+to.String(), func(t *testing.T) {
				kerneltest.ForEach(t, func(t *testing.T) {
					for _, mode := range []Rounding{Stochastic, ErrorFeedback} {
						dst := filepath.Join(t.TempDir(), "out")
						mustMerge(t, base, s, Options{Rounding: mode, DType: to, Seed: 9, AllowUnchanged: true, FS: fast}, dst)
						merged := open(t, dst)
						for _, name := range []string{"rows.weight", "cols.weight"} {
							checkDefinition(t, values(t, merged, name), values(t, base, name), exact, mode, to, name, in, out)
						}
					}
				})
			})
		}
	}
}

// exactUpdates are weight·ΔW (in, out) rounded once to 24 bits.
func exactUpdates(d *adapter.Delta, weight float64) []float64 {
	rat := func(x float64) *big.Rat { return new(big.Rat).SetFloat64(x) }
	all := make([]float64, d.In*d.Out)
	for i := range d.In {
		for o := range d.Out {
			sum := new(big.Rat)
			for k := range d.R {
				sum.Add(sum, new(big.Rat).Mul(rat(d.A[i*d.R+k]), rat(d.B[k*d.Out+o])))
			}
			sum.Mul(sum, new(big.Rat).Mul(rat(weight), rat(d.Scale)))
			all[i*d.Out+o], _ = new(big.Float).SetPrec(24).SetRat(sum).Float64()
		}
	}
	return all
}

func checkDefinition(t *testing.T, got, w, update []float64, mode Rounding, to tensor.DType, name string, in, out int) {
	t.Helper()
	f, key := binfmts[to], mix(9^hashName(name))
	for o := range out {
		carry := 0.0
		for i := range in {
			at := o*in + i // of rows.weight
			if name == "cols.weight" {
				at = i*out + o
			}
			s := w[at] + update[i*out+o]
			var want float64
			if mode == ErrorFeedback {
				s += carry
				want = nearestOf(t, s, to)
				carry = s - want
			} else {
				a := math.Float64bits(math.Abs(s))
				if a < f.tiny { // the definition by probabilities has a test of its own
					continue
				}
				random := mix(key+uint64(at)*golden) & (1<<f.drop - 1)
				want = math.Copysign(math.Float64frombits((a+random)&^(1<<f.drop-1)), s)
			}
			if got[at] != want {
				t.Fatalf("%s, %s to %v: input %d of output %d: %v + %v gives %v, want %v", name, mode, to, i, o, w[at], update[i*out+o], got[at], want)
			}
		}
	}
}

func nearestOf(t *testing.T, x float64, to tensor.DType) float64 {
	t.Helper()
	b, v := make([]byte, to.Bits()/8), make([]float64, 1)
	if err := tensor.EncodeF64(b, []float64{x}, to); err != nil {
		t.Fatal(err)
	}
	if err := tensor.DecodeF64(v, b, to); err != nil {
		t.Fatal(err)
	}
	return v[0]
}
