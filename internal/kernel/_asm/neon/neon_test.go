package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestGenerated wants the files in package kernel to be what this program writes.
func TestGenerated(t *testing.T) {
	assembly, declarations := generate("kernel")
	for name, want := range map[string][]byte{"neon_arm64.s": assembly, "neon_arm64.go": declarations} {
		got, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate in internal/kernel", name)
		}
	}
}

// TestDisassembly compares every word with its comment by GNU's disassembler.
func TestDisassembly(t *testing.T) {
	objdump, err := exec.LookPath("aarch64-linux-gnu-objdump")
	if err != nil {
		t.Skip("no aarch64-linux-gnu-objdump here; Debian's package is binutils-aarch64-linux-gnu")
	}
	assembly, _ := generate("kernel")
	var words []byte
	var comments []string
	for line := range bytes.Lines(assembly) {
		word, comment, ok := strings.Cut(strings.TrimSpace(string(line)), " // ")
		if !ok || !strings.HasPrefix(word, "WORD $0x") {
			continue
		}
		w, err := strconv.ParseUint(strings.TrimPrefix(word, "WORD $"), 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		words = binary.LittleEndian.AppendUint32(words, uint32(w))
		comments = append(comments, comment)
	}
	if len(comments) < 1000 {
		t.Fatalf("only %d words found", len(comments))
	}
	file := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(file, words, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "aarch64", "-z", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "\t", 3) // address, word, instruction
		if len(f) != 3 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		got, _, _ := strings.Cut(strings.ReplaceAll(f[2], "\t", " "), " //")
		if i < len(comments) && got != comments[i] {
			t.Errorf("word %s is %q, not %q", strings.TrimSpace(f[1]), got, comments[i])
		}
		i++
	}
	if i != len(comments) {
		t.Fatalf("%d words disassembled, want %d", i, len(comments))
	}
}
