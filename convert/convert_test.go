package convert

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// stories opens the small Llama of the repository.
func stories(t testing.TB) *model.Model {
	t.Helper()
	return openModel(t, filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k"))
}

func openModel(t testing.TB, dir string) *model.Model {
	t.Helper()
	ck, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	m, err := model.Open(ck)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// drawn makes an adapter with values that are all different, for the modules of m
// with the names.
func drawn(t testing.TB, m *model.Model, c adapter.Config, names ...string) *adapter.Adapter {
	t.Helper()
	d, err := adapter.Defaults(c.Method, adapter.InitZero)
	if err != nil {
		t.Fatal(err)
	}
	if c.Rank == (adapter.Rank{}) {
		c.Rank = d.Rank
	}
	if c.Terms == 0 {
		c.Terms = d.Terms
	}
	if c.Alpha == 0 {
		c.Alpha = d.Alpha
	}
	if c.Scaling == "" {
		c.Scaling = d.Scaling
	}
	c.Init = adapter.InitZero
	c.Targets = adapter.Targets{Modules: names}
	a, err := adapter.New(m.Sites(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Modules {
		for j, x := range a.Modules[i].Tensors {
			for k := range x {
				x[k] = float32(math.Sin(float64(k+1)*1.7+float64(7*i+j))) / 3
			}
		}
	}
	return a
}

// patterned is a LoRA with a rank and an alpha of some modules' own.
func patterned(t testing.TB, m *model.Model, scaling adapter.Scaling, names ...string) *adapter.Adapter {
	c := adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLoRA, Rank: adapter.Rank{R1: 4, R2: 1}, Alpha: 6, Scaling: scaling}}
	c.Overrides = []adapter.Override{{Pattern: `layers\.1.*`, Rank: adapter.Rank{R1: 2, R2: 1}}, {Pattern: `layers\.3.*`, Alpha: 5}}
	return drawn(t, m, c, names...)
}

// deltas are the updates of all modules, by path.
func deltas(t testing.TB, a *adapter.Adapter) map[string][]float64 {
	t.Helper()
	ds, err := a.Deltas()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]float64{}
	for _, d := range ds {
		out[d.Module] = d.Dense()
	}
	return out
}

// near fails unless both adapters have the same updates within rel of the
// largest element; 0 is bit for bit.
func near(t *testing.T, want, got *adapter.Adapter, rel float64) {
	t.Helper()
	w, g := deltas(t, want), deltas(t, got)
	if len(w) != len(g) {
		t.Fatalf("%d modules, want %d", len(g), len(w))
	}
	for module, x := range w {
		y, ok := g[module]
		if !ok {
			t.Fatalf("module %s is missing", module)
		}
		top, off := 0.0, 0.0
		for i, v := range x {
			top, off = max(top, math.Abs(v)), max(off, math.Abs(v-y[i]))
		}
		if top == 0 || off > rel*top {
			t.Errorf("%s: off by %g, largest element %g (allowed %g of it)", module, off, top, rel)
		}
	}
}

// writers write an adapter of m to dir and return the path, without rounding but
// for scales.
var writers = map[Form]func(a *adapter.Adapter, m *model.Model, dir string, d tensor.DType) (string, *Report, error){
	FormKohya: func(a *adapter.Adapter, _ *model.Model, dir string, d tensor.DType) (string, *Report, error) {
		p := filepath.Join(dir, "x.safetensors")
		r, err := WriteKohya(a, p, KohyaOptions{DType: d})
		return p, r, err
	},
	FormMLX: func(a *adapter.Adapter, m *model.Model, dir string, d tensor.DType) (string, *Report, error) {
		p := filepath.Join(dir, "mlx")
		r, err := WriteMLX(a, p, MLXOptions{DType: d, Layers: m.Config().Layers})
		return p, r, err
	},
	FormGGUF: func(a *adapter.Adapter, m *model.Model, dir string, d tensor.DType) (string, *Report, error) {
		p := filepath.Join(dir, "x.gguf")
		typ := map[tensor.DType]gguf.Type{tensor.F32: gguf.F32, tensor.F16: gguf.F16, tensor.BF16: gguf.BF16}[d]
		r, err := WriteGGUFAdapter(a, m, p, typ)
		return p, r, err
	},
}

// TestAdapterRoundTrip: every form gives the same updates when it is read again,
// bit for bit where one scale holds for all modules.
func TestAdapterRoundTrip(t *testing.T) {
	m := stories(t)
	names := []string{"q_proj", "k_proj", "v_proj", "down_proj"}
	for form, write := range writers {
		for name, c := range map[string]struct {
			a     *adapter.Adapter
			exact bool
			rel   float64
		}{
			"lora":             {drawn(t, m, adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLoRA}}, names...), true, 0},
			"rank and alpha":   {patterned(t, m, adapter.ScaleLoRA, names...), false, 2e-7},
			"rslora, patterns": {patterned(t, m, adapter.ScaleRSLoRA, names...), false, 2e-7},
			"lsr":              {drawn(t, m, adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLSR}}, names...), false, 3e-7},
			"gralora":          {drawn(t, m, adapter.Config{Settings: adapter.Settings{Method: adapter.MethodGraLoRA, Rank: adapter.Rank{R1: 8, R2: 1}, Terms: 2}}, names...), true, 1e-13},
		} {
			t.Run(string(form)+"/"+name, func(t *testing.T) {
				path, rep, err := write(c.a, m, t.TempDir(), tensor.F32)
				if err != nil {
					t.Fatal(err)
				}
				if got := Detect(path); got != form {
					t.Errorf("detected as %q", got)
				}
				back, err := Read(path, m)
				if err != nil {
					t.Fatal(err)
				}
				near(t, c.a, back, c.rel)
				if exact := rep.Count(Exact) == len(rep.Tensors); c.exact && !exact {
					w, _ := rep.Worst()
					t.Errorf("not reported as exact: %+v", w)
				}
				if w, ok := rep.Worst(); ok && (w.Relative <= 0 || w.Relative > 1e-6 || w.MaxError <= 0) {
					t.Errorf("worst %+v", w)
				}
			})
		}
	}
}

