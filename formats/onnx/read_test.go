package onnx

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// sharedModels lists the ONNX models of the shared data, by path.
func sharedModels(t testing.TB) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(testkit.Shared(t, "data"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".onnx" && filepath.Base(filepath.Dir(path)) != "lfs-pointer" {
			list = append(list, path)
		}
		return err
	})
	if err != nil || len(list) < 250 {
		t.Fatalf("%d models, %v", len(list), err)
	}
	return list
}

func TestReadShared(t *testing.T) {
	for _, path := range sharedModels(t) {
		m, err := Open(path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		err = m.EachTensor(func(x *Tensor) error {
			if x.Type == String {
				s, err := m.Strings(x)
				if int64(len(s)) != x.Elements() {
					t.Errorf("%s: %s: %d strings for %v", path, x.Name, len(s), x.Dims)
				}
				return err
			}
			b, err := m.Data(x)
			if int64(len(b)) != x.Bytes {
				t.Errorf("%s: %s: %d bytes for %v of %v", path, x.Name, len(b), x.Dims, x.Type)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		m.Close()
	}
}

// TestTruncated: no prefix of a model and no flipped bit makes a panic, and
// every error says that the file is at fault.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"burn-ir-fixtures/constants.onnx", "burn-ir-fixtures/external_data.onnx", "burn-ir-fixtures/branching.onnx"} {
		b, err := os.ReadFile(testkit.Shared(t, "data", "onnx", name))
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, i int, b []byte) {
			m, err := Read(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				err = m.Check()
			}
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("%s: %s %d: %v", name, what, i, err)
			}
		}
		for i := range b {
			try("prefix", i, b[:i])
			for k := range 8 {
				c := bytes.Clone(b)
				c[i] ^= 1 << k
				try("bit", 8*i+k, c)
			}
		}
	}
}
