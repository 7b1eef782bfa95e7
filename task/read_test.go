package task

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

func lookup(t *testing.T, name string) Spec {
	t.Helper()
	s, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadSharedData(t *testing.T) {
	root := testkit.Shared(t, "data", "tasks")
	for _, c := range []struct {
		task, path string
		split      Split
		n          int
		positives  int // examples with label 1
	}{
		{"cola", "glue/CoLA", Train, 8551, 6023},
		{"cola", "glue/CoLA", Dev, 1043, 721},
		{"cola", "glue/CoLA", Test, 1063, 0},
		{"mrpc", "glue/MRPC", Train, 3667, 2473},
		{"mrpc", "glue/MRPC", Dev, 408, 279},
		{"mrpc", "glue/MRPC", Test, 1725, 0},
		{"mrpc", "hf-fixtures/MRPC", Dev, 6, 3},
		{"sts-b", "glue/STS-B", Train, 5749, 0},
		{"sts-b", "glue/STS-B", Dev, 1500, 0},
		{"sts-b", "hf-fixtures/STS-B", Train, 9, 0},
		{"wnli", "glue/WNLI", Train, 635, 312},
		{"wnli", "glue/WNLI", Dev, 71, 31},
		{"boolq", "superglue/BoolQ/dev.jsonl", Dev, 3270, 2033},
		{"boolq", "superglue/FewGLUE/BoolQ", Train, 32, -1},
		{"boolq", "superglue/debug/boolq", Test, 5, 0},
		{"cb", "superglue/CB", Train, 250, 119},
		{"cb", "superglue/CB", Dev, 56, 28},
		{"cb", "superglue/CB", Test, 250, 0},
		{"copa", "superglue/FewGLUE/COPA", Train, 64, 32},
		{"multirc", "superglue/FewGLUE/MultiRC", Train, -1, -1},
		{"record", "superglue/FewGLUE/ReCoRD", Train, -1, -1},
		{"record", "superglue/debug/record", Dev, -1, -1},
		{"record", "superglue/debug/record", Test, -1, 0},
		{"rte", "superglue/FewGLUE/RTE", Train, 32, -1},
		{"rte", "superglue/debug/rte", Dev, 5, -1},
		{"wic", "superglue/FewGLUE/WiC", Train, 32, -1},
		{"wsc", "superglue/FewGLUE/WSC", Train, 32, -1},
	} {
		d, err := Read(lookup(t, c.task), filepath.Join(root, c.path), c.split, ReadOptions{})
		if err != nil {
			t.Errorf("%s %s: %v", c.path, c.split, err)
			continue
		}
		ones := 0
		for _, e := range d.Examples {
			if e.Label == 1 {
				ones++
			}
		}
		if len(d.Examples) != c.n && c.n >= 0 || ones != c.positives && c.positives >= 0 {
			t.Errorf("%s %s: %d examples, %d with label 1; want %d and %d", c.path, c.split, len(d.Examples), ones, c.n, c.positives)
		}
		if len(d.Warnings) > 0 {
			t.Errorf("%s %s: %q", c.path, c.split, d.Warnings)
		}
	}
}

func TestReadSharedSpansAreTheWords(t *testing.T) {
	root := testkit.Shared(t, "data", "tasks", "superglue", "FewGLUE")
	for _, task := range []string{"WSC", "WiC"} {
		d, err := Read(lookup(t, task), filepath.Join(root, task), Train, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Examples {
			if len(e.Spans) != 2 {
				t.Fatalf("%s %s: %d spans", task, e.ID, len(e.Spans))
			}
			if task == "WSC" {
				noun, pronoun := e.Spans[0], e.Spans[1]
				if !strings.EqualFold(e.Text[noun.Start:noun.End], e.Pair) {
					t.Errorf("WSC %s: noun %q, want %q", e.ID, e.Text[noun.Start:noun.End], e.Pair)
				}
				if e.Text[pronoun.Start-1] != '*' || e.Text[pronoun.End] != '*' {
					t.Errorf("WSC %s: %q is not marked in %q", e.ID, e.Text[pronoun.Start:pronoun.End], e.Text)
				}
				continue
			}
			word := strings.ToLower(e.Text[:strings.Index(e.Text, ":")])
			if word == "be" || word == "go" {
				continue
			}
			for i, s := range e.Spans {
				in := e.Text
				if s.InPair {
					in = e.Pair
				}
				// The word may be inflected; its first letter is not, but for the two
				// irregular verbs above.
				got := strings.ToLower(in[s.Start:s.End])
				if got[0] != word[0] || strings.ContainsAny(got, " ,.") {
					t.Errorf("WiC %s, sentence %d: %q for %q", e.ID, i+1, got, word)
				}
			}
		}
	}
}

// read parses text as a file of the given format.
func read(t *testing.T, task, format, text string, split Split, o ReadOptions) (*Data, error) {
	t.Helper()
	return ReadFrom(lookup(t, task), strings.NewReader(text), "data."+format, format, split, o)
}

func TestReadLayouts(t *testing.T) {
	for _, c := range []struct {
		name, task, format, text string
		split                    Split
		o                        ReadOptions
		want                     Example // ID, Text, Pair, Label, Group, Answer of the last example
		n                        int
	}{
		{"sst-2", "sst-2", "tsv", "sentence\tlabel\nhide new secretions \t0\ncontains \"wit\t1\n", Train, ReadOptions{}, Example{ID: "3", Text: "contains \"wit", Label: 1}, 2},
		{"sst-2 test", "sst-2", "tsv", "index\tsentence\n0\tuneasy .\n", Test, ReadOptions{}, Example{ID: "2", Text: "uneasy .", Label: -1}, 1},
		{"crlf and mark", "sst-2", "tsv", "\ufeffsentence\tlabel\r\ngood\t1\r\n", Dev, ReadOptions{}, Example{ID: "2", Text: "good", Label: 1}, 1},
		{"cola", "cola", "tsv", "gj04\t0\t*\tThey drank the pub.\n", Train, ReadOptions{}, Example{ID: "1", Text: "They drank the pub.", Label: 0}, 1},
		{"cola test", "cola", "tsv", "index\tsentence\n0\tBill whistled.\n", Test, ReadOptions{}, Example{ID: "2", Text: "Bill whistled.", Label: -1}, 1},
		{"mrpc", "mrpc", "tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\tHe said \"no\t\" He said no\n", Train, ReadOptions{}, Example{ID: "2", Text: "He said \"no", Pair: "\" He said no", Label: 1}, 1},
		{"qqp", "qqp", "tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tHow?\t0\nbroken\t1\n", Train, ReadOptions{}, Example{ID: "9", Text: "Why?", Pair: "How?", Label: 0}, 1},
		{"qqp test", "qqp", "tsv", "id\tquestion1\tquestion2\n0\tWhy?\tHow?\n", Test, ReadOptions{}, Example{ID: "0", Text: "Why?", Pair: "How?", Label: -1}, 1},
		{"mnli train", "mnli", "tsv", "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n0\t31193\t31193n\tgov\t( a )\t( b )\t(A)\t(B)\tConceptually cream.\tProduct.\tneutral\tneutral\n",
			Train, ReadOptions{}, Example{ID: "31193n", Text: "Conceptually cream.", Pair: "Product.", Label: 1}, 1},
		{"mnli without agreement", "mnli-mm", "tsv", "pairID\tsentence1\tsentence2\tgold_label\n1\ta\tb\t-\n2\tc\td\tcontradiction\n", Dev, ReadOptions{}, Example{ID: "2", Text: "c", Pair: "d", Label: 2}, 1},
		{"mnli in a model's order", "mnli", "tsv", "pairID\tsentence1\tsentence2\tgold_label\n2\tc\td\tcontradiction\n", Dev, ReadOptions{Labels: []string{"CONTRADICTION", "NEUTRAL", "ENTAILMENT"}}, Example{ID: "2", Text: "c", Pair: "d", Label: 0}, 1},
		{"qnli", "qnli", "tsv", "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1900.\tnot_entailment\n", Dev, ReadOptions{}, Example{ID: "0", Text: "When?", Pair: "In 1900.", Label: 1}, 1},
		{"rte", "rte", "tsv", "index\tsentence1\tsentence2\tlabel\n4\tA.\tB.\tentailment\n", Dev, ReadOptions{}, Example{ID: "4", Text: "A.", Pair: "B.", Label: 0}, 1},
		{"rte jsonl", "rte", "jsonl", `{"premise": "A.", "hypothesis": "B.", "label": "not_entailment", "idx": 7}` + "\n\n", Dev, ReadOptions{}, Example{ID: "7", Text: "A.", Pair: "B.", Label: 1}, 1},
		{"rte jsonl with GLUE's keys", "rte", "jsonl", `{"sentence1": "A.", "sentence2": "B.", "label": 1, "idx": 7}`, Dev, ReadOptions{}, Example{ID: "7", Text: "A.", Pair: "B.", Label: 1}, 1},
		{"mrpc jsonl", "mrpc", "jsonl", `{"sentence1": "A.", "sentence2": "B.", "label": 1, "idx": 7}`, Dev, ReadOptions{}, Example{ID: "7", Text: "A.", Pair: "B.", Label: 1}, 1},
		{"boolq", "boolq", "jsonl", `{"question": "is it", "passage": "X -- it is", "idx": 3, "label": true}`, Dev, ReadOptions{}, Example{ID: "3", Text: "is it", Pair: "X -- it is", Label: 1}, 1},
		{"boolq original", "boolq", "jsonl", `{"question": "is it", "title": "X", "answer": false, "passage": "it is"}`, Dev, ReadOptions{}, Example{ID: "1", Text: "is it", Pair: "X -- it is", Label: 0}, 1},
		{"cb", "cb", "jsonl", `{"premise": "P", "hypothesis": "H", "label": "neutral", "idx": 0}`, Dev, ReadOptions{}, Example{ID: "0", Text: "P", Pair: "H", Label: 2}, 1},
		{"copa", "copa", "jsonl", `{"premise": "It fell.", "choice1": "a", "choice2": "b", "question": "effect", "label": 1, "idx": 249}`, Dev, ReadOptions{},
			Example{ID: "249.1", Text: "It fell. What happened as a result?", Pair: "b", Label: 1, Group: "249", Answer: "b"}, 2},
		{"multirc", "multirc", "jsonl", `{"idx": 6, "passage": {"text": "P", "questions": [{"question": "Q?", "idx": 56, "answers": [{"text": "x", "idx": 333, "label": 0}, {"text": "y", "idx": 334, "label": 1}]}]}}`, Dev, ReadOptions{},
			Example{ID: "6.56.334", Text: "P", Pair: "Q? y", Label: 1, Group: "6.56", Answer: "y"}, 2},
		{"record", "record", "jsonl", `{"idx": 2, "passage": {"text": "Zoë met Al\n@highlight\nZoë won", "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 9}, {"start": 22, "end": 24}]}, "qas": [{"query": "@placeholder lost", "idx": 5, "answers": [{"start": 8, "end": 9, "text": "Al"}]}]}`, Dev, ReadOptions{},
			Example{ID: "2.5.1", Text: "Zoë met Al Zoë won", Pair: "Al lost", Label: 1, Group: "2.5", Answer: "Al"}, 2},
		{"wic", "wic", "jsonl", `{"word": "feel", "sentence1": "You feel.", "sentence2": "She felt.", "idx": 1, "label": true, "start1": 4, "start2": 4, "end1": 8, "end2": 8}`, Dev, ReadOptions{},
			Example{ID: "1", Text: "feel: You feel.", Pair: "She felt.", Label: 1}, 1},
		{"wsc", "wsc", "jsonl", `{"text": "Ann called Bo, because she could.", "target": {"span2_index": 4, "span1_index": 0, "span1_text": "Ann", "span2_text": "she"}, "idx": 5, "label": false}`, Dev, ReadOptions{},
			Example{ID: "5", Text: "Ann called Bo, because *she* could.", Pair: "Ann", Label: 0}, 1},
		{"generic csv", "classification", "csv", "id,label,text\nx,pos,\"a \"\"b\"\",\nc\"\ny,neg,d\n", Train, ReadOptions{}, Example{ID: "y", Text: "d", Label: 0}, 2},
		{"generic tsv by number", "classification", "tsv", "spam\tbuy\nham\thello\n", Train, ReadOptions{TextColumn: "2", LabelColumn: "1"}, Example{ID: "2", Text: "hello", Label: 0}, 2},
		{"generic csv by number", "classification", "csv", "spam,buy\nham,hello\n", Train, ReadOptions{TextColumn: "2", LabelColumn: "1"}, Example{ID: "2", Text: "hello", Label: 0}, 2},
		{"generic by name", "classification", "tsv", "body\tsubject\tkind\nb\ts\t2\nb2\ts2\t10\n", Train, ReadOptions{TextColumn: "subject", PairColumn: "body", LabelColumn: "kind"}, Example{ID: "3", Text: "s2", Pair: "b2", Label: 1}, 2},
		{"generic jsonl", "classification", "jsonl", "{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": \"no\"}\n{\"premise\": \"p\", \"hypothesis\": \"h2\", \"label\": \"yes\"}", Train, ReadOptions{}, Example{ID: "2", Text: "p", Pair: "h2", Label: 1}, 2},
		{"generic json array", "classification", "jsonl", "[{\"text\": \"a\",\n\"label\": 0},\n\n {\"text\": \"b\", \"label\": 1}]\n", Train, ReadOptions{}, Example{ID: "4", Text: "b", Label: 1}, 2},
		{"question and context", "classification", "jsonl", `{"question": "q", "context": "c", "label": 1, "id": "k"}`, Dev, ReadOptions{}, Example{ID: "k", Text: "q", Pair: "c", Label: 0}, 1},
		{"sst-2 by name", "sst-2", "tsv", "body\ty\ngood\tpositive\n", Dev, ReadOptions{TextColumn: "body", LabelColumn: "y"}, Example{ID: "2", Text: "good", Label: 1}, 1},
		{"unlabelled", "mrpc", "jsonl", `{"sentence1": "A.", "sentence2": "B.", "label": -1}`, Dev, ReadOptions{Unlabelled: true}, Example{ID: "1", Text: "A.", Pair: "B.", Label: -1}, 1},
		{"limit", "sst-2", "tsv", "sentence\tlabel\na\t0\nb\t1\nc\tbroken\n", Dev, ReadOptions{Limit: 2}, Example{ID: "3", Text: "b", Label: 1}, 2},
	} {
		d, err := read(t, c.task, c.format, c.text, c.split, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(d.Examples) != c.n {
			t.Errorf("%s: %d examples, want %d", c.name, len(d.Examples), c.n)
			continue
		}
		e := d.Examples[c.n-1]
		if e.ID != c.want.ID || e.Text != c.want.Text || e.Pair != c.want.Pair || e.Label != c.want.Label || e.Group != c.want.Group || e.Answer != c.want.Answer {
			t.Errorf("%s: got %+v, want %+v", c.name, e, c.want)
		}
	}
}

func TestReadWarnsOfRowsLeftOut(t *testing.T) {
	d, err := read(t, "qqp", "tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tHow?\t0\nbroken\t1\n", Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "1 rows with too few columns") {
		t.Errorf("warnings %q", d.Warnings)
	}
}

func TestReadRegression(t *testing.T) {
	d, err := read(t, "sts-b", "tsv", "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.75\n", Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Examples[0].Target != 3.75 || d.Spec.Outputs() != 1 {
		t.Errorf("got %+v", d.Examples[0])
	}
	d, err = read(t, "sts-b", "tsv", "index\tsentence1\tsentence2\n0\ta\tb\n", Test, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !math.IsNaN(float64(d.Examples[0].Target)) {
		t.Errorf("target of an unlabelled example is %v", d.Examples[0].Target)
	}
}

func TestReadLabelsOfTheData(t *testing.T) {
	train, err := read(t, "classification", "tsv", "text\tlabel\na\t10\nb\t2\nc\t10\n", Train, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"2", "10"}; !slices.Equal(train.Spec.Labels, want) {
		t.Errorf("labels %q, want %q", train.Spec.Labels, want)
	}
	dev, err := read(t, "classification", "tsv", "text\tlabel\na\t10\n", Dev, ReadOptions{Labels: train.Spec.Labels})
	if err != nil {
		t.Fatal(err)
	}
	if dev.Examples[0].Label != 1 {
		t.Errorf("label %d, want 1", dev.Examples[0].Label)
	}
	if _, err := read(t, "classification", "tsv", "text\tlabel\na\tnew\n", Dev, ReadOptions{Labels: train.Spec.Labels}); !errors.Is(err, ErrBadData) {
		t.Errorf("new label in dev: %v", err)
	}
}

// TestLabelsThatDifferByCase are two classes; others are found in any case.
func TestLabelsThatDifferByCase(t *testing.T) {
	labels := []string{"A", "a", "Other"}
	d, err := read(t, "classification", "tsv", "text\tlabel\nx\tA\ny\ta\nz\toTHER\n", Dev, ReadOptions{Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1, 2} {
		if got := d.Examples[i].Label; got != want {
			t.Errorf("example %d has label %d, want %d", i, got, want)
		}
	}
	var option *OptionError
	if _, err := read(t, "classification", "tsv", "text\tlabel\nx\tA\n", Dev, ReadOptions{Labels: []string{"A", "B", "A"}}); !errors.As(err, &option) {
		t.Errorf("a class named twice: %v", err)
	}
}

func TestReadLanguageModel(t *testing.T) {
	for _, c := range []struct {
		name, format, text string
		o                  ReadOptions
		want               []Segment // of the last example
		n                  int
	}{
		{"txt", "txt", "one\n\ntwo\n", ReadOptions{}, []Segment{{"one\n\ntwo\n", true}}, 1},
		{"lines", "txt", "one\n\ntwo\n", ReadOptions{Lines: true}, []Segment{{"two", true}}, 2},
		{"text", "jsonl", `{"text": "one"}`, ReadOptions{}, []Segment{{"one", true}}, 1},
		{"named text", "jsonl", `{"body": "one"}`, ReadOptions{TextColumn: "body"}, []Segment{{"one", true}}, 1},
		{"completion", "jsonl", `{"prompt": "q ", "completion": "a"}`, ReadOptions{}, []Segment{{"q ", false}, {"a", true}}, 1},
		{"messages", "jsonl", `{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}`, ReadOptions{},
			[]Segment{{"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", false}, {"yo<|im_end|>", true}, {"\n", false}}, 1},
	} {
		d, err := read(t, "lm", c.format, c.text, Train, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(d.Examples) != c.n || !slices.Equal(d.Examples[c.n-1].Segments, c.want) {
			t.Errorf("%s: got %+v, want %d with %+v", c.name, d.Examples, c.n, c.want)
		}
	}
}

func TestChatTemplates(t *testing.T) {
	for name, mark := range map[string]string{"chatml": "<|im_start|>", "llama3": "<|start_header_id|>", "gemma": "<start_of_turn>", "phi3": "<|end|>", "zephyr": "'<|assistant|>'"} {
		got, ok := DetectChatTemplate("{% for m in messages %}{{ '" + mark + "' }}{% endfor %}")
		if !ok || got.Name != name {
			t.Errorf("%s is taken for %q", name, got.Name)
		}
	}
	if _, ok := DetectChatTemplate("{{ messages }}"); ok {
		t.Error("a template without markers is recognised")
	}
	gemma, err := LookupChatTemplate("gemma")
	if err != nil {
		t.Fatal(err)
	}
	s, err := gemma.segments([]message{{"user", "a"}, {"assistant", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if s[0].Text != "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n" || s[1].Text != "b<end_of_turn>" {
		t.Errorf("got %+v", s)
	}
	if _, err := LookupChatTemplate("x"); err == nil || !strings.Contains(err.Error(), "chatml") {
		t.Errorf("unknown template: %v", err)
	}
}

func TestReadErrorsNameThePlace(t *testing.T) {
	for _, c := range []struct {
		name, task, format, text string
		split                    Split
		o                        ReadOptions
		want                     string
	}{
		{"empty", "mrpc", "tsv", "", Train, ReadOptions{}, "data.tsv: no examples"},
		{"header only", "sst-2", "tsv", "sentence\tlabel\n", Train, ReadOptions{}, "data.tsv: no examples"},
		{"unknown label", "sst-2", "tsv", "sentence\tlabel\nok\t1\nodd\tgood\n", Train, ReadOptions{}, `data.tsv:3:5: unknown label "good": task sst-2 has negative or positive`},
		{"label out of range", "sst-2", "tsv", "sentence\tlabel\nodd\t2\n", Train, ReadOptions{}, `data.tsv:2:5: unknown label "2"`},
		{"unlabelled mark in train", "sst-2", "tsv", "sentence\tlabel\nodd\t-1\n", Train, ReadOptions{}, `data.tsv:2:5: unknown label "-1"`},
		{"too many columns", "sst-2", "tsv", "sentence\tlabel\na\tb\t1\n", Train, ReadOptions{}, "data.tsv:2: 3 columns, but the table has 2"},
		{"too few columns", "cola", "tsv", "gj04\t1\tsentence one\n", Train, ReadOptions{}, "data.tsv:1: 3 columns, but the table has 4"},
		{"missing column", "sst-2", "tsv", "text\tlabel\na\t1\n", Train, ReadOptions{}, `data.tsv:1: no column "sentence"; the file has "text", "label"`},
		{"no label in train", "sst-2", "tsv", "index\tsentence\n1\ta\n", Train, ReadOptions{}, `data.tsv:1: no column "label"`},
		{"empty label", "sst-2", "tsv", "sentence\tlabel\na\t\n", Train, ReadOptions{}, `data.tsv:2:3: unknown label ""`},
		{"empty text", "mrpc", "tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\t \tb\n", Train, ReadOptions{}, "data.tsv:2:7: empty text"},
		{"not UTF-8", "sst-2", "tsv", "sentence\tlabel\ncaf\xe9\t1\n", Train, ReadOptions{}, "data.tsv:2:4: not UTF-8 (byte 0xe9)"},
		{"score", "sts-b", "tsv", "sentence1\tsentence2\tscore\na\tb\thigh\n", Train, ReadOptions{}, `data.tsv:2:5: "high" is not a finite number`},
		{"score NaN", "regression", "csv", "text,score\na,nan\n", Train, ReadOptions{}, `data.csv:2:3: "nan" is not a finite number`},
		{"csv quote", "classification", "csv", "text,label\na\"b,1\n", Train, ReadOptions{}, "data.csv:2:2: bare"},
		{"csv columns", "classification", "csv", "text,label\na,b,1\n", Train, ReadOptions{}, "data.csv:2: 3 columns, but the table has 2"},
		{"generic without text", "classification", "tsv", "foo\tlabel\na\t1\n", Train, ReadOptions{}, `data.tsv:1: no text column among "foo", "label": name the one to use`},
		{"generic without label", "classification", "tsv", "text\tfoo\na\t1\n", Train, ReadOptions{}, `data.tsv:1: no label column among "text", "foo"`},
		{"named column is missing", "classification", "tsv", "text\tfoo\na\t1\n", Train, ReadOptions{TextColumn: "body"}, `data.tsv:1: no column "body"; there are "text", "foo"`},
		{"number of column", "classification", "tsv", "a\tb\n", Train, ReadOptions{TextColumn: "3", LabelColumn: "1"}, "data.tsv:1: no column 3; there are 2"},
		{"one label", "classification", "tsv", "text\tlabel\na\t1\nb\t1\n", Train, ReadOptions{}, `data.tsv: every example has the label "1"`},
		{"not JSON", "boolq", "jsonl", "{\"question\": \"q\", \"passage\": \"p\", \"label\": true}\n{\"question\": \"q\", oops}\n", Train, ReadOptions{}, "data.jsonl:2:19: not JSON"},
		{"cut JSON", "boolq", "jsonl", "{\"question\": \"q\"", Train, ReadOptions{}, "data.jsonl:1:17: not JSON: it ends too early"},
		{"array instead of object", "boolq", "jsonl", "7\n", Train, ReadOptions{}, "data.jsonl:1:1: not a JSON object"},
		{"tail", "boolq", "jsonl", "{} {}\n", Train, ReadOptions{}, "data.jsonl:1:3: something follows the JSON object"},
		{"key twice", "boolq", "jsonl", "{\"question\": \"a\", \"question\": \"b\"}\n", Train, ReadOptions{}, `data.jsonl:1:31: key "question" twice`},
		{"missing key", "boolq", "jsonl", "{\"question\": \"a\"}\n", Train, ReadOptions{}, `data.jsonl:1: no key "passage"; there are "question"`},
		{"wrong type", "boolq", "jsonl", "{\"question\": 3}\n", Train, ReadOptions{}, "data.jsonl:1:14: question: a number, where a string is needed"},
		{"label of a wrong type", "boolq", "jsonl", "{\"question\": \"a\", \"passage\": \"b\", \"label\": [1]}\n", Train, ReadOptions{}, "data.jsonl:1:44: label: not a label"},
		{"unknown label in JSON", "boolq", "jsonl", "{\"question\": \"a\", \"passage\": \"b\", \"label\": \"maybe\"}\n", Train, ReadOptions{}, `data.jsonl:1:44: unknown label "maybe"`},
		{"no label in JSON", "cb", "jsonl", "{\"premise\": \"a\", \"hypothesis\": \"b\"}\n", Train, ReadOptions{}, "data.jsonl:1: no label"},
		{"copa question", "copa", "jsonl", `{"premise": "a", "question": "why"}`, Train, ReadOptions{}, `data.jsonl:1:30: question: "why" is neither cause nor effect`},
		{"record entity", "record", "jsonl", `{"passage": {"text": "abc", "entities": [{"start": 0, "end": 3}]}, "qas": []}`, Train, ReadOptions{}, "data.jsonl:1:13: passage: entity 0 to 3 is outside of the text of 3 characters"},
		{"wic place", "wic", "jsonl", `{"word": "a", "sentence1": "a", "sentence2": "a", "start1": 0, "end1": 2}`, Train, ReadOptions{}, "data.jsonl:1:61: start1: 0 to 2 is outside of sentence1"},
		{"wsc word", "wsc", "jsonl", `{"text": "a b", "target": {"span1_text": "c", "span2_text": "b", "span1_index": 0, "span2_index": 1}}`, Train, ReadOptions{}, `data.jsonl:1:27: target: no "c" at word 0`},
		{"array place", "classification", "jsonl", "[{\"text\": \"a\", \"label\": 1},\n  {\"text\": 2}]", Train, ReadOptions{}, "data.jsonl:2:12: text: a number, where a string is needed"},
		{"array cut", "classification", "jsonl", "[{\"text\": \"a\", \"label\": 1}\n", Train, ReadOptions{}, "data.jsonl:1:27: not JSON: it ends too early"},
		{"lm keys", "lm", "jsonl", `{"story": "x"}`, Train, ReadOptions{}, `data.jsonl:1: none of the keys "text"`},
		{"lm completion", "lm", "jsonl", `{"prompt": "x", "completion": " "}`, Train, ReadOptions{}, "data.jsonl:1:31: completion: empty text"},
		{"lm without assistant", "lm", "jsonl", `{"messages": [{"role": "user", "content": "x"}]}`, Train, ReadOptions{}, "data.jsonl:1:14: messages: no message of the assistant"},
		{"blank text", "lm", "txt", " \n", Train, ReadOptions{}, "data.txt: no examples"},
		{"format", "lm", "tsv", "text\n", Train, ReadOptions{}, "data.tsv: task lm reads .jsonl, .json or .txt files"},
	} {
		_, err := read(t, c.task, c.format, c.text, c.split, c.o)
		if !errors.Is(err, ErrBadData) {
			t.Errorf("%s: %v does not wrap ErrBadData", c.name, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s:\n got %s\nwant %s…", c.name, err, c.want)
		}
	}
}

func TestReadFindsTheSplit(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	header := "pairID\tsentence1\tsentence2\tgold_label\n"
	write("train.tsv", header+"1\ta\tb\tneutral\n")
	write("dev_matched.tsv", header+"2\ta\tb\tneutral\n")
	write("dev_mismatched.tsv", header+"3\ta\tb\tneutral\n")
	for _, c := range []struct {
		task  string
		split Split
		want  string
	}{{"mnli", Train, "1"}, {"mnli", Dev, "2"}, {"mnli-mm", Dev, "3"}, {"mnli-mm", Train, "1"}} {
		d, err := Read(lookup(t, c.task), dir, c.split, ReadOptions{})
		if err != nil || d.Examples[0].ID != c.want {
			t.Errorf("%s %s: %+v, %v", c.task, c.split, d, err)
		}
	}
	_, err := Read(lookup(t, "mnli"), dir, Test, ReadOptions{})
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrBadData) || !strings.Contains(err.Error(), "test_matched or test") {
		t.Errorf("missing split: %v", err)
	}
	if _, err := Read(lookup(t, "mnli"), filepath.Join(dir, "absent"), Train, ReadOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	write("train.csv", "text,label\na,1\n")
	if _, err := Read(lookup(t, "mnli"), dir, Train, ReadOptions{}); err == nil || !strings.Contains(err.Error(), "train.tsv and train.csv: name the file to use") {
		t.Errorf("two files of a split: %v", err)
	}
}

func TestLookup(t *testing.T) {
	for name, want := range map[string]string{"mrpc": "mrpc", "MRPC": "mrpc", "sst2": "sst-2", "STS_B": "sts-b", "mnli_mismatched": "mnli-mm", "ReCoRD": "record"} {
		if s, err := Lookup(name); err != nil || s.Name != want {
			t.Errorf("Lookup(%q) = %q, %v", name, s.Name, err)
		}
	}
	for name, near := range map[string]string{"mprc": `"mrpc"`, "bolq": `"boolq"`, "clasification": `"classification"`, "rt": `"rte"`} {
		_, err := Lookup(name)
		if !errors.Is(err, ErrUnknownTask) || !strings.Contains(err.Error(), "did you mean "+near) {
			t.Errorf("Lookup(%q): %v", name, err)
		}
	}
	if _, err := Lookup("translation"); err == nil || !strings.Contains(err.Error(), "known are boolq, cb, classification") {
		t.Errorf("a far name: %v", err)
	}
	for _, n := range Names() {
		s := lookup(t, n)
		if s.About == "" || s.MaxLength == 0 || len(s.Metrics) == 0 || s.layout.read == nil {
			t.Errorf("%s is incomplete", n)
		}
	}
}

func FuzzReadNeverPanics(f *testing.F) {
	for _, s := range []string{"text\tlabel\na\t1\n", "{\"text\": \"a\", \"label\": 1}", "[{\"passage\": {\"text\": \"\", \"questions\": []}}]", "text,label\n\"", "\xff",
		`{"passage": {"text": "abc", "entities": [{"start": 0, "end": 2}]}, "qas": [{"query": "@placeholder"}]}`,
		`{"text": "a b", "target": {"span1_text": "a", "span2_text": "b", "span1_index": -1, "span2_index": 9}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, n := range Names() {
			spec, err := Lookup(n)
			if err != nil {
				t.Fatal(err)
			}
			for _, ext := range spec.layout.extensions {
				format := strings.Replace(strings.TrimPrefix(ext, "."), "json", "jsonl", 1)
				if format == "jsonll" {
					format = "jsonl"
				}
				d, err := ReadFrom(spec, strings.NewReader(s), "f", format, Train, ReadOptions{})
				if err == nil && len(d.Examples) == 0 || err != nil && !errors.Is(err, ErrBadData) {
					t.Fatalf("%s %s: %d examples, %v", n, format, len(d.Examples), err)
				}
			}
		}
	})
}
