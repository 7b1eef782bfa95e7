package adapter_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

var update = flag.Bool("update", false, "write testdata/export anew; then run testdata/gen_peft.py check on its folders")

// peftGoldens is testdata/targets.json.
type peftGoldens struct {
	Sites map[string][][4]any `json:"sites"`
	Cases []struct {
		Model   string          `json:"model"`
		Config  json.RawMessage `json:"config"`
		Error   *string         `json:"error"`
		Matched map[string]struct {
			R       int     `json:"r"`
			Scaling float64 `json:"scaling"`
		} `json:"matched"`
	} `json:"cases"`
}

func readGoldens(t testing.TB) *peftGoldens {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	g := &peftGoldens{}
	if err := json.Unmarshal(b, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// sites of a golden model.
func (g *peftGoldens) sites(model string) []adapter.Site {
	var sites []adapter.Site
	for _, s := range g.Sites[model] {
		m := s[0].(string)
		sites = append(sites, adapter.Site{Module: m, In: int(s[1].(float64)), Out: int(s[2].(float64)), Weight: m + ".weight",
			Transposed: s[3].(bool), Layer: -1, Kind: m[strings.LastIndexByte(m, '.')+1:],
			Output: strings.HasPrefix(m, "classifier") || m == "lm_head", DType: tensor.F32})
	}
	return sites
}

func TestTargetsAsPEFT(t *testing.T) {
	g := readGoldens(t)
	if len(g.Cases) < 10 {
		t.Fatalf("%d cases", len(g.Cases))
	}
	for _, c := range g.Cases {
		var what struct {
			Targets any `json:"target_modules"`
		}
		if err := json.Unmarshal(c.Config, &what); err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%s %v", c.Model, what.Targets), func(t *testing.T) {
			cfg, err := adapter.DecodePEFT(c.Config)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := adapter.Match(g.sites(c.Model), cfg)
			if c.Error != nil {
				if err == nil {
					t.Errorf("no error; PEFT says %s", *c.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.Matched) {
				t.Errorf("%d modules, PEFT adapts %d", len(got), len(c.Matched))
			}
			for _, m := range got {
				w, ok := c.Matched[m.Module]
				if !ok {
					t.Errorf("%s: PEFT leaves it alone", m.Module)
				} else if m.Rank.R() != w.R || math.Abs(m.Scale()-w.Scaling) > 1e-15*math.Abs(w.Scaling) {
					t.Errorf("%s: rank %v, scale %v; PEFT has %d, %v", m.Module, m.Rank, m.Scale(), w.R, w.Scaling)
				}
			}
		})
	}
}

// compareDeltas compares a's updates with PEFT's float32 ones, within 2 units
// in the last place of the largest element.
func compareDeltas(t *testing.T, a *adapter.Adapter, path string) {
	t.Helper()
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	deltas, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	if len(deltas) != len(c.Tensors()) {
		t.Errorf("%d updates, PEFT has %d", len(deltas), len(c.Tensors()))
	}
	for _, d := range deltas {
		w, ok := c.Lookup(d.Module)
		if !ok {
			t.Errorf("%s: PEFT has none", d.Module)
			continue
		}
		want := make([]float32, w.Elements())
		if err := c.ReadF32(w, 0, w.Elements(), want); err != nil {
			t.Fatal(err)
		}
		stored := d.Delta
		if d.Site.Transposed {
			stored = d.Delta.Transpose()
		}
		if !slices.Equal(w.Shape, []int{stored.In, stored.Out}) {
			t.Fatalf("%s: (%d, %d), PEFT has %v", d.Module, stored.In, stored.Out, w.Shape)
		}
		got := stored.Dense()
		var most, worst float64
		for i, v := range got {
			most = max(most, math.Abs(v))
			worst = max(worst, math.Abs(v-float64(want[i])))
		}
		if ulp := most * 0x1p-23; !(worst <= 2*ulp) || most == 0 {
			t.Errorf("%s: differs by %.3g, %.1f units in the last place of the largest, %.3g", d.Module, worst, worst/ulp, most)
		}
	}
}

func TestImportFromPEFT(t *testing.T) {
	g := readGoldens(t)
	for name, model := range map[string]string{"lora_head": "roberta", "lora_patterns": "roberta", "lora_conv1d": "gpt2",
		"lokr_thin": "roberta", "lokr_full": "roberta", "lokr_both": "roberta"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", "peft", name)
			a, err := adapter.Load(dir, g.sites(model))
			if err != nil {
				t.Fatal(err)
			}
			compareDeltas(t, a, filepath.Join(dir, "deltas.safetensors"))
			if name == "lora_head" && len(a.Head) != 4 || name != "lora_head" && len(a.Head) != 0 {
				t.Errorf("%d head tensors", len(a.Head))
			}
			// As ours, saved and loaded again, it is the same.
			b, err := adapter.Load(save(t, a), g.sites(model))
			if err != nil {
				t.Fatal(err)
			}
			sameModules(t, b, a)
			// And alone, without the base.
			if b, err = adapter.Load(dir, nil); err != nil {
				t.Fatal(err)
			}
			if len(b.Modules) != len(a.Modules) {
				t.Errorf("%d modules without the base, %d with it", len(b.Modules), len(a.Modules))
			}
		})
	}
}

