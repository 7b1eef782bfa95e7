package suggest

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"query", "query", 0}, {"vlaue", "value", 1},
		{"q_proj", "k_proj", 1}, {"kitten", "sitting", 3}, {"né", "ne", 1},
	} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestDistanceIsAMetricOnTheEnds(t *testing.T) {
	word := rapid.StringMatching(`[a-d]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := Distance(a, b)
		if d != Distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			t.Fatalf("Distance(%q, %q) = %d", a, b, d)
		}
	})
}

func TestNearest(t *testing.T) {
	names := []string{"query", "key", "value", "dense", "out_proj", "query"}
	for _, c := range []struct {
		name string
		want []string
	}{
		{"vlaue", []string{"value"}},
		{"Query", []string{"query"}},
		{"proj", []string{"out_proj"}},
		{"quey", []string{"query"}},
		{"embeddings", nil},
	} {
		if got := Nearest(c.name, names, 3); !slices.Equal(got, c.want) {
			t.Errorf("Nearest(%q) = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	if got, want := DidYouMean("vlaue", []string{"values", "value"}), ` (did you mean "value" or "values"?)`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := DidYouMean("zzz", []string{"value"}); got != "" {
		t.Errorf("unrelated name suggests %s", got)
	}
}
