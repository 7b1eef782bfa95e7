package text

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestState wants a tokenizer that was started from a kept state to encode and
// describe itself like the one that was loaded, and a damaged or foreign state
// to be passed over.
func TestState(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k")
	texts := []string{"Once upon a time, there was a little girl.", "ÄÖÜ 你好 \x7f", ""}
	open := func() ([][]int32, int, Special) {
		t.Helper()
		k, err := Load(model, Options{CacheDir: dir, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		var ids [][]int32
		for _, s := range texts {
			e, err := k.Encode(s, EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.IDs)
		}
		return ids, k.VocabSize(), k.Special()
	}
	ids, size, special := open()
	states, err := filepath.Glob(filepath.Join(dir, "tokenizer-states-*", "*.state"))
	if err != nil || len(states) != 1 {
		t.Fatalf("states %v, %v", states, err)
	}
	good, err := os.ReadFile(states[0])
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		i, n, sp := open()
		if !slices.EqualFunc(i, ids, slices.Equal[[]int32]) || n != size || sp != special {
			t.Errorf("%s: other results", what)
		}
	}
	m, err := compiledModule(t.Context(), moduleKey{cacheDir: dir, memoryPages: DefaultMemoryLimit / wasmPage})
	if err != nil {
		t.Fatal(err)
	}
	if s := openState(states[0]); s == nil || s.about.vocabSize != size {
		t.Error("the state is not used")
	} else if in, ok := s.start(t.Context(), m); !ok {
		t.Error("the state does not start")
	} else {
		in.close()
	}
	same("from the state")
	for what, bad := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)/2], "header only": good[:stateHeader],
		"flipped magic": flipped(good, 0), "flipped sum": flipped(good, len(stateMagic)), "flipped length": flipped(good, len(stateMagic)+7), "flipped memory": flipped(good, len(good)-1000),
	} {
		if err := os.WriteFile(states[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if s := openState(states[0]); s != nil {
			s.close()
			t.Errorf("%s: a damaged state is used", what)
		}
		same(what)
	}
	same("kept again after damage")
}

func flipped(b []byte, at int) []byte {
	c := slices.Clone(b)
	c[at] ^= 0x40
	return c
}

func TestOldStatesGo(t *testing.T) {
	dir := t.TempDir()
	for i := range maxStates + 3 {
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))+".state"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dropOldStates(dir)
	left, err := filepath.Glob(filepath.Join(dir, "*.state"))
	if err != nil || len(left) != maxStates {
		t.Errorf("%d states are left, want %d (%v)", len(left), maxStates, err)
	}
}

// TestStateKey wants every file that a tokenizer is made of to count: with
// another configuration the kept state is not used.
func TestStateKey(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHi\nhi\n", "config.json": `{"model_type": "bert"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cache := t.TempDir()
	encode := func(config string) []int32 {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := Load(dir, Options{CacheDir: cache, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		e, err := k.Encode("Hi", EncodeOptions{NoSpecialTokens: true})
		if err != nil {
			t.Fatal(err)
		}
		return e.IDs
	}
	for range 2 { // loaded, then from the state
		if lower, cased := encode(`{"do_lower_case": true}`), encode(`{"do_lower_case": false}`); !slices.Equal(lower, []int32{6}) || !slices.Equal(cased, []int32{5}) {
			t.Errorf("lower-cased %v, cased %v", lower, cased)
		}
	}
}

// TestStateSettles wants the roles of a tokenizer that was started from a kept
// state to be those of the one that was made: also where the defaults of the
// family give them and no document is made.
func TestStateSettles(t *testing.T) {
	cache := t.TempDir()
	for _, kind := range []string{"bert-uncased", "gpt2", "roberta", "qwen2"} {
		for _, bare := range []bool{false, true} {
			dir := filepath.Join("testdata", "small", kind)
			if bare && kind != "qwen2" { // which cannot be told without a configuration
				dir = t.TempDir()
				for _, name := range []string{"vocab.txt", "vocab.json", "merges.txt"} {
					if b, err := os.ReadFile(filepath.Join("testdata", "small", kind, name)); err == nil {
						if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			load := func() Special {
				t.Helper()
				k, err := Load(dir, Options{CacheDir: cache, Workers: 1})
				if err != nil {
					t.Fatal(err)
				}
				defer k.Close()
				return k.Special()
			}
			if made, kept := load(), load(); made != kept {
				t.Errorf("%s, bare %v: %+v made, %+v from the state", kind, bare, made, kept)
			}
		}
	}
}

// TestDocumentVersion fails when other documents are made of the same files:
// then states that earlier versions kept must not be used, so documentVersion
// goes up and the sums here are replaced by those that this test prints.
func TestDocumentVersion(t *testing.T) {
	sums := map[string]string{
		"bert-uncased": "1 3450f9ede4dc0ae6d54d98a0fac307ec31eff57688cb0b17e849ead708daf077",
		"gpt2":         "1 9bc003ac8c343c44572bdc17c8a64cdd90bbfa5ff50fc7d0db5962ed152bf896",
		"roberta":      "1 d68ca97e403547e1a56e6643058e52d591c7be478b247f2c4d75ea4ae9b6eab1",
		"qwen2":        "1 bcf54f292a5e33b6e1b1c5ad14a4f8925cd26a6f9f90e706dde2ad1cc285a184",
	}
	for kind, want := range sums {
		dir := filepath.Join("testdata", "small", kind)
		vocab, err := vocabFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		files, err := readSources(dir, append(slices.Clone(configFiles), vocab, "merges.txt"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(files)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := vocabJSON(files, vocab, c)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %x", documentVersion, sha256.Sum256(doc)); got != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}
