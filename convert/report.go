package convert

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Exactness says what a conversion did to numbers.
type Exactness string

// The grades of exactness.
const (
	Exact        Exactness = "exact"        // the same numbers
	Rounded      Exactness = "rounded"      // to the numbers of the dtype, once
	Approximated Exactness = "approximated" // by a form that cannot hold them
)

// TensorReport says what became of one tensor.
type TensorReport struct {
	Tensor string    `json:"tensor"` // its name in the output
	From   string    `json:"from,omitempty"`
	DType  string    `json:"dtype"`
	Grade  Exactness `json:"exactness"`
	// MaxError is the largest difference of an element, Relative the Frobenius
	// norm of all differences by that of the tensor.
	MaxError float64 `json:"max_error"`
	Relative float64 `json:"relative_error"`
}

// Report says what a conversion did to every tensor.
type Report struct {
	Tensors []TensorReport `json:"tensors"`
	// Notes say what else differs, and what was left out.
	Notes []string `json:"notes"`
}

// note adds a note once.
func (r *Report) note(s string) {
	for _, n := range r.Notes {
		if n == s {
			return
		}
	}
	r.Notes = append(r.Notes, s)
}

// Count is the number of tensors of a grade.
func (r *Report) Count(e Exactness) int {
	n := 0
	for _, t := range r.Tensors {
		if t.Grade == e {
			n++
		}
	}
	return n
}

// Worst returns the report of the tensor with the largest relative error, or
// false where all are exact.
func (r *Report) Worst() (TensorReport, bool) {
	var worst TensorReport
	found := false
	for _, t := range r.Tensors {
		if t.Grade != Exact && (!found || t.Relative > worst.Relative) {
			worst, found = t, true
		}
	}
	return worst, found
}

// deviation collects the differences between numbers and what was written.
type deviation struct{ diff2, norm2, top float64 }

// add counts element wanted, written as got.
func (e *deviation) add(wanted, got float64) {
	e.norm2 += wanted * wanted
	if wanted == got {
		return
	}
	d := math.Abs(wanted - got)
	e.diff2 += d * d
	e.top = max(e.top, d)
}

// merge adds the differences of another part.
func (e *deviation) merge(o deviation) {
	e.diff2 += o.diff2
	e.norm2 += o.norm2
	e.top = max(e.top, o.top)
}

// report grades the differences.
func (e *deviation) report(name, from, dtype string) TensorReport {
	r := TensorReport{Tensor: name, From: from, DType: dtype, Grade: Exact}
	if e.top > 0 {
		r.Grade, r.MaxError = Rounded, e.top
		if e.norm2 > 0 {
			r.Relative = math.Sqrt(e.diff2 / e.norm2)
		}
	}
	return r
}

// holds says whether every number of from is one of to.
func holds(to, from tensor.DType) bool {
	if to == from || from == tensor.BF16 && to == tensor.F32 || from == tensor.F16 && to == tensor.F32 {
		return true
	}
	return to == tensor.F32 && from.IsFloat() && from.Bits() <= 8
}
