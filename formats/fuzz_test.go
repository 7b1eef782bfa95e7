package formats

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// FuzzIndex: any index beside two good shards is an error or a checkpoint whose
// every tensor is in the shard that the index says.
func FuzzIndex(f *testing.F) {
	for _, s := range []string{
		`{"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}`,
		`{"metadata": {"total_size": 1.6e1}, "weight_map": {"a": "1.safetensors"}}`,
		`{"weight_map": {"a": "../1.safetensors"}}`, `{"weight_map": {"a": ""}}`, `{"weight_map": {"a": "."}}`, `{"weight_map": []}`, `{}`, `null`, ``,
		`{"metadata": {"total_size": "x"}, "weight_map": {"a": "2.safetensors", "a": "1.safetensors"}}`,
	} {
		f.Add([]byte(s))
	}
	shards := map[string][]byte{}
	for name, tensors := range map[string]string{"1.safetensors": "a", "2.safetensors": "b"} {
		h := safetensors.Header{Tensors: []safetensors.Entry{{Name: tensors, DType: tensor.F32, Shape: []int{2}}}}
		if _, err := h.Layout(); err != nil {
			f.Fatal(err)
		}
		shards[name] = append(h.Encode(), make([]byte, 8)...)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for name, data := range shards {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, IndexFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(dir)
		if err != nil {
			return
		}
		defer c.Close()
		for _, x := range c.Tensors() {
			if shard := c.Index().Shard[x.Name]; shard != filepath.Base(c.Files()[x.File].Path) {
				t.Errorf("%s is in %s, the index says %q", x.Name, c.Files()[x.File].Path, shard)
			}
		}
	})
}
