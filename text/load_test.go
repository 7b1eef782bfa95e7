package text

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// dirWith makes a directory of the given files.
func dirWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestMalformed: every broken file gives an error that names it, and none
// stops the module.
func TestMalformed(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("tokenizer.json lacks %q", old)
		}
		return strings.Replace(string(good), old, new, 1)
	}
	bert := "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"
	const bpe = `{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}`
	for name, c := range map[string]struct {
		files map[string]string
		named string // what the error names
	}{
		"empty":            {map[string]string{"tokenizer.json": ""}, "tokenizer.json"},
		"object":           {map[string]string{"tokenizer.json": "{}"}, "tokenizer.json"},
		"array":            {map[string]string{"tokenizer.json": "[1,2]"}, "tokenizer.json"},
		"pointer":          {map[string]string{"tokenizer.json": "version https://git-lfs.github.com/spec/v1\n"}, "tokenizer.json"},
		"not UTF-8":        {map[string]string{"tokenizer.json": "{\"version\": \"\xff\"}"}, "tokenizer.json"},
		"cut":              {map[string]string{"tokenizer.json": string(good[:len(good)/2])}, "tokenizer.json"},
		"nested":           {map[string]string{"tokenizer.json": strings.Repeat("[", 1e6)}, "tokenizer.json"},
		"version":          {map[string]string{"tokenizer.json": swap(`"version": "1.0"`, `"version": "9"`)}, "Unknown tokenizer version '9'"},
		"model type":       {map[string]string{"tokenizer.json": swap(`"BPE"`, `"BPF"`)}, "tokenizer.json"},
		"merge":            {map[string]string{"tokenizer.json": swap(`"merges": [`, `"merges": [["no such", "piece"],`)}, "tokenizer.json"},
		"id":               {map[string]string{"tokenizer.json": swap(`"<unk>": 0`, `"<unk>": -1`)}, "tokenizer.json"},
		"large id":         {map[string]string{"tokenizer.json": swap(`"<unk>": 0`, `"<unk>": 1e300`)}, "tokenizer.json"},
		"pattern":          {map[string]string{"tokenizer.json": swap(`"String": " "`, `"Regex": "(("`)}, "tokenizer.json"},
		"config":           {map[string]string{"tokenizer.json": string(good), "tokenizer_config.json": "{"}, "tokenizer_config.json"},
		"role":             {map[string]string{"tokenizer.json": string(good), "tokenizer_config.json": `{"bos_token": 3}`}, "bos_token"},
		"decoder id":       {map[string]string{"vocab.txt": bert, "tokenizer_config.json": `{"added_tokens_decoder": {"x": {}}}`}, `"x" is not a token id`},
		"no unknown":       {map[string]string{"vocab.txt": "a\nb\n"}, "vocab.txt"},
		"empty vocabulary": {map[string]string{"vocab.txt": ""}, "vocab.txt"},
		"vocab not UTF-8":  {map[string]string{"vocab.txt": "\xff\n"}, "vocab.txt"},
		"other family":     {map[string]string{"vocab.txt": bert, "config.json": `{"model_type": "mpnet"}`}, `"mpnet"`},
		"no merges":        {map[string]string{"vocab.json": bpe}, "merges.txt"},
		"merge line":       {map[string]string{"vocab.json": bpe, "merges.txt": "#version: 0.2\na b c\n"}, "line 2"},
		"merge unknown":    {map[string]string{"vocab.json": bpe, "merges.txt": "a z\n"}, "vocab.json"},
		"vocab array":      {map[string]string{"vocab.json": `["a"]`, "merges.txt": ""}, "vocab.json"},
		"no family":        {map[string]string{"vocab.json": `{"a": 0}`, "merges.txt": ""}, "tokenizer_class"},
		"no role": {map[string]string{"vocab.json": bpe, "merges.txt": "",
			"tokenizer_config.json": `{"tokenizer_class": "RobertaTokenizer", "sep_token": null}`}, "sep_token"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := Load(dirWith(t, c.files), Options{CacheDir: cacheDir})
			if err == nil {
				tok.Close()
				t.Fatal("loaded")
			}
			if !strings.Contains(err.Error(), c.named) {
				t.Errorf("error %q does not name %q", err, c.named)
			}
			if errors.Is(err, errTrapped) {
				t.Errorf("the module stopped: %v", err)
			}
		})
	}
}

