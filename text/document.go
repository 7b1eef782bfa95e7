package text

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Document returns the tokenizer.json of a model's directory: the file, or
// what Load makes of the vocabulary and the files beside it. Errors are those
// of Load; the contents of an existing file are not checked.
func Document(dir string) ([]byte, error) {
	files, err := readSources(dir, configFiles)
	if err != nil {
		return nil, err
	}
	doc, err := os.ReadFile(files.path("tokenizer.json"))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return doc, err
	}
	c, err := readConfig(files)
	if err != nil {
		return nil, err
	}
	vocab, err := vocabFile(dir)
	if err != nil {
		return nil, err
	}
	if files, err = readSources(dir, append(slices.Clone(configFiles), vocab, "merges.txt")); err != nil {
		return nil, err
	}
	if doc, err = vocabJSON(files, vocab, c); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", files.path(vocab), ErrMalformed, err)
	}
	return doc, nil
}
