package task

import (
	"cmp"
	"fmt"
	"slices"
)

// BatchOptions say how a dataset is cut into batches.
type BatchOptions struct {
	// Size is the number of sequences of a batch. Tokens, if not 0, bounds the
	// tokens of a batch instead.
	Size, Tokens int
	// Accumulate is the number of batches of one optimizer step; 0 means 1.
	Accumulate int
	// Shuffle orders each epoch anew, by Seed and the epoch's number.
	Shuffle bool
	Seed    uint64
	// Bucket puts sequences of similar length into one batch.
	Bucket bool
}

// Plan is the order of one epoch: which sequences make which batch, and which
// batches make which optimizer step. It depends on the dataset, the options
// and the epoch's number alone.
type Plan struct {
	order      []int32
	bounds     []int // batch b is order[bounds[b]:bounds[b+1]]
	accumulate int
}

// bucketBatches is how many batches are sorted by length together: enough to
// even out the lengths, few enough to keep an epoch's order random.
const bucketBatches = 64

// Plan returns the order of an epoch, counted from 0.
//
// The order is that of a hash of (seed, epoch, sequence), so that it can be
// made again at any time from these three numbers. It takes O(n log n).
func (d *Dataset) Plan(epoch int, o BatchOptions) (*Plan, error) {
	switch {
	case o.Size < 0 || o.Tokens < 0 || o.Accumulate < 0:
		return nil, &OptionError{fmt.Sprintf("batch size %d, batch tokens %d, accumulation %d: none may be negative", o.Size, o.Tokens, o.Accumulate)}
	case o.Size == 0 && o.Tokens == 0:
		return nil, &OptionError{"a batch size or a number of batch tokens is needed"}
	case o.Tokens > 0 && d.Longest() > o.Tokens:
		return nil, &OptionError{fmt.Sprintf("batches of %d tokens cannot hold the longest sequence of %d: raise the former or lower the maximal length", o.Tokens, d.Longest())}
	}
	// More than there is makes one batch; as it is it could overflow below.
	o.Size, o.Tokens, o.Accumulate = min(o.Size, d.Len()), min(o.Tokens, d.Tokens()), min(o.Accumulate, d.Len())
	p := &Plan{order: d.shuffled(epoch, o), accumulate: max(o.Accumulate, 1)}
	if o.Bucket {
		window := bucketBatches * o.Size
		if o.Tokens > 0 {
			window = bucketBatches * max(1, o.Tokens*d.Len()/max(d.Tokens(), 1))
		}
		for part := range slices.Chunk(p.order, window) {
			slices.SortStableFunc(part, func(a, b int32) int { return cmp.Compare(d.Length(int(a)), d.Length(int(b))) })
		}
	}
	p.cut(d, o)
	if o.Bucket && o.Shuffle {
		p.shuffleBatches(epoch, o.Seed)
	}
	return p, nil
}

// cut sets the bounds of the batches.
func (p *Plan) cut(d *Dataset, o BatchOptions) {
	p.bounds = []int{0}
	used := 0
	for i, s := range p.order {
		first := p.bounds[len(p.bounds)-1]
		full := o.Tokens == 0 && i-first == o.Size || o.Tokens > 0 && used+d.Length(int(s)) > o.Tokens
		if full && i > first {
			p.bounds = append(p.bounds, i)
			used = 0
		}
		used += d.Length(int(s))
	}
	p.bounds = append(p.bounds, len(p.order))
}

// Streams of the hash: sequences and batches are ordered independently.
const (
	streamSequences = 1
	streamBatches   = 2
)

func (d *Dataset) shuffled(epoch int, o BatchOptions) []int32 {
	order := make([]int32, d.Len())
	for i := range order {
		order[i] = int32(i)
	}
	if o.Shuffle {
		permute(order, streamSequences, o.Seed, uint64(epoch))
	}
	return order
}

func (p *Plan) shuffleBatches(epoch int, seed uint64) {
	batches := make([]int32, p.Batches())
	for i := range batches {
		batches[i] = int32(i)
	}
	permute(batches, streamBatches, seed, uint64(epoch))
	order := make([]int32, 0, len(p.order))
	bounds := []int{0}
	for _, b := range batches {
		order = append(order, p.Batch(int(b))...)
		bounds = append(bounds, len(order))
	}
	p.order, p.bounds = order, bounds
}

// permute sorts 0, 1, … n-1 by a hash of (stream, seed, epoch, number), ties by
// number: every order is as likely as any other, as far as the hash is random.
func permute(order []int32, stream, seed, epoch uint64) {
	type entry struct {
		key uint64
		i   int32
	}
	base := mix(mix(mix(stream)+seed) + epoch)
	entries := make([]entry, len(order))
	for i, v := range order {
		entries[i] = entry{mix(base + uint64(v)*0x9e3779b97f4a7c15), v}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.i, b.i)) })
	for i, e := range entries {
		order[i] = e.i
	}
}

// mix is the output function of SplitMix64 (Steele, Lea and Flood 2014, with
// Stafford's constants, variant 13).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Batches returns the number of batches.
func (p *Plan) Batches() int { return len(p.bounds) - 1 }

// Batch returns the sequences of batch b; they must not be changed.
func (p *Plan) Batch(b int) []int32 { return p.order[p.bounds[b]:p.bounds[b+1]] }

// Steps returns the number of optimizer steps; the last may be smaller.
func (p *Plan) Steps() int { return (p.Batches() + p.accumulate - 1) / p.accumulate }

// Step returns the batches [from, to) of an optimizer step.
func (p *Plan) Step(step int) (from, to int) {
	return step * p.accumulate, min((step+1)*p.accumulate, p.Batches())
}

// Dims are upper bounds on the sizes of batches.
type Dims struct {
	Tokens, Sequences, Rows, Longest int
}

// Max returns the largest sizes among the batches of p.
func (p *Plan) Max(d *Dataset) Dims {
	var m Dims
	for b := range p.Batches() {
		var c Dims
		for _, s := range p.Batch(b) {
			c.Tokens += d.Length(int(s))
			c.Rows += d.LossCount(int(s))
			m.Longest = max(m.Longest, d.Length(int(s)))
		}
		m.Tokens, m.Rows = max(m.Tokens, c.Tokens), max(m.Rows, c.Rows)
		m.Sequences = max(m.Sequences, len(p.Batch(b)))
	}
	if d.kind != LM {
		m.Rows = 0
	}
	return m
}
