package kron

// Form is a way to apply a factor to an activation.
type Form uint8

// The forms. Thin materialises K once per step and multiplies with it;
// Sandwich ([Apply]) never forms it.
const (
	Thin Form = iota
	Sandwich
)

func (f Form) String() string { return [...]string{"thin", "sandwich"}[f] }

// Cost is what one training step of y = x K takes: forward pass, gradient of x
// and gradients of the terms.
type Cost struct {
	FLOPs int64 // multiplications and additions
	Bytes int64 // float32 memory traffic of operands and results beyond caches
}

// flopsPerByte weighs memory traffic against arithmetic: what a core computes
// in the time it takes to move a byte, about 100 GFLOP/s against 12 GB/s.
const flopsPerByte = 8

// Total is the cost in operations, with bytes at their worth in operations.
func (c Cost) Total() int64 { return c.FLOPs + flopsPerByte*c.Bytes }

// CostOf returns the cost of a step over rows tokens in that form.
//
// Thin: 3 products of 2·rows·N·M operations (y, dx, dK), and materialisation
// and its gradient, 6·S·A1·R1·A2·R2, which do not depend on rows. Sandwich:
// the cheaper order forward, and [Back].
func CostOf(form Form, s Shape, rows int) Cost {
	t := int64(rows)
	nm := int64(s.N) * int64(s.M)
	terms := int64(s.S)
	a1, r1, a2, r2 := int64(s.A1), int64(s.R1), int64(s.A2), int64(s.R2)
	io := 4 * t * int64(s.N+s.M)
	if form == Thin {
		return Cost{
			FLOPs: 6*t*nm + 6*terms*a1*r1*a2*r2,
			Bytes: 3*io + 4*8*nm, // K and dK: written, rearranged, read back
		}
	}
	halfF1, halfF2 := terms*r1*a2, terms*a1*r2 // elements of V and of U per token
	forward := 2 * min(halfF1*(a1+r2), halfF2*(a2+r1))
	back := 2 * terms * min(2*a2*r1*r2+3*a1*a2*r1, 2*a1*r1*r2+3*a1*a2*r2) // see Back
	half := min(halfF1, halfF2)
	return Cost{
		FLOPs: t * (forward + back),
		// Half-products stay in the second-level cache; half their traffic
		// is counted. Regrouping reads and writes x and y once more each.
		Bytes: 6*io + 4*t*(2*half+halfF1+halfF2),
	}
}

// Choose returns the cheaper form for about rows tokens a step.
func Choose(s Shape, rows int) Form {
	if CostOf(Sandwich, s, rows).Total() < CostOf(Thin, s, rows).Total() {
		return Sandwich
	}
	return Thin
}
