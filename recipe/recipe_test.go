package recipe

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const good = `# an adapter, trained and merged
version: 1
vars: {model: ./minilm, out: "./out"}
steps:
- name: adapter
  inject:
    args: ["${model}"]
    rank: 2x2
    layers: 8-11
    lr: 1e-3
    override: ['a:rank=4x4', "b:rank=1x1"]
    target: on
    output: ${out}/adapter
- inspect  tensors: {args: "${model}", stats: true}
  stdout: ${out}/$${x}.tsv
- doctor:
`

// Values are what is written: no number is read as another, no word as a truth value.
func TestParse(t *testing.T) {
	r, err := Parse("r.yaml", []byte(good), map[string]string{"model": "m v"})
	if err != nil {
		t.Fatal(err)
	}
	isBool := func(s string) bool { return s == "stats" }
	var lines []string
	for _, s := range r.Steps {
		lines = append(lines, s.Name+": "+ShellLine(s.Words(isBool))+" > "+s.Stdout.Value)
	}
	want := []string{
		"adapter: inject 'm v' --rank 2x2 --layers 8-11 --lr 1e-3 --override a:rank=4x4 --override b:rank=1x1 --target on --output ./out/adapter > ",
		"2 inspect tensors: inspect tensors 'm v' --stats > ./out/${x}.tsv",
		"3 doctor: doctor > ",
	}
	dos, err := Parse("r.yaml", []byte("\ufeff"+strings.ReplaceAll(good, "\n", "\r\n")), map[string]string{"model": "m v"})
	if err != nil || !cmp.Equal(dos, r) {
		t.Errorf("with a byte order mark and \\r\\n: %v %s", err, cmp.Diff(dos, r))
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	if at := r.Steps[0].Flags[1]; at.Name.Pos != (Pos{9, 5}) || at.Values[0].Pos != (Pos{9, 13}) {
		t.Errorf("layers stands at %+v", at)
	}
	if len(r.Unused) != 0 {
		t.Errorf("unused: %v", r.Unused)
	}
}

// Every fault is named with its place.
func TestParseRefuses(t *testing.T) {
	step := "version: 1\nvars: {a: x}\nsteps:\n- inject:\n    "
	for text, want := range map[string]string{
		"":                                  `r.yaml: it is empty`,
		"# nothing\n":                       `r.yaml: it is empty`,
		"- a\n":                             `r.yaml:1:1: a recipe is a list, and a mapping is wanted`,
		"steps: []\n":                       `r.yaml:1:1: it has no version; the first line is "version: 1"`,
		"version: 2\nsteps: []\n":           `r.yaml:1:10: this program reads version 1 of files like this`,
		"version: 1\n":                      `r.yaml:1:1: a recipe has steps, and this file has none`,
		"version: 1\nsteps: []\n":           `r.yaml:2:8: there are no steps`,
		"version: 1\nstep: []\n":            `r.yaml:2:1: a recipe has no key "step"; did you mean steps?`,
		"version: 1\nsteps: x\n":            `r.yaml:2:8: steps is a single value, and a list is wanted`,
		"version: 1\nsteps:\n":              `r.yaml:2:1: steps has no value`,
		"version: 1\nversion: 1\n":          `r.yaml:2:1: mapping key "version" already defined at [1:1]`,
		"version: 1\nsteps:\n- name: x\n":   `r.yaml:3:3: step 1 has no command`,
		"version: 1\nsteps:\n- name: ''\n":  `r.yaml:3:9: a name is not empty`,
		step + "rank: 1\n  merge: {}\n":     `r.yaml:6:3: a step is one command: this one has inject and merge`,
		step + "rank:\n":                    `r.yaml:5:5: rank has no value`,
		step + "rank: ~\n":                  `r.yaml:5:5: rank has no value`,
		step + "rank: []\n":                 `r.yaml:5:11: rank is an empty list`,
		step + "rank: [[1]]\n":              `r.yaml:5:12: rank is a list, and a single value is wanted`,
		step + "rank: {a: 1}\n":             `r.yaml:5:11: rank is a mapping, and a single value is wanted`,
		step + "rank: 1\n    rank: 2\n":     `r.yaml:6:5: mapping key "rank" already defined at [5:5]`,
		step + "1: 1\n":                     `r.yaml:5:5: a key is a name, and 1 is none`,
		step + "args: --rank\n":             `r.yaml:5:11: args are no flags, and "--rank" would be one; flags are keys beside args; a file whose name begins with - is written ./-name`,
		step + "rank: ${b}\n":               `r.yaml:5:11: there is no variable "b" above this place (did you mean "a"?); name it under vars:; a literal ${ is written $${`,
		step + "rank: ${a\n":                `r.yaml:5:11: ${a has no }`,
		step + "args: [${a}]\n":             `r.yaml:5:13: ',' or ']' must be specified; within [ ] and { } a variable stands in quotes: "${name}"`,
		step + "rank: &x 1\n":               `r.yaml:5:11: anchors and aliases are not used here; vars: holds what is needed twice`,
		step + "rank: *x\n":                 `r.yaml:5:11: anchors and aliases are not used here; vars: holds what is needed twice`,
		step + "rank: !!str 1\n":            `r.yaml:5:11: tags are not used here: values are taken as they are written`,
		step + "<<: {a: 1}\n":               `r.yaml:5:5: merge keys are not used here`,
		step + "? a\n    : b\n":             `r.yaml:5:5: keys are plain names; "? " is not used here`,
		step + "rank: 'x\n":                 `r.yaml:5:11: could not find end character of single-quoted text`,
		"version: 1\n---\nversion: 1\n":     `r.yaml:3:1: a second document begins here, and a file is one`,
		"version: 1\nvars: {1x: a}\n":       `r.yaml:2:8: "1x" is no name of a variable: letters, digits, _ and - are`,
		"version: 1\nvars: {b: '${c}'}\n":   `r.yaml:2:11: there is no variable "c" above this place; name it under vars:; a literal ${ is written $${`,
		"a: \xff\n":                         `r.yaml: it is no text in UTF-8`,
		"a: " + strings.Repeat("[", 100000): `r.yaml:1:20: it is nested more than 16 deep`,
		"- " + strings.Repeat("- ", 100000): `r.yaml:1:33: it is nested more than 16 deep`,
		strings.Repeat("#", MaxBytes+1):     `r.yaml: it has 262145 bytes, and 262144 are the most`,
		"version: 1\nsteps:\n- {name: a, doctor: {}}\n- {name: a, version: {}}\n": `r.yaml:4:3: a second step has the name "a"`,
	} {
		_, err := Parse("r.yaml", []byte(text), nil)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrMalformed) {
			t.Errorf("%.80q: %v", text, err)
			continue
		}
		got := e.Error()
		if e.Hint != "" {
			got += "; " + e.Hint
		}
		if got != want {
			t.Errorf("%.80q:\n got %s\nwant %s", text, got, want)
		}
	}
}