func TestNothingToLoad(t *testing.T) {
	if _, err := Load(t.TempDir(), Options{}); !errors.Is(err, ErrNoTokenizer) {
		t.Errorf("empty directory: %v", err)
	}
	dir := dirWith(t, map[string]string{"tokenizer.model": "x"})
	if _, err := Load(dir, Options{}); !errors.Is(err, ErrNoTokenizer) || !strings.Contains(err.Error(), "save_pretrained") {
		t.Errorf("SentencePiece model: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "absent"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "tokenizer.model"), Options{}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("file: %v", err)
	}
}

// TestSpecial compares the roles with those read in the files.
func TestSpecial(t *testing.T) {
	token := func(content string, id int32) SpecialToken { return SpecialToken{Content: content, ID: id} }
	for kind, want := range map[string]Special{
		"small/bert-uncased": {CLS: token("[CLS]", 2), SEP: token("[SEP]", 3), Pad: token("[PAD]", 0),
			BOS: noToken, EOS: noToken, Unk: token("[UNK]", 1), Mask: token("[MASK]", 4)},
		"small/roberta": {CLS: token("<s>", 0), SEP: token("</s>", 2), Pad: token("<pad>", 1),
			BOS: token("<s>", 0), EOS: token("</s>", 2), Unk: token("<unk>", 3), Mask: token("<mask>", 4)},
		"small/gpt2": {CLS: noToken, SEP: noToken, Pad: noToken, BOS: token("<|endoftext|>", 0),
			EOS: token("<|endoftext|>", 0), Unk: token("<|endoftext|>", 0), Mask: noToken},
		"small/qwen2": {CLS: noToken, SEP: noToken, Pad: token("<|endoftext|>", 1000), BOS: noToken,
			EOS: token("<|im_end|>", 1002), Unk: noToken, Mask: noToken},
		"stories260k": {CLS: noToken, SEP: noToken, Pad: noToken, BOS: token("<s>", 1),
			EOS: token("</s>", 2), Unk: token("<unk>", 0), Mask: noToken},
		"all-minilm": {CLS: token("[CLS]", 101), SEP: token("[SEP]", 102), Pad: token("[PAD]", 0),
			BOS: noToken, EOS: noToken, Unk: token("[UNK]", 100), Mask: token("[MASK]", 103)},
		"qwen2.5": {CLS: noToken, SEP: noToken, Pad: token("<|endoftext|>", 151643), BOS: noToken,
			EOS: token("<|im_end|>", 151645), Unk: noToken, Mask: noToken},
	} {
		t.Run(kind, func(t *testing.T) {
			if got := loadGolden(t, kind).Special(); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestRobertaMask: without a file that says otherwise, <mask> takes the space
// before it along, as in the published tokenizer.json of roberta-base.
func TestRobertaMask(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"vocab.json", "merges.txt"} {
		b, err := os.ReadFile(filepath.Join("testdata", "small", "roberta", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(b)
	}
	tok, err := Load(dirWith(t, files), Options{CacheDir: cacheDir})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	e, err := tok.EncodePair("a <mask>", "a", EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := tok.TokenToID("a")
	if want := []int32{0, a, 4, 2, 2, a, 2}; !slices.Equal(e.IDs, want) {
		t.Errorf("ids %v, want %v", e.IDs, want)
	}
}

// TestCRLF: a vocabulary with Windows line ends is the same vocabulary.
func TestCRLF(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "small", "bert-uncased", "vocab.txt"))
	if err != nil {
		t.Fatal(err)
	}
	crlf := strings.ReplaceAll(string(b), "\n", "\r\n")
	tok, err := Load(dirWith(t, map[string]string{"vocab.txt": crlf}), Options{CacheDir: cacheDir})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	lf := loadGolden(t, "small/bert-uncased")
	if tok.VocabSize() != lf.VocabSize() {
		t.Errorf("%d tokens, want %d", tok.VocabSize(), lf.VocabSize())
	}
	got, err := tok.Encode("naïve lines", EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := lf.Encode("naïve lines", EncodeOptions{})
	if err != nil || !slices.Equal(got.IDs, want.IDs) {
		t.Errorf("%v, %v; want %v", got.IDs, err, want.IDs)
	}
}

// FuzzFromJSON: no tokenizer.json makes Go panic or the module unusable.
func FuzzFromJSON(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(testkit.RepoRoot(f), "testdata", "stories260k", "tokenizer.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(b, &doc); err != nil {
		f.Fatal(err)
	}
	for key := range doc {
		small, err := json.Marshal(map[string]any{key: doc[key]})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(small)
	}
	// The module is compiled once in a process, which can take longer than the ten
	// seconds after which fuzzing takes an execution for hung: not as part of one.
	warm, err := FromJSON(b, Options{CacheDir: cacheDir, Workers: 1})
	if err != nil {
		f.Fatal(err)
	}
	warm.Close()
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := FromJSON(b, Options{CacheDir: cacheDir, Workers: 1, MemoryLimit: 64 << 20})
		if err != nil {
			return
		}
		defer tok.Close()
		e, err := tok.EncodePair("some text", "and more", EncodeOptions{})
		if err != nil {
			return
		}
		if _, err := tok.Decode(e.IDs, false); err != nil && !errors.Is(err, errTrapped) {
			t.Logf("decode: %v", err)
		}
	})
}
