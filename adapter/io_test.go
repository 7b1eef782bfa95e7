package adapter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

func save(t *testing.T, a *adapter.Adapter) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a")
	if err := a.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sameModules(t *testing.T, got, want *adapter.Adapter) {
	t.Helper()
	if len(got.Modules) != len(want.Modules) {
		t.Fatalf("%d modules, want %d", len(got.Modules), len(want.Modules))
	}
	for i := range want.Modules {
		g, w := &got.Modules[i], &want.Modules[i]
		if d := cmp.Diff(w.Specs, g.Specs); d != "" || g.Settings.Scale() != w.Settings.Scale() {
			t.Errorf("%s: scale %v, want %v, %s", w.Module, g.Settings.Scale(), w.Settings.Scale(), d)
		}
		for j := range w.Tensors {
			testkit.EqualBits(t, w.Specs[j].Name, g.Tensors[j], w.Tensors[j])
		}
	}
}

func TestSaveLoadRoundTrip(t *testing.T) {
	sites := robertaSites(2, 24, 48)
	for _, method := range adapter.Methods() {
		t.Run(method, func(t *testing.T) {
			c := config(method)
			c.Targets = adapter.Targets{Modules: []string{"query", "intermediate.dense"}, Layers: adapter.Layers{{Lo: 0, Hi: 1}}, Exclude: []string{"layer.0.intermediate.dense"}}
			c.Overrides = []adapter.Override{{Pattern: `layer\.1\..*query`, Alpha: 3}, {Pattern: "query", Alpha: 4}}
			c.BaseModel, c.BaseHash, c.TaskType, c.Dropout, c.Seed = "org/model", "abc", "SEQ_CLS", 0.1, 1<<63+5
			if method == adapter.MethodLSR {
				c.Split = [2]int{6, 4}
				c.Overrides[0].Rank = adapter.Rank{R1: 3, R2: 1}
				c.Overrides[0].Terms = 2
			}
			switch method {
			case adapter.MethodKAdaptation:
				c.Terms = 4
			case adapter.MethodGraLoRA:
				c.Overrides, c.HybridRank, c.Targets.Exclude = nil, 3, nil
			case adapter.MethodLoR2C, adapter.MethodShareLoR2C:
				c.Targets = adapter.Targets{Regex: `.*layer\.\d`}
				c.Overrides = []adapter.Override{{Pattern: "layer.1", Alpha: 3}}
			}
			a := randomised(t, sites, c)
			a.Head = []adapter.Tensor{{Name: "classifier.dense.weight", Shape: []int{2, 3}, Data: []float32{1, 2, 3, 4, 5, 6}}, {Name: "classifier.out_proj.bias", Shape: []int{1}, Data: []float32{7}}}
			dir := save(t, a)
			for _, base := range [][]adapter.Site{sites, nil} {
				b, err := adapter.Load(dir, base)
				if err != nil {
					t.Fatal(err)
				}
				sameModules(t, b, a)
				if d := cmp.Diff(a.Head, b.Head); d != "" {
					t.Errorf("head: %s", d)
				}
				if b.Dir != dir {
					t.Errorf("dir %q", b.Dir)
				}
				if d := cmp.Diff(a.Config, b.Config, cmp.FilterPath(func(p cmp.Path) bool {
					// PEFT's form keeps ranks and alphas in two lists, and layers one by one.
					return slices.Contains([]string{adapter.MethodLoRA, adapter.MethodDoRA, adapter.MethodGraLoRA}, method) && (p.Last().String() == ".Overrides" || p.Last().String() == ".Layers")
				}, cmp.Ignore())); d != "" {
					t.Errorf("configuration: %s", d)
				}
			}
		})
	}
}

