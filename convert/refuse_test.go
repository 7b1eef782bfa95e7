package convert

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// tensorFile writes a safetensors file of ones.
func tensorFile(t testing.TB, path string, tensors map[string][]int, metadata map[string]string) string {
	t.Helper()
	header := map[string]any{}
	if metadata != nil {
		header["__metadata__"] = metadata
	}
	var data []byte
	for name, shape := range tensors {
		start := len(data)
		n := 1
		for _, d := range shape {
			n *= d
		}
		for range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(1))
		}
		header[name] = map[string]any{"dtype": "F32", "shape": append([]int{}, shape...), "data_offsets": []int{start, len(data)}}
	}
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(h)))
	if err := os.WriteFile(path, append(append(b, h...), data...), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKohyaRefuses: what is no LoRA or LoKr of linear layers, with the reason.
func TestKohyaRefuses(t *testing.T) {
	m := stories(t)
	const n = "lycoris_model_layers_0_self_attn_q_proj."
	down, up := []int{4, 64}, []int{64, 4}
	for name, c := range map[string]struct {
		tensors map[string][]int
		want    string
	}{
		"loha":         {map[string][]int{n + "hada_w1_a": up, n + "hada_w1_b": down, n + "hada_w2_a": up, n + "hada_w2_b": down, n + "alpha": {}}, "LoHa"},
		"dora":         {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up, n + "dora_scale": {64, 1}}, "DoRA"},
		"tucker":       {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up, n + "lora_mid.weight": {4, 4, 3, 3}}, "convolution"},
		"convolution":  {map[string][]int{n + "lora_down.weight": {4, 64, 3, 3}, n + "lora_up.weight": {64, 4, 1, 1}}, "convolution"},
		"no up":        {map[string][]int{n + "lora_down.weight": down}, "missing"},
		"ranks":        {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": {64, 3}}, "rank 4, lora_up 3"},
		"alpha":        {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up, n + "alpha": {2}}, "no number"},
		"other model":  {map[string][]int{n + "lora_down.weight": {4, 32}, n + "lora_up.weight": up}, "(32, 64)"},
		"unknown path": {map[string][]int{"lora_unet_down_blocks_0.lora_down.weight": down, "lora_unet_down_blocks_0.lora_up.weight": up}, "no such linear layer"},
		"unknown name": {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up, n + "magic": {1}}, "no name of kohya"},
		"lokr ranks":   {map[string][]int{n + "lokr_w1": {8, 8}, n + "lokr_w2_a": {8, 2}, n + "lokr_w2_b": {3, 8}}, "ranks 2 and 3"},
		"both":         {map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up, strings.Replace(n, "_0_", "_1_", 1) + "lokr_w1": {8, 8}, strings.Replace(n, "_0_", "_1_", 1) + "lokr_w2": {8, 8}}, "among modules of"},
	} {
		path := tensorFile(t, filepath.Join(t.TempDir(), "x.safetensors"), c.tensors, nil)
		_, err := Read(path, m)
		var e *formats.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Hint == "" || e.Path != path {
			t.Errorf("%s: %v (want %q, with path and hint)", name, err, c.want)
		}
	}
	path := tensorFile(t, filepath.Join(t.TempDir(), "x.safetensors"), map[string][]int{n + "lora_down.weight": down, n + "lora_up.weight": up}, nil)
	if _, err := Read(path, nil); !errors.Is(err, adapter.ErrMismatch) || !strings.Contains(err.Error(), "do not tell") {
		t.Errorf("flattened names without a base: %v", err)
	}
}

