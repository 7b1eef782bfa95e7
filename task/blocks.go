package task

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// pieceBytes is how much of a long text is encoded at once: a tokenizer needs
// about a hundred bytes of memory for each byte of a text.
const pieceBytes = 64 << 10

// tokens are the encoded text of one example.
type tokens struct {
	ids  []int32
	loss []bool  // the token is to be predicted
	tail []int32 // what the tokenizer adds behind a text, held back until its last part
}

// piece is a part of an example's text that is encoded as one input.
type piece struct {
	example int
	text    string
	offset  int  // of text within the example's text
	last    bool // nothing follows
}

// addTexts encodes the examples of a language model.
//
// A text longer than 64 KiB is encoded in parts that start at line starts, as
// if these were texts of their own without special tokens; tokenizers that mark
// the start of a text differ there by that mark.
func (d *Dataset) addTexts(ctx context.Context, enc TokenEncoder, data *Data, o DatasetOptions) error {
	var stream tokens
	for from := 0; from < len(data.Examples); {
		// Take as many examples as fill a few parts, so that memory is bounded by
		// the dataset itself.
		to, bytes := from, 0
		for to < len(data.Examples) && to-from < encodeAtOnce && bytes < 64*pieceBytes {
			for _, s := range data.Examples[to].Segments {
				bytes += len(s.Text)
			}
			to++
		}
		out, err := encodeTexts(ctx, enc, data, data.Examples[from:to], o.EOS)
		if err != nil {
			return err
		}
		for i, t := range out {
			if o.Pack {
				stream.ids = append(stream.ids, t.ids...)
				stream.loss = append(stream.loss, t.loss...)
				n := len(stream.ids) / o.MaxLength * o.MaxLength
				d.addBlocks(stream.ids[:n], stream.loss[:n])
				stream.ids = append(stream.ids[:0], stream.ids[n:]...)
				stream.loss = append(stream.loss[:0], stream.loss[n:]...)
				continue
			}
			if len(t.ids) > o.MaxLength && !o.Cut {
				d.truncated++
				t.ids, t.loss = t.ids[:o.MaxLength], t.loss[:o.MaxLength]
			}
			for at := 0; at < len(t.ids); at += o.MaxLength {
				end := min(at+o.MaxLength, len(t.ids))
				if d.addSequence(t.ids[at:end], t.loss[at:end]) {
					d.sources = append(d.sources, int32(from+i))
				}
			}
		}
		from = to
	}
	if len(stream.ids) > 1 {
		d.addSequence(stream.ids, stream.loss)
	}
	if d.Len() == 0 {
		return badf(data.Path, 0, 0, "no token carries loss: no text to predict lies within the first %d tokens of any example", o.MaxLength)
	}
	return nil
}

// addBlocks adds a stream whose length is a multiple of the maximal length.
func (d *Dataset) addBlocks(ids []int32, loss []bool) {
	for i := 0; i < len(ids); i += d.maxLength {
		d.addSequence(ids[i:i+d.maxLength], loss[i:i+d.maxLength])
	}
}

// addSequence adds one sequence of a language model, if it has a token to predict.
// Its first token is never predicted.
func (d *Dataset) addSequence(ids []int32, loss []bool) bool {
	n := int32(0)
	for _, l := range loss[min(1, len(loss)):] {
		if l {
			n++
		}
	}
	if n == 0 {
		d.dropped++
		return false
	}
	d.ids = append(d.ids, ids...)
	d.predicted = append(d.predicted, loss...)
	d.starts = append(d.starts, len(d.ids))
	d.counts = append(d.counts, n)
	return true
}

