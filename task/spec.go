package task

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// ErrUnknownTask is wrapped by the error of Lookup.
var ErrUnknownTask = errors.New("unknown task")

// Kind is what a task asks of the model.
type Kind uint8

// The kinds of tasks.
const (
	Classification Kind = iota // one of Spec.Labels a sequence
	Regression                 // one number a sequence
	LM                         // the next token, at each position that carries loss
)

// String returns the kind as it is spelled on the command line.
func (k Kind) String() string {
	return [...]string{"classification", "regression", "lm"}[k]
}

// Names of metrics.
const (
	MetricLoss       = "loss"       // mean loss; lower is better
	MetricAccuracy   = "accuracy"   // share of right answers
	MetricF1         = "f1"         // F1 of the class with index 1
	MetricF1Macro    = "f1_macro"   // mean F1 of the classes that occur
	MetricMatthews   = "matthews"   // Matthews correlation
	MetricPearson    = "pearson"    // Pearson correlation
	MetricSpearman   = "spearman"   // Spearman correlation, ties averaged
	MetricMSE        = "mse"        // mean squared error; lower is better
	MetricPerplexity = "perplexity" // exp of the mean loss a token; lower is better
	MetricF1a        = "f1a"        // MultiRC: F1 over all answers
	MetricEM         = "em"         // MultiRC, ReCoRD: share of exact matches
)

// HigherIsBetter reports whether a larger value of the metric is better.
func HigherIsBetter(metric string) bool {
	return metric != MetricLoss && metric != MetricPerplexity && metric != MetricMSE
}

// Spec is what is known of a task before any file is read.
type Spec struct {
	Name string
	Kind Kind
	// Labels are the class names in the order of their indices; nil where the
	// data decide.
	Labels []string
	// Metrics are what Score computes besides the loss; by default the first
	// decides which checkpoint is best.
	Metrics []string
	// MaxLength is the usual limit on tokens, special ones included.
	MaxLength int
	// About is one line of description.
	About string

	layout layout
}

// Outputs returns the number of values that the head computes: classes, or 1
// for a regression, or 0 for a language model, whose head is its own.
func (s Spec) Outputs() int {
	switch s.Kind {
	case Classification:
		return len(s.Labels)
	case Regression:
		return 1
	}
	return 0
}

var notEntailment = []string{"entailment", "not_entailment"}
var nli = []string{"entailment", "neutral", "contradiction"}
var falseTrue = []string{"false", "true"}

