package kernel

import "math"

// Statistics describes a slice. NaN and infinite elements are counted and left
// out of the rest; without any finite element Min is +Inf and Max is -Inf.
type Statistics struct {
	Min, Max        float32
	Sum, SumSquares float64 // accumulated in float64
	NaN, Inf        int
}

// Add merges the statistics of another piece into s.
func (s *Statistics) Add(t Statistics) {
	s.Min, s.Max = min(s.Min, t.Min), max(s.Max, t.Max)
	s.Sum += t.Sum
	s.SumSquares += t.SumSquares
	s.NaN += t.NaN
	s.Inf += t.Inf
}

// NoStatistics are those of no elements.
func NoStatistics() Statistics {
	return Statistics{Min: float32(math.Inf(1)), Max: float32(math.Inf(-1))}
}

// Stats returns the statistics of x.
func Stats(x []float32) Statistics {
	if len(x) == 0 {
		return NoStatistics()
	}
	return cur.vec.stats(x)
}

func goStats(x []float32) Statistics {
	s := NoStatistics()
	for _, v := range x {
		switch {
		case v != v:
			s.NaN++
		case math.IsInf(float64(v), 0):
			s.Inf++
		default:
			s.Min, s.Max = min(s.Min, v), max(s.Max, v)
			s.Sum += float64(v)
			s.SumSquares += float64(v) * float64(v)
		}
	}
	return s
}
