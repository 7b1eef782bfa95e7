package model

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// part is a tensor to write.
type part struct {
	name  string
	dtype tensor.DType
	shape []int
	data  []byte // zeros when nil
}

// partsOf reads the tensors of a checkpoint of testdata.
func partsOf(t *testing.T, name string) []part {
	t.Helper()
	c, err := formats.Open(filepath.Join("testdata", name, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var parts []part
	for _, x := range c.Tensors() {
		b, err := c.Bytes(x)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part{x.Name, x.DType, x.Shape, slices.Clone(b)})
	}
	return parts
}

// write makes a model directory of parts and a configuration and opens its
// checkpoint.
func write(t *testing.T, config string, parts []part) *formats.Checkpoint {
	t.Helper()
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header, at, body := map[string]entry{}, int64(0), []byte{}
	for _, p := range parts {
		n, err := tensor.ByteSize(p.dtype, p.shape)
		if err != nil {
			t.Fatal(err)
		}
		if p.data == nil {
			p.data = make([]byte, n)
		}
		header[p.name] = entry{p.dtype.String(), p.shape, [2]int64{at, at + n}}
		at += n
		body = append(body, p.data...)
	}
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	for len(h)%8 != 0 {
		h = append(h, ' ')
	}
	dir := t.TempDir()
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), append(h, body...)...)
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// configText is the config.json of a case, with keys replaced.
func configText(t *testing.T, name string, with map[string]any) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	for k, v := range with {
		c[k] = v
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// edit returns parts with the tensor of a name changed, or left out when
// change is nil.
func edit(t *testing.T, parts []part, name string, change func(*part)) []part {
	t.Helper()
	i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("no tensor %s", name)
	}
	parts = slices.Clone(parts)
	if change == nil {
		return slices.Delete(parts, i, i+1)
	}
	change(&parts[i])
	return parts
}

