package decompose

import (
	"math"
	"slices"
)

// point is a size and the squared error that it leaves.
type point struct {
	params int
	error2 float64
}

// goal says how small the squared error of an update of some size must be to be
// of any use beside the updates that are known.
type goal struct {
	// By error: the squared error asked for, and the smallest size so far that
	// reaches it.
	byError bool
	target  float64
	limit   int
	// By budget: the lower convex hull of the known sizes, from no update on,
	// as far as a parameter lowers the squared error by slope.
	slope  float64
	points []point
	hull   []point
}

// goalOf makes the goal of one module from the sizes that are known.
func (f *fitting) goalOf(l *ladder) *goal {
	g := &goal{byError: f.byError(), target: f.MaxError * f.MaxError * l.norm2, limit: math.MaxInt, slope: f.slope, points: []point{{0, l.norm2}}}
	for _, r := range l.rungs {
		g.points = append(g.points, point{r.params, r.error2})
	}
	g.settle()
	return g
}

// add makes a size known.
func (g *goal) add(params int, error2 float64) {
	g.points = append(g.points, point{params, error2})
	g.settle()
}

func (g *goal) settle() {
	if g.byError {
		for _, p := range g.points {
			if p.error2 <= g.target {
				g.limit = min(g.limit, p.params)
			}
		}
		return
	}
	slices.SortFunc(g.points, func(x, y point) int { return x.params - y.params })
	g.hull = g.hull[:0]
	at := g.points[0]
	for {
		g.hull = append(g.hull, at)
		next, rate := at, g.slope
		for _, p := range g.points {
			if p.params <= at.params {
				continue
			}
			if r := (at.error2 - p.error2) / float64(p.params-at.params); r > rate {
				next, rate = p, r
			}
		}
		if next == at {
			return
		}
		at = next
	}
}

// below is the squared error that an update of so many parameters must stay
// below to be of use; 0 or less if none can.
func (g *goal) below(params int) float64 {
	if g.byError {
		if params >= g.limit {
			return 0
		}
		return math.Nextafter(g.target, math.Inf(1))
	}
	for i, p := range g.hull {
		if params <= p.params && i > 0 {
			q := g.hull[i-1]
			return q.error2 - (q.error2-p.error2)*float64(params-q.params)/float64(p.params-q.params)
		}
	}
	last := g.hull[len(g.hull)-1]
	return last.error2 - g.slope*float64(params-last.params)
}

// onHull says whether a size is a corner of the hull, or by error the smallest.
func (g *goal) onHull(params int, error2 float64) bool {
	if g.byError {
		return params == g.limit
	}
	return slices.Contains(g.hull, point{params, error2})
}

// marginal is the largest fall of the squared error per parameter among the
// steps that a budget no longer pays; 0 if it pays all.
func marginal(ladders []*ladder, budget int64) float64 {
	most := 0.0
	for i, at := range spread(ladders, budget) {
		l := ladders[i]
		params, error2 := l.state(at)
		_, rate := l.steepest(at, params, error2, math.MaxInt64)
		most = max(most, rate)
	}
	return most
}