// encodeTexts returns the tokens of each example.
func encodeTexts(ctx context.Context, enc TokenEncoder, data *Data, examples []Example, eos []int32) ([]tokens, error) {
	var first, rest []piece
	for i := range examples {
		for k, p := range cut(joined(examples[i].Segments), i) {
			if k == 0 {
				first = append(first, p)
			} else {
				rest = append(rest, p)
			}
		}
	}
	out := make([]tokens, len(examples))
	// The first parts come before the rest of each example, whichever of the
	// two calls they are encoded by.
	for k, pieces := range [][]piece{first, rest} {
		if len(pieces) == 0 {
			continue
		}
		in := make([]text.Input, len(pieces))
		for i, p := range pieces {
			in[i].Text = p.text
		}
		eo := text.EncodeOptions{NoSpecialTokens: k == 1, NoOffsets: !slices.ContainsFunc(examples, func(e Example) bool { return len(e.Segments) > 1 })}
		codes, err := enc.EncodeBatch(ctx, in, eo)
		if err != nil {
			return nil, &Error{Path: data.Path, Reason: "encode", Err: err}
		}
		for i, p := range pieces {
			out[p.example].add(&codes[i], examples[p.example].Segments, p)
		}
	}
	for i := range out {
		out[i].end(eos, examples[i].Segments)
		if len(out[i].ids) == 0 {
			return nil, badf(data.Path, examples[i].Line, 0, "no tokens in the text")
		}
	}
	return out, nil
}

func joined(s []Segment) string {
	if len(s) == 1 {
		return s[0].Text
	}
	var b strings.Builder
	for _, p := range s {
		b.WriteString(p.Text)
	}
	return b.String()
}

// cut cuts a text into pieces of at most pieceBytes, behind a line end if there
// is one, else behind a space, else between characters.
func cut(s string, example int) []piece {
	var out []piece
	offset := 0
	for {
		n := len(s) - offset
		if n > pieceBytes {
			n = cutAt(s[offset : offset+pieceBytes])
		}
		out = append(out, piece{example: example, text: s[offset : offset+n], offset: offset, last: offset+n == len(s)})
		offset += n
		if offset >= len(s) {
			return out
		}
	}
}

func cutAt(s string) int {
	for _, sep := range []string{"\n", " "} {
		if i := strings.LastIndex(s, sep); i > 0 {
			if sep == " " {
				return i // the space belongs to the next word
			}
			return i + 1
		}
	}
	n := len(s)
	for n > 0 && !utf8.ValidString(s[n-min(n, utf8.UTFMax):n]) && !utf8.RuneStart(s[n-1]) {
		n--
	}
	if r, size := utf8.DecodeLastRuneInString(s[:n]); r == utf8.RuneError && size == 1 {
		n--
	}
	return n
}

// add appends an encoded part. A token is predicted if a byte of it lies in a
// segment that carries loss; tokens that the tokenizer added before the text
// are not.
func (t *tokens) add(c *text.Encoding, segments []Segment, p piece) {
	n := len(c.IDs)
	for n > 0 && c.SpecialMask[n-1] != 0 && p.offset == 0 {
		n--
	}
	t.tail = append(t.tail, c.IDs[n:]...)
	seg, end := 0, len(segments[0].Text) // the segment at hand and its end
	for i, id := range c.IDs[:n] {
		loss := segments[seg].Loss && c.SpecialMask[i] == 0
		if len(segments) > 1 && c.SpecialMask[i] == 0 {
			from, to := c.Offsets[i][0]+p.offset, c.Offsets[i][1]+p.offset
			for seg+1 < len(segments) && max(from, to-1) >= end {
				seg++
				end += len(segments[seg].Text)
			}
			start := end - len(segments[seg].Text)
			loss = segments[seg].Loss || from < start && segments[seg-1].Loss
		}
		t.ids, t.loss = append(t.ids, id), append(t.loss, loss)
	}
}

// end appends what the tokenizer puts behind a text, and eos if the text does
// not end with it. Both carry the loss of the last segment: a completion must
// learn where to end.
func (t *tokens) end(eos []int32, segments []Segment) {
	t.ids = append(t.ids, t.tail...)
	if !slices.Equal(t.ids[max(len(t.ids)-len(eos), 0):], eos) {
		t.ids = append(t.ids, eos...)
	}
	for len(t.loss) < len(t.ids) {
		t.loss = append(t.loss, segments[len(segments)-1].Loss)
	}
}
