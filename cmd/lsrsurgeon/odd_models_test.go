package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/synthetic"
)

// inProcess runs a command line within this process.
func inProcess(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// TestModelOfZeros: what has no size relative to nothing is null, not an error of the
// encoder, and a model of other sizes is no merge of a base.
func TestModelOfZeros(t *testing.T) {
	dir := t.TempDir()
	zeros, ad, base, small := filepath.Join(dir, "zeros"), filepath.Join(dir, "ad"), filepath.Join(dir, "base"), filepath.Join(dir, "small")
	if err := synthetic.Write(zeros, "minilm"); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := inProcess("inject", zeros, "-o", ad, "--target", "query", "--layers", "0", "--init", "paper", "--terms", "1"); code != exitOK {
		t.Fatal(errs)
	}
	code, out, errs := inProcess("inspect", "adapter", ad, "--json")
	if code != exitOK {
		t.Fatal(errs)
	}
	var got struct{ Modules []adapterRow }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Modules) != 1 || got.Modules[0].RelativeNorm != nil || got.Modules[0].Norm <= 0 {
		t.Errorf("modules %+v", got.Modules)
	}

	if err := copyModel(base); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := inProcess("inject", base, "-o", small, "--target", "q_proj", "--layers", "0", "--task-type", "none"); code != exitOK {
		t.Fatal(errs)
	}
	code, _, errs = inProcess("verify", zeros, "--against", base, "--adapter", small)
	if code != exitRefused || !strings.Contains(errs, "no merge of these") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
