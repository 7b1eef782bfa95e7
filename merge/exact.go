package merge

import (
	"math"
	"math/big"
)

// sum3 is a sum of float64 numbers kept in three parts, hi + mid + lo, with
// |mid| <= ulp(hi)/2 after norm. inexact is set as soon as anything was lost.
type sum3 struct {
	hi, mid, lo float64
	inexact     bool
}

// twoSum returns s = fl(a+b) and e with s + e = a + b. Knuth (1969), TAOCP 2,
// 4.2.2.
func twoSum(a, b float64) (s, e float64) {
	s = a + b
	bb := s - a
	return s, (a - (s - bb)) + (b - bb)
}

// twoProd returns p = fl(a·b) and e with p + e = a·b, unless e underflows.
func twoProd(a, b float64) (p, e float64) {
	p = a * b
	return p, math.FMA(a, b, -p)
}

func (s *sum3) add(x float64) {
	var e float64
	s.hi, e = twoSum(s.hi, x)
	s.mid, e = twoSum(s.mid, e)
	s.lo, e = twoSum(s.lo, e)
	if e != 0 {
		s.inexact = true
	}
}

// addProduct adds x·y.
func (s *sum3) addProduct(x, y float64) {
	p, e := twoProd(x, y)
	if p != 0 && math.Abs(p) < 0x1p-960 { // e may have lost bits
		s.inexact = true
	}
	if p == 0 && x != 0 && y != 0 {
		s.inexact = true
	}
	s.add(p)
	s.add(e)
}

// addScaled adds c·t.
func (s *sum3) addScaled(c float64, t *sum3) {
	s.addProduct(c, t.hi)
	s.addProduct(c, t.mid)
	s.addProduct(c, t.lo)
	s.inexact = s.inexact || t.inexact
}

// norm returns the sum as hi + lo with hi = fl(hi + lo); what lies below lo
// is less than 2^-100 of hi or makes known false.
func (s *sum3) norm() (hi, lo float64, known bool) {
	m, l := twoSum(s.mid, s.lo)
	hi, e := twoSum(s.hi, m)
	lo, rest := twoSum(e, l)
	hi, lo = twoSum(hi, lo)
	return hi, lo, !s.inexact && rest == 0
}

// odd rounds hi + lo to odd: a float64 that every narrower format of at most
// 51 bits rounds as it would round hi + lo. Boldo and Melquiond (2008).
func odd(hi, lo float64) float64 {
	u := math.Float64bits(hi)
	if lo == 0 || u&1 == 1 {
		return hi
	}
	if hi == 0 {
		return lo
	}
	if math.Signbit(hi) == math.Signbit(lo) {
		return math.Float64frombits(u + 1)
	}
	return math.Float64frombits(u - 1)
}

// exact returns w + Σ terms at row i, column j, rescaled where the target is,
// rounded to odd: ready to be
// rounded once more, to any format narrower than 51 bits. For a float64
// target, nearest says to round to nearest instead.
func (t *target) exact(i, j int, w float64, nearest bool) float64 {
	var s sum3
	mag := math.Abs(w)
	s.add(w)
	for k := range t.terms {
		mag += t.terms[k].addTo(&s, i, j)
	}
	if t.scale != nil {
		var scaled sum3
		f := t.scale.at(i, j)
		scaled.addScaled(f, &s)
		s, mag = scaled, mag*math.Abs(f)
	}
	hi, lo, known := s.norm()
	if !known && (math.Abs(lo) <= mag*0x1p-90 || mag < 0x1p-800) {
		return t.rational(i, j, w, nearest)
	}
	if nearest {
		return hi
	}
	return odd(hi, lo)
}

// addTo adds weight·ΔW[i, j] to s and returns the sum of magnitudes.
func (t *term) addTo(s *sum3, i, j int) (mag float64) {
	var d sum3
	t.each(i, j, func(x, y float64) {
		d.addProduct(x, y)
		mag += math.Abs(x * y)
	})
	// c = weight·scale, exactly.
	c, ce := twoProd(t.weight, t.delta.Scale)
	s.addScaled(c, &d)
	s.addScaled(ce, &d)
	return mag * math.Abs(c)
}

// each calls f with the pairs whose products sum up to ΔW[i, j] before
// scaling.
func (t *term) each(i, j int, f func(x, y float64)) {
	d := t.delta
	if d.Kron == nil {
		for k, a := range d.A[i*d.R:][:d.R] {
			f(a, d.B[k*d.Out+j])
		}
		return
	}
	g := d.Kron
	i1, i2, j1, j2 := i/g.A2, i%g.A2, j/g.R2, j%g.R2
	for k := range g.S {
		f(g.F1[(k*g.A1+i1)*g.R1+j1], g.F2[(k*g.A2+i2)*g.R2+j2])
	}
}

// rational is exact in rational arithmetic, for what lies on, or within
// 2^-90 of, the border between two roundings.
func (t *target) rational(i, j int, w float64, nearest bool) float64 {
	rat := func(x float64) *big.Rat { return new(big.Rat).SetFloat64(x) }
	sum := rat(w)
	for k := range t.terms {
		d := new(big.Rat)
		t.terms[k].each(i, j, func(x, y float64) { d.Add(d, new(big.Rat).Mul(rat(x), rat(y))) })
		d.Mul(d, rat(t.terms[k].weight))
		d.Mul(d, rat(t.terms[k].delta.Scale))
		sum.Add(sum, d)
	}
	if t.scale != nil {
		sum.Mul(sum, rat(t.scale.at(i, j)))
	}
	hi, exact := sum.Float64()
	if nearest || exact {
		return hi
	}
	rest := new(big.Rat).Sub(sum, rat(hi))
	return odd(hi, math.Copysign(math.SmallestNonzeroFloat64, float64(rest.Sign())))
}
