package main

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// tokenizerFiles are the files of a tokenizer, of which a model has some.
var tokenizerFiles = []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"}

// checkOutputs refuses, before any work, outputs that exist (unless --force),
// outputs that are the input, hold it or are a file of it, also through links, and
// two outputs in one place.
func (a *app) checkOutputs(input string, outputs ...string) error {
	for i, out := range outputs {
		if out == "" {
			continue
		}
		if err := protected(input, out); err != nil {
			return err
		}
		for _, other := range outputs[:i] {
			if other != "" && (within(other, out) || within(out, other)) {
				return &usageError{msg: "outputs " + other + " and " + out + " would be in each other's place", hint: "name two places beside each other"}
			}
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

// checkAllOutputs is checkOutputs for several inputs; those that are "" or "-" are none.
func (a *app) checkAllOutputs(inputs []string, outputs ...string) error {
	for _, in := range inputs {
		if in == "" || in == "-" {
			continue
		}
		if err := a.checkOutputs(in, outputs...); err != nil {
			return err
		}
	}
	return nil
}

// checkOutputs is that of the app, for what was opened at path and its base model.
func (s *session) checkOutputs(path, out string) error {
	in := []string{path}
	if s.ck != nil {
		in = append(in, s.ck.Path())
	}
	return s.a.checkAllOutputs(in, out)
}

// protected refuses an output whose replacement would take the input with it.
func protected(input, out string) error {
	hint := "write to another place: inputs are never changed"
	if samePlace(input, out) {
		return &usageError{msg: "output " + out + " is the input", hint: hint}
	}
	st, err := os.Stat(out)
	if err != nil || !exists(input) {
		return nil
	}
	if st.IsDir() && within(input, out) {
		return &usageError{msg: "output " + out + " holds the input " + input, hint: hint}
	}
	// A GGUF file beside a model is an earlier output: no model that is a directory
	// consists of one.
	if st.Mode().IsRegular() && filepath.Ext(out) != ".gguf" && samePlace(input, filepath.Dir(out)) {
		return &usageError{msg: "output " + out + " is a file of the input " + input, hint: hint}
	}
	return nil
}

// within says whether path is dir or lies below it, following the links of what is
// there.
func within(path, dir string) bool {
	rel, err := filepath.Rel(realPath(dir), realPath(path))
	return err == nil && filepath.IsLocal(rel)
}

// realPath is path without links, as far as it exists.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = filepath.Clean(path)
	}
	rest := ""
	for p := abs; ; p = filepath.Dir(p) {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(r, rest)
		}
		if filepath.Dir(p) == p {
			return abs
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
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
	for _, n := range []string{"adapter_config.json", "model.safetensors.index.json", "run.json", "metrics.jsonl"} {
		if exists(filepath.Join(dir, n)) {
			return true
		}
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		ext := filepath.Ext(e.Name())
		return ext == ".onnx" || ext == ".safetensors"
	})
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