// Deep blocks are refused too, and values do not grow without bounds through variables
// of variables.
func TestLimits(t *testing.T) {
	deep := "version: 1\nsteps:\n"
	for i := range 40 {
		deep += strings.Repeat(" ", i+1) + "a:\n"
	}
	if _, err := Parse("r", []byte(deep+strings.Repeat(" ", 41)+"a: 1\n"), nil); err == nil || !strings.Contains(err.Error(), "nested more than 16 deep") {
		t.Error(err)
	}
	bomb := "version: 1\nvars:\n  v0: aaaaaaaaaa\n"
	for i := range 30 {
		bomb += fmt.Sprintf("  v%d: %s\n", i+1, strings.Repeat(fmt.Sprintf("${v%d}", i), 10))
	}
	if _, err := Parse("r", []byte(bomb+"steps:\n- doctor:\n"), nil); err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Error(err)
	}
}

func TestSet(t *testing.T) {
	_, err := Parse("r.yaml", []byte(good), map[string]string{"modle": "x"})
	if !errors.Is(err, ErrVariable) || err.Error() != `r.yaml: it has no variable modle (did you mean "model"?)` {
		t.Error(err)
	}
	r, err := Parse("r.yaml", []byte("version: 1\nvars: {a: x, b: '${a}y', c: z}\nsteps:\n- doctor: {args: '${b}'}\n"), map[string]string{"a": "1"})
	if err != nil || r.Steps[0].Args[0].Value != "1y" || len(r.Unused) != 1 || r.Unused[0].Value != "c" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"a/b-c_d.e,f:g@h%i=j+k": "a/b-c_d.e,f:g@h%i=j+k", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'", "~": "'~'", "*": "'*'", "a\nb": "'a\nb'", "ü": "'ü'",
	} {
		if got := Quote(word); got != want {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
}

// FuzzParse: no text makes the parsers panic, hang or grow, and their errors name a
// place within it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{good, studyText, "version: 1\nsteps: [{doctor: }]\n", "a: |\n  b\n? c\n", "{a: [b, &c d, *c]}", "- - - x\n", "version: 1\nvars: {a: '$${', b: \"\\x41${a}\"}\nsteps: []", "\ta: 'b", "a: !!x {<<: y}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := Parse("x", []byte(s), nil)
		study, err2 := ParseStudy("x", []byte(s), nil)
		if err2 == nil && len(study.Runs()) > MaxRuns {
			t.Fatalf("%d runs", len(study.Runs()))
		}
		for _, err := range []error{err, err2} {
			var e *Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			if e != nil && (e.Pos.Line < 0 || e.Pos.Line > strings.Count(s, "\n")+strings.Count(s, "\r")+1) {
				t.Fatalf("%v: not within the text", err)
			}
		}
	})
}
