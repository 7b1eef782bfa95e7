package text

import (
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
	if in, about, ok := restore(t.Context(), m, states[0]); !ok || about.vocabSize != size {
		t.Error("the state is not used")
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
		if in, _, ok := restore(t.Context(), m, states[0]); ok {
			in.close()
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
