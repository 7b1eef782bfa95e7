package task

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"

	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// TokenEncoder turns texts into tokens, in order; *text.Tokenizer is one.
type TokenEncoder interface {
	EncodeBatch(ctx context.Context, inputs []text.Input, o text.EncodeOptions) ([]text.Encoding, error)
}

// DatasetOptions say how examples become sequences of tokens.
type DatasetOptions struct {
	// MaxLength limits a sequence's tokens, special ones included; 0 takes the
	// task's.
	MaxLength int
	// Truncation says which text of a pair is cut; the zero value cuts the
	// longer one.
	Truncation text.Strategy
	// EOS ends each text of a language model, where the tokenizer has not ended
	// it so already; nil appends nothing.
	EOS []int32
	// Pack joins a language model's texts and cuts them into blocks of
	// MaxLength. Otherwise each text is one sequence, cut off at MaxLength, or with
	// Cut as many as it fills.
	Pack, Cut bool
	// Unlabelled accepts examples without an answer, for prediction.
	Unlabelled bool
}

// Dataset holds the tokens of all sequences without padding. It is not changed
// after it is made and may be read concurrently.
type Dataset struct {
	kind      Kind
	maxLength int
	ids       []int32 // (tokens)
	types     []int32 // (tokens); nil if all are 0
	starts    []int   // (sequences + 1)
	labels    []int32 // (sequences), of a classification
	targets   []float32
	predicted []bool  // (tokens) of a language model: the token is a target
	counts    []int32 // (sequences) labels that carry loss
	sources   []int32 // (sequences) examples, of a language model's that are not packed

	truncated, dropped int
}

// NewDataset encodes the examples of data.
//
// Sequence i is example i, but for a language model, whose packed blocks hold
// parts of many texts, and whose sequences without loss are left out
// (Dropped). It is an error if no token carries loss.
func NewDataset(ctx context.Context, enc TokenEncoder, data *Data, o DatasetOptions) (*Dataset, error) {
	if o.MaxLength == 0 {
		o.MaxLength = data.Spec.MaxLength
	}
	if o.MaxLength < 2 {
		return nil, badf(data.Path, 0, 0, "a maximal length of %d tokens leaves no room for text", o.MaxLength)
	}
	d := &Dataset{kind: data.Spec.Kind, maxLength: o.MaxLength, starts: []int{0}}
	if d.kind == LM {
		return d, d.addTexts(ctx, enc, data, o)
	}
	return d, d.addInputs(ctx, enc, data, o)
}

// encodeAtOnce bounds how many encodings are in memory beside the dataset.
const encodeAtOnce = 4096

// addInputs encodes the examples of a classification or regression.
func (d *Dataset) addInputs(ctx context.Context, enc TokenEncoder, data *Data, o DatasetOptions) error {
	eo := text.EncodeOptions{NoOffsets: true, Truncation: &text.Truncation{MaxLength: o.MaxLength, Strategy: o.Truncation}}
	for from := 0; from < len(data.Examples); from += encodeAtOnce {
		part := data.Examples[from:min(from+encodeAtOnce, len(data.Examples))]
		in := make([]text.Input, len(part))
		for i, e := range part {
			in[i] = text.Input{Text: e.Text, Pair: e.Pair, IsPair: e.Pair != ""}
		}
		out, err := enc.EncodeBatch(ctx, in, eo)
		if err != nil {
			return &Error{Path: data.Path, Reason: "encode", Err: err}
		}
		for i := range part {
			if err := d.addInput(data, &part[i], &out[i], o.Unlabelled); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Dataset) addInput(data *Data, e *Example, c *text.Encoding, unlabelled bool) error {
	if len(c.IDs) == 0 {
		return badf(data.Path, e.Line, 0, "no tokens in %s", quoted(e.Text))
	}
	if len(c.Overflowing) > 0 {
		d.truncated++
	}
	labelled := int32(1)
	if d.kind == Regression && math.IsNaN(float64(e.Target)) || d.kind == Classification && e.Label < 0 {
		if !unlabelled {
			return badf(data.Path, e.Line, 0, "no label")
		}
		labelled = 0
	}
	d.addTypes(c.TypeIDs)
	d.ids = append(d.ids, c.IDs...)
	d.starts = append(d.starts, len(d.ids))
	d.counts = append(d.counts, labelled)
	if d.kind == Regression {
		d.targets = append(d.targets, e.Target)
	} else {
		d.labels = append(d.labels, int32(e.Label))
	}
	return nil
}

// addTypes appends type ids; the slice exists from the first one that is not 0.
func (d *Dataset) addTypes(t []int32) {
	if d.types == nil {
		for _, v := range t {
			if v != 0 {
				d.types = make([]int32, len(d.ids), 2*len(d.ids)+len(t))
				break
			}
		}
	}
	if d.types != nil {
		d.types = append(d.types, t...)
	}
}

// Kind returns the kind of the task.
func (d *Dataset) Kind() Kind { return d.kind }

// Len returns the number of sequences.
func (d *Dataset) Len() int { return len(d.counts) }

// Tokens returns the number of tokens.
func (d *Dataset) Tokens() int { return len(d.ids) }

// Length returns the number of tokens of sequence i.
func (d *Dataset) Length(i int) int { return d.starts[i+1] - d.starts[i] }

// IDs returns the tokens of sequence i; they must not be changed.
func (d *Dataset) IDs(i int) []int32 { return d.ids[d.starts[i]:d.starts[i+1]:d.starts[i+1]] }

// Source returns the example that sequence i was made of, -1 for a packed block.
func (d *Dataset) Source(i int) int {
	switch {
	case d.kind != LM:
		return i
	case d.sources == nil:
		return -1
	}
	return int(d.sources[i])
}

// LossCount returns the number of labels of sequence i that carry loss.
func (d *Dataset) LossCount(i int) int { return int(d.counts[i]) }

// Labels returns the number of labels that carry loss.
func (d *Dataset) Labels() int {
	n := 0
	for _, c := range d.counts {
		n += int(c)
	}
	return n
}

// Longest returns the number of tokens of the longest sequence.
func (d *Dataset) Longest() int {
	n := 0
	for i := range d.counts {
		n = max(n, d.Length(i))
	}
	return n
}

// Truncated returns how many texts were cut off at the maximal length.
func (d *Dataset) Truncated() int { return d.truncated }

// Dropped returns how many of a language model's sequences were left out
// because no token of theirs carries loss.
func (d *Dataset) Dropped() int { return d.dropped }

// Fingerprint is the SHA-256 of all that training sees of d, so that a resumed
// run can tell whether its data are the same.
func (d *Dataset) Fingerprint() [sha256.Size]byte {
	h := sha256.New()
	buf := make([]byte, 0, 1<<16)
	word := func(v uint32) {
		buf = binary.LittleEndian.AppendUint32(buf, v)
		if len(buf) == cap(buf) {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	word(uint32(d.kind))
	word(uint32(d.Len()))
	for i := range d.counts {
		word(uint32(d.Length(i)))
	}
	for _, s := range [][]int32{d.ids, d.types, d.labels} {
		word(uint32(len(s)))
		for _, v := range s {
			word(uint32(v))
		}
	}
	for _, v := range d.targets {
		word(math.Float32bits(v))
	}
	for _, p := range d.predicted {
		if p {
			word(1)
		} else {
			word(0)
		}
	}
	h.Write(buf)
	return [sha256.Size]byte(h.Sum(nil))
}