func TestSaveIsWholeOrNothing(t *testing.T) {
	a := randomised(t, robertaSites(1, 24, 48), config(adapter.MethodLSR))
	dir := save(t, a)
	if err := a.Save(dir, false); err == nil {
		t.Error("an existing directory was replaced")
	}
	a.Modules[0].Tensors[0][3] = float32(math.NaN())
	if err := a.Save(dir, true); err == nil || !strings.Contains(err.Error(), a.Modules[0].Specs[0].Name) {
		t.Errorf("NaN: %v", err)
	}
	if _, err := adapter.Load(dir, nil); err != nil {
		t.Errorf("the old adapter is gone: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	a.Modules[0].Tensors[0][3] = 9
	if err := a.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	b, err := adapter.Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameModules(t, b, a)
}

// rewrite changes the configuration of an adapter directory.
func rewrite(t *testing.T, dir string, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, adapter.ConfigFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Adapters that do not fit. PEFT 0.21.2 takes the first three without a word.
func TestLoadAccountsForEverything(t *testing.T) {
	sites := robertaSites(2, 24, 48)
	set := func(k string, v any) func(map[string]any) { return func(m map[string]any) { m[k] = v } }
	for _, c := range []struct {
		name   string
		method string
		change func(map[string]any)
		base   []adapter.Site
		want   string
		is     error
	}{
		{"tensors for a layer that is not there", "lora", set("target_modules", []string{"query", "value"}), robertaSites(1, 24, 48), "layer.1.attention.self.query", adapter.ErrMismatch},
		{"tensors for an untargeted module", "lora", set("target_modules", []string{"query"}), sites, "not among the configuration's targets", adapter.ErrMismatch},
		{"a target that matches nothing", "lora", set("target_modules", []string{"query", "value", "vlaue"}), sites, `target "vlaue" matches no module (did you mean "value"?)`, adapter.ErrMismatch},
		{"a targeted module without tensors", "lora", set("target_modules", []string{"query", "value", "key"}), sites, "missing, though the configuration targets module roberta.encoder.layer.0.attention.self.key", adapter.ErrMismatch},
		{"wrong rank", "lora", set("r", 4), sites, "shape [8 24], but rank 4", adapter.ErrMismatch},
		{"another model", "lora", set("r", 8), robertaSites(2, 32, 64), "shape [8 24]", adapter.ErrMismatch},
		{"another model, own kind", "lsr", set("terms", 16), robertaSites(2, 32, 64), "is for (24, 24), the base model has (32, 32)", adapter.ErrMismatch},
		{"unknown key", "lora", set("use_rslroa", true), sites, `unknown key "use_rslroa" (did you mean "use_rslora"?)`, formats.ErrMalformed},
		{"unknown key, own kind", "lsr", set("trems", 3), sites, `unknown key "trems" (did you mean "terms"?)`, formats.ErrMalformed},
		{"unknown key, switched off", "lora", set("use_new_thing", false), sites, "", nil},
		{"rank pattern without effect", "lora", set("rank_pattern", map[string]int{"key": 4}), sites, `override "key" matches no module`, adapter.ErrMismatch},
		{"exclusion without effect", "lora", set("exclude_modules", []string{"kye"}), sites, `exclude "kye" matches no module (did you mean "key"?)`, adapter.ErrMismatch},
		{"layer without effect", "lora", set("layers_to_transform", []int{0, 1, 2}), sites, `layer "2" matches no module`, adapter.ErrMismatch},
		{"DoRA without magnitudes", "lora", set("use_dora", true), sites, "lora_magnitude_vector", adapter.ErrMismatch},
		{"magnitudes of no DoRA", "dora", set("use_dora", false), sites, "lora_magnitude_vector", adapter.ErrMismatch},
		{"GraLoRA of another grid", "gralora", set("gralora_k", 4), sites, "shape [2 12 8]", adapter.ErrMismatch},
		{"GraLoRA of another rank", "gralora", set("hybrid_r", 2), sites, "gralora_A_general.weight", adapter.ErrMismatch},
		{"connections of another model", "lor2c", set("rank", "8"), robertaSites(2, 32, 64), "is for (24, 24), the base model has (32, 32)", adapter.ErrMismatch},
		{"PiSSA", "lora", set("init_lora_weights", "pissa_niter_4"), sites, "changed base model", formats.ErrMalformed},
		{"trained biases", "lora", set("bias", "lora_only"), sites, "bias", formats.ErrMalformed},
		{"missing head", "lora", set("modules_to_save", []string{"classifier"}), sites, `modules_to_save names "classifier"`, adapter.ErrMismatch},
		{"unknown type", "lora", set("peft_type", "LOHA"), sites, `peft_type "LOHA" is not supported`, formats.ErrMalformed},
		{"no targets", "lora", set("target_modules", nil), sites, "target_modules", formats.ErrMalformed},
		{"newer format", "lsr", set("lsrsurgeon_format", 2), sites, "this version reads 1", formats.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := randomised(t, sites, config(c.method))
			dir := save(t, a)
			rewrite(t, dir, c.change)
			_, err := adapter.Load(dir, c.base)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
				t.Errorf("error %v, want %q, %v", err, c.want, c.is)
			}
			if err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v does not name the file", err)
			}
		})
	}
}

