package merge

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

const q0 = "model.layers.0.q_proj.weight" // (36, 24) in BF16

// TestPlanRefuses: what does not fit is refused before any work, by name.
func TestPlanRefuses(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	good := func() Update { return update(q0, true, randomDelta(24, 36, 2, 1e-3, 1)) }
	one := func(u ...Update) []Source { return []Source{{Name: "adapter", Weight: 1, Updates: u}} }
	head := func(h ...adapter.Tensor) []Source {
		return []Source{{Name: "adapter", Weight: 1, Updates: []Update{good()}, Head: h}}
	}
	cases := []struct {
		what string
		s    []Source
		o    Options
		is   error
		says string
	}{
		{"nothing", []Source{{Name: "a"}}, Options{}, ErrMismatch, "nothing to merge"},
		{"missing tensor", one(update("no.weight", true, randomDelta(24, 36, 2, 1, 1))), Options{}, ErrMismatch, "no.weight"},
		{"wrong shape", one(update(q0, true, randomDelta(36, 24, 2, 1, 1))), Options{}, ErrMismatch, "shape [36 24]"},
		{"orientation", one(update(q0, false, randomDelta(24, 36, 2, 1, 1))), Options{}, ErrMismatch, "shape [36 24]"},
		{"rank of shape", one(update("model.layers.0.norm.weight", true, randomDelta(24, 1, 2, 1, 1))), Options{}, ErrMismatch, "shape [24]"},
		{"twice", one(good(), good()), Options{}, ErrMismatch, "two updates"},
		{"weight", []Source{{Name: "adapter", Weight: math.NaN(), Updates: []Update{good()}}}, Options{}, ErrNonFinite, "NaN"},
		{"head shape", head(adapter.Tensor{Name: "model.layers.0.norm.weight", Shape: []int{23}, Data: make([]float32, 23)}), Options{}, ErrMismatch, "shape [24]"},
		{"head size", head(adapter.Tensor{Name: "h", Shape: []int{23}, Data: make([]float32, 22)}), Options{}, ErrMismatch, "22 elements"},
		{"head NaN", head(adapter.Tensor{Name: "h", Shape: []int{1}, Data: []float32{float32(math.Inf(1))}}), Options{}, ErrNonFinite, "h is +Inf"},
		{"two heads", append(head(adapter.Tensor{Name: "h", Shape: []int{1}, Data: []float32{1}}), head(adapter.Tensor{Name: "h", Shape: []int{1}, Data: []float32{2}})...), Options{}, ErrMismatch, "another h"},
		{"head and update", head(adapter.Tensor{Name: q0, Shape: []int{36, 24}, Data: make([]float32, 36*24)}), Options{}, ErrMismatch, "both replaced and updated"},
		{"dtype", one(good()), Options{DType: tensor.I64}, nil, "I64"},
		{"rounding", one(good()), Options{Rounding: "up"}, nil, `"up"`},
		{"reversible", one(good()), Options{Reversible: true, DType: tensor.F32}, nil, "keeps the dtype"},
		{"shard size", one(good()), Options{MaxShardSize: -1}, nil, "negative"},
	}
	for _, c := range cases {
		_, err := NewPlan(base, c.s, c.o)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// TestQuantised: an update of a tensor that has a scale beside it is refused.
func TestQuantised(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, []spec{{"w.weight", tensor.F8E4M3, []int{8, 8}, 1}, {"w.weight_scale_inv", tensor.F32, []int{1, 1}, 1}})
	_, err := NewPlan(open(t, dir), []Source{{Name: "x", Weight: 1, Updates: []Update{update("w.weight", true, randomDelta(8, 8, 1, 1, 1))}}}, Options{})
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "quantised") {
		t.Errorf("got %v", err)
	}
}

