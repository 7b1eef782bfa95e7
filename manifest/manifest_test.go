package manifest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// model writes a model of two shards and returns its directory.
func model(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	index := `{"metadata": {}, "weight_map": {`
	for _, shard := range []string{"model-1.safetensors", "model-2.safetensors"} {
		h := safetensors.Header{Metadata: []safetensors.KV{{Key: "format", Value: "pt"}}}
		for _, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32, tensor.F64, tensor.I64} {
			name := strings.ToLower(d.String()) + "." + shard[6:7]
			h.Tensors = append(h.Tensors, safetensors.Entry{Name: name, DType: d, Shape: []int{5, 7}})
			index += `"` + name + `": "` + shard + `",`
		}
		if _, err := h.Layout(); err != nil {
			t.Fatal(err)
		}
		b := h.Encode()
		for _, e := range h.Tensors {
			x := make([]float64, 35)
			for k := range x {
				x[k] = r.NormFloat64()
			}
			p := make([]byte, 35*e.DType.Bits()/8)
			if e.DType != tensor.I64 {
				if err := tensor.EncodeF64(p, x, e.DType); err != nil {
					t.Fatal(err)
				}
			}
			b = append(b, p...)
		}
		write(t, filepath.Join(dir, shard), b)
	}
	write(t, filepath.Join(dir, formats.IndexFile), []byte(strings.TrimSuffix(index, ",")+"}}"))
	write(t, filepath.Join(dir, "config.json"), []byte("{}"))
	write(t, filepath.Join(dir, "1_Pooling", "config.json"), []byte("{}"))
	write(t, filepath.Join(dir, ".hidden"), []byte("x"))
	return dir
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

var made = Provenance{Tool: "test 1", Command: "make", Settings: map[string]string{"seed": "1"}, Sources: []Source{{"base", "b", "sha256:00"}}}

