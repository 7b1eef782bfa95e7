package formats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	peer "github.com/nlpodyssey/safetensors"

	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// write makes a file with the named F32 tensors of the given sizes, element i
// of each being i.
func write(t *testing.T, path string, sizes map[string]int, order ...string) {
	t.Helper()
	h := &safetensors.Header{Metadata: []safetensors.KV{{Key: "format", Value: "pt"}}}
	for _, n := range order {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: n, DType: tensor.F32, Shape: []int{sizes[n]}})
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	b := h.Encode()
	for _, n := range order {
		x := make([]float32, sizes[n])
		for i := range x {
			x[i] = float32(i)
		}
		data := make([]byte, 4*len(x))
		if err := tensor.EncodeF32(data, x, tensor.F32); err != nil {
			t.Fatal(err)
		}
		b = append(b, data...)
	}
	save(t, path, b)
}

func save(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestOpenForms(t *testing.T) {
	dir := t.TempDir()
	sizes := map[string]int{"b": 3, "a": 2, "c": 4}
	write(t, filepath.Join(dir, "m", ModelFile), sizes, "b", "a")
	write(t, filepath.Join(dir, "s", "model-00001-of-00002.safetensors"), sizes, "b", "a")
	write(t, filepath.Join(dir, "s", "model-00002-of-00002.safetensors"), sizes, "c")
	save(t, filepath.Join(dir, "s", IndexFile), []byte(`{"metadata":{"total_size":36},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}`))
	hub := filepath.Join(dir, "hub")
	write(t, filepath.Join(hub, "models--org--name", "snapshots", "abc", ModelFile), sizes, "b", "a")
	save(t, filepath.Join(hub, "models--org--name", "refs", "main"), []byte("abc\n"))
	write(t, filepath.Join(dir, "one", "other.safetensors"), sizes, "b", "a")
	for path, want := range map[string]string{
		filepath.Join(dir, "m"): "b a", filepath.Join(dir, "m", ModelFile): "b a", filepath.Join(dir, "one"): "b a",
		filepath.Join(dir, "s"): "b a c", filepath.Join(dir, "s", IndexFile): "b a c", "org/name": "b a",
	} {
		c, err := OpenWith(path, OpenOptions{HubCache: hub})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var names []string
		for _, x := range c.Tensors() {
			names = append(names, x.Name)
			got := make([]float32, 2)
			if err := c.ReadF32(x, 0, 2, got); err != nil || got[1] != 1 {
				t.Errorf("%s %s: %v %v", path, x.Name, got, err)
			}
		}
		if s := strings.Join(names, " "); s != want {
			t.Errorf("%s: tensors %s, want %s", path, s, want)
		}
		if f := c.Check(); len(f) != 0 {
			t.Errorf("%s: %v", path, f)
		}
		if c.Metadata()["format"] != "pt" {
			t.Errorf("%s: metadata %v", path, c.Metadata())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Bytes(c.Tensors()[0]); err == nil {
			t.Errorf("%s: bytes after Close", path)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	sizes := map[string]int{"a": 2, "b": 3}
	shard := func(d, index string) string {
		write(t, filepath.Join(dir, d, "s1.safetensors"), sizes, "a")
		write(t, filepath.Join(dir, d, "s2.safetensors"), sizes, "b")
		save(t, filepath.Join(dir, d, IndexFile), []byte(index))
		return filepath.Join(dir, d)
	}
	twice := shard("twice", `{"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}`)
	write(t, filepath.Join(twice, "s2.safetensors"), sizes, "b", "a")
	bin := filepath.Join(dir, "bin")
	save(t, filepath.Join(bin, "pytorch_model.bin"), []byte("PK"))
	several := filepath.Join(dir, "several")
	write(t, filepath.Join(several, "x.safetensors"), sizes, "a")
	write(t, filepath.Join(several, "y.safetensors"), sizes, "a")
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, want string
		err        error
	}{
		{filepath.Join(dir, "absent"), "no such file", ErrNotFound},
		{filepath.Join(dir, "empty"), "no model.safetensors", ErrNotFound},
		{bin, "pickled", ErrNotFound},
		{several, "2 .safetensors files", ErrNotFound},
		{twice, "also in s1.safetensors", ErrMalformed},
		{shard("missing", `{"weight_map":{"a":"s1.safetensors","b":"s3.safetensors"}}`), "is missing", ErrMalformed},
		{shard("wrong", `{"weight_map":{"a":"s2.safetensors","b":"s2.safetensors"}}`), "no shard has it", ErrMalformed},
		{shard("left", `{"weight_map":{"a":"s1.safetensors","c":"s2.safetensors"}}`), "no shard has it", ErrMalformed},
		{shard("escape", `{"weight_map":{"a":"../m.safetensors"}}`), "leaves the directory", ErrMalformed},
		{shard("json", `{"weight_map":`), "not an index", ErrMalformed},
		{shard("nomap", `{}`), "weight_map", ErrMalformed},
	} {
		_, err := Open(c.path)
		if err == nil || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.path, err, c.want)
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Hint == "" || e.Path == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q: want one line with a path, and a hint", c.path, err)
		}
	}
}

// TestDamage truncates a file at every byte and flips a thousand bits: an error
// that names the file, or the same tensors, and never a panic.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.safetensors")
	write(t, good, map[string]int{"layer.0.weight": 40, "layer.0.bias": 3, "layer.1.weight": 0}, "layer.0.weight", "layer.0.bias", "layer.1.weight")
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bad.safetensors")
	for n := range b {
		save(t, path, b[:n])
		_, err := Open(path)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "bad.safetensors") {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		x := bytes.Clone(b)
		bit := r.IntN(8 * len(x))
		x[bit/8] ^= 1 << (bit % 8)
		save(t, path, x)
		c, err := Open(path)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "bad.safetensors") {
				t.Fatalf("bit %d: %v", bit, err)
			}
			continue
		}
		for _, y := range c.Tensors() {
			if _, err := c.Bytes(y); err != nil {
				t.Fatalf("bit %d: %v", bit, err)
			}
		}
		c.Close()
	}
}

