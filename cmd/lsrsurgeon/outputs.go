package main

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// tokenizerFiles are the files of a tokenizer, of which a model has some.
var tokenizerFiles = []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"}

// checkOutputs refuses, before any work, outputs that exist (unless --force)
// and outputs that are the input or lie where it lies, also through links.
func (a *app) checkOutputs(input string, outputs ...string) error {
	for _, out := range outputs {
		if out == "" {
			continue
		}
		if samePlace(input, out) {
			return &usageError{msg: "output " + out + " is the input", hint: "write to another place: inputs are never changed"}
		}
		if dir, err := filepath.EvalSymlinks(filepath.Dir(out)); err == nil && formats.InHubCache(filepath.Join(dir, filepath.Base(out))) {
			return &usageError{msg: "output " + out + " lies in the Hugging Face cache, which other programs share", hint: "choose another place"}
		}
		st, err := os.Stat(out)
		if err != nil {
			continue
		}
		if !a.force {
			return &usageError{msg: "output " + out + " exists", hint: "give another name, or --force to replace it"}
		}
		if st.IsDir() && !replaceable(out) {
			return &usageError{msg: "output " + out + " is a directory that lsrsurgeon did not write", hint: "--force replaces models, adapters and runs only"}
		}
	}
	return nil
}

// replaceable says whether a directory looks like an earlier output, so that
// --force on a mistyped path cannot remove a home directory.
func replaceable(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	if len(entries) == 0 {
		return true
	}
	for _, n := range []string{"adapter_config.json", "config.json", "model.safetensors", "model.safetensors.index.json", "run.json", "train_state.safetensors", "metrics.jsonl"} {
		if exists(filepath.Join(dir, n)) {
			return true
		}
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return filepath.Ext(e.Name()) == ".onnx" })
}

// samePlace says whether two paths are one file or directory, following links.
func samePlace(x, y string) bool {
	if filepath.Clean(x) == filepath.Clean(y) {
		return true
	}
	i, err1 := os.Stat(x)
	j, err2 := os.Stat(y)
	return err1 == nil && err2 == nil && os.SameFile(i, j)
}
