package kron

// goodSplit is how much larger than the smallest possible a1+a2 an exact
// split's sum may be before padding is preferred. 768 = 32·24 and
// 3072 = 64·48 pass; 2·1009 does not.
const goodSplit = 1.25

// Split returns the default a1 ≥ a2 with a1·a2 ≥ n for a dimension n.
//
// The number of parameters grows with a1 + a2, so the smallest sum is best. A
// split without padding is taken if its sum is within 1.25 times the smallest;
// otherwise (primes, small multiples of large primes) the smallest sum, and
// among those the least padding. It panics if n < 1.
// Example: 768 -> 32, 24; 50257 (prime) -> 236, 213.
func Split(n int) (a1, a2 int) {
	if n < 1 {
		panic("kron: split of a dimension below 1")
	}
	a1, a2 = padded(n)
	for d := isqrt(n); d >= 1; d-- {
		if n%d != 0 {
			continue
		}
		if float64(n/d+d) <= goodSplit*float64(a1+a2) {
			return n / d, d
		}
		break // smaller divisors only have larger sums
	}
	return a1, a2
}

// padded returns the split of smallest sum, then least padding.
func padded(n int) (a1, a2 int) {
	q := isqrt(n)
	sum := 2 * q // the smallest sum with product ≥ n is ⌈2√n⌉
	for (sum/2)*(sum-sum/2) < n {
		sum++
	}
	a2 = sum / 2
	for a2 > 1 && (a2-1)*(sum-a2+1) >= n {
		a2--
	}
	return sum - a2, a2
}

// isqrt returns ⌊√n⌋.
func isqrt(n int) int {
	if n < 2 {
		return n
	}
	x := n
	for y := (x + 1) / 2; y < x; y = (x + n/x) / 2 {
		x = y
	}
	return x
}

// Splits returns the exact splits a1·a2 = n with a1 ≥ a2, nearest to the
// square first.
func Splits(n int) [][2]int {
	var s [][2]int
	for d := isqrt(n); d >= 1; d-- {
		if n%d == 0 {
			s = append(s, [2]int{n / d, d})
		}
	}
	return s
}
