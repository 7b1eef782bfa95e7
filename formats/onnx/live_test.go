package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLive rewrites every model of the shared data with a change, an unused
// initializer and a metadata entry, and has onnx.checker and ONNX Runtime judge
// that it is the same model; onnx's values of all initializers are compared with
// those read here.
func TestLive(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has onnx and onnxruntime")
	}
	dir := t.TempDir()
	var list strings.Builder
	models := map[string]*Model{}
	for i, path := range sharedModels(t) {
		m, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		models[path] = m
		fmt.Fprintf(&list, "%s\t%s\n", path, rewrite(t, m, filepath.Join(dir, fmt.Sprint(i))))
	}
	file := filepath.Join(dir, "list")
	if err := os.WriteFile(file, []byte(list.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, filepath.Join("testdata", "judge.py"), file)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	compared, done := 0, ""
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch f[0] {
		case "BAD":
			t.Error(f[1])
		case "DONE":
			done = line
		case "T":
			compared++
			m := models[f[1]]
			b, err := m.Data(m.Graph.Initializer(f[2]))
			if err != nil {
				t.Fatal(err)
			}
			if h := sha256.Sum256(b); hex.EncodeToString(h[:]) != f[3] {
				t.Errorf("%s: %s differs from onnx's value", f[1], f[2])
			}
		}
	}
	var pairs, checked, ran int
	if _, err := fmt.Sscanf(done, "DONE\t%d\t%d\t%d", &pairs, &checked, &ran); err != nil || pairs != len(models) || checked < pairs*3/4 || ran < pairs/2 || compared < 50 {
		t.Errorf("%d models: %q, %d initializers compared, %v", len(models), done, compared, err)
	}
	t.Logf("%d models, %d valid, %d run, %d initializers compared", pairs, checked, ran, compared)
}

// rewrite writes an edited copy into dir with its external data.
func rewrite(t *testing.T, m *Model, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	e := NewEdit(m)
	e.AddMetadata("lsrsurgeon.test", "1")
	if m.IRVersion >= 4 { // before it every initializer had to be an input
		e.AddInitializer(NewTensor("lsrsurgeon.test", Float, []int{2}, f32(1, 2)))
	}
	out, err := e.Plan("m.onnx", 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "m.onnx")
	if err := os.WriteFile(path, write(t, &out.Files[0]), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range m.ExternalFiles() {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(m.Path), name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
