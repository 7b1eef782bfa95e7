package adapter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

func matched(t *testing.T, targets adapter.Targets) []string {
	t.Helper()
	c := config(adapter.MethodLoRA)
	c.Targets = targets
	_, acc, err := adapter.Match(robertaSites(3, 16, 32), c)
	if err != nil {
		t.Fatal(err)
	}
	return acc.Matched
}

func TestMatchForms(t *testing.T) {
	const l = "roberta.encoder.layer."
	layers := func(s string) adapter.Layers {
		r, err := adapter.ParseLayers(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, c := range []struct {
		name string
		t    adapter.Targets
		want []string
	}{
		{"suffix in some layers", adapter.Targets{Modules: []string{"query"}, Layers: layers("0,2")},
			[]string{l + "0.attention.self.query", l + "2.attention.self.query"}},
		{"two-part suffix", adapter.Targets{Modules: []string{"output.dense"}, Layers: layers("1")},
			[]string{l + "1.attention.output.dense", l + "1.output.dense"}},
		{"no part of a name", adapter.Targets{Modules: []string{"uery", "key"}, Layers: layers("1")}, nil},
		{"regex", adapter.Targets{Regex: `.*layer\.[12]\..*(query|key)`, Layers: layers("2")},
			[]string{l + "2.attention.self.query", l + "2.attention.self.key"}},
		{"all-linear", adapter.Targets{AllLinear: true, Layers: layers("0"), Exclude: []string{"dense", "key"}},
			[]string{l + "0.attention.self.query", l + "0.attention.self.value"}},
		{"exclude by regex", adapter.Targets{Modules: []string{"query"}, ExcludeRegex: `.*\.[01]\..*`},
			[]string{l + "2.attention.self.query"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == nil {
				cfg := config(adapter.MethodLoRA)
				cfg.Targets = c.t
				if _, _, err := adapter.Match(robertaSites(3, 16, 32), cfg); err == nil {
					t.Fatal("no error")
				}
				return
			}
			if got := matched(t, c.t); !slices.Equal(got, c.want) {
				t.Errorf("matched %q, want %q", got, c.want)
			}
		})
	}
}

func TestAllLinearLeavesTheHeadOut(t *testing.T) {
	got := matched(t, adapter.Targets{AllLinear: true})
	if len(got) != 18 {
		t.Errorf("%d modules, want 18", len(got))
	}
	for _, m := range got {
		if strings.HasPrefix(m, "classifier") {
			t.Errorf("head layer %s is targeted", m)
		}
	}
}

// What PEFT ignores without a word when something else matches.
func TestLeftoversAreErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*adapter.Config)
		want   string
	}{
		{"target", func(c *adapter.Config) { c.Targets.Modules = []string{"query", "vlaue"} }, `target "vlaue" matches no module (did you mean "value"?)`},
		{"target with path", func(c *adapter.Config) { c.Targets.Modules = []string{"self.quary"} }, `did you mean "self.query"`},
		{"regex", func(c *adapter.Config) { c.Targets = adapter.Targets{Regex: "encoder.*"} }, `target "encoder.*" matches no module`},
		{"exclude", func(c *adapter.Config) { c.Targets.Exclude = []string{"kye"} }, `exclude "kye" matches no module (did you mean "key"?)`},
		{"override", func(c *adapter.Config) {
			c.Overrides = []adapter.Override{{Pattern: "key", Alpha: 3}}
		}, `override "key" matches no module`},
		{"layer", func(c *adapter.Config) { c.Targets.Layers = adapter.Layers{{Lo: 1, Hi: 3}} }, `layer "3" matches no module (the layers are 0 to 2)`},
		{"all excluded", func(c *adapter.Config) { c.Targets.Exclude = []string{"query", "value"} }, `matches no module`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(adapter.MethodLoRA)
			c.change(&cfg)
			_, _, err := adapter.Match(robertaSites(3, 16, 32), cfg)
			var e *adapter.AccountingError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want an AccountingError with %q", err, c.want)
			}
		})
	}
}

