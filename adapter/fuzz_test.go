package adapter_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// Any configuration beside good tensors: an error or an adapter whose tensors
// have the sizes that it says, never a panic.
func FuzzLoadConfig(f *testing.F) {
	sites := robertaSites(1, 24, 36)
	var tensors [][]byte
	for _, method := range adapter.Methods() {
		c := config(method)
		if method == adapter.MethodKAdaptation {
			c.Terms = 4
		}
		a := randomised(f, sites, c)
		dir := filepath.Join(f.TempDir(), method)
		if err := a.Save(dir, false); err != nil {
			f.Fatal(err)
		}
		for _, name := range []string{adapter.ConfigFile, formats.AdapterFile} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				f.Fatal(err)
			}
			if name == adapter.ConfigFile {
				f.Add(b)
			} else {
				tensors = append(tensors, b)
			}
		}
	}
	for _, s := range []string{"", "{}", "[]", "null", `{"peft_type": 3}`, `{"peft_type": "LORA", "target_modules": ["query"], "r": 8.5}`,
		`{"peft_type": "LORA", "target_modules": ".*(query|value)", "rank_pattern": {"query": 1e9}}`,
		`{"peft_type": "LOKR", "target_modules": "all-linear"}`, `{"peft_type": "LORA", "peft_type": "LORA"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ts := range tensors {
			dir := t.TempDir()
			for name, data := range map[string][]byte{adapter.ConfigFile: b, formats.AdapterFile: ts} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, base := range [][]adapter.Site{nil, sites} {
				a, err := adapter.Load(dir, base)
				if err != nil {
					continue
				}
				if _, err := a.Deltas(); err != nil && !errors.Is(err, adapter.ErrNoDelta) {
					t.Errorf("loaded, but %v", err)
				}
			}
		}
	})
}
