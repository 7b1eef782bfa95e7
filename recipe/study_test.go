package recipe

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const studyText = `version: 1
vars: {model: m}
model: ${model}
output: ./out/
inject: {target: q, rank: 8}
train: {task: lm, data: d, lr: 1e-3}
configs:
- name: lora
  inject: {method: lora}
- inject: {method: lsr, rank: 2x2}
  train: {lr: 2e-3}
grid:
  inject: {alpha: [1, 2]}
  train: {steps: [10, 20]}
seeds: [0, 7]
`

// Every configuration meets every combination of the grid and every seed; what a
// configuration gives goes before what all have.
func TestStudy(t *testing.T) {
	s, err := ParseStudy("s.yaml", []byte(studyText), nil)
	if err != nil {
		t.Fatal(err)
	}
	var slugs []string
	for _, c := range s.Configs {
		slugs = append(slugs, c.Slug)
	}
	want := []string{
		"lora_alpha-1_steps-10", "lora_alpha-1_steps-20", "lora_alpha-2_steps-10", "lora_alpha-2_steps-20",
		"method-lsr_rank-2x2_lr-2e-3_alpha-1_steps-10", "method-lsr_rank-2x2_lr-2e-3_alpha-1_steps-20", "method-lsr_rank-2x2_lr-2e-3_alpha-2_steps-10", "method-lsr_rank-2x2_lr-2e-3_alpha-2_steps-20",
	}
	if d := cmp.Diff(want, slugs); d != "" {
		t.Error(d)
	}
	runs := s.Runs()
	if len(runs) != 16 {
		t.Fatalf("%d runs", len(runs))
	}
	none := func(string) bool { return false }
	r := runs[15]
	dir := filepath.Join("out", want[7])
	for _, c := range []struct{ got, want string }{
		{ShellLine(r.Inject.Words(none)), "inject m --target q --method lsr --rank 2x2 --alpha 2 --seed 7 --output " + filepath.Join(dir, "adapter-7")},
		{ShellLine(r.Train.Words(none)), "train " + filepath.Join(dir, "adapter-7") + " --task lm --data d --lr 2e-3 --steps 20 --seed 7 --output " + filepath.Join(dir, "seed-7")},
		{r.Dir, filepath.Join(dir, "seed-7")},
		{r.Train.Name, want[7] + ", seed 7: train"},
	} {
		if c.got != c.want {
			t.Errorf("%s\nwant %s", c.got, c.want)
		}
	}
	if runs[1].Config != 0 || runs[1].Seed != 7 || runs[2].Config != 1 {
		t.Errorf("order: %+v", runs[:3])
	}
}

