package adapter_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// The modules with the largest gates become a LoRA with the same ΔW.
func TestSelectModules(t *testing.T) {
	a := randomised(t, robertaSites(2, 24, 48), config(adapter.MethodDiffoRA))
	for i, g := range []float32{0.1, -2, 1, 0.5} {
		a.Modules[i].Tensors[2][0] = g
	}
	l, choices, err := adapter.SelectModules(a, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Modules) != 2 || l.Method != adapter.MethodLoRA || l.Modules[0].Module != a.Modules[1].Module || l.Modules[1].Module != a.Modules[2].Module {
		t.Fatalf("kept %+v", choices)
	}
	if c := choices[0]; !c.Kept || c.Module != a.Modules[1].Module || !testkit.Near(c.Score, math.Tanh(2), 1e-7, 0) || choices[2].Kept {
		t.Errorf("choices %+v", choices)
	}
	want, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	w := want[1].Dense()
	for i, v := range got[0].Dense() {
		if !testkit.Near(v, w[i], 1e-6, 1e-6) {
			t.Fatalf("element %d is %v, was %v", i, v, w[i])
		}
	}
	back, err := adapter.Load(save(t, l), robertaSites(2, 24, 48))
	if err != nil || len(back.Modules) != 2 {
		t.Errorf("%v", err)
	}
	for _, keep := range []float64{0, -1, 1.5, math.NaN()} {
		if _, _, err := adapter.SelectModules(a, keep); err == nil {
			t.Errorf("a share of %v was taken", keep)
		}
	}
	if _, _, err := adapter.SelectModules(l, 0.5); err == nil {
		t.Error("modules were selected from a LoRA")
	}
	if one, _, err := adapter.SelectModules(a, 0.01); err != nil || len(one.Modules) != 1 {
		t.Errorf("a small share keeps one module: %v", err)
	}
}

// connections makes an adapter of four blocks whose A B have singular values
// that the tests choose: A and B are diagonal.
func connections(t *testing.T, method string, values [][]float64) *adapter.Adapter {
	t.Helper()
	c := config(method)
	c.Rank.R1, c.Alpha = 4, 4 // scale 1
	a := randomised(t, robertaSites(len(values), 24, 48), c)
	for i, m := range a.Modules {
		clear(m.Tensors[0])
		clear(m.Tensors[1])
		for j, v := range values[i] {
			m.Tensors[0][j*24+j], m.Tensors[1][j*4+j] = 1, float32(v)
		}
	}
	return a
}

func TestMergeConnections(t *testing.T) {
	values := [][]float64{{1, 1, 1, 1}, {4, 1, 1, 2}, {9, 9, 1, 1}, {8, 8, 0, 0}}
	// Shares of the two leading values: 1/2, 3/4, 9/10, 1.
	for _, c := range []struct {
		rule  adapter.MergeRule
		first int // of the pair
		score float64
	}{
		{adapter.MergeConcentrated, 2, (0.1 + 0) / 2},
		{adapter.MergeSpread, 0, (0.5 + 0.75) / 2},
		{adapter.MergeSmallest, 0, (2 + math.Sqrt(22)) / 2},
	} {
		for _, method := range []string{adapter.MethodLoR2C, adapter.MethodShareLoR2C} {
			a := connections(t, method, values)
			before := adapter.ParamCount(a.Modules)
			b, done, err := adapter.MergeConnections(a, 1, c.rule)
			if err != nil {
				t.Fatal(err)
			}
			larger := c.first
			if c.first == 0 {
				larger = 1
			}
			d := done[0]
			if d.First != a.Modules[c.first].Module || d.Kept != a.Modules[larger].Module || d.Blocks != 2 || !testkit.Near(d.Score, c.score, 1e-6, 1e-6) {
				t.Errorf("%s: merged %+v, want pair %d with score %v", c.rule, d, c.first, c.score)
			}
			if len(b.Modules) != 3 || b.Modules[c.first].Terms != 2 || len(a.Modules) != 4 || a.Modules[c.first].Terms != 1 {
				t.Fatalf("%s: %d modules", c.rule, len(b.Modules))
			}
			saved := int64(2 * 24 * 4)
			if method == adapter.MethodShareLoR2C {
				saved = 24 * 4
			}
			if n := adapter.ParamCount(b.Modules); before-n != saved {
				t.Errorf("%s: %d parameters fewer, want %d", method, before-n, saved)
			}
			back, err := adapter.Load(save(t, b), robertaSites(4, 24, 48))
			if err != nil {
				t.Fatal(err)
			}
			sameModules(t, back, b)
			if back.Modules[c.first].Terms != 2 {
				t.Errorf("%s: spans %d blocks after Load", method, back.Modules[c.first].Terms)
			}
		}
	}
	a := connections(t, adapter.MethodLoR2C, values)
	all, done, err := adapter.MergeConnections(a, 3, adapter.MergeSpread)
	if err != nil || len(all.Modules) != 1 || all.Modules[0].Terms != 4 || done[2].Blocks != 4 {
		t.Errorf("three merges: %+v, %v", done, err)
	}
	if _, _, err := adapter.MergeConnections(a, 4, adapter.MergeSpread); err == nil || !strings.Contains(err.Error(), "no two connections") {
		t.Errorf("four merges of four connections: %v", err)
	}
	if _, _, err := adapter.MergeConnections(randomised(t, robertaSites(2, 24, 48), config(adapter.MethodLoRA)), 1, adapter.MergeSpread); err == nil {
		t.Error("connections of a LoRA were merged")
	}
}

