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
	path, doc, err := findVocab(dir, c)
	if err != nil {
		return nil, err
	}
	t, err := FromJSON(doc, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrMalformed, err)
	}
	t.applySpecial(c)
	return t, nil
}

// findVocab returns the first file that Load knows, and the tokenizer.json
// that it is or becomes.
func findVocab(dir string, c *config) (path string, doc []byte, err error) {
	path = filepath.Join(dir, "tokenizer.json")
	doc, err = os.ReadFile(path)
	if err == nil {
		return path, doc, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	path = filepath.Join(dir, "vocab.txt")
	b, err := os.ReadFile(path)
	if err == nil {
		if doc, err = wordPieceJSON(b, c); err != nil {
			return "", nil, fmt.Errorf("%s: %w: %w", path, ErrMalformed, err)
		}
		return path, doc, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	path = filepath.Join(dir, "vocab.json")
	b, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, missing(dir)
	}
	if err != nil {
		return "", nil, err
	}
	merges, err := os.ReadFile(filepath.Join(dir, "merges.txt"))
	if err != nil {
		return "", nil, fmt.Errorf("%s needs its merges: %w", path, err)
	}
	if doc, err = byteLevelJSON(b, merges, c); err != nil {
		return "", nil, fmt.Errorf("%s: %w: %w", path, ErrMalformed, err)
	}
	return path, doc, nil
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
