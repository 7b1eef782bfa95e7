package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

const configFile = "config.json"

// findCarried finds the files of the base's directory that the output gets too.
func (p *Plan) findCarried() error {
	files, left, err := p.base.Companions()
	p.left = append(p.left, left...)
	for _, f := range files {
		if f.Path != manifest.File && f.Path != JournalFile { // of the base, not of the output
			p.carried = append(p.carried, f)
		}
	}
	return err
}

// carry copies one file to the output, config.json with the plan's changes.
func (p *Plan) carry(d *atomicfile.Dir, c formats.Companion) (err error) {
	path := filepath.Join(p.base.Dir(), c.Path)
	if c.Path == configFile && len(p.config) > 0 {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if b, err = setKeys(b, p.config); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return d.WriteFile(c.Path, c.Mode|0o600, func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := d.Create(c.Path, c.Mode|0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	return out.CopyAt(in, 0, 0, c.Size)
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
