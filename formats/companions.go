package formats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Companion is a file beside a checkpoint's weights that a copy of the model
// needs as well: configuration, tokenizer, licence.
type Companion struct {
	Path string // within Dir
	Size int64  // bytes
	Mode fs.FileMode
}

// Companions walks the checkpoint's directory. Links are followed for files: the
// Hugging Face cache consists of links. Of a checkpoint that is one .safetensors
// or .onnx file of a directory, only files that belong to a model by name count,
// and no directories. left has the files that a copy does without: hidden ones,
// weights in other forms, dangling links; not the checkpoint's own weights.
func (c *Checkpoint) Companions() (files []Companion, left []string, err error) {
	root := c.Dir() + string(filepath.Separator) + "." // also where Dir itself is a link
	single := strings.HasSuffix(c.Path(), ".safetensors") || strings.HasSuffix(c.Path(), ".onnx")
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
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
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a dangling link
			left = append(left, rel)
		case err != nil:
			return err
		case !hidden && !weightsByName(e.Name()) && st.Mode().IsRegular() && (!single || ofModelByName(e.Name())):
			files = append(files, Companion{rel, st.Size(), st.Mode().Perm()})
		case !c.holds(path):
			left = append(left, rel)
		}
		return nil
	})
	return files, left, err
}

// holds tells whether path is one of the checkpoint's weight files or its index.
func (c *Checkpoint) holds(path string) bool {
	if x := c.Index(); x != nil && filepath.Clean(x.Path) == filepath.Clean(path) {
		return true
	}
	return slices.ContainsFunc(c.Files(), func(f File) bool { return filepath.Clean(f.Path) == filepath.Clean(path) })
}

// weightsByName tells whether a file holds weights or state of training in
// whatever form, an index of them, or what undoes a merge: stale in a copy.
func weightsByName(name string) bool {
	name = strings.ToLower(name)
	if strings.HasSuffix(name, ".index.json") {
		return true
	}
	switch filepath.Ext(name) {
	case ".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".ckpt", ".onnx", ".gguf", ".npz", ".undo":
		return true
	}
	return strings.HasSuffix(name, ".onnx_data") || strings.HasSuffix(name, ".onnx.data")
}

func ofModelByName(name string) bool {
	return slices.Contains([]string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
		"special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"}, name)
}
