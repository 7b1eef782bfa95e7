package task

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/text"
	"pgregory.net/rapid"
)

var _ TokenEncoder = (*text.Tokenizer)(nil)

// byteEncoder has one token a byte, id 10 + byte, and puts 1 before a text, 2
// behind it and between the two of a pair.
type byteEncoder struct {
	prefix, suffix []int32
	calls          int
}

var bert = &byteEncoder{prefix: []int32{1}, suffix: []int32{2}}

func (b *byteEncoder) EncodeBatch(_ context.Context, in []text.Input, o text.EncodeOptions) ([]text.Encoding, error) {
	b.calls++
	out := make([]text.Encoding, len(in))
	for i, input := range in {
		e := &out[i]
		special := func(ids []int32) {
			for _, id := range ids {
				if !o.NoSpecialTokens {
					e.IDs, e.TypeIDs, e.SpecialMask, e.Offsets = append(e.IDs, id), append(e.TypeIDs, 0), append(e.SpecialMask, 1), append(e.Offsets, [2]int{})
				}
			}
		}
		plain := func(s string, kind int32) {
			for k := range len(s) {
				e.IDs, e.TypeIDs, e.SpecialMask, e.Offsets = append(e.IDs, 10+int32(s[k])), append(e.TypeIDs, kind), append(e.SpecialMask, 0), append(e.Offsets, [2]int{k, k + 1})
			}
		}
		special(b.prefix)
		plain(input.Text, 0)
		special(b.suffix)
		if input.IsPair {
			plain(input.Pair, 1)
			special(b.suffix)
		}
		if t := o.Truncation; t != nil && len(e.IDs) > t.MaxLength {
			e.IDs, e.TypeIDs = e.IDs[:t.MaxLength], e.TypeIDs[:t.MaxLength]
			e.Overflowing = []text.Encoding{{}}
		}
		if o.NoOffsets {
			e.Offsets = nil
		}
	}
	return out, nil
}

func dataset(t *testing.T, enc TokenEncoder, task, format, s string, split Split, ro ReadOptions, o DatasetOptions) *Dataset {
	t.Helper()
	data, err := read(t, task, format, s, split, ro)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDataset(context.Background(), enc, data, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// codes returns the ids of a text's bytes, and those of special tokens as they are.
func codes(parts ...any) []int32 {
	var out []int32
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			out = append(out, int32(p))
		case string:
			for k := range len(p) {
				out = append(out, 10+int32(p[k]))
			}
		}
	}
	return out
}

