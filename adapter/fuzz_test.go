package adapter_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
)

// Any configuration beside good tensors: an error or an adapter whose tensors
// have the sizes that it says, never a panic.
func FuzzLoadConfig(f *testing.F) {
	sites := robertaSites(1, 24, 36)
	// Good adapters, of which only the configuration changes, by peft_type.
	dirs := map[string][]string{}
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
		b, err := os.ReadFile(filepath.Join(dir, adapter.ConfigFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		k, err := adapter.Lookup(method)
		if err != nil {
			f.Fatal(err)
		}
		dirs[k.PEFTType()] = append(dirs[k.PEFTType()], dir)
	}
	for _, s := range []string{"", "{}", "[]", "null", `{"peft_type": 3}`, `{"peft_type": "LORA", "target_modules": ["query"], "r": 8.5}`,
		`{"peft_type": "LORA", "target_modules": ".*(query|value)", "rank_pattern": {"query": 1e9}}`,
		`{"peft_type": "LOKR", "target_modules": "all-linear"}`, `{"peft_type": "LORA", "peft_type": "LORA"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, dir := range tried(dirs, b) {
			if err := os.WriteFile(filepath.Join(dir, adapter.ConfigFile), b, 0o600); err != nil {
				t.Fatal(err)
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

// tried are the adapters of the kinds that a configuration names: the others it can only be
// refused for. LoRA's stand for those of no kind.
func tried(dirs map[string][]string, config []byte) []string {
	var all []string
	for kind, d := range dirs {
		if bytes.Contains(config, []byte(`"`+kind+`"`)) {
			all = append(all, d...)
		}
	}
	if all == nil {
		return dirs["LORA"]
	}
	return all
}