// TestKohyaScales: scale alpha/r, alpha absent or 0, and LyCORIS's rule that alpha
// does not count where both factors are whole.
func TestKohyaScales(t *testing.T) {
	m := stories(t)
	const n = "lora_te_model_layers_0_self_attn_q_proj."
	for name, c := range map[string]struct {
		tensors map[string][]int // all ones, alpha too
		scale   float64
	}{
		"alpha 1":       {map[string][]int{n + "lora_down.weight": {4, 64}, n + "lora_up.weight": {64, 4}, n + "alpha": {}}, 0.25},
		"no alpha":      {map[string][]int{n + "lora_down.weight": {4, 64}, n + "lora_up.weight": {64, 4}}, 1},
		"1x1 kernels":   {map[string][]int{n + "lora_down.weight": {4, 64, 1, 1}, n + "lora_up.weight": {64, 4, 1, 1}, n + "alpha": {1}}, 0.25},
		"whole factors": {map[string][]int{n + "lokr_w1": {8, 8}, n + "lokr_w2": {8, 8}, n + "alpha": {}}, 1},
		"half whole":    {map[string][]int{n + "lokr_w1": {8, 8}, n + "lokr_w2_a": {8, 2}, n + "lokr_w2_b": {2, 8}, n + "alpha": {}}, 0.5},
		"none whole":    {map[string][]int{n + "lokr_w1_a": {8, 4}, n + "lokr_w1_b": {4, 8}, n + "lokr_w2_a": {8, 4}, n + "lokr_w2_b": {4, 8}, n + "alpha": {}}, 0.25},
	} {
		a, err := Read(tensorFile(t, filepath.Join(t.TempDir(), "x.safetensors"), c.tensors, nil), m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(a.Modules) != 1 || a.Modules[0].Module != "model.layers.0.self_attn.q_proj" || a.Modules[0].Scale() != c.scale {
			t.Errorf("%s: %s, scale %g, want %g", name, a.Modules[0].Module, a.Modules[0].Scale(), c.scale)
		}
	}
}

func TestMLXRefuses(t *testing.T) {
	m := stories(t)
	const n = "model.layers.0.self_attn.q_proj"
	good := `{"fine_tune_type":"lora","num_layers":5,"lora_parameters":{"rank":4,"scale":20.0,"dropout":0.0}}`
	a, b := []int{64, 4}, []int{4, 64}
	for name, c := range map[string]struct {
		config  string
		tensors map[string][]int
		want    string
	}{
		"dora":        {`{"fine_tune_type":"dora","lora_parameters":{"rank":4,"scale":1}}`, map[string][]int{n + ".lora_a": a, n + ".lora_b": b, n + ".m": {64}}, "dora"},
		"full":        {`{"fine_tune_type":"full"}`, map[string][]int{n + ".weight": {64, 64}}, `"full"`},
		"no scale":    {`{"fine_tune_type":"lora","lora_parameters":{"rank":4}}`, map[string][]int{n + ".lora_a": a, n + ".lora_b": b}, "scale"},
		"no json":     {`{"fine_tune_type":`, map[string][]int{}, ""},
		"whole layer": {good, map[string][]int{n + ".lora_a": a, n + ".lora_b": b, "lm_head.weight": {8}}, "no lora_a"},
		"half":        {good, map[string][]int{n + ".lora_a": a}, "are not"},
		"half b":      {good, map[string][]int{n + ".lora_b": b}, "no lora_a"},
		"ranks":       {good, map[string][]int{n + ".lora_a": a, n + ".lora_b": {3, 64}}, "are not"},
		"other model": {good, map[string][]int{n + ".lora_a": {32, 4}, n + ".lora_b": b}, "(32, 64)"},
		"unknown":     {good, map[string][]int{"model.layers.99.x.lora_a": a, "model.layers.99.x.lora_b": b}, "no such linear layer"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, mlxConfig), []byte(c.config), 0o666); err != nil {
			t.Fatal(err)
		}
		tensorFile(t, filepath.Join(dir, mlxTensors), c.tensors, nil)
		_, err := Read(dir, m)
		var e *formats.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Hint == "" {
			t.Errorf("%s: %v (want %q, with a hint)", name, err, c.want)
		}
	}
}

