package adapter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// writeShard writes the weights of sites in bf16, and one odd byte tensor,
// with bytes that depend on the name.
func writeShard(t *testing.T, path string, sites []adapter.Site, odd bool) []string {
	t.Helper()
	h := &safetensors.Header{Metadata: []safetensors.KV{{Key: "format", Value: "pt"}}}
	if odd {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: "odd", DType: tensor.U8, Shape: []int{3}})
	}
	for _, s := range sites {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: s.Weight, DType: tensor.BF16, Shape: []int{s.Out, s.In}})
	}
	if _, err := h.Layout(); err != nil {
		t.Fatal(err)
	}
	b := h.Encode()
	var names []string
	for _, e := range h.Tensors {
		names = append(names, e.Name)
		for i := range e.End - e.Begin {
			b = append(b, byte(i)*7+byte(len(e.Name))+e.Name[len(e.Name)/2])
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return names
}

func openBase(t *testing.T, path string) *formats.Checkpoint {
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

// bases makes checkpoints of the same sites: in one file, in one with an odd
// number of bytes, and sharded.
func bases(t *testing.T, sites []adapter.Site) map[string]string {
	t.Helper()
	dirs := map[string]string{}
	for _, name := range []string{"one file", "odd size", "sharded"} {
		dir := t.TempDir()
		dirs[name] = dir
		for f, text := range map[string]string{"config.json": `{"model_type": "roberta"}`, "vocab.txt": "a\nb\n", "pytorch_model.bin": "old weights", ".hidden": "x"} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if name != "sharded" {
			writeShard(t, filepath.Join(dir, formats.ModelFile), sites, name == "odd size")
			continue
		}
		index := map[string]string{}
		for i, part := range [][]adapter.Site{sites[:4], sites[4:]} {
			f := []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}[i]
			for _, n := range writeShard(t, filepath.Join(dir, f), part, i == 0) {
				index[n] = f
			}
		}
		b, err := json.Marshal(map[string]any{"metadata": map[string]any{}, "weight_map": index})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, formats.IndexFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

func TestWriteInto(t *testing.T) {
	sites := robertaSites(1, 24, 36)
	for name, dir := range bases(t, sites) {
		t.Run(name, func(t *testing.T) {
			base := openBase(t, dir)
			for _, method := range []string{adapter.MethodLSR, adapter.MethodLoRA} {
				a := randomised(t, sites, config(method))
				a.Head = []adapter.Tensor{{Name: "classifier.dense.weight", Shape: []int{2}, Data: []float32{1, 2}}}
				out := filepath.Join(t.TempDir(), "into")
				if err := adapter.WriteInto(base, a, out, false); err != nil {
					t.Fatal(err)
				}
				got := openBase(t, out)
				if f := got.Check(); len(f) != 0 {
					t.Errorf("findings: %v", f)
				}
				for _, w := range base.Tensors() {
					g, ok := got.Lookup(w.Name)
					if !ok || g.DType != w.DType {
						t.Fatalf("base tensor %s is gone or changed", w.Name)
					}
					x, err1 := base.Bytes(w)
					y, err2 := got.Bytes(g)
					if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) {
						t.Fatalf("base tensor %s: other bytes, %v", w.Name, err)
					}
				}
				b, err := adapter.Load(out, sites)
				if err != nil {
					t.Fatal(err)
				}
				sameModules(t, b, a)
				if len(b.Head) != 1 || b.Head[0].Data[1] != 2 {
					t.Errorf("head %v", b.Head)
				}
				var files []string
				entries, err := os.ReadDir(out)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					files = append(files, e.Name())
				}
				list := strings.Join(files, " ")
				if !strings.Contains(list, "vocab.txt") || !strings.Contains(list, " config.json") || strings.Contains(list, ".bin") || strings.Contains(list, ".hidden") {
					t.Errorf("files: %s", list)
				}
				// Not twice.
				if err := adapter.WriteInto(got, a, filepath.Join(t.TempDir(), "again"), false); !errors.Is(err, adapter.ErrMismatch) {
					t.Errorf("an adapter on an adapter: %v", err)
				}
			}
		})
	}
}

func TestWriteIntoKeepsTheBase(t *testing.T) {
	sites := robertaSites(1, 24, 36)
	dir := bases(t, sites)["one file"]
	before, err := os.ReadFile(filepath.Join(dir, formats.ModelFile))
	if err != nil {
		t.Fatal(err)
	}
	base := openBase(t, dir)
	a := randomised(t, sites, config(adapter.MethodLSR))
	for _, out := range []string{dir, filepath.Join(dir, "..", filepath.Base(dir))} {
		if err := adapter.WriteInto(base, a, out, true); err == nil || !strings.Contains(err.Error(), "base model itself") {
			t.Errorf("%s: %v", out, err)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, formats.ModelFile))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the base changed: %v", err)
	}
}

func TestWeightNorm(t *testing.T) {
	sites := robertaSites(1, 24, 36)
	base := openBase(t, bases(t, sites)["sharded"])
	w, _ := base.Lookup(sites[4].Weight)
	x := make([]float64, w.Elements())
	if err := base.ReadF64(w, 0, w.Elements(), x); err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, v := range x {
		sum += v * v
	}
	got, err := adapter.WeightNorm(base, sites[4])
	if err != nil || math.Abs(got-math.Sqrt(sum)) > 1e-12*got || got == 0 {
		t.Errorf("%v, want %v, %v", got, math.Sqrt(sum), err)
	}
	sites[4].Weight = "gone"
	if _, err := adapter.WeightNorm(base, sites[4]); !errors.Is(err, adapter.ErrMismatch) {
		t.Errorf("%v", err)
	}
}
