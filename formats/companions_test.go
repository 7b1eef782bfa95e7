package formats

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompanions(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.json":           "{}",
		"LICENSE":               "free",
		"1_Pooling/config.json": "{}",
		"1_Pooling/.hidden":     "x",
		".cache/file":           "x",
		"pytorch_model.bin":     "x",
		"model_old.safetensors": "x",
		"tf.h5":                 "x",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "model.safetensors"), map[string]int{"w": 4}, "w")
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.json")); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	if err := os.Symlink("LICENSE", filepath.Join(dir, "linked.txt")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path        string
		files, left []string
	}{
		{dir, []string{"1_Pooling/config.json", "LICENSE", "config.json", "linked.txt"},
			[]string{"1_Pooling/.hidden", "dangling.json", "model_old.safetensors", "pytorch_model.bin", "tf.h5"}},
		{filepath.Join(dir, "model.safetensors"), []string{"config.json"},
			[]string{"LICENSE", "dangling.json", "linked.txt", "model_old.safetensors", "pytorch_model.bin", "tf.h5"}},
	} {
		ck, err := Open(c.path)
		if err != nil {
			t.Fatal(err)
		}
		files, left, err := ck.Companions()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range files {
			names = append(names, filepath.ToSlash(f.Path))
			st, err := os.Stat(filepath.Join(dir, f.Path))
			if err != nil || f.Size != st.Size() || f.Mode != st.Mode().Perm() {
				t.Errorf("%s: %d bytes, mode %v; want those of the file", f.Path, f.Size, f.Mode)
			}
		}
		for i := range left {
			left[i] = filepath.ToSlash(left[i])
		}
		slices.Sort(names)
		slices.Sort(left)
		if d := cmp.Diff(c.files, names) + cmp.Diff(c.left, left); d != "" {
			t.Errorf("%s:\n%s", c.path, d)
		}
		ck.Close()
	}
}
