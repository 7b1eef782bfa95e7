package task

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// TestRealTokenizer checks what tokenizers of the tests above imitate: offsets,
// special tokens and long texts, on a Llama tokenizer with 512 tokens.
func TestRealTokenizer(t *testing.T) {
	tok, err := text.Load(filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k"), text.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	const prompt, completion = "Once upon a time, Tim saw", " a bird. “Hé!” he said."
	data, err := read(t, "lm", "jsonl", `{"prompt": "`+prompt+`", "completion": "`+completion+`"}`, Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDataset(context.Background(), tok, data, DatasetOptions{EOS: []int32{2}})
	if err != nil {
		t.Fatal(err)
	}
	var predicted, rest []int32
	for i, p := range d.predicted {
		if p {
			predicted = append(predicted, d.ids[i])
		} else {
			rest = append(rest, d.ids[i])
		}
	}
	for _, c := range []struct {
		name, want string
		ids        []int32
	}{{"prompt", prompt, rest}, {"completion", strings.TrimSpace(completion), predicted}} {
		got, err := tok.Decode(c.ids, true)
		if err != nil || strings.TrimSpace(got) != c.want {
			t.Errorf("%s is %q, want %q (%v)", c.name, got, c.want, err)
		}
	}
	if d.ids[0] != 1 || d.ids[len(d.ids)-1] != 2 || d.predicted[0] || !d.predicted[len(d.ids)-1] {
		t.Errorf("the text is not between 1 and 2: %v", d.ids)
	}

	// A text of several pieces has one start and differs from the whole only at
	// the borders, where the first word is encoded as that of a text.
	long := strings.Repeat("Tim and his mom went to the park.\n", 6000)
	data, err = read(t, "lm", "txt", long, Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err = NewDataset(context.Background(), tok, data, DatasetOptions{Pack: true, MaxLength: 256})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := tok.Encode(long, text.EncodeOptions{NoOffsets: true})
	if err != nil {
		t.Fatal(err)
	}
	if extra, borders := d.Tokens()-len(whole.IDs), len(cut(long, 0))-1; extra < -2*borders || extra > 2*borders {
		t.Errorf("%d tokens more than the %d of the whole, with %d borders", extra, len(whole.IDs), borders)
	}
}
