package task

import (
	"cmp"
	"math"
	"slices"
)

// Accuracy is the share of equal elements. It panics if the lengths differ.
func Accuracy(pred, gold []int) float64 {
	sameLength(len(pred), len(gold))
	n := 0
	for i, p := range pred {
		if p == gold[i] {
			n++
		}
	}
	return float64(n) / float64(len(pred))
}

// F1 is 2·tp / (2·tp + fp + fn) for one class, 0 where that is 0/0.
// It panics if the lengths differ.
func F1(pred, gold []int, class int) float64 {
	sameLength(len(pred), len(gold))
	right, wrong := 0, 0
	for i, p := range pred {
		switch {
		case p == class && gold[i] == class:
			right++
		case p == class || gold[i] == class:
			wrong++
		}
	}
	if right+wrong == 0 {
		return 0
	}
	return float64(2*right) / float64(2*right+wrong)
}

// F1Macro is the mean F1 of the classes that occur in pred or gold.
// It panics if the lengths differ.
func F1Macro(pred, gold []int) float64 {
	sameLength(len(pred), len(gold))
	classes := slices.Concat(pred, gold)
	slices.Sort(classes)
	classes = slices.Compact(classes)
	sum := 0.0
	for _, c := range classes {
		sum += F1(pred, gold, c)
	}
	return sum / float64(len(classes))
}

// Matthews is the correlation of two labellings of any number of classes, from
// the confusion matrix C with n elements and trace c (Gorodkin 2004):
//
//	(c·n - Σ_k p_k·t_k) / sqrt((n² - Σ p_k²)(n² - Σ t_k²))
//
// p_k and t_k are how often class k was predicted and is right. It is 0 where one
// of the labellings is constant, and panics if the lengths differ.
func Matthews(pred, gold []int) float64 {
	sameLength(len(pred), len(gold))
	p, t := map[int]float64{}, map[int]float64{}
	right, n := 0.0, float64(len(pred))
	for i := range pred {
		p[pred[i]]++
		t[gold[i]]++
		if pred[i] == gold[i] {
			right++
		}
	}
	// The sums are of whole numbers below 2^53: exact in any order.
	var pt, pp, tt float64
	for k, v := range p {
		pt += v * t[k]
		pp += v * v
	}
	for _, v := range t {
		tt += v * v
	}
	d := (n*n - pp) * (n*n - tt)
	if d == 0 {
		return 0
	}
	return (right*n - pt) / math.Sqrt(d)
}

// Pearson is the linear correlation of x and y, NaN where one is constant or
// there are fewer than two. It panics if the lengths differ.
func Pearson(x, y []float64) float64 {
	sameLength(len(x), len(y))
	n := float64(len(x))
	var mx, my float64
	for i := range x {
		mx += x[i]
		my += y[i]
	}
	mx, my = mx/n, my/n
	var xy, xx, yy float64
	for i := range x {
		dx, dy := x[i]-mx, y[i]-my
		xy += dx * dy
		xx += dx * dx
		yy += dy * dy
	}
	// A constant input leaves at most the rounding of its mean.
	if len(x) < 2 || constant(x) || constant(y) {
		return math.NaN()
	}
	return max(-1, min(1, xy/(math.Sqrt(xx)*math.Sqrt(yy))))
}

func constant(x []float64) bool {
	return !slices.ContainsFunc(x, func(v float64) bool { return v != x[0] })
}

// Spearman is the Pearson correlation of the ranks; equal values share the mean
// of their ranks. It panics if the lengths differ.
func Spearman(x, y []float64) float64 {
	sameLength(len(x), len(y))
	return Pearson(ranks(x), ranks(y))
}

// ranks returns the ranks from 1. A NaN anywhere makes all of them NaN.
func ranks(x []float64) []float64 {
	order := make([]int, len(x))
	out := make([]float64, len(x))
	for i := range x {
		order[i] = i
		if math.IsNaN(x[i]) {
			for j := range out {
				out[j] = math.NaN()
			}
			return out
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(x[a], x[b]) })
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && x[order[j]] == x[order[i]] {
			j++
		}
		for _, k := range order[i:j] {
			out[k] = float64(i+j+1) / 2
		}
		i = j
	}
	return out
}

// MSE is the mean of (x - y)². It panics if the lengths differ.
func MSE(x, y []float64) float64 {
	sameLength(len(x), len(y))
	sum := 0.0
	for i := range x {
		sum += (x[i] - y[i]) * (x[i] - y[i])
	}
	return sum / float64(len(x))
}

// Perplexity is exp(loss), where loss is the mean negative log-likelihood a
// token in nats.
func Perplexity(loss float64) float64 { return math.Exp(loss) }

func sameLength(a, b int) {
	if a != b {
		panic("task: metric of two slices of different lengths")
	}
}
