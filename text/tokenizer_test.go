package text

import (
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestBERTByHand checks a pair against ids read in the vocabulary.
func TestBERTByHand(t *testing.T) {
	tok, err := Load(testkit.Shared(t, "data", "tokenizers", "bert-base-uncased"), Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	e, err := tok.EncodePair("Hello wörld", "second", EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int32{101, 7592, 2088, 102, 2117, 102}; !slices.Equal(e.IDs, want) {
		t.Errorf("ids %v, want %v", e.IDs, want)
	}
	if want := []int32{0, 0, 0, 0, 1, 1}; !slices.Equal(e.TypeIDs, want) {
		t.Errorf("type ids %v, want %v", e.TypeIDs, want)
	}
	if want := [][2]int{{0, 0}, {0, 5}, {6, 12}, {0, 0}, {0, 6}, {0, 0}}; !slices.Equal(e.Offsets, want) {
		t.Errorf("offsets %v, want %v", e.Offsets, want)
	}
}
