package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

const configFile = "config.json"

// carried is a file of the base's directory that the output gets too.
type carried struct {
	rel  string
	size int64
	mode os.FileMode
}

// findCarried walks the base's directory. Links are followed for files: the
// Hugging Face cache consists of links. A base that is one .safetensors or .onnx
// file of a directory carries along what belongs to a model by name.
func (p *Plan) findCarried() error {
	root := p.base.Dir() + string(filepath.Separator) + "." // also where Dir itself is a link
	single := singleFile(p.base.Path())
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		hidden := strings.HasPrefix(e.Name(), ".")
		if e.IsDir() {
			if hidden || single {
				return fs.SkipDir
			}
			return nil
		}
		if rel == manifest.File || rel == JournalFile { // of the base, not of the output
			return nil
		}
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a dangling link
			p.left = append(p.left, rel)
			return nil
		case err != nil:
			return err
		}
		if hidden || weightFile(e.Name()) || !st.Mode().IsRegular() || single && !belongs(e.Name()) {
			if !p.isWeights(path) {
				p.left = append(p.left, rel)
			}
			return nil
		}
		p.carried = append(p.carried, carried{rel, st.Size(), st.Mode().Perm()})
		return nil
	})
}

// isWeights tells whether the path is a file of the checkpoint itself or its
// index.
func (p *Plan) isWeights(path string) bool {
	if x := p.base.Index(); x != nil && filepath.Clean(x.Path) == filepath.Clean(path) {
		return true
	}
	for _, f := range p.base.Files() {
		if filepath.Clean(f.Path) == filepath.Clean(path) {
			return true
		}
	}
	return false
}

// belongs tells by its name whether a file beside a single .safetensors file
// belongs to a model.
func belongs(name string) bool {
	return slices.Contains([]string{configFile, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
		"special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"}, name)
}

// carry copies one file to the output, config.json with the plan's changes.
func (p *Plan) carry(d *atomicfile.Dir, c carried) (err error) {
	path := filepath.Join(p.base.Dir(), c.rel)
	if c.rel == configFile && len(p.config) > 0 {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if b, err = setKeys(b, p.config); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return d.WriteFile(c.rel, c.mode|0o600, func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := d.Create(c.rel, c.mode|0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	return out.CopyAt(in, 0, 0, c.size)
}

// setKeys sets keys of a JSON object and leaves every other byte as it is. New
// keys come last.
func setKeys(b []byte, values []ConfigValue) ([]byte, error) {
	for _, v := range values {
		enc, err := json.Marshal(v.Value)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", v.Key, err)
		}
		if b, err = setKey(b, v.Key, enc); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func setKey(b []byte, key string, value []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	at, members := int(d.InputOffset()), 0 // end of the last member
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, err
		}
		var old json.RawMessage
		if err := d.Decode(&old); err != nil {
			return nil, err
		}
		members++
		at = int(d.InputOffset())
		if k == key {
			return slices.Concat(b[:at-len(old)], value, b[at:]), nil
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	k, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	member := slices.Concat([]byte("\n  "), k, []byte(": "), value)
	if members > 0 {
		member = append([]byte(","), member...)
	}
	if tail := b[at:]; len(tail) > 0 && tail[0] == '}' {
		member = append(member, '\n')
	}
	return slices.Concat(b[:at], member, b[at:]), nil
}
