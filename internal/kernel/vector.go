package kernel

import (
	"fmt"
	"math"
)

// same panics unless all lengths are n.
func same(what string, n int, lengths ...int) {
	for _, l := range lengths {
		if l != n {
			panic(fmt.Sprintf("kernel: %s: slices of %d and %d elements; their lengths must agree", what, n, l))
		}
	}
}

// Exp sets dst = eˣ. Relative error below 2⁻²²; subnormal results are exact to
// their last place or two. e^-Inf = 0, e^+Inf = +Inf, NaN stays NaN.
func Exp(dst, src []float32) {
	same("Exp", len(src), len(dst))
	if len(src) > 0 {
		cur.vec.exp(dst, src)
	}
}

// Tanh sets dst = tanh x. Relative error below 2⁻²¹; tanh ±Inf = ±1, NaN stays
// NaN.
func Tanh(dst, src []float32) {
	same("Tanh", len(src), len(dst))
	if len(src) > 0 {
		cur.vec.tanh(dst, src)
	}
}

// Add sets dst = a + b.
func Add(dst, a, b []float32) {
	same("Add", len(dst), len(a), len(b))
	if len(dst) > 0 {
		cur.vec.add(dst, a, b)
	}
}

// Mul sets dst = a·b, element by element.
func Mul(dst, a, b []float32) {
	same("Mul", len(dst), len(a), len(b))
	if len(dst) > 0 {
		cur.vec.mul(dst, a, b)
	}
}

// Axpy adds alpha·x to y. The assembly rounds once (fused multiply-add).
func Axpy(alpha float32, x, y []float32) {
	same("Axpy", len(y), len(x))
	if len(y) > 0 {
		cur.vec.axpy(alpha, x, y)
	}
}

// Scale multiplies x by alpha.
func Scale(alpha float32, x []float32) {
	if len(x) > 0 {
		cur.vec.scale(alpha, x)
	}
}

// Dot returns Σ x·y, accumulated in float64 and rounded once.
func Dot(x, y []float32) float32 {
	same("Dot", len(y), len(x))
	if len(x) == 0 {
		return 0
	}
	return cur.vec.dot(x, y)
}

// Sum returns Σ x accumulated in float64: relative to Σ|x| the error is below
// len(x)·2⁻⁵³.
func Sum(x []float32) float64 {
	if len(x) == 0 {
		return 0
	}
	return cur.vec.sum(x)
}

// SumSquares returns Σ x² accumulated in float64; the squares are exact.
func SumSquares(x []float32) float64 {
	if len(x) == 0 {
		return 0
	}
	return cur.vec.sumSquares(x)
}

// MaxAbs returns max |x|, 0 for no elements, NaN if there is one.
func MaxAbs(x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	return cur.vec.maxAbs(x)
}

// Max returns the largest element, -Inf for no elements, NaN if there is one.
func Max(x []float32) float32 {
	if len(x) == 0 {
		return float32(math.Inf(-1))
	}
	return cur.vec.max(x)
}

// ExpSum sets dst = e^(src-bias) and returns the sum of dst. Errors as for Exp,
// plus the rounding of src-bias. The sum's relative error is below 2⁻²⁰.
func ExpSum(dst, src []float32, bias float32) float32 {
	same("ExpSum", len(src), len(dst))
	if len(src) == 0 {
		return 0
	}
	return cur.vec.expSum(dst, src, 1, bias)
}

// ExpSumScaled sets dst = e^(scale·src-bias) and returns the sum of dst.
func ExpSumScaled(dst, src []float32, scale, bias float32) float32 {
	same("ExpSumScaled", len(src), len(dst))
	if len(src) == 0 {
		return 0
	}
	return cur.vec.expSum(dst, src, scale, bias)
}

// SoftmaxRow replaces x by e^(scale·x - max) with max = scale·max x, and
// returns max and the sum of the new x; dividing by the sum gives the softmax.
// scale must be positive. A row of -Inf alone (everything masked) becomes zero,
// with sum 0.
func SoftmaxRow(x []float32, scale float32) (maximum, sum float32) {
	if len(x) == 0 {
		return float32(math.Inf(-1)), 0
	}
	maximum = scale * cur.vec.max(x)
	if math.IsInf(float64(maximum), -1) {
		clear(x)
		return maximum, 0
	}
	return maximum, cur.vec.expSum(x, x, scale, maximum)
}

// LogSumExp returns log Σ eˣ without overflow; -Inf for no elements.
func LogSumExp(x []float32) float32 {
	m := Max(x)
	if math.IsInf(float64(m), 0) {
		return m
	}
	var buf [256]float32
	var s float64
	for len(x) > 0 {
		n := min(len(x), len(buf))
		s += float64(cur.vec.expSum(buf[:n], x[:n], 1, m))
		x = x[n:]
	}
	return float32(float64(m) + math.Log(s))
}

// SoftmaxGrad sets dst = scale·(softmax(logits) - onehot(label)), the gradient
// of scale times the cross-entropy; lse is LogSumExp of the whole row. A label
// outside of the slice (an ignored one, or one in another chunk of the
// vocabulary) subtracts nothing.
func SoftmaxGrad(dst, logits []float32, lse, scale float32, label int) {
	same("SoftmaxGrad", len(logits), len(dst))
	if len(dst) == 0 {
		return
	}
	cur.vec.gradExp(dst, logits, lse, scale)
	if label >= 0 && label < len(dst) {
		dst[label] -= scale
	}
}

// Transpose writes the transpose of src (rows x cols, row stride lds) to dst
// (cols x rows, row stride ldd). They must not overlap.
func Transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	checkMatrix("Transpose: src", len(src), rows, cols, lds)
	checkMatrix("Transpose: dst", len(dst), cols, rows, ldd)
	cur.vec.transpose(dst, ldd, src, lds, rows, cols)
}

// checkMatrix panics unless n elements hold a rows x cols matrix of stride ld.
func checkMatrix(what string, n, rows, cols, ld int) {
	if rows < 0 || cols < 0 || ld < cols {
		panic(fmt.Sprintf("kernel: %s: %d x %d matrix with row stride %d", what, rows, cols, ld))
	}
	if rows > 0 && cols > 0 && n < (rows-1)*ld+cols {
		panic(fmt.Sprintf("kernel: %s: %d elements are too few for a %d x %d matrix with row stride %d", what, n, rows, cols, ld))
	}
}
