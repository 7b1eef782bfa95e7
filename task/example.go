package task

// Unlabelled is the Label of an example whose file has no answer, as the test
// files of GLUE have none.
const Unlabelled = -1

// Example is one input of a task with its answer.
type Example struct {
	// ID is the file's own identifier, or the line number where it has none.
	ID string
	// Line is the line of the file, from 1.
	Line int
	// Text and Pair are the input; Pair is empty for tasks of one text.
	Text, Pair string
	// Label is an index into Spec.Labels, or Unlabelled.
	Label int
	// Target is the value to predict in a regression; NaN where there is none.
	Target float32
	// Spans are marked words (WiC, WSC), as bytes of Text or Pair.
	Spans []Span
	// Group is the question that an answer belongs to (COPA, MultiRC, ReCoRD).
	Group string
	// Answer is the candidate that this example proposes (COPA, ReCoRD).
	Answer string
	// Gold are the accepted answers to the question (ReCoRD).
	Gold []string
	// Segments is the text of a language model's example, in order.
	Segments []Segment
}

// Span is a marked part of an example: bytes [Start, End) of Text, or of Pair.
type Span struct {
	InPair     bool
	Start, End int
}

// Segment is a part of a language model's text.
type Segment struct {
	Text string
	// Loss says that the model is trained to predict these tokens.
	Loss bool
}

// Data is what was read of one split.
type Data struct {
	// Spec is the task, with the labels that were found in the file where the
	// task itself has none.
	Spec     Spec
	Split    Split
	Path     string // the file
	Layout   string // "tsv", "csv", "jsonl", "txt"
	Examples []Example
	// Warnings name what was left out, one line each.
	Warnings []string
}
