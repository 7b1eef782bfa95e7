package text

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

var benchKinds = []string{"bert-base-uncased", "gpt2", "phi-3-mini-llama-style", "qwen2.5"}

// BenchmarkCompile is the cost of the first use on a machine.
func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := compileCached(context.Background(), moduleBytes, b.TempDir(), 1024); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is the cost of the module in each later process.
func BenchmarkOpen(b *testing.B) {
	ctx, dir := context.Background(), b.TempDir()
	if _, err := compileCached(ctx, moduleBytes, dir, 1024); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := compileCached(ctx, moduleBytes, dir, 1024); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad is the cost of a tokenizer once the module is there.
func BenchmarkLoad(b *testing.B) {
	for _, kind := range benchKinds {
		b.Run(kind, func(b *testing.B) {
			dir := testkit.Shared(b, "data", "tokenizers", kind)
			for b.Loop() {
				tok, err := Load(dir, Options{CacheDir: cacheDir})
				if err != nil {
					b.Fatal(err)
				}
				tok.Close()
			}
		})
	}
}

// BenchmarkEncode encodes 256 KiB of English, line by line.
func BenchmarkEncode(b *testing.B) {
	data, err := os.ReadFile(filepath.Join(testkit.Shared(b, "data", "lm", "tinyshakespeare"), "input.txt"))
	if err != nil {
		b.Fatal(err)
	}
	var inputs []Input
	for _, line := range strings.Split(string(data[:256<<10]), "\n") {
		inputs = append(inputs, Input{Text: line})
	}
	for _, kind := range benchKinds {
		for _, workers := range []int{1, 2} {
			name := kind + map[int]string{1: "/one", 2: "/two"}[workers]
			b.Run(name, func(b *testing.B) {
				dir := testkit.Shared(b, "data", "tokenizers", kind)
				tok, err := Load(dir, Options{CacheDir: cacheDir, Workers: workers})
				if err != nil {
					b.Fatal(err)
				}
				defer tok.Close()
				b.SetBytes(256 << 10)
				for b.Loop() {
					if _, err := tok.EncodeBatch(b.Context(), inputs, EncodeOptions{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
