package onnxmodel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/onnxmodel"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// ortAdapter is a file that ONNX Runtime wrote (testdata/gen_adapter.py).
func ortAdapter(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "ort.onnx_adapter"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoraAdapterOfONNXRuntime(t *testing.T) {
	a, err := onnxmodel.ParseLoraAdapter("x", ortAdapter(t))
	if err != nil {
		t.Fatal(err)
	}
	if a.AdapterVersion != 7 || a.ModelVersion != 9 || len(a.Parameters) != 3 {
		t.Fatalf("versions %d, %d and %d parameters", a.AdapterVersion, a.ModelVersion, len(a.Parameters))
	}
	want := map[string]onnxmodel.Parameter{
		"layer.0.query.lora_A.weight": {Type: onnx.Float, Dims: []int{6, 2}},
		"layer.0.query.lora_B.weight": {Type: onnx.Float16, Dims: []int{2, 5}},
		"empty":                       {Type: onnx.Float, Dims: []int{3, 0}},
	}
	for _, p := range a.Parameters {
		w, ok := want[p.Name]
		if !ok || p.Type != w.Type || !slices.Equal(p.Dims, w.Dims) {
			t.Errorf("parameter %q: %v %v", p.Name, p.Type, p.Dims)
			continue
		}
		got := make([]float64, p.Dims[0]*p.Dims[1])
		if err := tensor.DecodeF64(got, p.Data, p.Type.DType()); err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if v != float64(i)/8 {
				t.Errorf("%s: element %d is %v", p.Name, i, v)
			}
		}
	}
}

func TestLoraAdapterRoundTrip(t *testing.T) {
	for _, a := range []*onnxmodel.LoraAdapter{
		{AdapterVersion: -1, ModelVersion: math.MaxInt32},
		{Parameters: []onnxmodel.Parameter{{Name: "a", Type: onnx.Float, Dims: []int{1}, Data: []byte{1, 2, 3, 4}}}},
		{AdapterVersion: 3, Parameters: []onnxmodel.Parameter{
			{Name: "größe", Type: onnx.BFloat16, Dims: []int{3, 1}, Data: []byte{1, 2, 3, 4, 5, 6}},
			{Name: "b.lora_B.weight", Type: onnx.Double, Dims: []int{0, 7}, Data: []byte{}},
			{Name: "scalar", Type: onnx.Int64, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		}},
	} {
		b, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := onnxmodel.ParseLoraAdapter("x", b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, a) {
			t.Errorf("%+v became %+v", a, got)
		}
		for i := range got.Parameters {
			d := got.Parameters[i].Data
			if at := bytes.Index(b, d); len(d) > 4 && at%8 != 0 {
				t.Errorf("data of %s at byte %d", got.Parameters[i].Name, at)
			}
		}
	}
	for _, p := range [][]onnxmodel.Parameter{
		{{Type: onnx.Float}},
		{{Name: "a", Type: onnx.Float, Dims: []int{2}, Data: make([]byte, 4)}},
		{{Name: "a", Type: onnx.Int4, Dims: []int{2}, Data: make([]byte, 1)}},
		{{Name: "a", Type: onnx.Uint8, Dims: []int{1}, Data: []byte{1}}, {Name: "a", Type: onnx.Uint8, Dims: []int{1}, Data: []byte{1}}},
	} {
		if _, err := (&onnxmodel.LoraAdapter{Parameters: p}).Encode(); err == nil {
			t.Errorf("%+v was encoded", p)
		}
	}
}

// TestLoraAdapterDamaged: no prefix of a file and no changed byte makes the
// reader panic or read beyond the file, and every truncation is refused.
func TestLoraAdapterDamaged(t *testing.T) {
	good := ortAdapter(t)
	refused := 0
	for n := range good {
		if _, err := onnxmodel.ParseLoraAdapter("x", good[:n]); err == nil {
			// The last bytes may be padding that nothing refers to.
			if n < len(good)-8 {
				t.Errorf("%d of %d bytes were read", n, len(good))
			}
		} else if !errors.Is(err, formats.ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for i := range good {
		for _, x := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			b := slices.Clone(good)
			b[i] ^= x
			if _, err := onnxmodel.ParseLoraAdapter("x", b); err != nil {
				refused++
			}
		}
	}
	if refused < 100 {
		t.Errorf("%d damaged files were refused", refused)
	}
	for what, change := range map[string]func([]byte){
		"identifier TORT": func(b []byte) { b[4] = 'X' },
		"out of the file": func(b []byte) { binary.LittleEndian.PutUint32(b, 1<<31) },
	} {
		b := slices.Clone(good)
		change(b)
		if _, err := onnxmodel.ParseLoraAdapter("x", b); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzLoraAdapter(f *testing.F) {
	f.Add(ortAdapter(f))
	b, err := (&onnxmodel.LoraAdapter{Parameters: []onnxmodel.Parameter{{Name: "a", Type: onnx.Float, Dims: []int{1}, Data: []byte{1, 2, 3, 4}}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := onnxmodel.ParseLoraAdapter("x", b)
		if err != nil {
			return
		}
		again, err := a.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if c, err := onnxmodel.ParseLoraAdapter("x", again); err != nil || !reflect.DeepEqual(a, c) {
			t.Errorf("%+v became %+v, %v", a, c, err)
		}
	})
}

// TestLoRAOfAdapter: values for inputs come back as the LoRA that they are.
func TestLoRAOfAdapter(t *testing.T) {
	sites := []adapter.Site{{Module: "l.0.q", In: 3, Out: 2}, {Module: "l.1.q", In: 3, Out: 2}}
	noHead := func(string) ([]int, bool) { return nil, false }
	parameter := func(name string, rows, cols int) onnxmodel.Parameter {
		raw := make([]byte, 0, 4*rows*cols)
		for i := range rows * cols {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(i)+0.5))
		}
		return onnxmodel.Parameter{Name: name, Type: onnx.Float, Dims: []int{rows, cols}, Data: raw}
	}
	good := []onnxmodel.Parameter{
		parameter("l.1.q.lora_B.weight", 2, 2), parameter("l.1.q.lora_A.weight", 3, 2),
		parameter("l.0.q.lora_A.weight", 3, 1), parameter("l.0.q.lora_B.weight", 1, 2),
	}
	a, err := (&onnxmodel.LoraAdapter{Parameters: good}).LoRA("x", sites, noHead)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Modules) != 2 || a.Modules[1].Rank.R1 != 2 || len(a.Overrides) != 1 {
		t.Fatalf("%+v", a.Config)
	}
	for i := range a.Modules {
		d, _, err := onnxmodel.ThinParameters(&a.Modules[i], onnx.Float)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d {
			j := slices.IndexFunc(good, func(g onnxmodel.Parameter) bool { return g.Name == p.Name })
			if !reflect.DeepEqual(good[j], p) {
				t.Errorf("%+v became %+v", good[j], p)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "a")
	if err := a.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	if _, err := adapter.Load(dir, sites); err != nil {
		t.Error(err)
	}
	for what, ps := range map[string][]onnxmodel.Parameter{
		"one side":        good[:1],
		"no update":       {},
		"no linear layer": {parameter("l.2.q.lora_A.weight", 3, 2)},
		"neither":         append(slices.Clone(good), parameter("other", 1, 1)),
		"(3, 2)":          {parameter("l.0.q.lora_A.weight", 2, 2), parameter("l.0.q.lora_B.weight", 2, 2)},
	} {
		if _, err := (&onnxmodel.LoraAdapter{Parameters: ps}).LoRA("file", sites, noHead); !errors.Is(err, adapter.ErrMismatch) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "file") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
