package text

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Input is one text, or a pair of them where IsPair is set.
type Input struct {
	Text   string
	Pair   string
	IsPair bool
}

// Strategy says which text of a pair is cut.
type Strategy int

const (
	LongestFirst Strategy = iota // cut the longer text until both fit
	OnlyFirst                    // cut Text
	OnlySecond                   // cut Pair
)

// String gives Hugging Face's name of the strategy.
func (s Strategy) String() string {
	switch s {
	case LongestFirst:
		return "longest_first"
	case OnlyFirst:
		return "only_first"
	case OnlySecond:
		return "only_second"
	}
	return fmt.Sprintf("Strategy(%d)", int(s))
}

// Truncation cuts an encoding to MaxLength tokens, special tokens included.
// What is cut off becomes overflowing pieces of the same length, each of which
// repeats Stride tokens of the one before.
type Truncation struct {
	MaxLength int
	Strategy  Strategy
	Stride    int
	Left      bool // cut at the beginning instead of the end
}

// Padding appends pad tokens. They have attention mask 0, special mask 1 and
// offsets (0, 0).
type Padding struct {
	Length   int   // pad to this length; 0: to the longest encoding of the batch
	Multiple int   // round the length up to a multiple of this; 0: do not
	ID       int32 // the pad token
	TypeID   int32
	Left     bool // pad before the text
}

// EncodeOptions selects what an encoding contains. The zero value adds the
// special tokens, cuts nothing, pads nothing and gives offsets in bytes.
type EncodeOptions struct {
	// NoSpecialTokens leaves out [CLS], </s> and their like.
	NoSpecialTokens bool
	// SplitSpecialTokens reads the name of a special token inside a text as
	// plain text instead of as that token. Set it for text from strangers.
	SplitSpecialTokens bool
	// CharOffsets counts offsets in characters (code points), as Python does.
	CharOffsets bool
	// NoOffsets leaves Offsets and WordIDs nil, which is faster.
	NoOffsets  bool
	Truncation *Truncation
	Padding    *Padding
}

// Encoding is an encoded input of T tokens; every slice but Overflowing has
// length T.
type Encoding struct {
	IDs           []int32
	TypeIDs       []int32  // 0 for the first text, 1 for the second where the model tells them apart
	SpecialMask   []uint8  // 1 for tokens that the tokenizer added
	AttentionMask []uint8  // 0 for padding
	SequenceIDs   []int8   // 0 for Text, 1 for Pair, -1 for added tokens
	WordIDs       []int32  // index of the word a token belongs to, -1 for added tokens
	Offsets       [][2]int // half-open range of the input, (0, 0) for added tokens
	Overflowing   []Encoding
}

// The flag bits of an encode request, as wasm/src/lib.rs reads them.
const (
	flagSpecial = 1 << iota
	flagChars
	flagOffsets
	flagSplitSpecial
	flagLeft
	flagTruncate
)

// check refuses options that no text could be encoded with.
func (o *EncodeOptions) check() error {
	if t := o.Truncation; t != nil {
		if t.MaxLength < 0 || t.MaxLength > math.MaxInt32 || t.Stride < 0 || t.Stride > math.MaxInt32 {
			return fmt.Errorf("truncation to %d tokens with stride %d is out of range", t.MaxLength, t.Stride)
		}
		if t.Strategy < LongestFirst || t.Strategy > OnlySecond {
			return fmt.Errorf("unknown truncation strategy %d", int(t.Strategy))
		}
	}
	if p := o.Padding; p != nil {
		if p.Length < 0 || p.Multiple < 0 {
			return fmt.Errorf("padding to %d tokens, multiple %d, is negative", p.Length, p.Multiple)
		}
	}
	return nil
}

func appendWord(b []byte, v int) []byte {
	return binary.LittleEndian.AppendUint32(b, uint32(v))
}

func appendText(b []byte, s string) []byte {
	return append(appendWord(b, len(s)), s...)
}

// appendRequest writes the request for a batch.
func appendRequest(b []byte, inputs []Input, o *EncodeOptions) []byte {
	flags := 0
	set := func(on bool, bit int) {
		if on {
			flags |= bit
		}
	}
	set(!o.NoSpecialTokens, flagSpecial)
	set(o.CharOffsets, flagChars)
	set(!o.NoOffsets, flagOffsets)
	set(o.SplitSpecialTokens, flagSplitSpecial)
	var t Truncation
	if o.Truncation != nil {
		t = *o.Truncation
		set(t.Left, flagLeft)
		set(true, flagTruncate)
	}
	for _, v := range []int{flags, t.MaxLength, t.Stride, int(t.Strategy), len(inputs)} {
		b = appendWord(b, v)
	}
	for i := range inputs {
		in := &inputs[i]
		if in.IsPair {
			b = appendText(appendText(appendWord(b, 1), in.Text), in.Pair)
		} else {
			b = appendText(appendWord(b, 0), in.Text)
		}
	}
	return b
}

