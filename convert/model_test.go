package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// TestWriteGGUF: every tensor of the small Llama is in the file under llama.cpp's
// name with the same numbers, query and key with the halves of every head
// interleaved, and the settings are config.json's.
func TestWriteGGUF(t *testing.T) {
	m := stories(t)
	path := filepath.Join(t.TempDir(), "m.gguf")
	rep, err := WriteGGUF(t.Context(), m, path, GGUFOptions{Type: gguf.F32})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Tensors) != 47 || rep.Count(Exact) != 47 {
		t.Errorf("%d tensors, %d exact", len(rep.Tensors), rep.Count(Exact))
	}
	f, _, err := formats.ReadGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"general.architecture": "llama", "general.file_type": uint32(0), "llama.block_count": uint32(5), "llama.context_length": uint32(512),
		"llama.embedding_length": uint32(64), "llama.feed_forward_length": uint32(172), "llama.attention.head_count": uint32(8),
		"llama.attention.head_count_kv": uint32(4), "llama.attention.layer_norm_rms_epsilon": float32(1e-5), "llama.rope.dimension_count": uint32(8),
		"llama.rope.freq_base": float32(10000), "llama.vocab_size": uint32(512), "tokenizer.ggml.model": "llama",
		"tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2), "tokenizer.ggml.unknown_token_id": uint32(0),
		"tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": false, "tokenizer.ggml.add_space_prefix": true,
	} {
		if got, _ := f.Get(key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if _, ok := f.Lookup("output.weight"); ok {
		t.Error("the tied output layer is written")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Tensors {
		w, _ := m.Checkpoint().Lookup(r.From)
		want := make([]float32, w.Elements())
		if err := m.Checkpoint().ReadF32(w, 0, w.Elements(), want); err != nil {
			t.Fatal(err)
		}
		x, ok := f.Lookup(r.Tensor)
		if !ok || !slices.Equal(x.Shape, w.Shape) {
			t.Fatalf("%s: %v, want %v", r.Tensor, x.Shape, w.Shape)
		}
		got := make([]float32, len(want))
		if err := gguf.Decode(got, raw[x.Offset:x.Offset+x.Bytes], x.Type); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.From, "q_proj") || strings.Contains(r.From, "k_proj") {
			got = deinterleave(got, w.Shape[0], w.Shape[1], 8)
		}
		testkit.EqualBits(t, r.Tensor, got, want)
	}
}

// deinterleave puts the rows of every head in transformers' order: its even rows,
// then its odd ones.
func deinterleave(x []float32, rows, cols, headDim int) []float32 {
	var y []float32
	for head := 0; head < rows; head += headDim {
		for odd := range 2 {
			for i := odd; i < headDim; i += 2 {
				y = append(y, x[(head+i)*cols:][:cols]...)
			}
		}
	}
	return y
}

// TestConv1D: GPT-2's matrices are transposed, also in pieces.
func TestConv1D(t *testing.T) {
	dir := variant(t, stories(t).Checkpoint().Dir(), nil)
	ck, err := formats.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	w, _ := ck.Lookup("model.layers.0.mlp.up_proj.weight") // (172, 64)
	s := &source{Tensor: w, typ: gguf.F32, shape: []int{64, 172}, conv: true}
	p, err := openCopier(ck, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.read(s, 5, 3, 172); err != nil {
		t.Fatal(err)
	}
	got := p.x
	want := make([]float32, w.Elements())
	if err := ck.ReadF32(w, 0, w.Elements(), want); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for j := range 172 {
			if got[i*172+j] != want[j*64+5+i] {
				t.Fatalf("row %d, column %d", 5+i, j)
			}
		}
	}
}

// variant copies a model directory with some keys of its config.json changed.
func variant(t testing.TB, dir string, keys map[string]any) string {
	t.Helper()
	out := t.TempDir()
	for _, n := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if n == "config.json" {
			var c map[string]any
			if err := json.Unmarshal(b, &c); err != nil {
				t.Fatal(err)
			}
			maps.Copy(c, keys)
			if b, err = json.Marshal(c); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(out, n), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestSettings: what llama.cpp would compute otherwise is refused or noted, and
// scaled positions are written.
func TestSettings(t *testing.T) {
	dir := stories(t).Checkpoint().Dir()
	scaling := func(kv map[string]any) map[string]any { return map[string]any{"rope_scaling": kv} }
	for name, c := range map[string]struct {
		keys    map[string]any
		refused string
		note    string
		key     string
		want    any
		tensor  string
	}{
		"activation": {keys: map[string]any{"hidden_act": "gelu"}, refused: "activation"},
		"window":     {keys: map[string]any{"model_type": "mistral", "sliding_window": 64}, note: "sliding window", key: "llama.context_length", want: uint32(64)},
		"linear":     {keys: scaling(map[string]any{"type": "linear", "factor": 2.0}), key: "llama.rope.scaling.factor", want: float32(2)},
		"dynamic":    {keys: scaling(map[string]any{"type": "dynamic", "factor": 2.0}), note: "dynamic"},
		"yarn":       {keys: scaling(map[string]any{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}), key: "llama.rope.scaling.original_context_length", want: uint32(128)},
		"yarn, own":  {keys: scaling(map[string]any{"type": "yarn", "factor": 4.0, "attention_factor": 3.0}), refused: "attention factor"},
		"llama3": {keys: scaling(map[string]any{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
			tensor: ropeFactorsName},
	} {
		m := openModel(t, variant(t, dir, c.keys))
		path := filepath.Join(t.TempDir(), "m.gguf")
		rep, err := WriteGGUF(t.Context(), m, path, GGUFOptions{Type: gguf.F16, NoTokenizer: true})
		if c.refused != "" {
			if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s: a file is there", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.note != "" && !slices.ContainsFunc(rep.Notes, func(s string) bool { return strings.Contains(s, c.note) }) {
			t.Errorf("%s: notes %q", name, rep.Notes)
		}
		f, _, err := formats.ReadGGUF(path)
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := f.Get(c.key); c.key != "" && v != c.want {
			t.Errorf("%s: %s is %v, want %v", name, c.key, v, c.want)
		}
		if _, ok := f.Lookup(c.tensor); c.tensor != "" && !ok {
			t.Errorf("%s: no tensor %s", name, c.tensor)
		}
		if v, _ := f.Get("tokenizer.ggml.model"); v != "none" {
			t.Errorf("%s: a tokenizer %v", name, v)
		}
	}
}

func TestPlaces(t *testing.T) {
	a := llamaNames
	for name, want := range map[string]string{
		"model.layers.3.self_attn.q_proj.weight": "blk.3.attn_q.weight", "layers.3.self_attn.q_proj.bias": "blk.3.attn_q.bias",
		"lm_head.weight": "output.weight", "model.norm.weight": "output_norm.weight",
	} {
		p, ok := a.place(name)
		if !ok || p.name != want {
			t.Errorf("%s goes to %q, want %q", name, p.name, want)
		}
		back, ok := a.module(strings.TrimSuffix(strings.TrimSuffix(want, ".weight"), ".bias"))
		if !ok || !strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".weight"), ".bias"), back) {
			t.Errorf("%s comes back as %q", want, back)
		}
	}
	for _, name := range []string{"score.weight", "model.layers.x.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.router.weight", "weight"} {
		if p, ok := a.place(name); ok {
			t.Errorf("%s goes to %q", name, p.name)
		}
	}
	if m, ok := a.module("blk.-1.attn_q"); ok {
		t.Errorf("layer -1 is %s", m)
	}
}

// vocabularyOf makes the entries for a tokenizer.json.
func vocabularyOf(t *testing.T, dir string, size int, pre string) (*vocabulary, map[string]any, error) {
	t.Helper()
	v := &vocabulary{dir: dir, size: size, config: model.Config{BOSTokenID: -1}, pre: pre, report: &Report{}}
	kv, err := v.metadata()
	got := map[string]any{}
	for _, e := range kv {
		got[e.Key] = e.Value
	}
	return v, got, err
}

func TestByteLevelVocabulary(t *testing.T) {
	dir := testkit.Shared(t, "data", "tokenizers", "gpt2")
	_, got, err := vocabularyOf(t, dir, 50304, "")
	if err != nil {
		t.Fatal(err)
	}
	tokens, types := got["tokenizer.ggml.tokens"].([]string), got["tokenizer.ggml.token_type"].([]int32)
	merges := got["tokenizer.ggml.merges"].([]string)
	if got["tokenizer.ggml.model"] != "gpt2" || got["tokenizer.ggml.pre"] != "gpt-2" || len(tokens) != 50304 || len(merges) != 50000 || merges[0] != "Ġ t" {
		t.Errorf("%v %v, %d tokens, %d merges, the first %q", got["tokenizer.ggml.model"], got["tokenizer.ggml.pre"], len(tokens), len(merges), merges[0])
	}
	if tokens[50256] != "<|endoftext|>" || types[50256] != tokenControl || tokens[50257] != "[PAD50257]" || types[50257] != tokenUnused || types[0] != tokenNormal {
		t.Errorf("%q %d, %q %d", tokens[50256], types[50256], tokens[50257], types[50257])
	}
	if _, _, err := vocabularyOf(t, dir, 50000, ""); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("more tokens than embeddings: %v", err)
	}
	if _, got, err := vocabularyOf(t, dir, 50304, "olmo"); err != nil || got["tokenizer.ggml.pre"] != "olmo" {
		t.Errorf("%v, %v", got["tokenizer.ggml.pre"], err)
	}
	v, got, err := vocabularyOf(t, testkit.Shared(t, "data", "tokenizers", "qwen2.5"), 151936, "")
	if err != nil || got["tokenizer.ggml.pre"] != "qwen2" || len(v.report.Notes) == 0 {
		t.Errorf("qwen2.5: %v, %v, notes %v", got["tokenizer.ggml.pre"], err, v.report.Notes)
	}
	if s, _ := got["tokenizer.chat_template"].(string); !strings.Contains(s, "im_start") {
		t.Errorf("chat template %.40q", s)
	}
}

// TestPieces: joining the pair with the highest score, as llama.cpp does, gives
// the tokenizer's own tokens.
func TestPieces(t *testing.T) {
	lines := []string{"Once upon a time, there was a little girl", "  two  spaces\tand\nlines", "Größe 日本語 🙂 x=[1,2];", "aaaaaaaaaaaaaaaaaa the the theree", "internationalisation of tokenisers"}
	for name, c := range map[string]struct {
		dir  func(t *testing.T) string
		size int
	}{
		"stories260k": {func(t *testing.T) string { return filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k") }, 512},
		"phi-3":       {func(t *testing.T) string { return testkit.Shared(t, "data", "tokenizers", "phi-3-mini-llama-style") }, 32064},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.dir(t)
			v, got, err := vocabularyOf(t, dir, c.size, "")
			if err != nil {
				t.Fatal(err)
			}
			if got["tokenizer.ggml.model"] != "llama" || got["tokenizer.ggml.add_space_prefix"] != true {
				t.Errorf("%v %v", got["tokenizer.ggml.model"], got["tokenizer.ggml.add_space_prefix"])
			}
			tok, err := text.Load(dir, text.Options{CacheDir: filepath.Join(os.TempDir(), "lsrsurgeon-test-cache"), Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer tok.Close()
			for _, s := range lines {
				e, err := tok.Encode(s, text.EncodeOptions{NoSpecialTokens: true, NoOffsets: true})
				if err != nil {
					t.Fatal(err)
				}
				if got := joinByScore(v, space+strings.ReplaceAll(s, " ", space)); !slices.Equal(got, e.IDs) {
					t.Errorf("%q: %v, the tokenizer has %v", s, got, e.IDs)
				}
			}
		})
	}
}

// joinByScore is llama.cpp's rule for vocabularies of pieces: of all neighbours
// whose union is a token the pair with the highest score is joined, the first of
// equals; what is no token in the end is its bytes.
func joinByScore(v *vocabulary, s string) []int32 {
	var parts []string
	for _, r := range s {
		parts = append(parts, string(r))
	}
	for {
		best := -1
		for i := range len(parts) - 1 {
			id, ok := v.ids[parts[i]+parts[i+1]]
			if ok && (best < 0 || v.scores[id] > v.scores[v.ids[parts[best]+parts[best+1]]]) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		parts[best] += parts[best+1]
		parts = slices.Delete(parts, best+1, best+2)
	}
	var ids []int32
	for _, p := range parts {
		if id, ok := v.ids[p]; ok {
			ids = append(ids, id)
			continue
		}
		for _, b := range []byte(p) {
			ids = append(ids, v.ids[fmt.Sprintf("<0x%02X>", b)])
		}
	}
	return ids
}

// TestRefusedTokenizers: tokenizers whose tokens would be others in llama.cpp.
func TestRefusedTokenizers(t *testing.T) {
	bytes := `"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}`
	pieces := `"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},"model":{"type":"BPE","byte_fallback":true,`
	for name, c := range map[string]struct{ doc, want string }{
		"word pieces":  {`{"model":{"type":"WordPiece","vocab":{"a":0}}}`, "WordPiece"},
		"no vocab":     {`{"model":{"type":"BPE","vocab":{}}}`, "no table of ids"},
		"prefix":       {`{"model":{"type":"BPE","vocab":{"a":0},"continuing_subword_prefix":"##"}}`, "##"},
		"pattern":      {`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x+"}},{"type":"ByteLevel","use_regex":false}]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`, "x+"},
		"prefix space": {`{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`, "space before every text"},
		"normalizer":   {`{"normalizer":{"type":"Lowercase"},` + bytes + `,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`, "Lowercase"},
		"processor":    {`{"post_processor":{"type":"BertProcessing"},` + bytes + `,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`, "BertProcessing"},
		"template":     {`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a"}},{"Sequence":{"id":"A"}}]},` + bytes + `,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}`, "bos_token"},
		"id":           {`{` + bytes + `,"model":{"type":"BPE","vocab":{"a":9},"merges":[]}}`, "embeddings have 4 rows"},
		"order":        {`{` + pieces + `"vocab":{"a":0,"b":1,"ab":2,"ba":3},"merges":["a b","b a"]}}`, ""},
		"no merge":     {`{` + pieces + `"vocab":{"a":0,"b":1,"ab":2},"merges":[]}}`, "no merge joins"},
		"no token":     {`{` + pieces + `"vocab":{"a":0,"b":1},"merges":["a b"]}}`, "makes no token"},
		"apart":        {`{` + pieces + `"vocab":{"a":0,"aa":1,"aaa":2},"merges":["a aa","a a","aa a"]}}`, "do not stand together"},
		"no spaces":    {`{"model":{"type":"BPE","byte_fallback":true,"vocab":{"a":0},"merges":[]}}`, "spaces"},
		"bad merge":    {`{` + pieces + `"vocab":{"a":0},"merges":["ab"]}}`, "no space"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(c.doc), 0o666); err != nil {
			t.Fatal(err)
		}
		_, _, err := vocabularyOf(t, dir, 4, "")
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want == "":
		case !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v (want %q)", name, err, c.want)
		}
	}
}

// TestWorkers: file and report do not depend on the number of workers.
func TestWorkers(t *testing.T) {
	m := stories(t)
	var files [][]byte
	var reports []*Report
	for _, n := range []int{1, 3} {
		path := filepath.Join(t.TempDir(), "stories260k.gguf")
		rep, err := WriteGGUF(t.Context(), m, path, GGUFOptions{Type: gguf.Q8_0, Workers: n})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files, reports = append(files, b), append(reports, rep)
	}
	if !slices.Equal(files[0], files[1]) || !slices.Equal(reports[0].Tensors, reports[1].Tensors) {
		t.Error("three workers write something else than one")
	}
}

// TestWriteGGUFFails: a checkpoint that is cut off under the writer, and a
// cancelled context, leave nothing.
func TestWriteGGUFFails(t *testing.T) {
	dir := variant(t, stories(t).Checkpoint().Dir(), nil)
	m := openModel(t, dir)
	path := filepath.Join(t.TempDir(), "m.gguf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteGGUF(ctx, m, path, GGUFOptions{Type: gguf.F32}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 500_000); err != nil {
		t.Fatal(err)
	}
	_, err := WriteGGUF(t.Context(), m, path, GGUFOptions{Type: gguf.F32})
	var e *formats.Error
	if !errors.As(err, &e) || e.Tensor == "" || e.Hint == "" {
		t.Errorf("cut off: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 0 {
		t.Errorf("something is left: %v, %v", left, err)
	}
	if _, err := WriteGGUF(t.Context(), m, path, GGUFOptions{Type: 2}); err == nil {
		t.Error("Q4_0 was written")
	}
}
