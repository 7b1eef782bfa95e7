package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMeanPooled(t *testing.T) {
	for config, want := range map[string]bool{
		`{"word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}`: true,
		`{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}`:                                  false,
		`{`: false,
		"":  false, // no such file
	} {
		dir := t.TempDir()
		if config != "" {
			if err := os.Mkdir(filepath.Join(dir, "1_Pooling"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "1_Pooling", "config.json"), []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := meanPooled(dir); got != want {
			t.Errorf("%q: %v, want %v", config, got, want)
		}
	}
}
