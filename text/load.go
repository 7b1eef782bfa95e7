package text

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Load reads the tokenizer of a model's directory: tokenizer.json, or else
// vocab.txt (BERT's WordPiece), or else vocab.json and merges.txt (the
// byte-level BPE of GPT-2, RoBERTa and Qwen2). For the last two it reads the
// settings and special tokens in tokenizer_config.json,
// special_tokens_map.json, added_tokens.json and config.json, where they
// exist, and builds what transformers 5 builds from the same files.
func Load(dir string, o Options) (*Tokenizer, error) {
	files, err := readSources(dir, configFiles)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(files)
	if err != nil {
		return nil, err
	}
	path := files.path("tokenizer.json")
	doc, err := os.ReadFile(path)
	if err == nil {
		t, err := FromJSON(doc, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, ErrMalformed, err)
		}
		t.applySpecial(c)
		return t, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	vocab, err := vocabFile(dir)
	if err != nil {
		return nil, err
	}
	t, err := fromVocab(dir, vocab, c, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", files.path(vocab), ErrMalformed, err)
	}
	return t, nil
}

// vocabFile names the vocabulary that a tokenizer.json is made of.
func vocabFile(dir string) (string, error) {
	for _, name := range []string{"vocab.txt", "vocab.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return name, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", missing(dir)
}

// fromVocab makes a Tokenizer of a vocabulary and the files beside it.
func fromVocab(dir, vocab string, c *config, o Options) (*Tokenizer, error) {
	// The module is made ready while the files are read; what fails there fails
	// again below.
	go func() { _, _ = compiledModule(context.Background(), o.moduleKey()) }()
	files, err := readSources(dir, append(slices.Clone(configFiles), vocab, "merges.txt"))
	if err != nil {
		return nil, err
	}
	t, err := fromSource(files.key(), func() ([]byte, error) { return vocabJSON(files, vocab, c) }, o)
	if err != nil {
		return nil, err
	}
	// A tokenizer that came from a kept state has not made its document,
	// which settles the roles as well.
	if err := c.settle(vocab, t.has); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.applySpecial(c)
	return t, nil
}

// vocabJSON makes a tokenizer.json of a vocabulary and the files beside it.
func vocabJSON(files *sources, vocab string, c *config) ([]byte, error) {
	if vocab == "vocab.txt" {
		return wordPieceJSON(files.content[vocab], c)
	}
	merges, ok := files.content["merges.txt"]
	if !ok {
		return nil, errors.New("it needs merges.txt beside it")
	}
	return byteLevelJSON(files.content[vocab], merges, c)
}

// settle completes the roles with the defaults of the family, which has, the
// test for a token in the vocabulary, helps to find.
func (c *config) settle(vocab string, has func(string) bool) error {
	if vocab == "vocab.txt" {
		c.fill(bertDefaults)
		return nil
	}
	kind, err := c.byteLevelKind(has)
	if err == nil {
		c.fill(byteLevelDefaults[kind])
	}
	return err
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
