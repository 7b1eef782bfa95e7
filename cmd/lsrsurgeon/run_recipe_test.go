package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
)

// Every flag that recipes treat as a file, or as one without effect on results, is there:
// a flag that is renamed does not stop being watched unnoticed.
func TestRecipeFlags(t *testing.T) {
	found := map[string]bool{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.InheritedFlags()
		c.Flags().VisitAll(func(f *pflag.Flag) { found[f.Name], found[c.Name()+" "+f.Name] = true, true })
		for _, s := range c.Commands() {
			visit(s)
		}
	}
	visit(newRoot(newApp(strings.NewReader(""), discard{}, discard{})))
	for _, name := range slices.Concat(inputFlags, outputFlags, keyFree) {
		if !found[name] {
			t.Errorf("no command has the flag %s", name)
		}
	}
}

// What a step reads and writes follows from its flags.
func TestPlanStep(t *testing.T) {
	t.Chdir(t.TempDir())
	r, err := recipe.Parse("r", []byte(`version: 1
steps:
- inject: {args: org/model, init: from-lora old/lora, output: ./a/b, into: a/../c}
- predict: {args: run, data: "-"}
  stdout: p.jsonl
- demo: {keep: files}
- convert: {args: run, to: selected-lora, keep: 0.25, output: sel}
- merge: {args: [a, b], weights: "-1,2", manifest: false, output: m}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := planSteps("r", r.Steps)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		shell           string
		inputs, outputs []string
		stdin           bool
	}{
		{"inject org/model --init 'from-lora old/lora' --output ./a/b --into a/../c", []string{"old/lora", "org/model"}, []string{"a/b", "c"}, false},
		{"predict run --data=- > p.jsonl", []string{"run"}, []string{"p.jsonl"}, true},
		{"demo --keep files", nil, []string{"files"}, false},
		{"convert run --to selected-lora --keep 0.25 --output sel", []string{"run"}, []string{"sel"}, false},
		{"merge a b --weights=-1,2 --manifest=false --output m", []string{"a", "b"}, []string{"m"}, false},
	} {
		p := plan[i]
		if p.shell() != "lsrsurgeon "+want.shell || !slices.Equal(p.inputs, want.inputs) || !slices.Equal(p.outputs, want.outputs) || p.stdin != want.stdin {
			t.Errorf("%s\n reads %q, writes %q, stdin %v; want %+v", p.shell(), p.inputs, p.outputs, p.stdin, want)
		}
	}
}

// Two runs of one recipe do not write at the same time, and a journal that cannot be read
// is no reason to write over what is there.
func TestRecipeJournalInUse(t *testing.T) {
	t.Chdir(t.TempDir())
	text := "version: 1\nsteps:\n- version:\n  stdout: out/v.txt\n"
	if err := os.WriteFile("r.yaml", []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	lsrsurgeon := func(args ...string) (int, string) {
		var stderr bytes.Buffer
		code := run(args, strings.NewReader(""), discard{}, &stderr)
		return code, stderr.String()
	}
	if code, e := lsrsurgeon("run", "r.yaml"); code != exitOK || !exists("out/v.txt") {
		t.Fatalf("%d: %s", code, e)
	}
	journal := filepath.Join("out", "r.journal.json")
	lock, err := atomicfile.NewLock(journal)
	if err != nil {
		t.Fatal(err)
	}
	if code, e := lsrsurgeon("run", "r.yaml", "--resume"); code != exitFailed || !strings.Contains(e, "another process is writing") {
		t.Errorf("%d: %s", code, e)
	}
	if code, e := lsrsurgeon("run", "r.yaml", "--resume", "--dry-run"); code != exitOK {
		t.Errorf("to look at it needs no lock: %d: %s", code, e)
	}
	lock.Unlock()
	if err := os.WriteFile(journal, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if code, e := lsrsurgeon("run", "r.yaml", "--resume"); code != exitRefused || !strings.Contains(e, "r.journal.json: it cannot be read") {
		t.Errorf("%d: %s", code, e)
	}
	if code, e := lsrsurgeon("run", "r.yaml"); code != exitUsage || !strings.Contains(e, "exists") {
		t.Errorf("%d: %s", code, e)
	}
	if code, e := lsrsurgeon("run", "r.yaml", "--force"); code != exitOK {
		t.Errorf("%d: %s", code, e)
	}
}

func TestLastLine(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "{}": "", "{}\n": "{}", "{\"a\":1}\n{\"b\":\n2}\n": "", "1\n2\n": "2", "1\n2": "1", "{}\nwords\n": "", "\n\n": "",
	} {
		for _, size := range []int{1, 3, 100} {
			l := &lastLine{}
			for chunk := range slices.Chunk([]byte(text), size) {
				if n, err := l.Write(chunk); n != len(chunk) || err != nil {
					t.Fatal(n, err)
				}
			}
			if got := string(l.document()); got != want {
				t.Errorf("%q by %d: %q, want %q", text, size, got, want)
			}
		}
	}
}
