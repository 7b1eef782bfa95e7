package text

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

func TestDocument(t *testing.T) {
	dir := filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k")
	want, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Document(dir); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; the file has %d", len(got), err, len(want))
	}
	if _, err := Document(t.TempDir()); !errors.Is(err, ErrNoTokenizer) {
		t.Errorf("an empty directory: %v", err)
	}
	// A vocabulary and merges alone.
	bare := t.TempDir()
	for name, content := range map[string]string{"vocab.json": `{"a":0,"b":1,"ab":2,"<|endoftext|>":3}`, "merges.txt": "#version: 0.2\na b\n", "tokenizer_config.json": `{"tokenizer_class":"GPT2Tokenizer"}`} {
		if err := os.WriteFile(filepath.Join(bare, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Document(bare)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromJSON(got, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if id, ok := tok.TokenToID("ab"); !ok || id != 2 {
		t.Errorf("ab is %d, %v", id, ok)
	}
}
