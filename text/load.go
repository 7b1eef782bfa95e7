package text

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Load reads the tokenizer of a model's directory: tokenizer.json, or else
// vocab.txt (BERT's WordPiece), or else vocab.json and merges.txt (the
// byte-level BPE of GPT-2, RoBERTa and Qwen2). For the last two it reads the
// settings and special tokens in tokenizer_config.json,
// special_tokens_map.json, added_tokens.json and config.json, where they
// exist, and builds what transformers 5 builds from the same files.
func Load(dir string, o Options) (*Tokenizer, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "tokenizer.json")
	doc, err := os.ReadFile(path)
	var t *Tokenizer
	switch {
	case err == nil:
		t, err = FromJSON(doc, o)
	case errors.Is(err, fs.ErrNotExist):
		if path, err = vocabFile(dir); err != nil {
			return nil, err
		}
		if doc, err = vocabJSON(dir, path, c); err == nil {
			t, err = FromJSON(doc, o)
		}
	default:
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrMalformed, err)
	}
	t.applySpecial(c)
	return t, nil
}

// vocabFile returns the vocabulary that a tokenizer.json is made of.
func vocabFile(dir string) (string, error) {
	for _, name := range []string{"vocab.txt", "vocab.json"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", missing(dir)
}

// vocabJSON makes a tokenizer.json of a vocabulary and the files beside it.
func vocabJSON(dir, path string, c *config) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Base(path) == "vocab.txt" {
		return wordPieceJSON(b, c)
	}
	merges, err := os.ReadFile(filepath.Join(dir, "merges.txt"))
	if err != nil {
		return nil, fmt.Errorf("it needs its merges: %w", err)
	}
	return byteLevelJSON(b, merges, c)
}

// missing says what was looked for, and what to do with a file that is there
// but cannot be read.
func missing(dir string) error {
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory (FromJSON reads a tokenizer.json)", dir)
	}
	for _, name := range []string{"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s: SentencePiece models are not read; convert it with transformers' "+
				"AutoTokenizer.from_pretrained(dir).save_pretrained(dir), which writes tokenizer.json: %w",
				filepath.Join(dir, name), ErrNoTokenizer)
		}
	}
	return fmt.Errorf("%s has none of tokenizer.json, vocab.txt, vocab.json with merges.txt: %w", dir, ErrNoTokenizer)
}

// ErrNoTokenizer is wrapped by Load's error for a directory without a
// tokenizer that it can read.
var ErrNoTokenizer = errors.New("no tokenizer found")

// ErrMalformed is wrapped by errors about the contents of a tokenizer's files.
var ErrMalformed = errors.New("malformed tokenizer")