// Kinds without ΔW say so to whoever would add one.
func TestNoDelta(t *testing.T) {
	for _, method := range []string{adapter.MethodDoRA, adapter.MethodLSRDoRA, adapter.MethodLoR2C, adapter.MethodShareLoR2C} {
		a := randomised(t, robertaSites(1, 24, 48), config(method))
		if _, err := a.Deltas(); !errors.Is(err, adapter.ErrNoDelta) || !strings.Contains(err.Error(), a.Modules[0].Module) {
			t.Errorf("%s: %v", method, err)
		}
		if _, err := a.AsLoRA(); !errors.Is(err, adapter.ErrNoDelta) {
			t.Errorf("%s as LoRA: %v", method, err)
		}
		if s, err := a.Modules[0].Stats(); err != nil || !(s.Norm > 0) {
			t.Errorf("%s: statistics %+v, %v", method, s, err)
		}
	}
}

// Connections go around blocks, and nothing else does.
func TestBlocks(t *testing.T) {
	blocks := adapter.Blocks(robertaSites(3, 24, 48))
	if len(blocks) != 3 || blocks[2].Module != "roberta.encoder.layer.2" || blocks[2].In != 24 || blocks[2].Out != 24 || !blocks[2].Block || blocks[2].Layer != 2 {
		t.Errorf("%+v", blocks)
	}
	c := config(adapter.MethodLoR2C)
	c.Targets.Layers = adapter.Layers{{Lo: 1, Hi: 2}}
	a, err := adapter.New(robertaSites(3, 24, 48), c, nil)
	if err != nil || len(a.Modules) != 2 || a.Modules[0].Module != "roberta.encoder.layer.1" {
		t.Errorf("%v", err)
	}
	c = config(adapter.MethodLoR2C)
	c.Targets = adapter.Targets{Modules: []string{"query"}}
	if _, err := adapter.New(robertaSites(3, 24, 48), c, nil); err == nil {
		t.Error("a connection around a linear layer was made")
	}
}

// Settings that a kind cannot have.
func TestMethodSettings(t *testing.T) {
	for name, c := range map[string]adapter.Config{
		"blocks that do not divide the rank": with(adapter.MethodGraLoRA, func(c *adapter.Config) { c.Terms = 3 }),
		"blocks that do not divide the side": with(adapter.MethodGraLoRA, func(c *adapter.Config) { c.Terms, c.Rank.R1 = 5, 5 }),
		"a hybrid rank of lora":              with(adapter.MethodLoRA, func(c *adapter.Config) { c.HybridRank = 2 }),
		"pissa of lsr":                       with(adapter.MethodLSR, func(c *adapter.Config) { c.Init = adapter.InitPiSSA }),
		"olora of dora":                      with(adapter.MethodDoRA, func(c *adapter.Config) { c.Init = adapter.InitOLoRA }),
		"pissa beyond the rank":              with(adapter.MethodLoRA, func(c *adapter.Config) { c.Init, c.Rank.R1 = adapter.InitPiSSA, 25 }),
		"svd of gralora":                     with(adapter.MethodGraLoRA, func(c *adapter.Config) { c.Init = adapter.InitSVD }),
		"two ranks of lor2c":                 with(adapter.MethodLoR2C, func(c *adapter.Config) { c.Rank.R2 = 2 }),
		"overrides of gralora":               with(adapter.MethodGraLoRA, func(c *adapter.Config) { c.Overrides = []adapter.Override{{Pattern: "query", Alpha: 3}} }),
	} {
		if _, err := adapter.New(robertaSites(1, 24, 48), c, drawn{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, method := range []string{adapter.MethodDoRA, adapter.MethodLoRA} {
		c := config(method)
		if method == adapter.MethodLoRA {
			c.Init = adapter.InitPiSSA
		}
		if _, err := adapter.New(robertaSites(1, 24, 48), c, nil); err == nil || !strings.Contains(err.Error(), "base model's weights") {
			t.Errorf("%s without the base's weights: %v", method, err)
		}
	}
}

func with(method string, change func(*adapter.Config)) adapter.Config {
	c := config(method)
	change(&c)
	return c
}