func TestFillClassification(t *testing.T) {
	d := dataset(t, bert, "classification", "tsv", "text\ttext2\tlabel\nab\tc\tx\nd\t\ty\nlongtext\t\tx\n", Train, ReadOptions{}, DatasetOptions{MaxLength: 6})
	var b Batch
	for range 2 { // the second time in used memory
		d.Fill(&b, []int32{2, 0, 1})
		want := Batch{
			CuSeqlens: []int32{0, 6, 12, 15},
			IDs:       codes(1, "longt", 1, "ab", 2, "c", 2, 1, "d", 2),
			TypeIDs:   []int32{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
			Positions: []int32{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2},
			Labels:    []int32{0, 0, 1},
			Sequences: []int32{2, 0, 1},
		}
		if !slices.Equal(b.CuSeqlens, want.CuSeqlens) || !slices.Equal(b.IDs, want.IDs) || !slices.Equal(b.TypeIDs, want.TypeIDs) ||
			!slices.Equal(b.Positions, want.Positions) || !slices.Equal(b.Labels, want.Labels) || !slices.Equal(b.Sequences, want.Sequences) ||
			len(b.Rows) != 0 || len(b.Targets) != 0 || b.LossCount != 3 {
			t.Fatalf("got  %+v\nwant %+v", b, want)
		}
	}
	if d.Truncated() != 1 || d.Longest() != 6 || d.Tokens() != 15 {
		t.Errorf("truncated %d, longest %d, tokens %d", d.Truncated(), d.Longest(), d.Tokens())
	}
}

func TestFillRegressionWithoutPairs(t *testing.T) {
	d := dataset(t, bert, "regression", "tsv", "text\tscore\na\t1.5\nb\t-2\n", Train, ReadOptions{}, DatasetOptions{})
	var b Batch
	d.Fill(&b, []int32{1, 0})
	if !slices.Equal(b.Targets, []float32{-2, 1.5}) || b.TypeIDs != nil || len(b.Labels) != 0 || b.LossCount != 2 {
		t.Errorf("got %+v", b)
	}
}

func TestUnlabelledExamples(t *testing.T) {
	data, err := read(t, "regression", "tsv", "text\na\n", Train, ReadOptions{Unlabelled: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewDataset(context.Background(), bert, data, DatasetOptions{}); !errors.Is(err, ErrBadData) || !strings.HasPrefix(err.Error(), "data.tsv:2: no label") {
		t.Errorf("training without labels: %v", err)
	}
	d, err := NewDataset(context.Background(), bert, data, DatasetOptions{Unlabelled: true})
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	d.Fill(&b, []int32{0})
	if b.LossCount != 0 || !math.IsNaN(float64(b.Targets[0])) {
		t.Errorf("got %+v", b)
	}
}

func TestCompletionsCarryLoss(t *testing.T) {
	enc := &byteEncoder{prefix: []int32{1}}
	d := dataset(t, enc, "lm", "jsonl", `{"prompt": "pq", "completion": "xy"}`+"\n"+`{"text": "t"}`, Train, ReadOptions{}, DatasetOptions{EOS: []int32{3}})
	var b Batch
	d.Fill(&b, []int32{0, 1})
	if want := codes(1, "pqxy", 3, 1, "t", 3); !slices.Equal(b.IDs, want) {
		t.Errorf("ids %v, want %v", b.IDs, want)
	}
	if want := []int32{2, 3, 4, 6, 7}; !slices.Equal(b.Rows, want) {
		t.Errorf("rows %v, want %v", b.Rows, want)
	}
	if want := codes("xy", 3, "t", 3); !slices.Equal(b.Labels, want) || b.LossCount != 5 {
		t.Errorf("labels %v, want %v", b.Labels, want)
	}
}

// spanEncoder encodes each text as tokens of two bytes, so that tokens straddle
// the border of prompt and completion.
type spanEncoder struct{}

func (spanEncoder) EncodeBatch(_ context.Context, in []text.Input, _ text.EncodeOptions) ([]text.Encoding, error) {
	out := make([]text.Encoding, len(in))
	for i, input := range in {
		for k := 0; k < len(input.Text); k += 2 {
			e := &out[i]
			e.IDs = append(e.IDs, int32(k))
			e.SpecialMask = append(e.SpecialMask, 0)
			e.Offsets = append(e.Offsets, [2]int{k, min(k+2, len(input.Text))})
		}
	}
	return out, nil
}

func TestTokensAcrossTheBorderCarryLoss(t *testing.T) {
	d := dataset(t, spanEncoder{}, "lm", "jsonl", `{"prompt": "abc", "completion": "def"}`, Train, ReadOptions{}, DatasetOptions{})
	if want := []bool{false, true, true}; !slices.Equal(d.predicted, want) {
		t.Errorf("predicted %v, want %v", d.predicted, want)
	}
	conversation := `{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]}`
	chat := ChatTemplate{Turn: "{role}:{content}\n"}
	data, err := read(t, "lm", "jsonl", conversation, Train, ReadOptions{Chat: chat})
	if err != nil {
		t.Fatal(err)
	}
	d, err = NewDataset(context.Background(), &byteEncoder{}, data, DatasetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i, p := range d.predicted {
		if p {
			got.WriteByte(byte(d.ids[i] - 10))
		}
	}
	if got.String() != "ab" {
		t.Errorf("loss on %q, want \"ab\"", got.String())
	}
}

func TestNoTokenCarriesLoss(t *testing.T) {
	data, err := read(t, "lm", "jsonl", `{"prompt": "a long prompt", "completion": "x"}`, Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewDataset(context.Background(), &byteEncoder{}, data, DatasetOptions{MaxLength: 4})
	if !errors.Is(err, ErrBadData) || !strings.Contains(err.Error(), "no token carries loss") {
		t.Errorf("got %v", err)
	}
}

func TestSequencesWithoutLossAreDropped(t *testing.T) {
	d := dataset(t, &byteEncoder{}, "lm", "jsonl", `{"prompt": "a long prompt", "completion": "x"}`+"\n"+`{"text": "abc"}`, Train, ReadOptions{}, DatasetOptions{MaxLength: 4})
	if d.Len() != 1 || d.Dropped() != 1 || d.Truncated() != 1 {
		t.Errorf("%d sequences, %d dropped, %d truncated", d.Len(), d.Dropped(), d.Truncated())
	}
}

// TestSourcesOfSequences: with Cut long texts fill several sequences, and each
// sequence names its example also where others were left out.
func TestSourcesOfSequences(t *testing.T) {
	lines := `{"prompt": "only a long prompt", "completion": "x"}` + "\n" + `{"text": "abcdefghi"}` + "\n" + `{"text": "jk"}`
	for _, c := range []struct {
		cut  bool
		want []int
	}{{false, []int{1, 2}}, {true, []int{0, 1, 1, 2}}} {
		d := dataset(t, &byteEncoder{}, "lm", "jsonl", lines, Train, ReadOptions{}, DatasetOptions{MaxLength: 5, Cut: c.cut})
		var got []int
		for i := range d.Len() {
			got = append(got, d.Source(i))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("cut %v: sources %v, want %v", c.cut, got, c.want)
		}
	}
	if d := dataset(t, &byteEncoder{}, "lm", "jsonl", lines, Train, ReadOptions{}, DatasetOptions{MaxLength: 5, Pack: true}); d.Source(0) != -1 {
		t.Errorf("a packed block is of example %d", d.Source(0))
	}
}

func TestPackedBlocks(t *testing.T) {
	enc := &byteEncoder{prefix: []int32{1}, suffix: []int32{2}}
	lines := "abcdef\ngh\nijklm\n"
	d := dataset(t, enc, "lm", "txt", lines, Train, ReadOptions{Lines: true}, DatasetOptions{MaxLength: 5, Pack: true, EOS: []int32{2}})
	stream := codes(1, "abcdef", 2, 1, "gh", 2, 1, "ijklm", 2)
	var got []int32
	for i := range d.Len() {
		got = append(got, d.IDs(i)...)
		if n := d.Length(i); n != 5 && i != d.Len()-1 || d.LossCount(i) != n-1-before(d.IDs(i)) {
			t.Errorf("block %d: %v with %d labels", i, d.IDs(i), d.LossCount(i))
		}
	}
	if !slices.Equal(got, stream) {
		t.Errorf("stream %v, want %v", got, stream)
	}
}

// before counts the tokens 1 after the first place: what comes before a text is
// not predicted.
func before(ids []int32) int {
	n := 0
	for _, id := range ids[1:] {
		if id == 1 {
			n++
		}
	}
	return n
}

func TestLongTextsAreEncodedInPieces(t *testing.T) {
	for name, s := range map[string]string{
		"lines":      strings.Repeat("some words here\n", 20000),
		"one line":   strings.Repeat("é wörd ", 40000),
		"one word":   strings.Repeat("é", 100000),
		"cut runes":  "x" + strings.Repeat("日", 50000),
		"four bytes": "xy" + strings.Repeat("😀", 50000),
	} {
		pieces := cut(s, 0)
		var joined strings.Builder
		for i, p := range pieces {
			if p.offset != joined.Len() || len(p.text) > pieceBytes || p.text == "" || p.last != (i == len(pieces)-1) || strings.ToValidUTF8(p.text, "") != p.text {
				t.Fatalf("%s: piece %d of %d bytes at %d", name, i, len(p.text), p.offset)
			}
			joined.WriteString(p.text)
		}
		if joined.String() != s || len(pieces) < 3 {
			t.Errorf("%s: %d pieces are not the text", name, len(pieces))
		}
	}
	// Special tokens surround the whole text, not each piece.
	s := strings.Repeat("some words here\n", 10000)
	d := dataset(t, bert, "lm", "txt", s, Train, ReadOptions{}, DatasetOptions{MaxLength: 1 << 30})
	if want := codes(1, s, 2); !slices.Equal(d.ids, want) {
		t.Errorf("%d tokens, want %d", len(d.ids), len(want))
	}
	// So they do where a prompt makes offsets necessary.
	d = dataset(t, bert, "lm", "jsonl", `{"prompt": "`+strings.Repeat("p ", 50000)+`", "completion": "`+strings.Repeat("c ", 50000)+`"}`, Train, ReadOptions{}, DatasetOptions{MaxLength: 1 << 30})
	if d.LossCount(0) != 100000+1 || !d.predicted[100001] || d.predicted[100000] || d.Length(0) != 200002 {
		t.Errorf("%d of %d tokens carry loss", d.LossCount(0), d.Length(0))
	}
}

func TestMaxLengthTooSmall(t *testing.T) {
	data, err := read(t, "sst-2", "tsv", "sentence\tlabel\na\t1\n", Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewDataset(context.Background(), bert, data, DatasetOptions{MaxLength: 1}); !errors.Is(err, ErrBadData) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) EncodeBatch(context.Context, []text.Input, text.EncodeOptions) ([]text.Encoding, error) {
	return nil, f.err
}

func TestEncodeErrorsPassThrough(t *testing.T) {
	for _, task := range []string{"sst-2", "lm"} {
		format, s := "tsv", "sentence\tlabel\na\t1\n"
		if task == "lm" {
			format, s = "txt", "a"
		}
		data, err := read(t, task, format, s, Train, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewDataset(context.Background(), failing{context.Canceled}, data, DatasetOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", task, err)
		}
	}
}

func TestFingerprintSeesEveryPart(t *testing.T) {
	base := "text\ttext2\tlabel\nab\tc\tx\nd\te\ty\n"
	seen := map[[32]byte]string{}
	for _, s := range []string{base,
		"text\ttext2\tlabel\nab\tc\ty\nd\te\tx\n", "text\ttext2\tlabel\nabc\tc\tx\nd\te\ty\n",
		"text\ttext2\tlabel\na\tbc\tx\nd\te\ty\n"} {
		d := dataset(t, bert, "classification", "tsv", s, Train, ReadOptions{}, DatasetOptions{})
		if other, ok := seen[d.Fingerprint()]; ok {
			t.Errorf("%q and %q have one fingerprint", s, other)
		}
		seen[d.Fingerprint()] = s
		again := dataset(t, bert, "classification", "tsv", s, Train, ReadOptions{}, DatasetOptions{})
		if d.Fingerprint() != again.Fingerprint() {
			t.Errorf("%q has two fingerprints", s)
		}
	}
}

// ragged makes a dataset of n sequences of 1 to 30 letters.
func ragged(t *testing.T, n int) *Dataset {
	t.Helper()
	var s strings.Builder
	s.WriteString("text\tlabel\n")
	for i := range n {
		s.WriteString(strings.Repeat("a", 1+(i*i*7+i)%30) + "\t" + []string{"x", "y"}[i%2] + "\n")
	}
	return dataset(t, &byteEncoder{}, "classification", "tsv", s.String(), Train, ReadOptions{}, DatasetOptions{})
}

func TestPlanCoversEverySequenceOnce(t *testing.T) {
	d := ragged(t, 257)
	rapid.Check(t, func(rt *rapid.T) {
		o := BatchOptions{
			Size:       rapid.IntRange(1, 40).Draw(rt, "size"),
			Accumulate: rapid.IntRange(0, 5).Draw(rt, "accumulate"),
			Shuffle:    rapid.Bool().Draw(rt, "shuffle"),
			Bucket:     rapid.Bool().Draw(rt, "bucket"),
			Seed:       rapid.Uint64().Draw(rt, "seed"),
		}
		if rapid.Bool().Draw(rt, "by tokens") {
			o.Tokens = rapid.IntRange(30, 200).Draw(rt, "tokens")
		}
		epoch := rapid.IntRange(0, 1000).Draw(rt, "epoch")
		p, err := d.Plan(epoch, o)
		if err != nil {
			rt.Fatal(err)
		}
		again, err := d.Plan(epoch, o)
		if err != nil || !slices.Equal(p.order, again.order) || !slices.Equal(p.bounds, again.bounds) {
			rt.Fatal("the same epoch has two orders")
		}
		seen := make([]int, d.Len())
		most, batches := p.Max(d), 0
		for step := range p.Steps() {
			from, to := p.Step(step)
			if from != batches || to <= from || to-from > max(o.Accumulate, 1) {
				rt.Fatalf("step %d has the batches %d to %d", step, from, to)
			}
			batches = to
			for b := from; b < to; b++ {
				tokens := 0
				for _, s := range p.Batch(b) {
					seen[s]++
					tokens += d.Length(int(s))
				}
				n := len(p.Batch(b))
				if n == 0 || o.Tokens == 0 && n > o.Size || o.Tokens > 0 && tokens > o.Tokens || n > most.Sequences || tokens > most.Tokens {
					rt.Fatalf("batch %d has %d sequences and %d tokens", b, n, tokens)
				}
			}
		}
		if batches != p.Batches() || slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
			rt.Fatalf("%d of %d batches; sequences %v", batches, p.Batches(), seen)
		}
	})
}

func TestPlanWithoutShuffleKeepsTheOrder(t *testing.T) {
	d := ragged(t, 10)
	p, err := d.Plan(3, BatchOptions{Size: 4})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{0, 1, 2, 3}; !slices.Equal(p.Batch(0), want) || len(p.Batch(2)) != 2 {
		t.Errorf("batches %v, %v", p.Batch(0), p.Batch(2))
	}
}

func TestPlanBucketsByLength(t *testing.T) {
	d := ragged(t, 512)
	spread := func(bucket bool) (sum int) {
		p, err := d.Plan(0, BatchOptions{Size: 16, Shuffle: true, Bucket: bucket, Seed: 5})
		if err != nil {
			t.Fatal(err)
		}
		for b := range p.Batches() {
			low, high := math.MaxInt, 0
			for _, s := range p.Batch(b) {
				low, high = min(low, d.Length(int(s))), max(high, d.Length(int(s)))
			}
			sum += high - low
		}
		return sum
	}
	if with, without := spread(true), spread(false); with*5 > without {
		t.Errorf("lengths in a batch differ by %d in all with buckets, %d without", with, without)
	}
}

func TestPlanIsAsRandomAsItShouldBe(t *testing.T) {
	// Which of 8 sequences comes to which of 8 places, over 4,000 epochs: 64
	// cells with 500 expected. χ² has 49 degrees of freedom; 100 is far beyond
	// its 99.99 % quantile (about 92).
	const n, epochs = 8, 4000
	d := ragged(t, n)
	var count [n][n]float64
	for epoch := range epochs {
		p, err := d.Plan(epoch, BatchOptions{Size: 1, Shuffle: true, Seed: 42})
		if err != nil {
			t.Fatal(err)
		}
		for place, s := range p.order {
			count[place][s]++
		}
	}
	chi := 0.0
	for _, row := range count {
		for _, c := range row {
			chi += (c - epochs/n) * (c - epochs/n) / (epochs / n)
		}
	}
	if chi > 100 {
		t.Errorf("χ² = %v", chi)
	}
}

func TestPlanErrors(t *testing.T) {
	d := ragged(t, 20)
	for _, o := range []BatchOptions{{}, {Size: -1}, {Size: 4, Accumulate: -1}, {Tokens: 10}} {
		var option *OptionError
		if _, err := d.Plan(0, o); !errors.As(err, &option) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestPlanOfHugeBatches: more than there is makes one batch.
func TestPlanOfHugeBatches(t *testing.T) {
	d := ragged(t, 20)
	for _, o := range []BatchOptions{{Size: math.MaxInt, Bucket: true}, {Tokens: math.MaxInt, Bucket: true}, {Size: 1 << 58, Accumulate: math.MaxInt, Shuffle: true, Bucket: true}} {
		p, err := d.Plan(0, o)
		if err != nil {
			t.Fatal(err)
		}
		if p.Batches() != 1 || len(p.Batch(0)) != d.Len() || p.Steps() != 1 {
			t.Errorf("%+v: %d batches, %d steps", o, p.Batches(), p.Steps())
		}
	}
}
