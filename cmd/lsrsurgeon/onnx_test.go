package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
)

// TestONNX goes through inspect, inject and merge with an ONNX model.
func TestONNX(t *testing.T) {
	base := testkit.Shared(t, "data", "onnx", "tiny-random-gpt2-fp32", "past.onnx")
	dir := t.TempDir()
	lsr := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, err bytes.Buffer
		if got := run(args, strings.NewReader(""), &out, &err); got != want {
			t.Fatalf("%v: exit code %d, want %d\n%s", args, got, want, err.String())
		}
		return out.String(), err.String()
	}
	var counts struct {
		Tensors    int   `json:"tensors"`
		Parameters int64 `json:"parameters"`
	}
	out, _ := lsr(0, "inspect", "param-counts", base, "--json")
	if err := json.Unmarshal([]byte(out), &counts); err != nil || counts.Parameters < 100_000 {
		t.Errorf("counts %+v, %v", counts, err)
	}
	var layers struct {
		Layers []layerRow `json:"layers"`
	}
	out, _ = lsr(0, "inspect", "layers", base, "--json", "--match", `\.c_attn$`)
	if err := json.Unmarshal([]byte(out), &layers); err != nil || len(layers.Layers) != 5 || layers.Layers[2].Module != "transformer.h.2.attn.c_attn" || layers.Layers[2].Out != 96 {
		t.Errorf("layers %+v, %v", layers, err)
	}
	if out, _ = lsr(0, "inspect", "tensors", base, "--json"); !strings.Contains(out, `"format":"onnx"`) {
		t.Errorf("tensors: %.200s", out)
	}

	ad := filepath.Join(dir, "adapter")
	lsr(0, "inject", base, "-o", ad, "--method", "lsr", "--terms", "2", "--target", "c_attn,c_fc")
	loaded := fill(t, base, ad)
	merged := filepath.Join(dir, "merged.onnx")
	lsr(0, "merge", ad, "--model", base, "-o", filepath.Join(dir, "checked.onnx"), "--check")
	lsr(0, "merge", ad, "--model", base, "-o", merged)
	compareONNX(t, base, merged, loaded)
	lsr(64, "merge", ad, "--model", base, "-o", merged)
}

// TestONNXExternal merges into a model with external data: into one file with its
// data beside it, and into a directory of the layout that exporters make.
func TestONNXExternal(t *testing.T) {
	whole := testkit.Shared(t, "data", "onnx", "tiny-random-gpt2-fp32", "past.onnx")
	dir := t.TempDir()
	path := func(elems ...string) string { return filepath.Join(append([]string{dir}, elems...)...) }
	lsr := func(want int, args ...string) string {
		t.Helper()
		code, _, stderr := call(args...)
		if code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s", args, code, want, stderr)
		}
		return stderr
	}
	m, err := onnx.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := onnxmodel.Write(m, onnx.NewEdit(m), path("repo", "onnx"), onnxmodel.WriteOptions{Limit: m.Size / 2}); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{path("repo", "onnx", "past.onnx"): path("repo", "onnx", "model.onnx"), path("config.json"): path("repo", "config.json")} {
		if strings.HasSuffix(from, "config.json") {
			if err := os.WriteFile(from, []byte(`{"model_type":"gpt2"}`), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	repo := path("repo")
	lsr(0, "inject", repo, "-o", path("ad"), "--method", "lsr", "--terms", "2", "--target", "c_attn,c_fc")
	loaded := fill(t, repo, path("ad"))
	before := sumTree(t, repo)

	out := path("out", "x.onnx")
	if err := os.Mkdir(path("out"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, force := range []string{"--quiet", "--force"} {
		lsr(0, "merge", path("ad"), "-o", out, force)
		compareONNX(t, repo, out, loaded)
		if n := len(sumTree(t, path("out"))); n != 2 {
			t.Errorf("%d files beside the output", n)
		}
	}
	lsr(64, "merge", path("ad"), "-o", out)
	if msg := lsr(64, "merge", path("ad"), "-o", path("repo", "onnx", "y.onnx")); !strings.Contains(msg, "lies in the base's directory") {
		t.Error(msg)
	}
	lsr(0, "merge", path("ad"), "-o", path("merged"))
	compareONNX(t, path("merged", "onnx", "model.onnx"), out, nil)
	lsr(0, "verify", path("merged"))
	if !maps.Equal(before, sumTree(t, repo)) {
		t.Error("the base has changed")
	}
}

// fill gives the adapter a nonzero update.
func fill(t *testing.T, base, dir string) *adapter.Adapter {
	t.Helper()
	c, err := formats.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sites, _, err := model.SitesOf(c)
	if err != nil {
		t.Fatal(err)
	}
	a, err := adapter.Load(dir, sites)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Modules {
		for j := range a.Modules[i].Tensors {
			x := a.Modules[i].Tensors[j]
			for k := range x {
				x[k] = 0.25 * float32((k*7+i)%5-2)
			}
		}
	}
	if err := a.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	return a
}

// compareONNX compares the merged model with W + ΔW, without an adapter with W.
func compareONNX(t *testing.T, base, merged string, a *adapter.Adapter) {
	t.Helper()
	b, err := formats.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := formats.Open(merged)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	touched := map[string]bool{}
	if a == nil {
		a = &adapter.Adapter{}
	}
	for i := range a.Modules {
		x := &a.Modules[i]
		touched[x.Site.Weight] = true
		k, err := adapter.Lookup(x.Method)
		if err != nil {
			t.Fatal(err)
		}
		d, err := k.Delta(x.Site, x.Settings, x.Tensors)
		if err != nil {
			t.Fatal(err)
		}
		u, _ := b.Lookup(x.Site.Weight)
		v, _ := m.Lookup(x.Site.Weight)
		want, got := make([]float64, u.Elements()), make([]float32, u.Elements())
		if err := b.ReadF64(u, 0, u.Elements(), want); err != nil {
			t.Fatal(err)
		}
		if err := m.ReadF32(v, 0, v.Elements(), got); err != nil {
			t.Fatal(err)
		}
		for j, y := range d.Dense() { // ONNX stores (in, out)
			want[j] += y
		}
		testkit.Compare(t, x.Site.Weight, got, want, 1e-7, 1e-7)
	}
	if len(touched) != 10 && len(a.Modules) > 0 {
		t.Errorf("%d weights are touched", len(touched))
	}
	for _, u := range b.Tensors() {
		v, _ := m.Lookup(u.Name)
		x, err := b.Bytes(u)
		if err != nil {
			t.Fatal(err)
		}
		y, err := m.Bytes(v)
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(x, y); same == touched[u.Name] {
			t.Errorf("%s: bytes are the same: %v", u.Name, same)
		}
	}
}