func TestLoadRefusesNonFiniteTensors(t *testing.T) {
	a := randomised(t, robertaSites(1, 24, 48), config(adapter.MethodLoRA))
	dir := save(t, a)
	path := filepath.Join(dir, formats.AdapterFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)-4:], []byte{0, 0, 0x80, 0x7f}) // +Inf
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := adapter.Load(dir, nil); err == nil || !strings.Contains(err.Error(), "lora_B.weight") || !errors.Is(err, formats.ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

// A file made on a model with a head, for a bare checkpoint, and the reverse.
func TestPrefixesOfModulePaths(t *testing.T) {
	full := robertaSites(2, 24, 48)
	bare := slices.Clone(full)
	for i := range bare {
		bare[i].Module = strings.TrimPrefix(bare[i].Module, "roberta.")
	}
	for _, c := range []struct {
		name     string
		from, to []adapter.Site
	}{{"full to bare", full, bare}, {"bare to full", bare, full}} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(adapter.MethodLSR)
			cfg.Targets = adapter.Targets{Regex: `.*layer.0.*query|.*layer.1.*value`}
			cfg.Overrides = []adapter.Override{{Pattern: `.*layer\.1.*`, Terms: 3}}
			a := randomised(t, c.from, cfg)
			b, err := adapter.Load(save(t, a), c.to)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{}
			for _, s := range c.to {
				want[s.Module] = true
			}
			for i, m := range b.Modules {
				if !want[m.Module] || m.Terms != a.Modules[i].Terms {
					t.Errorf("module %s, %d terms", m.Module, m.Terms)
				}
				testkit.EqualBits(t, m.Specs[0].Name, m.Tensors[0], a.Modules[i].Tensors[0])
			}
			// Saved again it speaks of the new names alone.
			d, err := adapter.Load(save(t, b), c.to)
			if err != nil {
				t.Fatal(err)
			}
			sameModules(t, d, b)
		})
	}
}