// exports are the adapters that testdata/export holds in PEFT's form.
func exports(t *testing.T) map[string]struct {
	a    *adapter.Adapter
	form adapter.Form
} {
	g := readGoldens(t)
	type export = struct {
		a    *adapter.Adapter
		form adapter.Form
	}
	lsr := func(change func(*adapter.Config)) *adapter.Adapter {
		c := config(adapter.MethodLSR)
		c.Terms = 3
		c.Targets.Modules = []string{"query", "output.dense"}
		change(&c)
		return randomised(t, g.sites("roberta"), c)
	}
	out := map[string]export{}
	for _, s := range []adapter.Scaling{adapter.ScaleLoRA, adapter.ScaleRSLoRA, adapter.ScalePaper} {
		out["lsr_"+string(s)] = export{lsr(func(c *adapter.Config) {
			c.Scaling, c.Alpha = s, 5
			c.Overrides = []adapter.Override{{Pattern: `layer\.1\.attention\.self\.query`, Rank: adapter.Rank{R1: 3, R2: 2}, Alpha: 7}}
		}), adapter.FormLoRA}
	}
	out["lsr_padded"] = export{lsr(func(c *adapter.Config) { c.Split = [2]int{}; c.Targets.Modules = []string{"intermediate.dense"} }), adapter.FormLoRA}
	out["lsr_lokr"] = export{lsr(func(c *adapter.Config) {
		c.Terms, c.Rank, c.Alpha = 1, adapter.Rank{R1: 2, R2: 3}, 9
		c.Split = [2]int{4, 6}
		c.Targets.Modules = []string{"query", "value"}
	}), adapter.FormLoKr}
	headed := lsr(func(c *adapter.Config) { c.TaskType = "SEQ_CLS" })
	for _, s := range g.sites("roberta") {
		if s.Output {
			w, b := make([]float32, s.In*s.Out), make([]float32, s.Out)
			adapter.Source{}.Normal(s.Weight, w, 1)
			adapter.Source{}.Normal(s.Module, b, 1)
			headed.Head = append(headed.Head, adapter.Tensor{Name: s.Weight, Shape: []int{s.Out, s.In}, Data: w},
				adapter.Tensor{Name: s.Module + ".bias", Shape: []int{s.Out}, Data: b})
		}
	}
	out["lsr_head"] = export{headed, adapter.FormLoRA}
	krona := config(adapter.MethodKronA)
	krona.Targets.Modules = []string{"query", "key"}
	krona.Split = [2]int{4, 6}
	out["krona_lokr"] = export{randomised(t, g.sites("roberta"), krona), adapter.FormLoKr}
	lora := config(adapter.MethodLoRA)
	lora.Targets = adapter.Targets{AllLinear: true}
	lora.Overrides = []adapter.Override{{Pattern: "query", Rank: adapter.Rank{R1: 3, R2: 1}}}
	out["lora_all"] = export{randomised(t, g.sites("roberta"), lora), adapter.FormLoRA}
	some := config(adapter.MethodLoRA)
	some.Targets = adapter.Targets{Modules: []string{"dense", "value"}, Exclude: []string{"layer.2.attention.output.dense"}, Layers: adapter.Layers{{Lo: 1, Hi: 2}}}
	some.Scaling = adapter.ScaleRSLoRA
	some.Overrides = []adapter.Override{{Pattern: `output\.dense`, Rank: adapter.Rank{R1: 3, R2: 1}, Alpha: 2}, {Pattern: "layer.1.output.dense", Alpha: 5}, {Pattern: "value", Alpha: 9}}
	out["lora_some"] = export{randomised(t, g.sites("roberta"), some), adapter.FormLoRA}
	conv := config(adapter.MethodLSR)
	conv.Terms = 2
	conv.Targets.Modules = []string{"c_attn"}
	out["lsr_conv1d"] = export{randomised(t, g.sites("gpt2"), conv), adapter.FormLoRA}
	return out
}