func TestSites(t *testing.T) {
	for _, c := range []struct {
		name  string
		count int
		site  adapter.Site
	}{
		{"bert", 2*6 + 2, adapter.Site{Module: "bert.encoder.layer.1.attention.self.query", In: 24, Out: 24,
			Weight: "bert.encoder.layer.1.attention.self.query.weight", Bias: "bert.encoder.layer.1.attention.self.query.bias",
			Transposed: true, Layer: 1, Kind: "query", DType: tensor.F32}},
		{"bert", 14, adapter.Site{Module: "classifier", In: 24, Out: 3, Weight: "classifier.weight", Bias: "classifier.bias", Transposed: true, Layer: -1, Kind: "classifier", Output: true, DType: tensor.F32}},
		{"bert-bare", 2 * 6, adapter.Site{Module: "encoder.layer.0.intermediate.dense", In: 24, Out: 40,
			Weight: "encoder.layer.0.intermediate.dense.weight", Bias: "encoder.layer.0.intermediate.dense.bias", Transposed: true, Kind: "dense", DType: tensor.F32}},
		{"roberta", 2*6 + 2, adapter.Site{Module: "classifier.out_proj", In: 24, Out: 1, Weight: "classifier.out_proj.weight", Bias: "classifier.out_proj.bias",
			Transposed: true, Layer: -1, Kind: "out_proj", Output: true, DType: tensor.F32}},
		{"llama", 2*7 + 1, adapter.Site{Module: "model.layers.0.self_attn.k_proj", In: 24, Out: 12, Weight: "model.layers.0.self_attn.k_proj.weight", Transposed: true, Kind: "k_proj", DType: tensor.BF16}},
		{"mistral", 2*7 + 1, adapter.Site{Module: "lm_head", In: 24, Out: 50, Weight: "model.embed_tokens.weight", Transposed: true, Layer: -1, Kind: "lm_head", Output: true, DType: tensor.F16}},
		{"gpt2", 2*4 + 1, adapter.Site{Module: "transformer.h.1.attn.c_attn", In: 24, Out: 72, Weight: "transformer.h.1.attn.c_attn.weight", Bias: "transformer.h.1.attn.c_attn.bias", Layer: 1, Kind: "c_attn", DType: tensor.F32}},
	} {
		sites := openModel(t, filepath.Join("testdata", c.name)).Sites()
		if len(sites) != c.count {
			t.Errorf("%s: %d sites, want %d", c.name, len(sites), c.count)
		}
		if !slices.Contains(sites, c.site) {
			t.Errorf("%s: no site\n%+v in\n%+v", c.name, c.site, sites)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	bert := partsOf(t, "bert")
	query := "bert.encoder.layer.0.attention.self.query.weight"
	config := func(with map[string]any) string { return configText(t, "bert", with) }
	for _, c := range []struct {
		what   string
		config string
		parts  []part
		tensor string
		is     error
	}{
		{"a missing tensor", config(nil), edit(t, bert, query, nil), query, formats.ErrMalformed},
		{"a wrong shape", config(nil), edit(t, bert, query, func(p *part) { p.shape = []int{12, 48} }), query, formats.ErrMalformed},
		{"an integer dtype", config(nil), edit(t, bert, query, func(p *part) { p.dtype, p.data = tensor.I32, nil }), query, ErrUnsupported},
		{"no embeddings", config(nil), edit(t, bert, "bert.embeddings.word_embeddings.weight", nil), "bert.embeddings.word_embeddings.weight", formats.ErrMalformed},
		{"a layer too few", config(map[string]any{"num_hidden_layers": 3}), bert, "bert.encoder.layer.2.attention.output.LayerNorm.weight", formats.ErrMalformed},
		{"a pooler of another size", config(nil), edit(t, bert, "bert.pooler.dense.weight", func(p *part) { p.shape = []int{48, 12} }), "bert.pooler.dense.weight", formats.ErrMalformed},
		{"an unknown family", config(map[string]any{"model_type": "mamba"}), bert, "", ErrUnsupported},
		{"no model_type", config(map[string]any{"model_type": nil}), bert, "", ErrUnsupported},
		{"no config.json", "", bert, "", formats.ErrNotFound},
	} {
		_, err := Open(write(t, c.config, c.parts))
		var e *formats.Error
		if !errors.Is(err, c.is) || !errors.As(err, &e) || e.Tensor != c.tensor || e.Path == "" {
			t.Errorf("%s: error %v, want one about tensor %q that is %v", c.what, err, c.tensor, c.is)
		}
	}
}

func TestAccounting(t *testing.T) {
	bert := partsOf(t, "bert")
	with := func(names ...string) []part {
		parts := slices.Clone(bert)
		for _, n := range names {
			parts = append(parts, part{name: n, dtype: tensor.F32, shape: []int{2, 2}})
		}
		return parts
	}
	for _, c := range []struct {
		parts []part
		want  string // tensor named, "" for none
	}{
		{with(), ""},
		{with("cls.predictions.transform.dense.weight", "bert.embeddings.position_ids", "cls.seq_relationship.bias"), ""},
		{with("base_model.model.bert.encoder.layer.0.attention.self.query.lsr_A1"), ""},
		{with("bert.encoder.layer.2.output.dense.weight"), "bert.encoder.layer.2.output.dense.weight"},
		{with("cls.predictions.bias", "encoder.layer.0.attention.self.query.weight"), "encoder.layer.0.attention.self.query.weight"},
		{with("bert.encoder.layer.0.attention.self.query.weight_scale"), "bert.encoder.layer.0.attention.self.query.weight_scale"},
	} {
		m, err := Open(write(t, configText(t, "bert", nil), c.parts))
		if err != nil {
			t.Fatal(err)
		}
		err = m.CheckAccounting()
		var e *formats.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("accounting refused a good checkpoint: %v", err)
		case c.want != "" && (!errors.As(err, &e) || e.Tensor != c.want || !errors.Is(err, formats.ErrMalformed) || !strings.Contains(e.Reason, c.want)):
			t.Errorf("accounting says %v, want an error about %s", err, c.want)
		}
	}
}

func TestTied(t *testing.T) {
	llama := partsOf(t, "llama")
	const word, head = "model.embed_tokens.weight", "lm_head.weight"
	var embed []byte
	edit(t, llama, word, func(p *part) { embed = p.data })
	same := edit(t, llama, head, func(p *part) { p.data = embed })
	absent := edit(t, llama, head, nil)
	for _, c := range []struct {
		what  string
		tie   any
		parts []part
		tied  bool
		lm    bool // a language model can be built
	}{
		{"tied by config, head absent", true, absent, true, true},
		{"config silent, head absent", nil, absent, true, true},
		{"untied by config, head absent", false, absent, false, false},
		{"tied by config, same bytes", true, same, true, true},
		{"tied by config, other bytes", true, llama, false, true},
		{"untied by config, same bytes", false, same, false, true},
	} {
		m, err := Open(write(t, configText(t, "llama", map[string]any{"tie_word_embeddings": c.tie}), c.parts))
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		got, err := m.Tied()
		if err != nil {
			t.Fatal(err)
		}
		want := [][]string(nil)
		if c.tied {
			want = [][]string{{word, head}}
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: tied %v, want %v", c.what, got, want)
		}
		if _, err := m.Build(BuildOptions{Task: TaskLM}); (err == nil) != c.lm {
			t.Errorf("%s: building a language model says %v", c.what, err)
		}
	}
}

func TestGenericSites(t *testing.T) {
	f := func(name string, shape ...int) part { return part{name: name, dtype: tensor.F32, shape: shape} }
	c := write(t, `{"model_type": "mamba"}`, []part{
		f("backbone.embeddings.weight", 50, 8), f("backbone.layers.3.mixer.in_proj.weight", 16, 8), f("backbone.layers.3.mixer.in_proj.bias", 16),
		f("backbone.layers.3.norm.weight", 8), f("backbone.layers.3.mixer.A_log", 16, 4), f("backbone.layers.3.mixer.conv1d.weight", 16, 1, 4),
		f("lm_head.weight", 50, 8), f("encoder.shared.weight", 9, 9), {name: "q.weight", dtype: tensor.I8, shape: []int{4, 4}}, f("token_embedding.weight", 5, 5),
		f("pos_embed.weight", 5, 5), f("embedder.dense.weight", 3, 8)})
	sites, known, err := SitesOf(c)
	if err != nil || known {
		t.Fatalf("an unknown family is known = %v, error %v", known, err)
	}
	slices.SortFunc(sites, func(a, b adapter.Site) int { return strings.Compare(a.Module, b.Module) })
	want := []adapter.Site{
		{Module: "backbone.layers.3.mixer.in_proj", In: 8, Out: 16, Weight: "backbone.layers.3.mixer.in_proj.weight", Bias: "backbone.layers.3.mixer.in_proj.bias",
			Transposed: true, Layer: 3, Kind: "in_proj", DType: tensor.F32},
		{Module: "embedder.dense", In: 8, Out: 3, Weight: "embedder.dense.weight", Transposed: true, Layer: -1, Kind: "dense", DType: tensor.F32},
		{Module: "lm_head", In: 8, Out: 50, Weight: "lm_head.weight", Transposed: true, Layer: -1, Kind: "lm_head", Output: true, DType: tensor.F32},
	}
	if !slices.Equal(sites, want) {
		t.Errorf("sites\n%+v, want\n%+v", sites, want)
	}
	// Without config.json there is no family either; a known family whose
	// weights contradict it is an error.
	if _, known, err := SitesOf(write(t, "", partsOf(t, "bert"))); err != nil || known {
		t.Errorf("without config.json: known = %v, error %v", known, err)
	}
	if _, known, err := SitesOf(write(t, configText(t, "bert", nil), partsOf(t, "bert"))); err != nil || !known {
		t.Errorf("bert: known = %v, error %v", known, err)
	}
	if _, _, err := SitesOf(write(t, configText(t, "bert", map[string]any{"vocab_size": 51}), partsOf(t, "bert"))); !errors.Is(err, formats.ErrMalformed) {
		t.Errorf("a wrong vocabulary size: error %v", err)
	}
}

func TestWeightsConvertEveryFloatDType(t *testing.T) {
	values := []float64{1, -0.5, 3.25, 1024, 0, -2}
	for _, d := range []tensor.DType{tensor.F64, tensor.F32, tensor.F16, tensor.BF16} {
		data := make([]byte, len(values)*d.Bits()/8)
		if err := tensor.EncodeF64(data, values, d); err != nil {
			t.Fatal(err)
		}
		const name = "bert.pooler.dense.weight"
		parts := append(edit(t, partsOf(t, "bert"), name, nil), part{name, d, []int{24, 24}, append(data, make([]byte, (576-6)*d.Bits()/8)...)})
		m, err := Open(write(t, configText(t, "bert", nil), parts))
		if err != nil {
			t.Fatal(err)
		}
		w := &graph.Weight{Name: name, In: 24, Out: 24, Transposed: true}
		got := make([]float32, 48)
		if err := m.Weights().ReadRows(w, 0, 2, got); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if float64(got[i]) != v {
				t.Errorf("%v: element %d is %v, want %v", d, i, got[i], v)
			}
		}
		if err := m.Weights().ReadRows(w, 23, 25, got); err == nil {
			t.Errorf("%v: rows beyond the end were read", d)
		}
	}
	if err := openModel(t, filepath.Join("testdata", "bert")).Weights().ReadRows(&graph.Weight{Name: "nobody", In: 1, Out: 1}, 0, 1, make([]float32, 1)); err == nil {
		t.Error("a tensor that is not there was read")
	}
}

func TestEveryModelTypeHasAClassifierArchitecture(t *testing.T) {
	for _, f := range families {
		for _, kind := range f.types {
			m := &Model{config: Config{ModelType: kind}}
			if a := m.ClassifierArchitecture(); !strings.HasSuffix(a, "ForSequenceClassification") {
				t.Errorf("%s: classifier architecture %q", kind, a)
			}
		}
	}
}
