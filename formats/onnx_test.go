package formats

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

func openShared(t *testing.T, elems ...string) *Checkpoint {
	t.Helper()
	c, err := Open(testkit.Shared(t, append([]string{"data", "onnx"}, elems...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestONNX: initializers in the file, in other files, and as lists of numbers.
// The values are those of the generating script, burn-onnx's external_data.py and
// data_types.py, as onnx reads them.
func TestONNX(t *testing.T) {
	c := openShared(t, "burn-ir-fixtures", "mixed_data.onnx")
	if c.Format() != FormatONNX || len(c.Files()) != 2 || filepath.Base(c.Files()[1].Path) != "mixed_data.bin" {
		t.Errorf("format %s, files %+v", c.Format(), c.Files())
	}
	for _, x := range c.Tensors() {
		b, err := c.Bytes(x)
		if err != nil || int64(len(b)) != x.Bytes {
			t.Errorf("%s: %d bytes of %d, %v", x.Name, len(b), x.Bytes, err)
		}
		if x.DType == tensor.F32 {
			f := make([]float32, x.Elements())
			if err := c.ReadF32(x, 0, x.Elements(), f); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := c.Fingerprint(); err != nil {
		t.Error(err)
	}
	if k := c.Tensors()[slices.IndexFunc(c.Tensors(), func(x Tensor) bool { return x.File == 1 })]; !k.InFile() || k.DType != tensor.F32 {
		t.Errorf("external %+v", k)
	}
}

func TestONNXExternalFiles(t *testing.T) {
	c := openShared(t, "burn-ir-fixtures", "multi_external_files.onnx")
	var names []string
	for _, f := range c.Files() {
		names = append(names, filepath.Base(f.Path))
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "multi_external_bias.bin multi_external_files.onnx multi_external_weights.bin" {
		t.Error(got)
	}
}

func TestONNXRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.onnx")
	for text, want := range map[string]string{
		"":                           "the file is empty",
		"\x3a\x05\x0a":               "reaches beyond its message",
		"\x3a\x06\x0a\x04\x22\x02If": "",
		// a node "n" that reads "w", which nothing makes
		"\x3a\x0f\x0a\x0d\x0a\x01w\x12\x01y\x1a\x01n\x22\x02If": `node n: its input "w" is not defined`,
		// an initializer "w" of shape [2] with one byte
		"\x3a\x0c\x2a\x0a\x08\x02\x10\x02\x42\x01w\x4a\x01\x00": `tensor "w": 1 bytes of data`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		c, err := Open(path)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			} else {
				c.Close()
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) || e.Path != path || e.Hint == "" {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := Open(testkit.Shared(t, "data", "malformed", "lfs-pointer", "resnet18_dynamo.onnx")); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "Git LFS pointer") {
		t.Errorf("a pointer: %v", err)
	}
}

// TestONNXDirectory: a directory without .safetensors files is that of its ONNX
// model, which may lie in its folder onnx; several without a model.onnx are
// refused by name.
func TestONNXDirectory(t *testing.T) {
	graph := []byte("\x3a\x06\x0a\x04\x22\x02If")
	dir := t.TempDir()
	at := func(files ...string) string {
		d := filepath.Join(dir, strings.ReplaceAll(strings.Join(files, "+"), "/", ":"))
		for _, f := range files {
			save(t, filepath.Join(d, f), graph)
		}
		return d
	}
	for _, x := range []struct {
		dir, file, home string
	}{
		{at("model.onnx"), "model.onnx", ""},
		{at("other.onnx"), "other.onnx", ""},
		{at("model.onnx", "model_quantized.onnx", "config.json"), "model.onnx", ""},
		{at("onnx/model.onnx", "onnx/model_fp16.onnx", "config.json"), "onnx/model.onnx", ""},
		{at("onnx/decoder.onnx", "tokenizer.json"), "onnx/decoder.onnx", ""},
		{at("onnx/model.onnx", "onnx/config.json", "config.json"), "onnx/model.onnx", "onnx"},
		{at("model.onnx", "onnx/model.onnx", "pytorch_model.bin"), "model.onnx", ""},
	} {
		c, err := Open(x.dir)
		if err != nil {
			t.Errorf("%s: %v", x.dir, err)
			continue
		}
		if c.Format() != FormatONNX || c.Path() != filepath.Join(x.dir, x.file) || c.Dir() != filepath.Join(x.dir, x.home) {
			t.Errorf("%s: %s, %s in %s", x.dir, c.Format(), c.Path(), c.Dir())
		}
		c.Close()
	}
	both := at("model.onnx", "README.md")
	write(t, filepath.Join(both, ModelFile), map[string]int{"a": 2}, "a")
	if c, err := Open(both); err != nil || c.Format() != "safetensors" {
		t.Errorf("safetensors and onnx: %v", err)
	} else {
		c.Close()
	}
	for d, want := range map[string]string{
		at("encoder.onnx", "decoder.onnx", "onnx/a.onnx"): "3 ONNX models and none is model.onnx: decoder.onnx, encoder.onnx, " + filepath.Join("onnx", "a.onnx"),
		at("README.md"):         "no model.safetensors, model.safetensors.index.json or model.onnx",
		at("pytorch_model.bin"): "pickled",
	} {
		var e *Error
		if _, err := Open(d); !errors.As(err, &e) || !errors.Is(err, ErrNotFound) || !strings.Contains(e.Reason, want) || e.Path != d || e.Hint == "" {
			t.Errorf("%s: %v, want %q", d, err, want)
		}
	}
	// A file of the folder has the configuration above it.
	d := at("config.json", "onnx/model_fp16.onnx")
	c, err := Open(filepath.Join(d, "onnx", "model_fp16.onnx"))
	if err != nil || c.Dir() != d {
		t.Errorf("configuration in %s, want %s; %v", c.Dir(), d, err)
	}
}