func TestStudyRefuses(t *testing.T) {
	head := "version: 1\nmodel: m\noutput: o\n"
	for text, want := range map[string]string{
		"version: 1\noutput: o\nseeds: [1]\n":                              `s:1:1: a study has model, and this file has none`,
		"version: 1\nmodel: m\nseeds: [1]\n":                               `s:1:1: a study has output, and this file has none`,
		"version: 1\nmodel: m\noutput: ''\n":                               `s:3:9: output is empty`,
		head:                                                               `s:1:1: a study has seeds, and this file has none; "seeds: [0, 1, 2]" are three runs of each configuration`,
		head + "seeds: 3\n":                                                `s:4:8: seeds is a single value, and a list is wanted`,
		head + "seeds: []\n":                                               `s:4:8: there are no seeds`,
		head + "seeds: [1, -1]\n":                                          `s:4:12: "-1" is no seed: seeds are whole numbers from 0 up`,
		head + "seeds: [1, 2, 1]\n":                                        `s:4:15: the seed 1 stands here a second time`,
		head + "seeds: [1]\nconfigs: []\n":                                 `s:5:10: there are no configs`,
		head + "seeds: [1]\nconfigs: [{}, {}]":                             `s:5:15: this configuration is the same as that of line 5`,
		head + "seeds: [1]\nconfigs:\n- name: a/b\n":                       `s:6:9: the name "a/b" would name a directory: use letters, digits and . _ + = -`,
		head + "seeds: [1]\nconfigs:\n- name: ..\n":                        `s:6:9: the name ".." would name a directory: use letters, digits and . _ + = -`,
		head + "seeds: [1]\nconfigs:\n- rank: 4\n":                         `s:6:3: a configuration has no key "rank"`,
		head + "seeds: [1]\ninject: {output: x}\n":                         `s:5:10: output has no place in inject of a study: output: of the study gives it`,
		head + "seeds: [1]\ntrain: {args: x}\n":                            `s:5:9: the arguments of train are model: and what inject writes`,
		head + "seeds: [1]\ngrid: {train: {seed: [1, 2]}}\n":               `s:5:16: seed has no place in train of a study: seeds: gives it`,
		head + "seeds: [1]\ngrid: {lr: [1]}\n":                             `s:5:8: grid has no key "lr"`,
		head + "seeds: [1]\ntrain: {lr: 1}\ngrid: {train: {lr: [1, 2]}}\n": `s:6:16: the grid's lr is given elsewhere too`,
		head + "seeds: [1]\nconfigs: [{inject: {rank: 1}}]\ngrid: {inject: {rank: [2]}}\n": `s:6:17: the grid's rank is given elsewhere too`,
	} {
		_, err := ParseStudy("s", []byte(text), nil)
		if err == nil || err.Error() != want || !errors.Is(err, ErrMalformed) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
	var grid strings.Builder // 2^30 runs are refused before they are listed
	grid.WriteString(head + "seeds: [1]\ngrid:\n  train:\n")
	for i := range 30 {
		fmt.Fprintf(&grid, "    f%d: [1, 2]\n", i)
	}
	if _, err := ParseStudy("s", []byte(grid.String()), nil); err == nil || err.Error() != "s: it has more than 1000 runs" {
		t.Error(err)
	}
}

// Directories are distinct and short, whatever the settings look like.
func TestSlugs(t *testing.T) {
	text := "version: 1\nmodel: m\noutput: o\nseeds: [1]\ngrid:\n  inject:\n    target: [a/b, a-b, A-B, " + strings.Repeat("x", 300) + ", '../..']\n"
	s, err := ParseStudy("s", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range s.Configs {
		low := strings.ToLower(c.Slug)
		if seen[low] || len(c.Slug) > 120 || !filepath.IsLocal(c.Slug) || filepath.Base(c.Slug) != c.Slug {
			t.Errorf("%q", c.Slug)
		}
		seen[low] = true
	}
	one, err := ParseStudy("s", []byte("version: 1\nmodel: m\noutput: o\nseeds: [1]\n"), nil)
	if err != nil || len(one.Configs) != 1 || one.Configs[0].Slug != "base" {
		t.Errorf("%+v, %v", one, err)
	}
}

func TestJournal(t *testing.T) {
	j := NewJournal()
	j.Begin("k1", &Entry{Name: "a", Outputs: map[string]Sum{"o1": {}, "o2": {}}})
	j.Begin("k2", &Entry{Name: "b", Done: true, Inputs: map[string]Sum{"o1": {"c", "s"}}, Outputs: map[string]Sum{"o3": {"d", "t"}}, Seconds: 1.5})
	b, err := j.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadJournal(b)
	if err != nil || !cmp.Equal(j, again) {
		t.Errorf("%v: %s", err, cmp.Diff(j, again))
	}
	j.Begin("k3", &Entry{Outputs: map[string]Sum{"o2": {}}}) // takes the place of k1
	if j.Steps["k1"] != nil || !j.Wrote("o2") || j.Wrote("o1") || !j.Wrote("o3") {
		t.Errorf("%+v", j.Steps)
	}
	for _, bad := range []string{"", "{}", `{"schema":2}`, `{"schema":1,"steps":{"a":null}}`, `[]`} {
		if _, err := ReadJournal([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// A step is the same whatever its name, the order of its flags and the flags that say
// nothing about results; and another one if anything else differs.
func TestKey(t *testing.T) {
	key := func(step string) string {
		r, err := Parse("r", []byte("version: 1\nsteps:\n- "+step+"\n"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Steps[0].Key(func(s string) bool { return s == "check" }, func(s string) bool { return s == "threads" })
	}
	want := key("merge: {args: [a, b], check: true, dtype: f32}")
	for _, s := range []string{"{name: x, merge: {dtype: f32, args: [a, b], check: true}}", "merge: {args: [a, b], threads: 4, check: true, dtype: 'f32'}"} {
		if key(s) != want {
			t.Errorf("%s: another key", s)
		}
	}
	for _, s := range []string{"merge: {args: [b, a], check: true, dtype: f32}", "merge: {args: a b, check: true, dtype: f32}", "merge: {args: [a, b], check: false, dtype: f32}", "merge: {args: [a, b], check: true, dtype: f16}", "{stdout: x, merge: {args: [a, b], check: true, dtype: f32}}", "merge: {args: [a, b, '>', x], check: true, dtype: f32}"} {
		if key(s) == want {
			t.Errorf("%s: the same key", s)
		}
	}
}
