package reference

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// The constants of the tanh approximation of GELU, arXiv 1606.08415, section 2.
var (
	geluScale = math.Sqrt(2 / math.Pi)
	geluCube  = 0.044715
)

// act is the activation function.
func act(a graph.Act, x float64) float64 {
	switch a {
	case graph.ActGELU:
		return x * normalCDF(x)
	case graph.ActGELUTanh:
		return 0.5 * x * (1 + math.Tanh(geluScale*(x+geluCube*x*x*x)))
	case graph.ActReLU:
		return max(x, 0)
	case graph.ActSiLU:
		return x * sigmoid(x)
	case graph.ActTanh:
		return math.Tanh(x)
	}
	return x
}

// actGrad is its derivative; that of ReLU at 0 is 0.
func actGrad(a graph.Act, x float64) float64 {
	switch a {
	case graph.ActGELU:
		density := math.Exp(-x*x/2) / math.Sqrt(2*math.Pi)
		return normalCDF(x) + x*density
	case graph.ActGELUTanh:
		t := math.Tanh(geluScale * (x + geluCube*x*x*x))
		return 0.5*(1+t) + 0.5*x*(1-t*t)*geluScale*(1+3*geluCube*x*x)
	case graph.ActReLU:
		if x > 0 {
			return 1
		}
		return 0
	case graph.ActSiLU:
		s := sigmoid(x)
		return s + x*s*(1-s)
	case graph.ActTanh:
		return 1 - sq(math.Tanh(x))
	}
	return 1
}

func normalCDF(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
