package formats

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// openDir opens the checkpoint of a directory: the index, model.safetensors,
// adapter_model.safetensors, a single other .safetensors file, or, where there is
// none of these, an ONNX model.
func openDir(given, dir string) (*Checkpoint, error) {
	switch {
	case inDir(dir, IndexFile):
		return openIndex(given, filepath.Join(dir, IndexFile))
	case inDir(dir, ModelFile):
		return openFiles(given, dir, []string{filepath.Join(dir, ModelFile)})
	case inDir(dir, AdapterFile):
		return openFiles(given, dir, []string{filepath.Join(dir, AdapterFile)})
	}
	found, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.safetensors"))
	if err != nil {
		return nil, err
	}
	if len(found) == 1 {
		return openFiles(given, dir, found)
	}
	e := &Error{Path: given, Reason: "no " + ModelFile + ", " + IndexFile + " or " + GraphFile + " in the directory", Hint: "give the directory of a model in Hugging Face layout", Err: ErrNotFound}
	if len(found) > 1 {
		e.Reason = fmt.Sprintf("%d .safetensors files and no %s that binds them", len(found), IndexFile)
		e.Hint = "name one of the files, or restore the index"
		return nil, e
	}
	graphs, err := graphsIn(dir)
	if err != nil {
		return nil, err
	}
	switch {
	case len(graphs) == 1:
		path, home := filepath.Join(dir, graphs[0]), dir
		if inDir(filepath.Dir(path), "config.json") {
			home = filepath.Dir(path)
		}
		return openWith(graphCodec, path, home)
	case len(graphs) > 1:
		e.Reason = fmt.Sprintf("%d ONNX models and none is %s: %s", len(graphs), GraphFile, strings.Join(graphs, ", "))
		e.Hint = "name one of the files"
	case inDir(dir, "pytorch_model.bin"), inDir(dir, "adapter_model.bin"), inDir(dir, "pytorch_model.bin.index.json"):
		e.Reason = "only pickled PyTorch weights (.bin) in the directory"
		e.Hint = "load them in Python and save with save_pretrained(safe_serialization=True); pickles can run code and are not read"
	}
	return nil, e
}

func inDir(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// graphsIn lists the ONNX models that a model's directory may mean, relative to it:
// model.onnx alone where there is one, else all. They lie in the directory or, as
// many exporters and the models of the hub have it, in its folder onnx.
func graphsIn(dir string) ([]string, error) {
	var all []string
	for _, sub := range []string{"", graphFolder} {
		found, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(dir, sub)), "*"+graphExt))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() { // or a link to nowhere
				continue
			}
			rel := filepath.Join(sub, filepath.Base(path))
			if filepath.Base(path) == GraphFile {
				return []string{rel}, nil
			}
			all = append(all, rel)
		}
	}
	slices.Sort(all)
	return all, nil
}

// homeOf is the directory with the configuration and tokenizer of a model that is
// one file: the file's own, or the one above a folder onnx that has no
// configuration.
func homeOf(path string) string {
	dir := filepath.Dir(path)
	if abs, err := filepath.Abs(dir); err == nil && filepath.Base(abs) == graphFolder && !inDir(dir, "config.json") {
		if above := filepath.Join(dir, ".."); inDir(above, "config.json") {
			return above
		}
	}
	return dir
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(s)
}
