package adapter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// plainForm is an lsr update of a square site of which A, B or both are plain.
type plainForm struct {
	adapter.Config
	shapes string // of the tensors, by their names
	params int    // of a module
}

func plainForms(n int) map[string]plainForm {
	form := func(rank adapter.Rank, in, out [2]int, params int, shapes string) plainForm {
		c := config(adapter.MethodLSR)
		c.Targets.Modules = []string{"query"}
		c.Terms, c.Rank, c.Split, c.SplitOut = 1, rank, in, out
		return plainForm{c, shapes, params}
	}
	d, m := [2]int{n, 1}, [2]int{1, n}
	parts, rev := [2]int{n / 3, 3}, [2]int{3, n / 3}
	return map[string]plainForm{
		"both":     form(adapter.Rank{R1: 5, R2: 1}, d, d, 10*n, fmt.Sprintf("lsr_A[%d 5] lsr_B[5 %d]", n, n)),
		"both, 2":  form(adapter.Rank{R1: 1, R2: 5}, m, m, 10*n, fmt.Sprintf("lsr_A[%d 5] lsr_B[5 %d]", n, n)),
		"A":        form(adapter.Rank{R1: 5, R2: 1}, d, parts, 5*n+5*n/3+3, fmt.Sprintf("lsr_A[%d 5] lsr_B1[1 5 %d] lsr_B2[1 1 3]", n, n/3)),
		"A, 2":     form(adapter.Rank{R1: 1, R2: 5}, m, rev, 5*n+5*n/3+3, fmt.Sprintf("lsr_A[%d 5] lsr_B1[1 1 3] lsr_B2[1 5 %d]", n, n/3)),
		"B":        form(adapter.Rank{R1: 5, R2: 1}, parts, d, 5*n+5*n/3+3, fmt.Sprintf("lsr_A1[1 %d 5] lsr_A2[1 3 1] lsr_B[5 %d]", n/3, n)),
		"not":      form(adapter.Rank{R1: 5, R2: 2}, d, d, 2*(5*n+2), fmt.Sprintf("lsr_A1[1 %d 5] lsr_A2[1 1 2] lsr_B1[1 5 %d] lsr_B2[1 2 1]", n, n)),
		"rank one": form(adapter.Rank{R1: 1, R2: 1}, d, parts, n+n/3+3, fmt.Sprintf("lsr_A[%d 1] lsr_B1[1 1 %d] lsr_B2[1 1 3]", n, n/3)),
	}
}

// A factor of one term with a 1 x 1 part is one matrix, so that lsr costs what LoRA
// costs where it is LoRA; files and starts are those of any other lsr adapter.
func TestPlainFactors(t *testing.T) {
	const n = 48
	sites := robertaSites(1, n, 96)
	for name, f := range plainForms(n) {
		t.Run(name, func(t *testing.T) {
			a := randomised(t, sites, f.Config)
			m := &a.Modules[0]
			var shapes []string
			for _, s := range m.Specs {
				shapes = append(shapes, fmt.Sprint(s.Name[strings.LastIndexByte(s.Name, '.')+1:], s.Shape))
			}
			if got := strings.Join(shapes, " "); got != f.shapes {
				t.Errorf("tensors %s, want %s", got, f.shapes)
			}
			if got := adapter.ParamCount(a.Modules); got != int64(f.params) {
				t.Errorf("%d parameters, want %d", got, f.params)
			}
			b, err := adapter.Load(save(t, a), sites)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range b.Modules[0].Tensors {
				testkit.EqualBits(t, b.Modules[0].Specs[i].Name, x, m.Tensors[i])
			}
			for _, init := range []adapter.Init{adapter.InitZero, adapter.InitSVD} {
				if init == adapter.InitSVD && !strings.HasPrefix(f.shapes, "lsr_A[") {
					continue // drawn has no Kronecker sums
				}
				c := f.Config
				c.Init = init
				a, err := adapter.New(sites, c, drawn{})
				if err != nil {
					t.Fatal(init, err)
				}
				alive := slices.ContainsFunc(a.Modules[0].Tensors[0], func(x float32) bool { return x != 0 })
				if norm, noOp, err := a.Start(); err != nil || !noOp || !alive {
					t.Errorf("%v: start %v, %v, %v; A alive: %v", init, norm, noOp, err, alive)
				}
			}
		})
	}
}

// The paper's start has the same size in a plain factor as in a product.
func TestPaperInitOfPlainFactors(t *testing.T) {
	const n = 768
	forms := plainForms(n)
	for _, name := range []string{"both", "both, 2"} {
		f := forms[name]
		s, err := adapter.Defaults(adapter.MethodLSR, adapter.InitPaper)
		if err != nil {
			t.Fatal(err)
		}
		s.Rank, s.Terms, s.Split, s.SplitOut = f.Rank, 1, f.Split, f.SplitOut
		f.Settings = s
		a, err := adapter.New(robertaSites(1, n, 3072), f.Config, nil)
		if err != nil {
			t.Fatal(err)
		}
		norm, _, err := a.Start()
		if err != nil {
			t.Fatal(err)
		}
		// Entries of A and B have the deviation 1e-4, of ΔW scale·sqrt(r)·1e-8.
		want := s.Scale() * n * 1e-8
		if r := float64(f.Rank.R1 * f.Rank.R2); norm*norm < 0.9*want*want*r || norm*norm > 1.1*want*want*r {
			t.Errorf("%s: norm %g, want about %g", name, norm, want)
		}
	}
}
