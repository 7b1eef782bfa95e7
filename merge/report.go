package merge

import (
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Report says what a merge did.
type Report struct {
	Files   []string
	Bytes   int64 // of the whole output
	Tensors []TensorReport
	Copied  int      // tensors taken over byte for byte
	Added   []string // tensors that the base has not
	Untied  []string // tensors that were one and are separate now
	LeftOut []string // files of the base's directory that were not carried along
	Total   TensorReport
}

// TensorReport says what became of one tensor's update. Norms are Frobenius
// norms.
type TensorReport struct {
	Name     string
	From, To tensor.DType
	Elements int64
	Adapters int
	// Unchanged counts the elements that have a nonzero update and yet the value
	// that they would have without it; Share is their part of those with an
	// update.
	Unchanged int64
	Share     float64
	DeltaNorm float64 // ‖ΔW‖
	ErrorNorm float64 // ‖W' - (W + ΔW)‖
	// RelativeError is ErrorNorm/DeltaNorm: 0.3 means that the layer answers to 30 %
	// noise on top of its update.
	RelativeError float64
	MaxError      float64
	NonFinite     int64 // elements of the base that are NaN or infinite, kept
}

func (p *Plan) report(works []*work) *Report {
	r := &Report{Copied: p.whole, Bytes: p.Bytes(), Untied: p.untied, LeftOut: p.left}
	var all sums
	for f := range p.files {
		r.Files = append(r.Files, p.files[f].name)
		for i := range p.files[f].tensors {
			t := &p.files[f].tensors[i]
			if t.gap {
				continue
			}
			if !t.touched() {
				r.Copied++
			}
			if _, ok := p.base.Lookup(t.name); !ok {
				r.Added = append(r.Added, t.name)
			}
		}
	}
	r.Total.Name = "total"
	for _, w := range works {
		if !w.updates {
			continue
		}
		s := w.total()
		t := TensorReport{Name: w.t.name, From: w.t.src.DType, To: w.t.dtype, Elements: int64(w.rows) * int64(w.cols), Adapters: len(w.t.todo.updates)}
		t.fill(&s)
		r.Tensors = append(r.Tensors, t)
		all.add(&s)
		r.Total.Elements += t.Elements
		r.Total.Adapters = max(r.Total.Adapters, t.Adapters)
	}
	r.Total.fill(&all)
	return r
}

func (t *TensorReport) fill(s *sums) {
	t.Unchanged = max(0, s.same-s.zero-s.nonFinite)
	if updated := t.Elements - s.zero - s.nonFinite; updated > 0 {
		t.Share = float64(t.Unchanged) / float64(updated)
	}
	t.DeltaNorm, t.ErrorNorm = math.Sqrt(s.sqDelta), math.Sqrt(s.sqErr)
	if s.sqDelta > 0 {
		t.RelativeError = t.ErrorNorm / t.DeltaNorm
	}
	t.MaxError, t.NonFinite = s.maxErr, s.nonFinite
}
