package graph

import "fmt"

// Batch is the data of one run. Streams are packed: sequence s owns tokens
// [CuSeqlens[s], CuSeqlens[s+1]).
type Batch struct {
	CuSeqlens []int32 // (S+1), starts with 0
	IDs       []int32 // (T)
	TypeIDs   []int32 // (T), nil means all 0
	Positions []int32 // (T), from 0 in each sequence
	Rows      []int32 // (R) token rows that PickRows takes, ascending
	Labels    []int32 // (S) classes, or (R) token ids; negative is ignored
	Targets   []float32
	Inputs    []float32 // (T, cols) of the program's Input, if it has one
	LossScale float32   // 1 / number of labels in the whole optimizer step
	Train     bool      // dropout on
	Seed      uint64    // dropout key
	Step      uint64    // dropout counter: differs per micro-batch
}

// Dims returns the sizes of b.
func (b *Batch) Dims() Dims {
	d := Dims{T: len(b.IDs), S: len(b.CuSeqlens) - 1, R: len(b.Rows)}
	for i := 1; i < len(b.CuSeqlens); i++ {
		d.MaxLen = max(d.MaxLen, int(b.CuSeqlens[i]-b.CuSeqlens[i-1]))
	}
	return d
}

// Validate checks b against p: sequences are not empty and cover the tokens,
// streams that p reads have one entry per token, indices lie in their tables,
// Rows ascend within the tokens, and there is a label or target for every
// row of the loss. Engines call it before they run b.
func (b *Batch) Validate(p *Program) error {
	t := len(b.IDs)
	if len(b.CuSeqlens) < 2 || b.CuSeqlens[0] != 0 || int(b.CuSeqlens[len(b.CuSeqlens)-1]) != t {
		return fmt.Errorf("batch: cumulative lengths must begin with 0 and end with %d, the number of tokens", t)
	}
	for i := 1; i < len(b.CuSeqlens); i++ {
		if b.CuSeqlens[i] <= b.CuSeqlens[i-1] {
			return fmt.Errorf("batch: sequence %d is empty", i-1)
		}
	}
	for i, r := range b.Rows {
		if r < 0 || int(r) >= t || i > 0 && r <= b.Rows[i-1] {
			return fmt.Errorf("batch: row %d is token %d, but rows must ascend within %d tokens", i, r, t)
		}
	}
	d := b.Dims()
	for _, op := range p.Ops[:p.Forward] {
		if err := b.validateOp(p, op, d); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
	}
	return nil
}

// Stream returns a stream of b; nil type ids are zeros and stay nil.
func (b *Batch) Stream(s Stream) []int32 {
	return [...][]int32{b.IDs, b.TypeIDs, b.Positions}[s]
}

func (b *Batch) validateOp(p *Program, op Op, d Dims) error {
	switch o := op.(type) {
	case *Input:
		if n := d.T * p.Info(o.Y).Cols; len(b.Inputs) != n {
			return fmt.Errorf("%d input values for %d tokens of %d", len(b.Inputs), d.T, p.Info(o.Y).Cols)
		}
	case *Embed:
		for j, table := range o.Tables {
			if err := b.validateStream(p.Weight(table), o.Streams[j], o.Offsets[j]); err != nil {
				return err
			}
		}
	case *Rope:
		if len(b.Positions) != d.T {
			return fmt.Errorf("%d positions for %d tokens", len(b.Positions), d.T)
		}
	case *CrossEntropy:
		return b.validateLabels(p.Info(o.Logits).Rows.Count(d), p.Info(o.Logits).Cols)
	case *LMLoss:
		return b.validateLabels(p.Info(o.X).Rows.Count(d), p.Weight(o.W).Out)
	case *MSE:
		return b.validateTargets(p.Info(o.Pred), d)
	case *BCE:
		return b.validateTargets(p.Info(o.Logits), d)
	}
	return nil
}

func (b *Batch) validateStream(w *Weight, s Stream, offset int) error {
	ids := b.Stream(s)
	if ids == nil && s == StreamTypes {
		return nil
	}
	if len(ids) != len(b.IDs) {
		return fmt.Errorf("%d indices into %s for %d tokens", len(ids), w.Name, len(b.IDs))
	}
	for t, id := range ids {
		if i := int(id) + offset; i < 0 || i >= w.In {
			return fmt.Errorf("token %d: index %d into %s, which has %d rows", t, i, w.Name, w.In)
		}
	}
	return nil
}

func (b *Batch) validateLabels(rows, classes int) error {
	if len(b.Labels) != rows {
		return fmt.Errorf("%d labels for %d rows", len(b.Labels), rows)
	}
	for i, l := range b.Labels {
		if int(l) >= classes {
			return fmt.Errorf("label %d of row %d, but there are %d classes", l, i, classes)
		}
	}
	return nil
}

func (b *Batch) validateTargets(in *Info, d Dims) error {
	if n := in.Rows.Count(d) * in.Cols; len(b.Targets) != n {
		return fmt.Errorf("%d targets for %d predictions", len(b.Targets), n)
	}
	return nil
}