func check(t testing.TB, dir string, o CheckOptions) *Report {
	t.Helper()
	c, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		m, err = nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := Check(context.Background(), c, m, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRoundTrip: what was written passes, and the text does not depend on the
// number of workers or on what was known before.
func TestRoundTrip(t *testing.T) {
	dir := model(t)
	ctx := context.Background()
	if err := WriteIn(ctx, dir, made, Options{}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read(dir)
	if err != nil || len(m.Tensors) != 10 || len(m.Files) != 5 || m.Command != "make" || m.Sources[0].Role != "base" {
		t.Fatalf("%d tensors, %d files, %+v, %v", len(m.Tensors), len(m.Files), m.Provenance, err)
	}
	if err := WriteIn(ctx, dir, made, Options{Workers: 3, Known: m.Sums()}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(Path(dir)); err != nil || !bytes.Equal(first, again) {
		t.Errorf("a second manifest differs: %v", err)
	}
	r := check(t, dir, CheckOptions{Workers: 2})
	if r.Err() != nil || r.Hashed != 15 || r.Second != 2 || r.Tensors != 10 {
		t.Errorf("%+v", r)
	}
}

// TestKnown: a checksum that is known is taken, unless dtype or shape is
// another.
func TestKnown(t *testing.T) {
	dir := model(t)
	known := map[string]TensorSum{
		"f32.1": {DType: "F32", Shape: []int{5, 7}, SHA256: strings.Repeat("ab", 32)},
		"f32.2": {DType: "F32", Shape: []int{7, 5}, SHA256: strings.Repeat("ab", 32)},
		"f16.2": {DType: "F32", Shape: []int{5, 7}, SHA256: strings.Repeat("ab", 32)},
	}
	m, err := Make(context.Background(), dir, made, Options{Known: known})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range m.Sums() {
		if (s.SHA256 == strings.Repeat("ab", 32)) != (name == "f32.1") {
			t.Errorf("%s has %s", name, s.SHA256)
		}
	}
}

// TestEveryByte flips a bit of each byte of the weight files that leaves them
// readable: it is found, and the tensor that holds it is named.
func TestEveryByte(t *testing.T) {
	dir := model(t)
	if err := WriteIn(context.Background(), dir, made, Options{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model-2.safetensors")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	owner := func(at int64) string {
		for _, x := range c.Tensors() {
			if filepath.Base(c.Files()[x.File].Path) == "model-2.safetensors" && at >= x.Offset && at < x.Offset+x.Bytes {
				return x.Name
			}
		}
		return ""
	}
	found := 0
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 4
		write(t, path, bad)
		d, err := formats.Open(dir)
		if err != nil {
			continue // refused already
		}
		m, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Check(context.Background(), d, m, CheckOptions{AllowNonFinite: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), owner(int64(at))) {
			t.Errorf("byte %d, of %q: %v", at, owner(int64(at)), err)
		}
		found++
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if found < 500 {
		t.Errorf("only %d changes left a readable file", found)
	}
}

// TestFindings: each kind of damage is found and named.
func TestFindings(t *testing.T) {
	for _, x := range []struct {
		what string
		do   func(dir string)
		o    CheckOptions
		says string // empty: only a remark or nothing
	}{
		{"nothing", func(string) {}, CheckOptions{}, ""},
		{"no manifest", func(dir string) { _ = os.Remove(Path(dir)) }, CheckOptions{}, ""},
		{"other file", func(dir string) { write(t, filepath.Join(dir, "config.json"), []byte("[]")) }, CheckOptions{}, "config.json: its bytes are not"},
		{"longer file", func(dir string) { write(t, filepath.Join(dir, "config.json"), []byte("[  ]")) }, CheckOptions{}, "has 4 bytes, the manifest says 2"},
		{"missing file", func(dir string) { _ = os.RemoveAll(filepath.Join(dir, "1_Pooling")) }, CheckOptions{}, "1_Pooling/config.json: is missing"},
		{"NaN", func(dir string) { poke(t, dir, "bf16.1", []byte{0xc0, 0x7f}) }, CheckOptions{}, `tensor "bf16.1": 1 elements are NaN or infinite`},
		{"NaN allowed", func(dir string) {
			_ = os.Remove(Path(dir))
			poke(t, dir, "f64.1", []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x7f})
		}, CheckOptions{AllowNonFinite: true}, ""},
		{"missing tensor", func(dir string) { edit(t, dir, "f32.2", "f32.3") }, CheckOptions{}, `model-2.safetensors: tensor "f32.3": is missing`},
		{"new tensor", func(dir string) { edit(t, dir, "f32.2", "f32.3") }, CheckOptions{}, `tensor "f32.2": is not in the manifest`},
		{"dtype", func(dir string) { edit(t, dir, `"dtype": "F16"`, `"dtype": "BF16"`) }, CheckOptions{}, `is F16 [5 7], the manifest says BF16`},
	} {
		dir := model(t)
		if err := WriteIn(context.Background(), dir, made, Options{}); err != nil {
			t.Fatal(err)
		}
		x.do(dir)
		r := check(t, dir, x.o)
		text := ""
		for _, f := range r.Findings {
			text += f.String() + "\n"
		}
		if x.says == "" && r.Err() != nil || x.says != "" && (r.Err() == nil || !strings.Contains(text, x.says)) {
			t.Errorf("%s: %s", x.what, text)
		}
	}
}

// poke writes over the first bytes of a tensor.
func poke(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	c, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	x, _ := c.Lookup(name)
	f, err := os.OpenFile(c.Files()[x.File].Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, x.Offset); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text of the manifest.
func edit(t *testing.T, dir, old, new string) {
	t.Helper()
	b, err := os.ReadFile(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	write(t, Path(dir), []byte(strings.ReplaceAll(string(b), old, new)))
}

func TestParseRefuses(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for text, want := range map[string]string{
		``:              "not a manifest",
		`{"schema": 2}`: "schema 2",
		`{"schema": 1, "files": [{"name": "../x", "sha256": "` + sum + `"}]}`:                                        "outside",
		`{"schema": 1, "files": [{"name": "x", "sha256": "0"}]}`:                                                     "hexadecimal",
		`{"schema": 1, "tensors": [{"name": "a", "sha256": "` + sum + `"}, {"name": "a", "sha256": "` + sum + `"}]}`: "twice",
		`{"schema": 1, "tensors": [{"name": "a", "shape": [-1], "sha256": "` + sum + `"}]}`:                          `tensor "a"`,
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	dir := t.TempDir()
	write(t, Path(dir), []byte("{"))
	if _, err := Read(dir); !errors.Is(err, formats.ErrMalformed) {
		t.Errorf("a damaged file: %v", err)
	}
}

// TestFinite compares the count with that of every element, for every dtype and
// length.
func TestFinite(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, d := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16, tensor.F8E5M2, tensor.F8E4M3} {
		w := d.Bits() / 8
		for n := range 70 {
			b := make([]byte, n*w)
			for i := range b {
				u := r.Uint32()
				b[i] = byte(u | u>>8 | u>>16) // many ones
			}
			x := make([]float64, n)
			if err := tensor.DecodeF64(x, b, d); err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			for _, v := range x {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					want++
				}
			}
			if got := finiteOf(d).count(b); got != want {
				t.Errorf("%v, %d elements: %d, want %d", d, n, got, want)
			}
		}
	}
	if got := finiteOf(tensor.I64).count(binary.LittleEndian.AppendUint64(nil, math.MaxUint64)); got != 0 {
		t.Errorf("integers: %d", got)
	}
}

func FuzzParse(f *testing.F) {
	dir := model(f)
	m, err := Make(context.Background(), dir, made, Options{})
	if err != nil {
		f.Fatal(err)
	}
	b, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema": 1, "files": [{"name": "a/b"}], "tensors": [{"shape": [9223372036854775807, 2]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("its own text is refused: %v", err)
		}
	})
}