// specs are the known tasks. The order of labels is that of the public
// datasets' integer labels.
var specs = map[string]Spec{
	"cola": {Kind: Classification, Labels: []string{"unacceptable", "acceptable"}, Metrics: []string{MetricMatthews, MetricAccuracy}, MaxLength: 128,
		About: "GLUE: is the sentence grammatical", layout: glueCoLA},
	"sst-2": {Kind: Classification, Labels: []string{"negative", "positive"}, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "GLUE: sentiment of a sentence", layout: glue("sentence", "", "label", "")},
	"mrpc": {Kind: Classification, Labels: []string{"not_equivalent", "equivalent"}, Metrics: []string{MetricAccuracy, MetricF1}, MaxLength: 128,
		About: "GLUE: do two sentences say the same", layout: glue("#1 String", "#2 String", "Quality", "")},
	"sts-b": {Kind: Regression, Metrics: []string{MetricPearson, MetricSpearman, MetricMSE}, MaxLength: 128,
		About: "GLUE: similarity of two sentences, 0 to 5", layout: glue("sentence1", "sentence2", "score", "index")},
	"qqp": {Kind: Classification, Labels: []string{"not_duplicate", "duplicate"}, Metrics: []string{MetricAccuracy, MetricF1}, MaxLength: 128,
		About: "GLUE: do two questions ask the same", layout: glueQQP},
	"mnli": {Kind: Classification, Labels: nli, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "GLUE: inference, evaluated on the matched genres", layout: glueMNLI("matched")},
	"mnli-mm": {Kind: Classification, Labels: nli, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "GLUE: inference, evaluated on the mismatched genres", layout: glueMNLI("mismatched")},
	"qnli": {Kind: Classification, Labels: notEntailment, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "GLUE: does the sentence answer the question", layout: glue("question", "sentence", "label", "index")},
	"rte": {Kind: Classification, Labels: notEntailment, Metrics: []string{MetricAccuracy}, MaxLength: 256,
		About: "GLUE (tsv) and SuperGLUE (jsonl): inference", layout: rte},
	"wnli": {Kind: Classification, Labels: []string{"not_entailment", "entailment"}, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "GLUE: inference with pronouns", layout: glue("sentence1", "sentence2", "label", "index")},

	"boolq": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricAccuracy}, MaxLength: 256,
		About: "SuperGLUE: yes or no questions on a passage", layout: records(boolQ)},
	"cb": {Kind: Classification, Labels: []string{"entailment", "contradiction", "neutral"}, Metrics: []string{MetricAccuracy, MetricF1Macro}, MaxLength: 256,
		About: "SuperGLUE: inference from embedded clauses", layout: records(premiseHypothesis)},
	"copa": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "SuperGLUE: cause or effect, two choices", layout: records(copa)},
	"multirc": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricF1a, MetricEM}, MaxLength: 512,
		About: "SuperGLUE: questions with several right answers", layout: records(multiRC)},
	"record": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricF1, MetricEM}, MaxLength: 512,
		About: "SuperGLUE: which entity fills the gap", layout: records(record)},
	"wic": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "SuperGLUE: does a word mean the same twice", layout: records(wic)},
	"wsc": {Kind: Classification, Labels: falseTrue, Metrics: []string{MetricAccuracy}, MaxLength: 128,
		About: "SuperGLUE: does the pronoun refer to the noun", layout: records(wsc)},

	"classification": {Kind: Classification, Metrics: []string{MetricAccuracy, MetricF1Macro}, MaxLength: 128,
		About: "text, perhaps a second text, and a label: tsv, csv or jsonl", layout: generic},
	"regression": {Kind: Regression, Metrics: []string{MetricPearson, MetricSpearman, MetricMSE}, MaxLength: 128,
		About: "text, perhaps a second text, and a number: tsv, csv or jsonl", layout: generic},
	"lm": {Kind: LM, Metrics: []string{MetricPerplexity}, MaxLength: 512,
		About: "language model: txt, or jsonl with text, prompt and completion, or messages", layout: lmLayout},
}

// aliases are other spellings of task names, after lower-casing and dropping
// '-' and '_'.
var aliases = map[string]string{"mnlimatched": "mnli", "mnlim": "mnli", "mnlimismatched": "mnli-mm", "stsbenchmark": "sts-b",
	"languagemodel": "lm", "causallm": "lm", "clm": "lm"}

// Lookup returns the task called name; case, '-' and '_' do not matter. An
// unknown name is an error that wraps ErrUnknownTask and names the nearest.
func Lookup(name string) (Spec, error) {
	key := squash(name)
	found := aliases[key]
	for n := range specs {
		if squash(n) == key {
			found = n
		}
	}
	if s, ok := specs[found]; ok {
		s.Name = found
		s.Labels = slices.Clone(s.Labels)
		s.Metrics = slices.Clone(s.Metrics)
		return s, nil
	}
	if near := suggest.DidYouMean(name, Names()); near != "" {
		return Spec{}, fmt.Errorf("%w %q%s", ErrUnknownTask, name, near)
	}
	return Spec{}, fmt.Errorf("%w %q; known are %s", ErrUnknownTask, name, strings.Join(Names(), ", "))
}

// Names returns the names of all tasks, sorted.
func Names() []string { return slices.Sorted(maps.Keys(specs)) }

func squash(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}