// readBatch reads the answer to appendRequest into out. An error belongs to
// the input whose index it returns.
func readBatch(answer []byte, out []Encoding, offsets bool) (int, error) {
	w := words{b: answer}
	for i := range out {
		if w.next() != 0 {
			msg := w.text()
			if w.bad {
				return i, errAnswer
			}
			return i, errors.New(msg)
		}
		pieces := int(w.next())
		readPiece(&w, &out[i], offsets)
		if pieces < 0 || pieces > len(w.b) {
			return i, errAnswer
		}
		if pieces > 0 {
			out[i].Overflowing = make([]Encoding, pieces)
		}
		for k := range out[i].Overflowing {
			readPiece(&w, &out[i].Overflowing[k], offsets)
		}
		if w.bad {
			return i, errAnswer
		}
	}
	return 0, nil
}

func readPiece(w *words, e *Encoding, offsets bool) {
	n := int(w.next())
	ids, types, masks := w.take(n), w.take(n), w.take(n)
	if w.bad {
		return
	}
	// One allocation for both; the capacity of the first is cut so that an
	// append by the caller cannot run into the second.
	both := make([]int32, 2*n)
	e.IDs, e.TypeIDs = both[:n:n], both[n:]
	bits := make([]uint8, 2*n)
	e.SpecialMask, e.AttentionMask = bits[:n:n], bits[n:]
	e.SequenceIDs = make([]int8, n)
	for i := range n {
		e.IDs[i] = int32(binary.LittleEndian.Uint32(ids[4*i:]))
		e.TypeIDs[i] = int32(binary.LittleEndian.Uint32(types[4*i:]))
		m := binary.LittleEndian.Uint32(masks[4*i:])
		e.SpecialMask[i] = uint8(m & 1)
		e.AttentionMask[i] = uint8(m >> 1 & 1)
		e.SequenceIDs[i] = int8(m>>2) - 1
	}
	if !offsets {
		return
	}
	ranges, wordIDs := w.take(2*n), w.take(n)
	if w.bad {
		return
	}
	e.Offsets = make([][2]int, n)
	e.WordIDs = make([]int32, n)
	for i := range n {
		e.Offsets[i][0] = int(binary.LittleEndian.Uint32(ranges[8*i:]))
		e.Offsets[i][1] = int(binary.LittleEndian.Uint32(ranges[8*i+4:]))
		e.WordIDs[i] = int32(binary.LittleEndian.Uint32(wordIDs[4*i:])) // none is -1
	}
}

// checkText refuses what is not UTF-8, naming the first bad byte.
func checkText(s string) error {
	if utf8.ValidString(s) {
		return nil
	}
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return fmt.Errorf("text is not UTF-8 at byte %d (strings.ToValidUTF8 repairs it)", i)
			}
		}
	}
	return nil
}

// pad pads the encodings of one batch, pieces included.
func pad(batch []Encoding, p *Padding) {
	n := p.Length
	if n == 0 {
		for i := range batch {
			n = max(n, len(batch[i].IDs))
		}
	}
	if p.Multiple > 0 {
		n = (n + p.Multiple - 1) / p.Multiple * p.Multiple
	}
	for i := range batch {
		batch[i].pad(n, p)
	}
}

func (e *Encoding) pad(n int, p *Padding) {
	for i := range e.Overflowing {
		e.Overflowing[i].pad(n, p)
	}
	k := n - len(e.IDs)
	if k <= 0 {
		return
	}
	e.IDs = padSlice(e.IDs, k, p.ID, p.Left)
	e.TypeIDs = padSlice(e.TypeIDs, k, p.TypeID, p.Left)
	e.SpecialMask = padSlice(e.SpecialMask, k, 1, p.Left)
	e.AttentionMask = padSlice(e.AttentionMask, k, 0, p.Left)
	e.SequenceIDs = padSlice(e.SequenceIDs, k, -1, p.Left)
	if e.Offsets != nil {
		e.WordIDs = padSlice(e.WordIDs, k, -1, p.Left)
		e.Offsets = padSlice(e.Offsets, k, [2]int{}, p.Left)
	}
}

// padSlice returns s with k times v before or after it.
func padSlice[E any](s []E, k int, v E, left bool) []E {
	out := make([]E, 0, len(s)+k)
	if !left {
		out = append(out, s...)
	}
	for range k {
		out = append(out, v)
	}
	if left {
		out = append(out, s...)
	}
	return out
}
