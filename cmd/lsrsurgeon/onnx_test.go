package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
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

// compareONNX compares the merged model with W + ΔW.
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
	if len(touched) != 10 {
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