func TestEveryLeftoverIsListed(t *testing.T) {
	c := config(adapter.MethodLoRA)
	c.Targets.Modules = []string{"query", "vlaue", "kee"}
	_, _, err := adapter.Match(robertaSites(1, 16, 32), c)
	var e *adapter.AccountingError
	if !errors.As(err, &e) || len(e.Problems) != 2 {
		t.Errorf("error %v, want two problems", err)
	}
}

func TestOverridesFirstHitWins(t *testing.T) {
	c := config(adapter.MethodLSR)
	c.Overrides = []adapter.Override{
		{Pattern: `layer\.1\.attention\.self\.query`, Rank: adapter.Rank{R1: 4, R2: 4}},
		{Pattern: "query", Rank: adapter.Rank{R1: 3, R2: 3}, Terms: 5},
		{Pattern: "value", Alpha: 7},
	}
	got, _, err := adapter.Match(robertaSites(2, 16, 32), c)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]adapter.Settings{}
	for _, m := range got {
		want[m.Module] = m.Settings
	}
	p := "roberta.encoder.layer."
	if s := want[p+"1.attention.self.query"]; s.Rank.R1 != 4 || s.Terms != 5 || s.Alpha != 128 {
		t.Errorf("layer 1 query: %+v", s)
	}
	if s := want[p+"0.attention.self.query"]; s.Rank.R1 != 3 || s.Terms != 5 {
		t.Errorf("layer 0 query: %+v", s)
	}
	if s := want[p+"0.attention.self.value"]; s.Rank.R1 != 2 || s.Terms != 16 || s.Alpha != 7 {
		t.Errorf("layer 0 value: %+v", s)
	}
}

func TestClassificationHeadIsNeverAdapted(t *testing.T) {
	c := config(adapter.MethodLoRA)
	c.Targets.Modules, c.TaskType = []string{"dense"}, "SEQ_CLS"
	_, acc, err := adapter.Match(robertaSites(1, 16, 32), c)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(acc.Matched, "classifier.dense") || len(acc.Matched) != 3 {
		t.Errorf("matched %q", acc.Matched)
	}
}

func TestRegexErrorsSayWhy(t *testing.T) {
	for re, want := range map[string]string{`(?!x).*`: "lookahead", `(`: "missing"} {
		c := config(adapter.MethodLoRA)
		c.Targets = adapter.Targets{Regex: re}
		if _, _, err := adapter.Match(robertaSites(1, 16, 32), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", re, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	if r, err := adapter.ParseRank("2x3"); err != nil || r != (adapter.Rank{R1: 2, R2: 3}) || r.String() != "2x3" {
		t.Errorf("2x3: %v, %v", r, err)
	}
	if r, err := adapter.ParseRank("8"); err != nil || r != (adapter.Rank{R1: 8, R2: 1}) || r.String() != "8" {
		t.Errorf("8: %v, %v", r, err)
	}
	for _, s := range []string{"", "0", "-1", "2x", "x2", "2x2x2", "a"} {
		if _, err := adapter.ParseRank(s); err == nil {
			t.Errorf("rank %q passes", s)
		}
	}
	l, err := adapter.ParseLayers("0, 2,5-7")
	if err != nil || l.String() != "0,2,5-7" || !l.Contains(6) || l.Contains(3) {
		t.Errorf("layers %v, %v", l, err)
	}
	for _, s := range []string{"", "a", "3-1", "-2", "1,,2"} {
		if _, err := adapter.ParseLayers(s); err == nil {
			t.Errorf("layers %q pass", s)
		}
	}
	if _, err := adapter.ParseScaling("rslroa"); err == nil || !strings.Contains(err.Error(), `did you mean "rslora"`) {
		t.Errorf("scaling: %v", err)
	}
	if _, err := adapter.Lookup("lsar"); err == nil || !strings.Contains(err.Error(), `"lsr"`) {
		t.Errorf("method: %v", err)
	}
}