// What was forgotten is read again as it was, on Linux without taking memory in between.
func TestForget(t *testing.T) {
	const n = 4 << 20
	path := filepath.Join(t.TempDir(), "m.safetensors")
	write(t, path, map[string]int{"before": 3, "a": n, "after": 5}, "before", "a", "after")
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	x, _ := c.Lookup("a")
	c.Forget(x, 0, n) // nothing is mapped yet
	got := make([]float32, n)
	for range 2 {
		if err := c.ReadF32(x, 0, n, got); err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if v != float32(i) {
				t.Fatalf("element %d is %v", i, v)
			}
		}
		before := residentOf(t, path)
		c.Forget(x, 0, n)
		if after := residentOf(t, path); before >= 0 && (before < 4*n>>10 || after > 64) {
			t.Errorf("%d KB in memory after reading, %d KB after forgetting", before, after)
		}
	}
	for name, want := range map[string]float32{"before": 2, "after": 4} {
		x, _ := c.Lookup(name)
		y := make([]float32, x.Elements())
		if err := c.ReadF32(x, 0, x.Elements(), y); err != nil || y[len(y)-1] != want {
			t.Errorf("%s: %v, %v", name, y, err)
		}
	}
}

// residentOf is how many KB of a mapped file are in this process, or -1 where the system
// does not tell.
func residentOf(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return -1
	}
	_, rest, found := strings.Cut(string(b), path)
	if !found {
		t.Fatalf("%s is not mapped", path)
	}
	_, rest, _ = strings.Cut(rest, "Rss:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestShrunk reads a mapped file that another process has truncated since: an
// error, not a dead process.
func TestShrunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.safetensors")
	write(t, path, map[string]int{"a": 1 << 20}, "a")
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	x, _ := c.Lookup("a")
	if _, err := c.Bytes(x); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	err = c.ReadF32(x, 1<<19, 1<<19+4, make([]float32, 4))
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("error %v", err)
	}
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("a panic of the caller became %v", r)
		}
	}()
	_ = c.Guard(x, func() error { panic("mine") })
	t.Error("a panic of the caller was swallowed")
}

