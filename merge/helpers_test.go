package merge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// fast is the file system of tests that write a thousand times.
var fast = atomicfile.Unsynced{FS: atomicfile.OS}

// spec is a tensor of a made checkpoint.
type spec struct {
	name  string
	dtype tensor.DType
	shape []int
	std   float64
}

// fill makes the bytes of a tensor.
func (s spec) fill(r *rand.Rand) []byte {
	n, err := tensor.Elements(s.shape)
	if err != nil {
		panic(err)
	}
	b := make([]byte, n*int64(s.dtype.Bits())/8)
	if !tensor.Convertible(s.dtype) {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	x := make([]float64, n)
	for i := range x {
		x[i] = s.std * r.NormFloat64()
	}
	if err := tensor.EncodeF64(b, x, s.dtype); err != nil {
		panic(err)
	}
	return b
}

// writeFile writes a safetensors file of made tensors.
func writeSafetensors(t testing.TB, path string, seed uint64, specs []spec) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	h := safetensors.Header{Metadata: []safetensors.KV{{Key: "format", Value: "pt"}, {Key: "note", Value: "füß"}}}
	for _, s := range specs {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: s.name, DType: s.dtype, Shape: s.shape})
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	b := h.Encode()
	for _, s := range specs {
		b = append(b, s.fill(r)...)
	}
	put(t, path, string(b))
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// baseSpecs are the tensors of makeBase's shards.
var baseSpecs = [][]spec{
	{
		{"model.embed_tokens.weight", tensor.BF16, []int{50, 24}, 0.02},
		{"model.layers.0.q_proj.weight", tensor.BF16, []int{36, 24}, 0.02},
		{"model.layers.0.norm.weight", tensor.BF16, []int{24}, 1},
		{"model.layers.0.c_attn.weight", tensor.F16, []int{24, 60}, 0.02},
	},
	{
		{"model.layers.1.q_proj.weight", tensor.F32, []int{36, 24}, 0.02},
		{"model.layers.1.odd", tensor.I64, []int{3}, 1},
		{"model.layers.1.fp8.weight", tensor.F8E4M3, []int{36, 24}, 1},
		{"model.layers.1.empty", tensor.BF16, []int{0, 4}, 1},
		{"model.layers.1.wide.weight", tensor.F64, []int{24, 24}, 0.02},
	},
}

// makeBase writes a sharded checkpoint of mixed dtypes with the files of a
// model directory.
func makeBase(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "base")
	shard := map[string]string{}
	for i, specs := range baseSpecs {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(baseSpecs))
		writeSafetensors(t, mkdir(t, dir, name), uint64(i), specs)
		for _, s := range specs {
			shard[s.name] = name
		}
	}
	index, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 1, "total_parameters": 12345678901234567}, "weight_map": shard})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, formats.IndexFile), string(index))
	put(t, filepath.Join(dir, "config.json"), "{\n  \"model_type\": \"llama\",\n  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"bfloat16\"\n}\n")
	put(t, filepath.Join(dir, "tokenizer.json"), "{}")
	put(t, filepath.Join(dir, "1_Pooling", "config.json"), "{\"a\": 1}")
	put(t, filepath.Join(dir, "pytorch_model.bin"), "stale")
	put(t, filepath.Join(dir, ".cache", "x"), "hidden")
	return dir
}

func mkdir(t testing.TB, dir, name string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func open(t testing.TB, path string) *formats.Checkpoint {
	t.Helper()
	c, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// randomDelta is a product of rank r whose elements have about the given
// standard deviation.
func randomDelta(in, out, r int, std float64, seed uint64) *adapter.Delta {
	g := rand.New(rand.NewPCG(seed, 2))
	d := &adapter.Delta{In: in, Out: out, R: r, Scale: std / math.Sqrt(float64(r)), A: make([]float64, in*r), B: make([]float64, r*out)}
	for _, f := range [][]float64{d.A, d.B} {
		for i := range f {
			f[i] = float64(float32(g.NormFloat64()))
		}
	}
	return d
}

func update(name string, transposed bool, d *adapter.Delta) Update {
	return FromDelta(adapter.NamedDelta{Site: adapter.Site{Module: strings.TrimSuffix(name, ".weight"), Weight: name, In: d.In, Out: d.Out, Transposed: transposed}, Delta: d})
}

// sources touch one tensor of every float dtype, Conv1D's orientation included.
func sources(std float64) []Source {
	return []Source{{Name: "one", Weight: 1, Updates: []Update{
		update("model.layers.0.q_proj.weight", true, randomDelta(24, 36, 3, std, 1)),
		update("model.layers.0.c_attn.weight", false, randomDelta(24, 60, 4, std, 2)),
		update("model.layers.1.q_proj.weight", true, randomDelta(24, 36, 2, std, 3)),
		update("model.layers.1.fp8.weight", true, randomDelta(24, 36, 2, 50*std, 4)),
		update("model.layers.1.wide.weight", true, randomDelta(24, 24, 2, std, 5)),
	}}}
}

func mustMerge(t testing.TB, base *formats.Checkpoint, s []Source, o Options, out string) *Report {
	t.Helper()
	p, err := NewPlan(base, s, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(context.Background(), out, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tree maps the files below dir to their SHA-256.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		m[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameTree(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for name, sum := range want {
		if got[name] != sum {
			t.Errorf("%s: %s differs or is missing", what, name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is new", what, name)
		}
	}
}

func tensorBytes(t testing.TB, c *formats.Checkpoint, name string) []byte {
	t.Helper()
	x, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("%s has no %s", c.Path(), name)
	}
	b, err := c.Bytes(x)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b)
}

func values(t testing.TB, c *formats.Checkpoint, name string) []float64 {
	t.Helper()
	x, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("%s has no %s", c.Path(), name)
	}
	v := make([]float64, x.Elements())
	if err := c.ReadF64(x, 0, x.Elements(), v); err != nil {
		t.Fatal(err)
	}
	return v
}