// TestRunRefuses: failures while running leave nothing behind.
func TestRunRefuses(t *testing.T) {
	dir := makeBase(t)
	input := tree(t, dir)
	base := open(t, dir)
	zero := randomDelta(24, 36, 2, 1e-3, 1)
	clear(zero.B)
	nan := randomDelta(24, 36, 2, 1e-3, 1)
	nan.A[5] = math.NaN()
	big := update("model.layers.0.c_attn.weight", false, randomDelta(24, 60, 2, 1e6, 1))
	broken := update(q0, true, zero)
	broken.Delta = func() (*adapter.Delta, error) { return nil, os.ErrInvalid }
	other := update(q0, true, zero)
	other.Delta = func() (*adapter.Delta, error) { return randomDelta(24, 35, 2, 1, 1), nil }
	cases := []struct {
		what string
		u    Update
		o    Options
		is   error
		says string
	}{
		{"zero", update(q0, true, zero), Options{}, ErrUnchanged, "not been trained"},
		{"too small", update(q0, true, randomDelta(24, 36, 2, 1e-12, 1)), Options{}, ErrUnchanged, "too small for BF16"},
		{"NaN", update(q0, true, nan), Options{}, ErrNonFinite, q0[:20]},
		{"overflow", big, Options{}, ErrOverflow, "do not fit into F16"},
		{"fp8 overflow", update("model.layers.1.fp8.weight", true, randomDelta(24, 36, 2, 1e4, 1)), Options{}, ErrOverflow, "do not fit into F8_E4M3"},
		{"broken", broken, Options{}, os.ErrInvalid, "adapter"},
		{"other shape", other, Options{}, ErrMismatch, "(24, 35)"},
	}
	for _, c := range cases {
		root := t.TempDir()
		p := mustPlan(t, base, []Source{{Name: "adapter", Weight: 1, Updates: []Update{c.u}}}, c.o)
		_, err := p.Run(context.Background(), filepath.Join(root, "deep", "out"), nil)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
		if es, err := os.ReadDir(root); err != nil || len(es) != 0 {
			t.Errorf("%s: left over %v %v", c.what, es, err)
		}
	}
	sameTree(t, "input", tree(t, dir), input)
	out := filepath.Join(t.TempDir(), "out")
	s := []Source{{Name: "adapter", Weight: 1, Updates: []Update{update(q0, true, zero)}}}
	rep := mustMerge(t, base, s, Options{AllowUnchanged: true}, out)
	if r := rep.Tensors[0]; r.Share != 0 || r.Unchanged != 0 || r.RelativeError != 0 {
		t.Errorf("report of a zero update: %+v", r)
	}
}