// TestAdapterHalf: in half precision the report tells how far it is off.
func TestAdapterHalf(t *testing.T) {
	m := stories(t)
	a := drawn(t, m, adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLoRA}}, "q_proj", "v_proj")
	for form, write := range writers {
		for d, allowed := range map[tensor.DType]float64{tensor.F16: 1.0 / 2048, tensor.BF16: 1.0 / 256} {
			path, rep, err := write(a, m, t.TempDir(), d)
			if err != nil {
				t.Fatal(form, err)
			}
			back, err := Read(path, m)
			if err != nil {
				t.Fatal(form, err)
			}
			near(t, a, back, 8*allowed)
			w, ok := rep.Worst()
			if !ok || w.Grade != Rounded || w.MaxError > allowed/3 || w.Relative > allowed || w.DType != d.String() {
				t.Errorf("%s %v: worst %+v", form, d, w)
			}
		}
	}
}

// TestScales: what another program would compute from what is in the files, by
// that program's own rule, is the adapter's update.
func TestScales(t *testing.T) {
	m := stories(t)
	a := patterned(t, m, adapter.ScaleRSLoRA, "q_proj", "o_proj")
	dir := t.TempDir()
	path, _, err := writers[FormGGUF](a, m, dir, tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := formats.ReadGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alpha, err := f.Float(keyAlpha)
	if err != nil || alpha == 0 {
		t.Fatal(alpha, err)
	}
	value := func(name string) ([]float32, []int) {
		x, ok := f.Lookup(name)
		if !ok {
			t.Fatalf("no tensor %s", name)
		}
		v := make([]float32, x.Shape[0]*x.Shape[1])
		if err := gguf.Decode(v, raw[x.Offset:x.Offset+x.Bytes], x.Type); err != nil {
			t.Fatal(err)
		}
		return v, x.Shape
	}
	want := deltas(t, a)
	for layer := range m.Config().Layers {
		n := "blk." + string(rune('0'+layer)) + ".attn_output.weight"
		la, sa := value(n + ".lora_a")
		lb, sb := value(n + ".lora_b")
		r, in, out := sa[0], sa[1], sb[0]
		w := want["model.layers."+string(rune('0'+layer))+".self_attn.o_proj"]
		for i := range in {
			for j := range out {
				var sum float64
				for k := range r {
					sum += float64(la[k*in+i]) * float64(lb[j*r+k])
				}
				if got := sum * float64(alpha) / float64(r); math.Abs(got-w[i*out+j]) > 1e-6 {
					t.Fatalf("layer %d: element (%d, %d) is %g, want %g", layer, i, j, got, w[i*out+j])
				}
			}
		}
	}
}

// TestLoKr: one Kronecker product goes through kohya's form bit for bit where the
// scale is a power of two; more products are refused.
func TestLoKr(t *testing.T) {
	m := stories(t)
	c := adapter.Config{Settings: adapter.Settings{Method: adapter.MethodKronA, Rank: adapter.Rank{R1: 1, R2: 1}, Terms: 1, Alpha: 0.5}}
	a := drawn(t, m, c, "q_proj", "v_proj")
	path, rep, err := writers[FormKohya](a, m, t.TempDir(), tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Count(Exact) != len(rep.Tensors) {
		t.Errorf("%+v", rep.Tensors)
	}
	back, err := Read(path, m)
	if err != nil {
		t.Fatal(err)
	}
	near(t, a, back, 0)
	c.Terms = 2
	for form, write := range writers {
		_, _, err := write(drawn(t, m, c, "q_proj"), m, t.TempDir(), tensor.F32)
		if !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("two products as %s: %v", form, err)
		}
	}
}

// TestRealAdapter: the real adapter of the shared data goes through every form
// that needs no base, and comes back bit for bit.
func TestRealAdapter(t *testing.T) {
	dir := testkit.Shared(t, "data", "adapters", "peft-gptneo-movies")
	a, err := Read(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []Form{FormKohya, FormMLX} {
		var path string
		var rep *Report
		if form == FormKohya {
			path = filepath.Join(t.TempDir(), "x.safetensors")
			rep, err = WriteKohya(a, path, KohyaOptions{DType: tensor.F32})
		} else {
			path = filepath.Join(t.TempDir(), "x")
			rep, err = WriteMLX(a, path, MLXOptions{DType: tensor.F32})
		}
		if err != nil {
			t.Fatal(err)
		}
		if rep.Count(Exact) != len(rep.Tensors) || len(rep.Tensors) < 48 {
			t.Errorf("%s: %d of %d tensors exact", form, rep.Count(Exact), len(rep.Tensors))
		}
		back, err := Read(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range a.Modules {
			g := back.Modules[i]
			if g.Module != m.Module || g.Scale() != m.Scale() {
				t.Fatalf("%s: module %s, scale %g; want %s, %g", form, g.Module, g.Scale(), m.Module, m.Scale())
			}
			for j := range m.Tensors {
				testkit.EqualBits(t, m.Specs[j].Name, g.Tensors[j], m.Tensors[j])
			}
		}
		peft := filepath.Join(t.TempDir(), "peft")
		if err := adapter.ExportPEFT(back, peft, adapter.ExportOptions{Form: adapter.FormLoRA}); err != nil {
			t.Fatal(err)
		}
		again, err := Read(peft, nil)
		if err != nil {
			t.Fatal(err)
		}
		cmp, err := Compare(a, again)
		if err != nil || cmp.Count(Exact) != len(cmp.Tensors) {
			t.Errorf("%s: %+v, %v", form, cmp, err)
		}
	}
	for _, other := range []string{"sam-lora/lora_rank2.safetensors", "sd/lora_disney.safetensors"} {
		_, err := Read(testkit.Shared(t, "data", "adapters", other), nil)
		var e *formats.Error
		if !errors.As(err, &e) || e.Hint == "" || e.Tensor == "" || !strings.Contains(err.Error(), "no adapter of a known form") {
			t.Errorf("%s: %v", other, err)
		}
	}
}