func TestRealAdapters(t *testing.T) {
	a, err := adapter.Load(testkit.Shared(t, "data", "adapters", "peft-gptneo-movies"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Modules) != 24 || a.Modules[0].In != 768 || a.Scale() != 2 || a.Method != adapter.MethodLoRA || a.Dropout != 0.05 {
		t.Errorf("%d modules, first (%d, %d), scale %v", len(a.Modules), a.Modules[0].In, a.Modules[0].Out, a.Scale())
	}
	norm, noOp, err := a.Start()
	if err != nil || noOp || !(norm > 0.01) {
		t.Errorf("a trained adapter has norm %v, %v", norm, err)
	}
	sameFile(t, save(t, a), testkit.Shared(t, "data", "adapters", "peft-gptneo-movies"))
	for _, f := range []string{"roberta_base_lora_mnli.bin", "sam-lora/lora_rank4.safetensors", "sam-lora", "sd/lora_disney.safetensors"} {
		_, err := adapter.Load(testkit.Shared(t, "data", "adapters", filepath.FromSlash(f)), nil)
		var e *formats.Error
		if !errors.As(err, &e) || e.Reason == "" || e.Hint == "" {
			t.Errorf("%s: %v, want a refusal with reason and remedy", f, err)
		}
	}
}

// sameFile compares the tensors of two adapter directories byte for byte.
func sameFile(t *testing.T, got, want string) {
	t.Helper()
	open := func(dir string) *formats.Checkpoint {
		c, err := formats.Open(filepath.Join(dir, formats.AdapterFile))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	g, w := open(got), open(want)
	if len(g.Tensors()) != len(w.Tensors()) {
		t.Errorf("%d tensors, want %d", len(g.Tensors()), len(w.Tensors()))
	}
	for _, x := range w.Tensors() {
		y, ok := g.Lookup(x.Name)
		if !ok || y.DType != x.DType || !slices.Equal(y.Shape, x.Shape) {
			t.Errorf("%s is not there as %v %v", x.Name, x.DType, x.Shape)
			continue
		}
		a, errA := g.Bytes(y)
		b, errB := w.Bytes(x)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s has other bytes (%v, %v)", x.Name, errA, errB)
		}
	}
}

// What PEFT saved comes back from Load and Save byte for byte.
func TestPEFTAdaptersKeepTheirBytes(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join("..", "model", "testdata", "peft", "*"))
	if err != nil || len(dirs) < 9 {
		t.Fatalf("%d adapters, %v", len(dirs), err)
	}
	for _, dir := range dirs {
		if filepath.Base(dir) == "lokr" {
			continue // becomes krona, which has other tensors
		}
		a, err := adapter.Load(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		sameFile(t, save(t, a), dir)
	}
}

func TestPickleIsRefusedWithRemedy(t *testing.T) {
	a := randomised(t, robertaSites(1, 24, 48), config(adapter.MethodLoRA))
	dir := save(t, a)
	if err := os.Rename(filepath.Join(dir, formats.AdapterFile), filepath.Join(dir, "adapter_model.bin")); err != nil {
		t.Fatal(err)
	}
	var e *formats.Error
	if _, err := adapter.Load(dir, nil); !errors.As(err, &e) || !strings.Contains(e.Hint, "safe_serialization") {
		t.Errorf("%v", err)
	}
}

// Adapters in half precision are widened.
func TestLoadNarrowTensors(t *testing.T) {
	a := randomised(t, robertaSites(1, 24, 48), config(adapter.MethodLoRA))
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F64} {
		dir := save(t, a)
		h := &safetensors.Header{}
		var data []byte
		for _, m := range a.Modules {
			for i, s := range m.Specs {
				for j, v := range m.Tensors[i] {
					m.Tensors[i][j] = tensor.BF16ToF32(tensor.F32ToBF16(v)) // exact in all but F16's range
				}
				b := make([]byte, len(m.Tensors[i])*d.Bits()/8)
				if err := tensor.EncodeF32(b, m.Tensors[i], d); err != nil {
					t.Fatal(err)
				}
				h.Tensors = append(h.Tensors, safetensors.Entry{Name: s.Name, DType: d, Shape: s.Shape})
				data = append(data, b...)
			}
		}
		if _, err := h.Layout(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, formats.AdapterFile), append(h.Encode(), data...), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := adapter.Load(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range b.Modules {
			for j, x := range m.Tensors {
				for k, v := range x {
					if want := a.Modules[i].Tensors[j][k]; v != want && (d != tensor.F16 || math.Abs(float64(v-want)) > 1e-7) {
						t.Fatalf("%v %s: element %d is %v, want %v", d, m.Specs[j].Name, k, v, want)
					}
				}
			}
		}
	}
}

// The head's modules are named so that they hold no adapted module.
func TestHeadModules(t *testing.T) {
	sites := robertaSites(1, 24, 48)
	for i := range sites {
		sites[i].Module = strings.Replace(sites[i].Module, "roberta.", "bert.", 1)
	}
	pooler := sites[0]
	pooler.Module, pooler.Output = "bert.pooler.dense", false
	sites = append(sites, pooler)
	bare := slices.Clone(sites)
	for i := range bare {
		bare[i].Module = strings.TrimPrefix(bare[i].Module, "bert.")
	}
	one := func(names ...string) (h []adapter.Tensor) {
		for _, n := range names {
			h = append(h, adapter.Tensor{Name: n, Shape: []int{1}, Data: []float32{1}})
		}
		return h
	}
	names := func(h []adapter.Tensor) (n []string) {
		for _, t := range h {
			n = append(n, t.Name)
		}
		return n
	}
	full := []string{"bert.pooler.dense.weight", "classifier.out_proj.weight", "classifier.out_proj.bias"}
	short := []string{"pooler.dense.weight", "classifier.out_proj.weight", "classifier.out_proj.bias"}
	for _, c := range []struct {
		from, to   []adapter.Site
		head, want []string
	}{{sites, sites, full, full}, {sites, bare, full, short}, {bare, sites, short, full}, {bare, bare, short, short}} {
		a := randomised(t, c.from, config(adapter.MethodLSR))
		a.Head = one(c.head...)
		b, err := adapter.Load(save(t, a), c.to)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(b.Head); !slices.Equal(got, c.want) || !slices.Equal(b.ModulesToSave, []string{"pooler", "classifier"}) {
			t.Errorf("head %q, modules to save %q; want %q", got, b.ModulesToSave, c.want)
		}
	}
	// A module of that name elsewhere: the whole path.
	a := randomised(t, sites, config(adapter.MethodLSR))
	a.Head = one("other.query.weight")
	if _, err := adapter.Load(save(t, a), sites); err != nil || a.ModulesToSave[0] != "other" {
		t.Errorf("%v, %q", err, a.ModulesToSave)
	}
	a.Head, a.ModulesToSave = one("value.weight"), nil
	if err := a.Save(filepath.Join(t.TempDir(), "a"), false); err == nil || !strings.Contains(err.Error(), "adapted too") {
		t.Errorf("a saved module that is adapted: %v", err)
	}
}

// The second reader notices a changed value, shape and name.
func TestSecondReader(t *testing.T) {
	a := randomised(t, robertaSites(1, 24, 48), config(adapter.MethodLSR))
	path := filepath.Join(save(t, a), formats.AdapterFile)
	if err := adapter.CrossRead(path, a); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*adapter.Module){
		"value": func(m *adapter.Module) { m.Tensors[1][3]++ },
		"shape": func(m *adapter.Module) { m.Specs[1].Shape = []int{m.Specs[1].Size()} },
		"name":  func(m *adapter.Module) { m.Specs[1].Name += "x" },
	} {
		b, err := adapter.Load(filepath.Dir(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		change(&b.Modules[0])
		if err := adapter.CrossRead(path, b); err == nil || !strings.Contains(err.Error(), b.Modules[0].Specs[1].Name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