func TestGGUFRefuses(t *testing.T) {
	m := stories(t)
	kv := func(arch, kind string) []gguf.KV {
		return []gguf.KV{{Key: keyArchitecture, Value: arch}, {Key: keyType, Value: "adapter"}, {Key: keyAdapterType, Value: kind}, {Key: keyAlpha, Value: float32(8)}}
	}
	tensors := func(names ...string) (ts []gguf.Tensor) {
		for _, n := range names {
			shape := []int{4, 64}
			if strings.HasSuffix(n, "_b") {
				shape = []int{64, 4}
			}
			ts = append(ts, gguf.Tensor{Name: n, Type: gguf.F32, Shape: shape})
		}
		return ts
	}
	const q = "blk.0.attn_q.weight"
	for name, c := range map[string]struct {
		f    *gguf.File
		want string
	}{
		"other architecture": {&gguf.File{KV: kv("qwen2", "lora"), Tensors: tensors(q+".lora_a", q+".lora_b")}, "the base is a llama"},
		"other kind":         {&gguf.File{KV: kv("llama", "control"), Tensors: tensors(q + ".lora_a")}, `"control"`},
		"embeddings":         {&gguf.File{KV: kv("llama", "lora"), Tensors: tensors("token_embd.weight.lora_a", "token_embd.weight.lora_b")}, "no linear layer"},
		"norm":               {&gguf.File{KV: kv("llama", "lora"), Tensors: tensors("blk.0.attn_norm.weight")}, "no lora_a"},
		"no b":               {&gguf.File{KV: kv("llama", "lora"), Tensors: tensors(q + ".lora_a")}, "missing"},
		"no a":               {&gguf.File{KV: kv("llama", "lora"), Tensors: tensors(q + ".lora_b")}, "no lora_a"},
		"alpha of text":      {&gguf.File{KV: append(kv("llama", "lora")[:3], gguf.KV{Key: keyAlpha, Value: "8"}), Tensors: tensors(q+".lora_a", q+".lora_b")}, "want a float32"},
		"nothing":            {&gguf.File{KV: kv("llama", "lora")}, "no adapter tensors"},
		"other layer":        {&gguf.File{KV: kv("llama", "lora"), Tensors: tensors("blk.9.attn_q.weight.lora_a", "blk.9.attn_q.weight.lora_b")}, "no such linear layer"},
	} {
		path := filepath.Join(t.TempDir(), "x.gguf")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w, err := gguf.NewWriter(out, c.f)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range c.f.Tensors {
			if err := w.Floats(x.Name, make([]float32, x.Shape[0]*x.Shape[1])); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = Read(path, m)
		var e *formats.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Hint == "" {
			t.Errorf("%s: %v (want %q, with a hint)", name, err, c.want)
		}
	}
}

// TestWritersRefuse: heads, tied output layers, and kinds that no form holds.
func TestWritersRefuse(t *testing.T) {
	m := stories(t)
	lora := adapter.Config{Settings: adapter.Settings{Method: adapter.MethodLoRA}}
	head := drawn(t, m, lora, "q_proj")
	head.Head = []adapter.Tensor{{Name: "score.weight", Shape: []int{1}, Data: []float32{1}}}
	wild := drawn(t, m, lora, "q_proj")
	wild.Modules[0].Tensors[0][0] = float32(math.NaN())
	large := drawn(t, m, lora, "q_proj")
	large.Modules[0].Tensors[0][0] = 1e6
	for form, write := range writers {
		if _, _, err := write(head, m, t.TempDir(), tensor.F32); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "score.weight") {
			t.Errorf("%s: a head: %v", form, err)
		}
		if _, _, err := write(wild, m, t.TempDir(), tensor.F32); !errors.Is(err, adapter.ErrMismatch) {
			t.Errorf("%s: NaN: %v", form, err)
		}
		dir := t.TempDir()
		if _, _, err := write(large, m, dir, tensor.F16); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "out of range") {
			t.Errorf("%s: a number beyond F16: %v", form, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: something is left of a failed conversion: %v, %v", form, left, err)
		}
	}
	out := head
	out.Head = nil
	out.Modules[0].Weight, out.Modules[0].Module = "lm_head.weight", "lm_head"
	if _, _, err := writers[FormGGUF](out, m, t.TempDir(), tensor.F32); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "output layer is the embeddings") {
		t.Errorf("a tied output layer: %v", err)
	}
}
