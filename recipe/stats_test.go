package recipe

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/stat"
)

func TestSummarize(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		x    []float64
		want Stat
		text string
	}{
		{nil, Stat{0, nan, nan}, ""},
		{[]float64{nan}, Stat{0, nan, nan}, ""},
		{[]float64{3}, Stat{1, 3, nan}, "3.00"},
		{[]float64{1, 3}, Stat{2, 2, math.Sqrt2}, "2.00 ± 1.41"},
		{[]float64{1, nan, 3}, Stat{2, 2, math.Sqrt2}, "2.00 ± 1.41"},
		{[]float64{2, 4, 4, 4, 5, 5, 7, 9}, Stat{8, 5, math.Sqrt(32. / 7)}, "5.00 ± 2.14"},
		{[]float64{1, 1}, Stat{2, 1, 0}, "1.00 ± 0.00"},
	} {
		got := Summarize(c.x)
		if got.N != c.want.N || !near(got.Mean, c.want.Mean) || !near(got.SD, c.want.SD) || got.Format(2) != c.text {
			t.Errorf("%v: %+v, %q", c.x, got, got.Format(2))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := 2; n < 40; n++ { // against another implementation
		x := make([]float64, n)
		for i := range x {
			x[i] = 1e3 + r.NormFloat64()
		}
		mean, sd := stat.MeanStdDev(x, nil)
		if got := Summarize(x); !near(got.Mean, mean) || !near(got.SD, sd) {
			t.Errorf("n = %d: %+v, want %v and %v", n, got, mean, sd)
		}
	}
}

func near(x, y float64) bool {
	return math.IsNaN(x) && math.IsNaN(y) || math.Abs(x-y) <= 1e-11*max(1, math.Abs(y))
}

func TestGroup(t *testing.T) {
	got := Group([]int{3, 1, 13, 2, 21}, func(x, y int) bool { return x%10 == y%10 })
	want := [][]int{{3, 13}, {1, 21}, {2}}
	if !slices.EqualFunc(got, want, slices.Equal[[]int]) {
		t.Errorf("%v", got)
	}
}