// checkpoints are the good files of the shared data.
func checkpoints(t *testing.T) []string {
	root := testkit.Shared(t, "data")
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".safetensors") && (!strings.Contains(p, "malformed") || strings.Contains(p, "hostile-metadata")) {
			out = append(out, p)
		}
		return err
	})
	if err != nil || len(out) < 5 {
		t.Fatalf("%d checkpoints in the shared data: %v", len(out), err)
	}
	return out
}

// TestSecondReader compares with nlpodyssey/safetensors on real files.
func TestSecondReader(t *testing.T) {
	for _, path := range checkpoints(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := peer.Deserialize(b)
		if err != nil {
			t.Errorf("%s: the second reader refuses it: %v", path, err)
			continue
		}
		c, err := Open(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(c.Tensors()) != want.Len() {
			t.Errorf("%s: %d tensors, the second reader has %d", path, len(c.Tensors()), want.Len())
		}
		for _, x := range c.Tensors() {
			v, ok := want.Tensor(x.Name)
			got, err := c.Bytes(x)
			if err != nil || !ok || v.DType().String() != x.DType.String() || !bytes.Equal(v.Data(), got) {
				t.Errorf("%s: tensor %s differs from the second reader's", path, x.Name)
			}
		}
		c.Close()
	}
}

// TestCountsAsPython compares names, dtypes, shapes and counts of every
// checkpoint of the shared data with Python's safetensors.
func TestCountsAsPython(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("set LSRSURGEON_PYTHON to a Python with safetensors")
	}
	const script = `
import json, struct, sys
from safetensors import safe_open
for p in sys.argv[1:]:
    with safe_open(p, "np") as f:
        print(json.dumps({k: [f.get_slice(k).get_dtype(), f.get_slice(k).get_shape()] for k in f.keys()}))
`
	paths := checkpoints(t)
	out, err := exec.Command(python, append([]string{"-c", script}, paths...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(out), []byte("\n")) {
		want := map[string][]any{}
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatal(err)
		}
		c, err := Open(paths[i])
		if err != nil {
			t.Fatal(err)
		}
		var n, m int64
		for _, x := range c.Tensors() {
			n += x.Elements()
			w := want[x.Name]
			if w == nil || w[0] != x.DType.String() {
				t.Errorf("%s %s: %v, Python %v", paths[i], x.Name, x.DType, w)
				continue
			}
			k := int64(1)
			for _, d := range w[1].([]any) {
				k *= int64(d.(float64))
			}
			m += k
		}
		if n != m || len(want) != len(c.Tensors()) {
			t.Errorf("%s: %d parameters in %d tensors, Python %d in %d", paths[i], n, len(c.Tensors()), m, len(want))
		}
		c.Close()
	}
}

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	print := func(name string, sizes map[string]int, order ...string) string {
		p := filepath.Join(dir, name)
		write(t, p, sizes, order...)
		c, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := c.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sizes := map[string]int{"a": 5, "b": 9000}
	one := print("1.safetensors", sizes, "a", "b")
	if two := print("2.safetensors", sizes, "b", "a"); two != one {
		t.Error("the order of the file changes the fingerprint")
	}
	if three := print("3.safetensors", map[string]int{"a": 6, "b": 9000}, "a", "b"); three == one {
		t.Error("another shape has the same fingerprint")
	}
	b, err := os.ReadFile(filepath.Join(dir, "1.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	save(t, filepath.Join(dir, "4.safetensors"), b)
	c, err := Open(filepath.Join(dir, "4.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Fingerprint(); err != nil || s == one {
		t.Error("other bytes have the same fingerprint", err)
	}
}

func TestHubCacheDir(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"HF_HUB_CACHE": "/c"}, "/c"},
		{map[string]string{"HF_HOME": "/h"}, "/h/hub"},
		{map[string]string{"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"},
		{nil, "/home/me/.cache/huggingface/hub"},
	} {
		if got := HubCacheDir(func(k string) string { return c.env[k] }, "/home/me"); got != filepath.FromSlash(c.want) {
			t.Errorf("%v: %s, want %s", c.env, got, c.want)
		}
	}
	if got := fmt.Sprint(looksLikeModelName("a/b/c"), looksLikeModelName("a/b"), looksLikeModelName("./a")); got != "false true false" {
		t.Error(got)
	}
}
