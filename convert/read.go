package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// Form is the form of an adapter on disk.
type Form string

// The forms that [Read] knows.
const (
	FormPEFT  Form = "peft" // PEFT's directories, and those of this program
	FormMLX   Form = "mlx"
	FormKohya Form = "kohya" // and LyCORIS
	FormGGUF  Form = "gguf"
)

// Detect tells the form of an adapter, or "" for what is none: a directory
// without adapter_config.json, or a file of another kind.
func Detect(path string) Form {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if st.IsDir() {
		return detectDir(path)
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gguf":
		f, _, err := formats.ReadGGUF(path)
		if err != nil {
			return ""
		}
		if t, err := f.Text(keyType); err == nil && t == "adapter" {
			return FormGGUF
		}
	case ".safetensors":
		ck, err := formats.Open(path)
		if err != nil {
			return ""
		}
		defer ck.Close()
		for _, t := range ck.Tensors() {
			if _, suffix, ok := strings.Cut(t.Name, "."); ok {
				if _, known := kohyaSuffixes[suffix]; known && suffix != "weight" {
					return FormKohya
				}
			}
		}
	}
	return ""
}

func detectDir(dir string) Form {
	b, err := os.ReadFile(filepath.Join(dir, adapter.ConfigFile))
	if err != nil {
		return ""
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(b, &keys) == nil {
		_, peft := keys["peft_type"]
		_, mlx := keys["lora_parameters"]
		_, tuned := keys["fine_tune_type"]
		if !peft && (mlx || tuned) {
			return FormMLX
		}
	}
	return FormPEFT
}

// Read reads an adapter in any form. m is its base model; with nil, modules
// are taken as the file describes them, which GGUF adapters and files of kohya
// do not allow (except those that [WriteKohya] made).
func Read(path string, m *model.Model) (*adapter.Adapter, error) {
	if m == nil {
		return read(path, nil, nil)
	}
	return read(path, m.Sites(), m)
}

// ReadFor is Read for a base of which only the linear layers are known.
func ReadFor(path string, sites []adapter.Site) (*adapter.Adapter, error) {
	return read(path, sites, nil)
}

func read(path string, sites []adapter.Site, m *model.Model) (*adapter.Adapter, error) {
	switch Detect(path) {
	case FormPEFT:
		return adapter.Load(path, sites)
	case FormMLX:
		return readMLX(path, sites)
	case FormKohya:
		return readKohya(path, sites)
	case FormGGUF:
		return readGGUF(path, m)
	}
	e := &formats.Error{Path: path, Reason: "no adapter of a known form", Hint: "there are PEFT's and MLX's directories, safetensors files of kohya and LyCORIS, and GGUF adapters", Err: formats.ErrUnsupported}
	if _, err := os.Stat(path); err != nil {
		e.Reason, e.Err = "no such file or directory", formats.ErrNotFound
		return nil, e
	}
	// A file that is damaged says so better than that it is unknown.
	ck, err := formats.Open(path)
	if err != nil {
		return nil, err
	}
	if ts := ck.Tensors(); len(ts) > 0 {
		e.Tensor, e.Reason = ts[0].Name, fmt.Sprintf("no adapter of a known form: its %d tensors have names of no program that is known", len(ts))
	}
	return nil, errors.Join(ck.Close(), e)
}