// testdata/export was loaded by PEFT without a warning, and deltas.safetensors
// is what PEFT makes of it.
func TestExportToPEFT(t *testing.T) {
	for name, e := range exports(t) {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", "export", name)
			if *update {
				if err := adapter.ExportPEFT(e.a, golden, adapter.ExportOptions{Form: e.form, Replace: true}); err != nil {
					t.Fatal(err)
				}
				t.Skip("written; deltas.safetensors comes from gen_peft.py check")
			}
			dir := filepath.Join(t.TempDir(), "out")
			if err := adapter.ExportPEFT(e.a, dir, adapter.ExportOptions{Form: e.form}); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{adapter.ConfigFile, formats.AdapterFile} {
				got, err := os.ReadFile(filepath.Join(dir, f))
				if err != nil {
					t.Fatal(err)
				}
				want, err := os.ReadFile(filepath.Join(golden, f))
				if err != nil {
					t.Fatal(err)
				}
				if f == adapter.ConfigFile && string(got) != string(want) {
					t.Errorf("%s:\n%s\nwant\n%s", f, got, want)
				}
				if f == formats.AdapterFile && len(got) != len(want) {
					t.Errorf("%s: %d bytes, want %d", f, len(got), len(want))
				}
			}
			compareDeltas(t, e.a, filepath.Join(golden, "deltas.safetensors"))
			// What was exported now equals what PEFT saw.
			b, err := adapter.Load(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if e.a.Modules[0].Site.Transposed { // alone, orientation is not known
				compareDeltas(t, b, filepath.Join(golden, "deltas.safetensors"))
			}
		})
	}
}

// The same against the library itself, where there is one.
func TestExportLoadsInPEFT(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON is not set: give a Python with peft, transformers and torch to load the exports with")
	}
	args := []string{filepath.Join("testdata", "gen_peft.py"), "check"}
	dirs := map[string]string{}
	for name, e := range exports(t) {
		dirs[name] = filepath.Join(t.TempDir(), name)
		if err := adapter.ExportPEFT(e.a, dirs[name], adapter.ExportOptions{Form: e.form}); err != nil {
			t.Fatal(err)
		}
		args = append(args, dirs[name])
	}
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, e := range exports(t) {
		compareDeltas(t, e.a, filepath.Join(dirs[name], "deltas.safetensors"))
	}
}

func TestExportRefusals(t *testing.T) {
	sites := robertaSites(1, 24, 36)
	c := config(adapter.MethodLSR)
	many := randomised(t, sites, c)
	c.Terms = 1
	padded := randomised(t, robertaSites(1, 23, 36), c)
	c.Targets.Modules = []string{"query", "output.dense", "intermediate.dense"}
	c.Rank = adapter.Rank{R1: 2, R2: 3}
	c.Split = [2]int{12, 2}
	mixed := randomised(t, sites, c)
	ka := config(adapter.MethodKAdaptation)
	ka.Terms = 4
	kadaptation := randomised(t, sites, ka)
	krona := randomised(t, sites, config(adapter.MethodKronA))
	for _, e := range []struct {
		name string
		a    *adapter.Adapter
		form adapter.Form
		want string
	}{
		{"many terms as lokr", many, adapter.FormLoKr, "16 terms"},
		{"padded as lokr", padded, adapter.FormLoKr, "padded"},
		{"no common factor", mixed, adapter.FormLoKr, "no decompose_factor"},
		{"full rank as lora", krona, adapter.FormLoRA, "full rank"},
		{"kadaptation as lokr", kadaptation, adapter.FormLoKr, "no lokr form"},
		{"unknown form", many, "loha", `form "loha"`},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		err := adapter.ExportPEFT(e.a, dir, adapter.ExportOptions{Form: e.form})
		if err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%s: %v, want %q", e.name, err, e.want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: left an output", e.name)
		}
	}
}

func TestExportPrefix(t *testing.T) {
	bare := robertaSites(1, 24, 36)[:6]
	for i := range bare {
		bare[i].Module = strings.TrimPrefix(bare[i].Module, "roberta.")
	}
	a := randomised(t, bare, config(adapter.MethodLSR))
	a.Head = []adapter.Tensor{{Name: "pooler.dense.bias", Shape: []int{1}, Data: []float32{1}}, {Name: "classifier.bias", Shape: []int{1}, Data: []float32{2}}}
	dir := filepath.Join(t.TempDir(), "out")
	if err := adapter.ExportPEFT(a, dir, adapter.ExportOptions{Form: adapter.FormLoRA, Prefix: "roberta."}); err != nil {
		t.Fatal(err)
	}
	if a.Modules[0].Module != bare[0].Module || a.Head[0].Name != "pooler.dense.bias" {
		t.Error("the adapter itself was renamed")
	}
	b, err := adapter.Load(dir, robertaSites(1, 24, 36))
	if err != nil {
		t.Fatal(err)
	}
	if b.Modules[0].Module != "roberta."+bare[0].Module || b.Head[0].Name != "roberta.pooler.dense.bias" || b.Head[1].Name != "classifier.bias" {
		t.Errorf("module %s, head %v", b.Modules[0].Module, b.Head)
	}
}

// factorization examples from PEFT's own documentation, and factors that do
// not divide.
func TestFactorization(t *testing.T) {
	for _, c := range [][4]int{{256, -1, 16, 16}, {128, -1, 8, 16}, {127, -1, 1, 127}, {128, 4, 4, 32}, {768, 32, 32, 24}, {768, 5, 4, 192}, {1, -1, 1, 1}} {
		if a, b := adapter.Factorization(c[0], c[1]); a != c[2] || b != c[3] {
			t.Errorf("factorization(%d, %d) = %d, %d; want %d, %d", c[0], c[1], a, b, c[2], c[3])
		}
	}
}
