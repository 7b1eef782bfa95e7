package model

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzReadConfig: any config.json is refused, or describes a model of a positive
// size.
func FuzzReadConfig(f *testing.F) {
	for _, s := range []string{
		`{"model_type": "bert", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 36, "vocab_size": 50, "max_position_embeddings": 16}`,
		`{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 172, "vocab_size": 512, "rope_scaling": {"type": "linear", "factor": 2}}`,
		`{"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16}`,
		`{"model_type": "bert", "hidden_size": -1}`, `{"model_type": 3}`, `{"architectures": null}`, `{}`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := ReadConfig(dir); err == nil && (c.HiddenSize <= 0 || c.Layers <= 0 || c.Heads <= 0 || c.VocabSize <= 0) {
			t.Errorf("%+v", c)
		}
	})
}
