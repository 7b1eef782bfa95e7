package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestDocumentedCommands: every command line in the README, the documents and the
// help texts parses: its command, arguments and flags exist. Whole lines must also
// have what the command requires; a mention within a sentence may leave it out.
func TestDocumentedCommands(t *testing.T) {
	lines, mentions := 0, 0
	check := func(where, line string, whole bool) {
		a := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
		root := newRoot(a)
		c, rest, err := root.Find(joinInit(shellWords(line)))
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err == nil && c == root && c.Flags().NArg() > 0 {
			err = parent(c, c.Flags().Args())
		}
		if whole && err == nil {
			if err = c.ValidateArgs(c.Flags().Args()); err == nil {
				err = c.ValidateRequiredFlags()
			}
			if err == nil {
				err = c.ValidateFlagGroups()
			}
		}
		if err != nil {
			t.Errorf("%s: lsrsurgeon %s: %v", where, line, err)
		}
	}
	inline := regexp.MustCompile("`lsrsurgeon ([^`]*)`")
	command := regexp.MustCompile(`(?:^|[^-a-z] |/)lsrsurgeon (.*)$`)
	for _, path := range documents(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		for line := range strings.Lines(string(b)) {
			indented := strings.HasPrefix(line, "    ")
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "```"):
				fenced = !fenced
			case (fenced || indented) && !strings.HasPrefix(line, "go "):
				for part := range strings.SplitSeq(line, " && ") {
					if m := command.FindStringSubmatch(part); m != nil {
						check(path, m[1], true)
						lines++
					}
				}
			default:
				for _, m := range inline.FindAllStringSubmatch(line, -1) {
					if !strings.Contains(m[1], "...") && !strings.Contains(m[1], " N ") { // which stand for several commands
						check(path, m[1], false)
						mentions++
					}
				}
			}
		}
	}
	var examples func(c *cobra.Command)
	examples = func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			if m := command.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				check(c.CommandPath()+" --help", m[1], true)
				lines++
			}
		}
		for _, sub := range c.Commands() {
			examples(sub)
		}
	}
	examples(newRoot(newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})))
	if lines < 50 || mentions < 1 {
		t.Errorf("%d lines and %d mentions were found: the search misses some", lines, mentions)
	}
}

// documents lists the README and all documents.
func documents(t *testing.T) []string {
	t.Helper()
	root := testkit.RepoRoot(t)
	paths := []string{filepath.Join(root, "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(p) == ".md" {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// shellWords cuts a command line at spaces outside of quotes, up to a comment, a
// pipe or a redirection.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	end := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ':
			end()
		case !open && (r == '#' || r == '|' || r == '>' || r == ';' || r == '&'):
			return words
		default:
			word.WriteRune(r)
			open = true
		}
	}
	end()
	return words
}

// TestDocumentedRecipes: the recipes and studies of docs/recipes.md are what the program
// takes, to the last flag.
func TestDocumentedRecipes(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.RepoRoot(t), "docs", "recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := copyModel(filepath.Join("demo-files", "base")); err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile("(?s)```yaml\n# (\\w+)\\.yaml\n(.*?)```").FindAllSubmatch(b, -1)
	if len(files) != 2 {
		t.Fatalf("%d files were found", len(files))
	}
	for _, f := range files {
		name := string(f[1]) + ".yaml"
		if err := os.WriteFile(name, f[2], 0o666); err != nil {
			t.Fatal(err)
		}
		command := map[string]string{"recipe.yaml": "run", "study.yaml": "study"}[name]
		var out, stderr bytes.Buffer
		if code := run([]string{command, name, "--dry-run"}, strings.NewReader(""), &out, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d: %s", name, code, stderr.String())
		}
		if n := strings.Count(out.String(), "\n"); n != map[string]int{"run": 4, "study": 2 * 4 * 3}[command] {
			t.Errorf("%s: %d lines:\n%s", name, n, out.String())
		}
	}
}
