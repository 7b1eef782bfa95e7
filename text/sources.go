package text

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// configFiles say what a vocabulary beside them means. All are optional.
var configFiles = []string{"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"}

// sources are the files of a directory that a tokenizer is made of, read once,
// so that what is hashed is what is used.
type sources struct {
	dir     string
	names   []string
	content map[string][]byte // without the files that do not exist
}

func readSources(dir string, names []string) (*sources, error) {
	s := &sources{dir: dir, names: names, content: make(map[string][]byte, len(names))}
	for _, name := range names {
		b, err := os.ReadFile(s.path(name))
		switch {
		case err == nil:
			s.content[name] = b
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return s, nil
}

func (s *sources) path(name string) string { return filepath.Join(s.dir, name) }

// json reads a file that may be absent.
func (s *sources) json(name string, v any) error {
	b, ok := s.content[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", s.path(name), err)
	}
	return nil
}

// documentVersion is part of every key. It changes when other documents are made
// of the same files, so that no state of an earlier version is taken for one.
const documentVersion = 1

// key hashes names and contents.
func (s *sources) key() (key [sha256.Size]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "document %d\n", documentVersion)
	for _, name := range s.names {
		if b, ok := s.content[name]; ok {
			fmt.Fprintf(h, "%s %d\n", name, len(b))
			h.Write(b)
		}
	}
	h.Sum(key[:0])
	return key
}
