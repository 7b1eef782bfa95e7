package task

import (
	"fmt"
	"math"
	"strings"
	"unicode"
)

// Output is what the model made of one sequence of a dataset.
type Output struct {
	// Logits are the head's values: one a class, or the predicted number. A
	// language model leaves them nil.
	Logits []float32
	// Loss is the sum of the losses of the sequence's labels, and Count their
	// number.
	Loss  float64
	Count int
}

// Metric is a named result.
type Metric struct {
	Name  string
	Value float64
}

// Score computes the loss and the task's metrics, in that order; the outputs
// are those of the sequences of a Dataset made of the examples. The loss is the
// mean over labels. A value is NaN where it is not defined, as a correlation
// with a constant is not.
func Score(spec Spec, examples []Example, outputs []Output) ([]Metric, error) {
	sum, n := 0.0, 0
	for _, o := range outputs {
		sum += o.Loss
		n += o.Count
	}
	if n == 0 {
		return nil, fmt.Errorf("score %s: no labelled example", spec.Name)
	}
	loss := sum / float64(n)
	metrics := []Metric{{MetricLoss, loss}}
	if spec.Kind != LM && len(examples) != len(outputs) {
		return nil, fmt.Errorf("score %s: %d outputs for %d examples", spec.Name, len(outputs), len(examples))
	}
	s := scores{loss: loss}
	if err := s.collect(spec, examples, outputs); err != nil {
		return nil, err
	}
	for _, name := range spec.Metrics {
		v, err := s.metric(spec, name)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, Metric{name, v})
	}
	return metrics, nil
}

// scores holds predictions beside the right answers.
type scores struct {
	loss      float64
	pred      []int
	gold      []int
	x, y      []float64
	questions []question // of tasks whose examples are answers to questions
}

// question is a group of candidate answers.
type question struct {
	best     float64 // the log-odds of the chosen one
	choice   string
	right    bool // the chosen one is labelled as right
	allRight bool // every candidate was classified rightly
	gold     []string
}

func (s *scores) collect(spec Spec, examples []Example, outputs []Output) error {
	if spec.Kind == LM {
		return nil
	}
	groups := map[string]int{}
	for i, e := range examples {
		logits := outputs[i].Logits
		if spec.Outputs() != len(logits) {
			return fmt.Errorf("score %s: %d logits for example %s, but there are %d", spec.Name, len(logits), e.ID, spec.Outputs())
		}
		if spec.Kind == Regression {
			if !math.IsNaN(float64(e.Target)) {
				s.x = append(s.x, float64(logits[0]))
				s.y = append(s.y, float64(e.Target))
			}
			continue
		}
		if e.Label < 0 {
			continue
		}
		pred := Argmax(logits)
		s.pred = append(s.pred, pred)
		s.gold = append(s.gold, e.Label)
		if e.Group == "" || len(logits) != 2 {
			continue
		}
		g, ok := groups[e.Group]
		if !ok {
			g = len(s.questions)
			groups[e.Group] = g
			s.questions = append(s.questions, question{best: math.Inf(-1), allRight: true, gold: e.Gold})
		}
		q := &s.questions[g]
		q.allRight = q.allRight && pred == e.Label
		if odds := float64(logits[1]) - float64(logits[0]); odds > q.best || q.choice == "" {
			q.best, q.choice, q.right = odds, e.Answer, e.Label == 1
		}
	}
	return nil
}

// Argmax returns the index of the largest value, the first of equal ones.
func Argmax(v []float32) int {
	best := 0
	for i, x := range v {
		if x > v[best] {
			best = i
		}
	}
	return best
}

// metric computes one metric. COPA, MultiRC and ReCoRD are scored by question.
func (s *scores) metric(spec Spec, name string) (float64, error) {
	byChoice := spec.Name == "copa"
	byAnswer := spec.Name == "record"
	switch {
	case name == MetricLoss:
		return s.loss, nil
	case name == MetricPerplexity:
		return Perplexity(s.loss), nil
	case name == MetricPearson:
		return Pearson(s.x, s.y), nil
	case name == MetricSpearman:
		return Spearman(s.x, s.y), nil
	case name == MetricMSE:
		return MSE(s.x, s.y), nil
	case name == MetricAccuracy && byChoice:
		return s.mean(func(q question) float64 { return bit(q.right) }), nil
	case name == MetricAccuracy:
		return Accuracy(s.pred, s.gold), nil
	case name == MetricF1 && byAnswer:
		return s.mean(func(q question) float64 { return bestOf(q.choice, q.gold, tokenF1) }), nil
	case name == MetricEM && byAnswer:
		return s.mean(func(q question) float64 { return bestOf(q.choice, q.gold, exact) }), nil
	case name == MetricF1, name == MetricF1a:
		return F1(s.pred, s.gold, 1), nil
	case name == MetricEM:
		return s.mean(func(q question) float64 { return bit(q.allRight) }), nil
	case name == MetricF1Macro:
		return F1Macro(s.pred, s.gold), nil
	case name == MetricMatthews:
		return Matthews(s.pred, s.gold), nil
	}
	return 0, fmt.Errorf("unknown metric %q", name)
}

func (s *scores) mean(f func(question) float64) float64 {
	sum := 0.0
	for _, q := range s.questions {
		sum += f(q)
	}
	return sum / float64(len(s.questions))
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// bestOf is the largest score of an answer against the accepted ones.
func bestOf(answer string, gold []string, score func(a, b []string) float64) float64 {
	best := 0.0
	for _, g := range gold {
		best = max(best, score(normalWords(answer), normalWords(g)))
	}
	return best
}

// normalWords lower-cases, drops ASCII punctuation and the words a, an, the, and
// cuts at white space: SQuAD's normalisation of answers.
func normalWords(s string) []string {
	var b strings.Builder
	var word []rune
	flush := func() {
		if w := string(word); w != "a" && w != "an" && w != "the" {
			b.WriteString(w)
		} else {
			b.WriteByte(' ')
		}
		word = word[:0]
	}
	for _, r := range strings.ToLower(s) {
		switch {
		case r < 0x80 && (unicode.IsPunct(r) || unicode.IsSymbol(r)):
		case unicode.IsLetter(r) || unicode.IsNumber(r):
			word = append(word, r)
		default:
			flush()
			b.WriteRune(r)
		}
	}
	flush()
	return strings.Fields(b.String())
}

func exact(a, b []string) float64 { return bit(strings.Join(a, " ") == strings.Join(b, " ")) }

// tokenF1 is the F1 of two bags of words.
func tokenF1(a, b []string) float64 {
	left := map[string]int{}
	for _, w := range b {
		left[w]++
	}
	same := 0
	for _, w := range a {
		if left[w] > 0 {
			left[w]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	precision, recall := float64(same)/float64(len(a)), float64(same)/float64(len(b))
	return 2 * precision * recall / (precision + recall)
}
