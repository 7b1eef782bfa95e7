package recipe

import (
	"fmt"
	"math"
	"slices"
)

// Stat are the mean and the spread of a number that several runs gave.
type Stat struct {
	N    int     // runs in which it is defined
	Mean float64 // NaN of none
	// SD is the sample standard deviation √(Σ (x - mean)²/(n - 1)), NaN of fewer than two.
	SD float64
}

// Summarize is the Stat of the values that are not NaN.
func Summarize(values []float64) Stat {
	s := Stat{Mean: math.NaN(), SD: math.NaN()}
	x := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if s.N = len(x); s.N == 0 {
		return s
	}
	n := float64(s.N)
	s.Mean = 0
	for _, v := range x {
		s.Mean += v / n
	}
	if s.N > 1 {
		var sum float64
		for _, v := range x {
			sum += (v - s.Mean) * (v - s.Mean)
		}
		s.SD = math.Sqrt(sum / (n - 1))
	}
	return s
}

// Format shows the mean, and the deviation where there is one, with so many decimals:
// "0.8125 ± 0.0120". It is empty where nothing is defined.
func (s Stat) Format(decimals int) string {
	switch {
	case math.IsNaN(s.Mean):
		return ""
	case math.IsNaN(s.SD):
		return fmt.Sprintf("%.*f", decimals, s.Mean)
	}
	return fmt.Sprintf("%.*f ± %.*f", decimals, s.Mean, decimals, s.SD)
}

// Group puts those together that are the same, in the order in which they come first.
// same is an equivalence.
func Group[T any](all []T, same func(x, y T) bool) [][]T {
	var groups [][]T
	for _, x := range all {
		i := slices.IndexFunc(groups, func(g []T) bool { return same(g[0], x) })
		if i < 0 {
			i = len(groups)
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], x)
	}
	return groups
}
