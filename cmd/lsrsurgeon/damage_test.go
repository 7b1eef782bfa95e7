package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call runs the program within the test.
func call(args ...string) (code int, stdout, stderr string) {
	var out, errw bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errw)
	return code, out.String(), errw.String()
}

// TestDamagedInputs flips bits of good files, one at a time, and cuts
// files short (package formats does it a thousand times over): the program reads what is still a checkpoint, or refuses it with
// code 3, one error line that names the file, and no output.
func TestDamagedInputs(t *testing.T) {
	dir := t.TempDir()
	base, ad := filepath.Join(dir, "base"), filepath.Join(dir, "a")
	if err := copyModel(base); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call("inject", base, "-o", ad, "--target", "q_proj", "--layers", "0", "--init", "paper"); code != 0 {
		t.Fatal(stderr)
	}
	victims := []struct {
		path string
		args []string
	}{
		{filepath.Join(base, "model.safetensors"), []string{"inspect", "tensors", base}},
		{filepath.Join(ad, "adapter_model.safetensors"), []string{"inspect", "adapter", ad}},
		{filepath.Join(ad, "adapter_config.json"), []string{"inspect", "adapter", ad}},
		{filepath.Join(base, "config.json"), []string{"inspect", "layers", base}},
		{filepath.Join(ad, "adapter_model.safetensors"), []string{"merge", ad, "-o", filepath.Join(dir, "out"), "--quiet", "--workers", "1"}},
	}
	r := rand.New(rand.NewPCG(9, 10))
	refused := 0
	for i := range 250 {
		v := victims[i%len(victims)]
		good := readAll(t, v.path)
		bad := bytes.Clone(good)
		what := "bit"
		if i%10 == 9 {
			bad, what = bad[:r.IntN(len(bad))], "cut"
		} else {
			bit := r.IntN(8 * min(len(bad), 8000)) // the header and some data
			bad[bit/8] ^= 1 << (bit % 8)
		}
		if err := os.WriteFile(v.path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := call(v.args...)
		if code != 0 {
			refused++
		}
		judgeRefusal(t, what, v.path, v.args, code, stderr)
		if code != 0 && exists(filepath.Join(dir, "out")) {
			t.Errorf("%s of %s: an output in spite of the error", what, v.path)
		}
		if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(v.path, good, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if refused < 75 {
		t.Errorf("only %d of 250 damaged files were refused", refused)
	}
}

func judgeRefusal(t *testing.T, what, path string, args []string, code int, stderr string) {
	t.Helper()
	if code == 0 {
		return
	}
	errors := 0
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "lsrsurgeon: error: ") {
			errors++
		}
	}
	// A flipped name of a base model is a mistake of the command line's kind.
	if code != exitRefused && code != exitUsage || errors != 1 || strings.Contains(stderr, "goroutine ") {
		t.Errorf("%s of %s, %v: code %d\n%s", what, path, args, code, stderr)
	}
	if name := filepath.Base(path); !strings.Contains(stderr, name) && !strings.Contains(stderr, filepath.Base(filepath.Dir(path))) && !strings.Contains(stderr, "hint") {
		t.Errorf("%s of %s, %v: the error names neither file nor remedy\n%s", what, path, args, stderr)
	}
}