// TestOutputPlaces: the base itself, a place in it and one around it, also by
// links, and an existing output are refused.
func TestOutputPlaces(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	root := filepath.Dir(dir)
	link := filepath.Join(root, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "there", "x"), "")
	for _, replace := range []bool{false, true} {
		p := mustPlan(t, base, sources(1e-3), Options{Replace: replace})
		for _, out := range []string{dir, link, filepath.Join(dir, "out"), filepath.Join(link, "a", "out"), root} {
			if _, err := p.Run(context.Background(), out, nil); err == nil || !strings.Contains(err.Error(), out) {
				t.Errorf("%s: %v", out, err)
			}
		}
	}
	p := mustPlan(t, base, sources(1e-3), Options{})
	if _, err := p.Run(context.Background(), filepath.Join(root, "there"), nil); !errors.Is(err, atomicfile.ErrExists) {
		t.Errorf("existing output: %v", err)
	}
	if _, err := p.Run(context.Background(), filepath.Join(root, "x.safetensors"), nil); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("two files into one: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	base := open(t, makeBase(t))
	ctx, cancel := context.WithCancel(context.Background())
	root := t.TempDir()
	p := mustPlan(t, base, sources(1e-3), Options{Workers: 1})
	_, err := p.Run(ctx, filepath.Join(root, "out"), func(int64, int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if es, err := os.ReadDir(root); err != nil || len(es) != 0 {
		t.Errorf("left over %v %v", es, err)
	}
}

// TestShrunkBase: a file that became shorter after it was opened is an error.
func TestShrunkBase(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	p := mustPlan(t, base, sources(1e-3), Options{})
	if err := os.Truncate(base.Files()[1].Path, base.Files()[1].Size-8); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(context.Background(), filepath.Join(t.TempDir(), "out"), nil); !errors.Is(err, formats.ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

func TestSpace(t *testing.T) {
	if err := checkSpace(filepath.Join(t.TempDir(), "a", "b"), 1<<62); !errors.Is(err, ErrSpace) {
		t.Errorf("got %v", err)
	}
	if err := checkSpace(t.TempDir(), 1); err != nil {
		t.Error(err)
	}
}

// TestNonFiniteBase: NaN and infinities of the base stay, bit for bit, and are
// counted.
func TestNonFiniteBase(t *testing.T) {
	dir := makeBase(t)
	c := open(t, dir)
	x, _ := c.Lookup(q0)
	f, err := os.OpenFile(c.Files()[x.File].Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	special := []byte{0x81, 0x7f, 0x80, 0xff, 0xc3, 0xff} // a NaN, -Inf, another NaN
	if _, err := f.WriteAt(special, x.Offset+10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Rounding{Nearest, Stochastic, ErrorFeedback} {
		out := filepath.Join(t.TempDir(), "out")
		rep := mustMerge(t, open(t, dir), sources(1e-3), Options{Rounding: r}, out)
		if got := tensorBytes(t, open(t, out), q0)[10:16]; !slices.Equal(got, special) {
			t.Errorf("%s: %x", r, got)
		}
		if n := rep.Tensors[0].NonFinite; n != 3 {
			t.Errorf("%s: %d counted", r, n)
		}
	}
}

// TestLayerResponse: for updates far below the spacing of BF16, stochastic rounding
// and error feedback keep the mean answer of a layer nearer to the float32 merge than
// nearest rounding. docs/benchmarks/merge.md has what it prints.
func TestLayerResponse(t *testing.T) {
	const in, out = 1024, 256
	dir := filepath.Join(t.TempDir(), "base")
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 3, []spec{{"w.weight", tensor.BF16, []int{out, in}, 0.02}})
	base := open(t, dir)
	w := values(t, base, "w.weight")
	for _, std := range []float64{1e-6, 1e-5, 1e-4, 1e-3} {
		d := randomDelta(in, out, 4, std, 1)
		for i := range d.B { // an update with a mean, as one that shifts outputs has
			d.B[i] = math.Abs(d.B[i])
		}
		for i := range d.A {
			d.A[i] = math.Abs(d.A[i])
		}
		s := []Source{{Name: "x", Weight: 1, Updates: []Update{update("w.weight", true, d)}}}
		dense := d.Dense()
		mean := map[Rounding]float64{}
		for _, r := range []Rounding{Nearest, Stochastic, ErrorFeedback} {
			dst := filepath.Join(t.TempDir(), "out")
			rep := mustMerge(t, base, s, Options{Rounding: r, Seed: 1, AllowUnchanged: true}, dst)
			mean[r] = response(values(t, open(t, dst), "w.weight"), w, dense, in, out)
			t.Logf("update %.0e of weights 2e-02: %-14s unchanged %5.1f %%, error of elements %5.3g of the update, of the mean answer %7.3g", std, r, 100*rep.Total.Share, rep.Total.RelativeError, mean[r])
		}
		if small := std < 1e-4; mean[ErrorFeedback]*5 > mean[Nearest] || small && mean[Stochastic]*2 > mean[Nearest] {
			t.Errorf("update %.0e: not several times better: %v", std, mean)
		}
	}
}

// response is the root mean square, over outputs, of how far the answer to an input of
// ones is from that of the exact merge, relative to the answer of the update alone.
func response(v, w, dense []float64, in, out int) float64 {
	var errs, all float64
	for o := range out {
		var e, x float64
		for i := range in {
			e += v[o*in+i] - w[o*in+i] - dense[i*out+o]
			x += dense[i*out+o]
		}
		errs += e * e
		all += x * x
	}
	return math.Sqrt(errs / all)
}

// TestStochasticUnbiased: over many seeds the mean is the exact sum.
func TestStochasticUnbiased(t *testing.T) {
	tgt := newTarget(1, 1, nil)
	for _, to := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32, tensor.F8E4M3, tensor.F8E5M2} {
		for _, s := range []float64{1.0003, -0.3, 1e-3, 3e-8, 5.1} {
			sum, n := 0.0, 20000
			exact := newRounder(tgt, tensor.F64, to, &Options{}, "w", true)
			near := exact.rounded(s)
			step := math.Abs(exact.neighbour(near, s) - near)
			p := math.Abs(s-near) / step
			for seed := range n {
				r := newRounder(tgt, tensor.F64, to, &Options{Rounding: Stochastic, Seed: uint64(seed)}, "w", true)
				v := r.stochastic(s, 17)
				if v != r.rounded(v) {
					t.Fatalf("%v: %v is not a number of the format", to, v)
				}
				sum += v
			}
			sd := step * math.Sqrt((p*(1-p)+1/float64(n))/float64(n))
			if d := math.Abs(sum/float64(n) - s); d > 5*sd {
				t.Errorf("%v: mean of %v is off by %g, the steps are %g", to, s, d, step)
			}
		}
	}
}

func TestSetKeys(t *testing.T) {
	cases := []struct{ in, want string }{
		{`{"a": 1, "b":[2]}`, `{"a": true, "b":[2],` + "\n" + `  "z": "x"` + "\n}"},
		{"{}", "{" + "\n" + `  "a": true,` + "\n" + `  "z": "x"` + "\n}"},
		{"{\n  \"z\": {\"a\": 3},\n  \"a\" : null\n}\n", "{\n  \"z\": \"x\",\n  \"a\" : true\n}\n"},
	}
	for _, c := range cases {
		got, err := setKeys([]byte(c.in), []ConfigValue{{"a", true}, {"z", "x"}})
		if err != nil || strings.ReplaceAll(strings.ReplaceAll(string(got), "\n", ""), " ", "") != strings.ReplaceAll(strings.ReplaceAll(c.want, "\n", ""), " ", "") {
			t.Errorf("%s: %s %v", c.in, got, err)
		}
	}
	for _, bad := range []string{"", "[1]", `{"b": 1`, `{"b": }`} {
		if got, err := setKeys([]byte(bad), []ConfigValue{{"a", true}}); err == nil {
			t.Errorf("%s: %s", bad, got)
		}
	}
}

// TestOutputInHubCache: nothing is written into the Hugging Face cache, also not
// through a link.
func TestOutputInHubCache(t *testing.T) {
	base := open(t, makeBase(t))
	root := t.TempDir()
	snapshot := filepath.Join(root, "models--org--name", "snapshots", "abc")
	if err := os.MkdirAll(snapshot, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "link")
	if err := os.Symlink(snapshot, link); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{filepath.Join(snapshot, "out"), filepath.Join(link, "out"), link} {
		p := mustPlan(t, base, sources(1e-3), Options{Replace: true})
		if _, err := p.Run(context.Background(), out, nil); err == nil || !strings.Contains(err.Error(), "Hugging Face cache") {
			t.Errorf("%s: %v", out, err)
		}
	}
	if m := tree(t, snapshot); len(m) != 0 {
		t.Errorf("written: %v", m)
	}
}

// TestModesKept: private weights stay private.
func TestModesKept(t *testing.T) {
	dir := makeBase(t)
	if err := os.Chmod(filepath.Join(dir, "model-00002-of-00002.safetensors"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	mustMerge(t, open(t, dir), sources(1e-3), Options{}, out)
	for name, want := range map[string]os.FileMode{"model-00001-of-00002.safetensors": 0o644, "model-00002-of-00002.safetensors": 0o600} {
		if st, err := os.Stat(filepath.Join(out, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
}
