package task

// Batch is the data of one run of a program, packed: sequence s owns tokens
// [CuSeqlens[s], CuSeqlens[s+1]).
//
// T tokens, S sequences, R rows that carry loss.
type Batch struct {
	CuSeqlens []int32   // (S+1)
	IDs       []int32   // (T)
	TypeIDs   []int32   // (T), nil if all are 0
	Positions []int32   // (T), from 0 in each sequence
	Rows      []int32   // (R) of a language model: tokens whose next one is predicted
	Labels    []int32   // (S) classes, negative where unknown; of a language model (R) next tokens
	Targets   []float32 // (S) of a regression
	Sequences []int32   // (S) which sequences of the dataset these are
	// LossCount is the number of labels that carry loss.
	LossCount int
}

// Fill writes the given sequences to b, reusing its memory.
//
// Row t of a language model predicts token t+1 of its own sequence, so that the
// last token of a sequence predicts nothing.
func (d *Dataset) Fill(b *Batch, sequences []int32) {
	b.CuSeqlens = append(b.CuSeqlens[:0], 0)
	b.IDs, b.Positions, b.Rows, b.Labels = b.IDs[:0], b.Positions[:0], b.Rows[:0], b.Labels[:0]
	b.TypeIDs, b.Targets = b.TypeIDs[:0], b.Targets[:0]
	b.Sequences = append(b.Sequences[:0], sequences...)
	b.LossCount = 0
	for _, s := range sequences {
		from, to := d.starts[s], d.starts[s+1]
		base := len(b.IDs)
		b.IDs = append(b.IDs, d.ids[from:to]...)
		for i := range to - from {
			b.Positions = append(b.Positions, int32(i))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
		b.LossCount += int(d.counts[s])
		if d.types != nil {
			b.TypeIDs = append(b.TypeIDs, d.types[from:to]...)
		}
		switch d.kind {
		case Classification:
			b.Labels = append(b.Labels, d.labels[s])
		case Regression:
			b.Targets = append(b.Targets, d.targets[s])
		case LM:
			for t := from + 1; t < to; t++ {
				if d.predicted[t] {
					b.Rows = append(b.Rows, int32(base+t-1-from))
					b.Labels = append(b.Labels, d.ids[t])
				}
			}
		}
	}
	if d.types == nil {
		b.TypeIDs = nil
	}
}
