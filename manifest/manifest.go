// Package manifest keeps checksums of what was written, and checks them.
//
// A manifest is a JSON file beside a model or an adapter, [File]. It has the
// SHA-256 of every tensor's bytes, of the bytes of each weight file that belong to
// no tensor (its header), and of every other file; and it says where they come from: command,
// settings, version of the program, and hashes of the inputs. It has no times and no
// absolute paths, so that the same inputs give the same manifest.
//
// [Make] reads a directory back after it was written, several tensors at a time,
// while the system writes it to disk. [Check] compares one with its manifest,
// an index with its shards, and looks for numbers that are none.
package manifest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// File is the name of a manifest in its directory.
const File = "lsrsurgeon.manifest.json"

// Schema is the version of the layout that this program writes and reads.
const Schema = 1

// maxFile bounds what Read reads: a manifest of a million tensors is smaller.
const maxFile = 1 << 30

// Provenance says where an output comes from.
type Provenance struct {
	Tool     string            `json:"tool"`    // name and version of the program
	Command  string            `json:"command"` // "merge"
	Settings map[string]string `json:"settings,omitempty"`
	Sources  []Source          `json:"sources,omitempty"`
}

// Source is an input.
type Source struct {
	Role string `json:"role"` // "base", "adapter", "data"
	Name string `json:"name"` // last element of its path
	Hash string `json:"hash"` // "sha256:" or "sampled-sha256:" and hexadecimal digits
}

// Manifest is the contents of the file.
type Manifest struct {
	Schema int `json:"schema"`
	Provenance
	Files   []FileSum   `json:"files"`
	Tensors []TensorSum `json:"tensors"`
}

// FileSum is the checksum of a file, or, of a weight file, of its bytes
// that belong to no tensor.
type FileSum struct {
	Name    string `json:"name"` // relative, with slashes
	Bytes   int64  `json:"bytes"`
	Weights bool   `json:"weights,omitempty"`
	SHA256  string `json:"sha256"`
}

// TensorSum is the checksum of a tensor's bytes.
type TensorSum struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	DType  string `json:"dtype"`
	Shape  []int  `json:"shape"`
	SHA256 string `json:"sha256"`
}

// Path is where the manifest of a checkpoint's or adapter's directory is.
func Path(dir string) string { return filepath.Join(dir, File) }

// Read reads the manifest of a directory. Without one the error wraps
// fs.ErrNotExist; a damaged one wraps formats.ErrMalformed.
func Read(dir string) (*Manifest, error) {
	path := Path(dir)
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, malformed(path, "too long for a manifest")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := Parse(b)
	if err != nil {
		return nil, malformed(path, err.Error())
	}
	return m, nil
}

func malformed(path, reason string) error {
	return &formats.Error{Path: path, Reason: reason, Hint: "restore the manifest, or remove it if the files are known to be right", Err: formats.ErrMalformed}
}

// Parse reads and checks the text of a manifest.
func Parse(b []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("not a manifest: %w", err)
	}
	if m.Schema != Schema {
		return nil, fmt.Errorf("schema %d, but this program reads %d", m.Schema, Schema)
	}
	files := map[string]bool{}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Name) || f.Bytes < 0 || files[f.Name] {
			return nil, fmt.Errorf("file %q is named twice, outside the directory, or has a negative size", f.Name)
		}
		files[f.Name] = true
		if err := checkSum(f.SHA256); err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Name, err)
		}
	}
	tensors := map[string]bool{}
	for _, t := range m.Tensors {
		if tensors[t.Name] {
			return nil, fmt.Errorf("tensor %q is named twice", t.Name)
		}
		tensors[t.Name] = true
		if _, err := tensor.Elements(t.Shape); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if err := checkSum(t.SHA256); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return m, nil
}

func checkSum(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 {
		return errors.New("its SHA-256 is not 64 hexadecimal digits")
	}
	return nil
}

// Encode is the text of the file.
func (m *Manifest) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", " ")
	return append(b, '\n'), err
}

// Sums maps the names of the tensors to their checksums.
func (m *Manifest) Sums() map[string]TensorSum {
	sums := make(map[string]TensorSum, len(m.Tensors))
	for _, t := range m.Tensors {
		sums[t.Name] = t
	}
	return sums
}
