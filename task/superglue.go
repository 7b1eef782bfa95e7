package task

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// example starts an example of an object, with its "idx" as identifier.
func (o *object) example() Example {
	e := Example{Line: o.line}
	e.ID, _ = o.scalar("idx")
	return e
}

// addLabelled adds e with the answer under key.
func (o *object) addLabelled(e Example, key string) error {
	answer, has := o.scalar(key)
	if o.has(key) && !has {
		return o.bad(key, "not a label")
	}
	return o.r.add(e, answer, has, o.column(key))
}

// boolQ reads the keys question, passage, label of SuperGLUE, or question,
// title, passage, answer of the original release.
func boolQ(r *reader, o *object) error {
	e := o.example()
	var err error
	if e.Text, err = o.text("question"); err != nil {
		return err
	}
	if e.Pair, err = o.text("passage"); err != nil {
		return err
	}
	if o.has("title") {
		title, err := o.text("title")
		if err != nil {
			return err
		}
		e.Pair = title + " -- " + e.Pair
	}
	if !o.has("label") && o.has("answer") {
		return o.addLabelled(e, "answer")
	}
	return o.addLabelled(e, "label")
}

// premiseHypothesis reads CB and RTE.
func premiseHypothesis(r *reader, o *object) error {
	e := o.example()
	var err error
	if e.Text, err = o.text("premise"); err != nil {
		return err
	}
	if e.Pair, err = o.text("hypothesis"); err != nil {
		return err
	}
	return o.addLabelled(e, "label")
}

// rteRecord reads SuperGLUE's keys, or GLUE's as JSON.
func rteRecord(r *reader, o *object) error {
	if !o.has("sentence1") {
		return premiseHypothesis(r, o)
	}
	e := o.example()
	var err error
	if e.Text, err = o.text("sentence1"); err != nil {
		return err
	}
	if e.Pair, err = o.text("sentence2"); err != nil {
		return err
	}
	return o.addLabelled(e, "label")
}

// copa makes two examples, one a choice.
func copa(r *reader, o *object) error {
	e := o.example()
	premise, err := o.text("premise")
	if err != nil {
		return err
	}
	var question string
	if err := o.decode("question", &question); err != nil {
		return err
	}
	switch question {
	case "cause":
		e.Text = premise + " What was the cause?"
	case "effect":
		e.Text = premise + " What happened as a result?"
	default:
		return o.bad("question", "%s is neither cause nor effect", quoted(question))
	}
	answer, has := o.scalar("label")
	if has && answer != "0" && answer != "1" {
		return o.bad("label", "%s is neither 0 nor 1", quoted(answer))
	}
	e.Group = groupID(e)
	for i, key := range []string{"choice1", "choice2"} {
		c := e
		if c.Pair, err = o.text(key); err != nil {
			return err
		}
		c.Answer = c.Pair
		c.ID = e.Group + "." + strconv.Itoa(i)
		if err := r.add(c, truth(answer == strconv.Itoa(i)), has, o.column("label")); err != nil {
			return err
		}
	}
	return nil
}

// groupID is an example's identifier, or its line where it has none.
func groupID(e Example) string {
	if e.ID == "" {
		return "line" + strconv.Itoa(e.Line)
	}
	return e.ID
}

func truth(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

type multiRCPassage struct {
	Text      string
	Questions []struct {
		Question string
		Idx      *int
		Answers  []struct {
			Text  string
			Label *int
			Idx   *int
		}
	}
}

// multiRC makes one example an answer.
func multiRC(r *reader, o *object) error {
	e := o.example()
	passage := groupID(e)
	var p multiRCPassage
	if err := o.decode("passage", &p); err != nil {
		return err
	}
	if p.Text == "" || len(p.Questions) == 0 {
		return o.bad("passage", "no text or no questions")
	}
	e.Text = p.Text
	for i, q := range p.Questions {
		e.Group = passage + "." + number(q.Idx, i)
		if q.Question == "" || len(q.Answers) == 0 {
			return o.bad("passage", "question %s has no text or no answers", number(q.Idx, i))
		}
		for j, a := range q.Answers {
			c := e
			c.ID = e.Group + "." + number(a.Idx, j)
			c.Pair = q.Question + " " + a.Text
			c.Answer = a.Text
			if a.Label != nil && *a.Label != 0 && *a.Label != 1 {
				return o.bad("passage", "the label of answer %s is neither 0 nor 1", number(a.Idx, j))
			}
			if err := r.add(c, truth(a.Label != nil && *a.Label == 1), a.Label != nil, o.column("passage")); err != nil {
				return err
			}
		}
	}
	return nil
}

func number(p *int, otherwise int) string {
	if p != nil {
		otherwise = *p
	}
	return strconv.Itoa(otherwise)
}

type recordPassage struct {
	Text     string
	Entities []struct{ Start, End int }
}

type recordQuery struct {
	Query   string
	Idx     *int
	Answers *[]struct{ Text string }
}

// record makes one example for each distinct entity of the passage. Starts and
// ends count characters; an end is the last character's.
func record(r *reader, o *object) error {
	e := o.example()
	passageID := groupID(e)
	var p recordPassage
	if err := o.decode("passage", &p); err != nil {
		return err
	}
	var queries []recordQuery
	if err := o.decode("qas", &queries); err != nil {
		return err
	}
	chars := []rune(p.Text)
	var entities []string
	for _, s := range p.Entities {
		if s.Start < 0 || s.End < s.Start || s.End >= len(chars) {
			return o.bad("passage", "entity %d to %d is outside of the text of %d characters", s.Start, s.End, len(chars))
		}
		if name := string(chars[s.Start : s.End+1]); !slices.Contains(entities, name) {
			entities = append(entities, name)
		}
	}
	if len(entities) == 0 {
		return o.bad("passage", "no entities")
	}
	e.Text = strings.ReplaceAll(p.Text, "\n@highlight\n", " ")
	for i, q := range queries {
		if !strings.Contains(q.Query, "@placeholder") {
			return o.bad("qas", "query %s has no @placeholder", number(q.Idx, i))
		}
		e.Group = passageID + "." + number(q.Idx, i)
		e.Gold = nil
		if q.Answers != nil {
			for _, a := range *q.Answers {
				e.Gold = append(e.Gold, a.Text)
			}
		}
		for j, name := range entities {
			c := e
			c.ID = e.Group + "." + strconv.Itoa(j)
			c.Answer = name
			c.Pair = strings.Replace(q.Query, "@placeholder", name, 1)
			if err := r.add(c, truth(slices.Contains(e.Gold, name)), q.Answers != nil, o.column("qas")); err != nil {
				return err
			}
		}
	}
	return nil
}

// wic reads a word in two sentences. Starts and ends count characters.
func wic(r *reader, o *object) error {
	e := o.example()
	word, err := o.text("word")
	if err != nil {
		return err
	}
	one, err := o.text("sentence1")
	if err != nil {
		return err
	}
	if e.Pair, err = o.text("sentence2"); err != nil {
		return err
	}
	e.Text = word + ": " + one
	for i, s := range []string{one, e.Pair} {
		n := strconv.Itoa(i + 1)
		var start, end int
		if !o.has("start" + n) { // files without places are read too
			continue
		}
		if err := o.decode("start"+n, &start); err != nil {
			return err
		}
		if err := o.decode("end"+n, &end); err != nil {
			return err
		}
		from, to, ok := byteSpan(s, start, end)
		if !ok {
			return o.bad("start"+n, "%d to %d is outside of sentence%s", start, end, n)
		}
		shift := 0
		if i == 0 {
			shift = len(word) + 2
		}
		e.Spans = append(e.Spans, Span{InPair: i == 1, Start: from + shift, End: to + shift})
	}
	return o.addLabelled(e, "label")
}

// byteSpan turns characters [start, end) into bytes.
func byteSpan(s string, start, end int) (from, to int, ok bool) {
	if start < 0 || end < start || end > utf8.RuneCountInString(s) {
		return 0, 0, false
	}
	from, to = len(s), len(s)
	n := 0
	for i := range s {
		if n == start {
			from = i
		}
		if n == end {
			to = i
		}
		n++
	}
	return from, to, true
}

type wscTarget struct {
	Span1Index int    `json:"span1_index"`
	Span2Index int    `json:"span2_index"`
	Span1Text  string `json:"span1_text"`
	Span2Text  string `json:"span2_text"`
}

// wsc reads a noun phrase (span 1) and a pronoun (span 2), whose indices count
// words between spaces.
func wsc(r *reader, o *object) error {
	e := o.example()
	text, err := o.text("text")
	if err != nil {
		return err
	}
	var t wscTarget
	if err := o.decode("target", &t); err != nil {
		return err
	}
	if t.Span1Text == "" || t.Span2Text == "" {
		return o.bad("target", "no span1_text or span2_text")
	}
	noun, ok := findWord(text, t.Span1Index, t.Span1Text)
	if !ok {
		return o.bad("target", "no %s at word %d", quoted(t.Span1Text), t.Span1Index)
	}
	pronoun, ok := findWord(text, t.Span2Index, t.Span2Text)
	if !ok {
		return o.bad("target", "no %s at word %d", quoted(t.Span2Text), t.Span2Index)
	}
	e.Text = text[:pronoun.Start] + "*" + text[pronoun.Start:pronoun.End] + "*" + text[pronoun.End:]
	e.Pair = t.Span1Text
	if noun.Start >= pronoun.End {
		noun.Start, noun.End = noun.Start+2, noun.End+2
	}
	e.Spans = []Span{noun, {Start: pronoun.Start + 1, End: pronoun.End + 1}}
	return o.addLabelled(e, "label")
}

// findWord finds phrase at word number index of text, or the nearest place
// where it stands: a few of the released indices are off by punctuation, and
// some phrases differ in case.
func findWord(text string, index int, phrase string) (Span, bool) {
	want := min(wordStart(text, index), len(text))
	best, distance := -1, len(text)+1
	for i := range text {
		end := i + len(phrase)
		if end > len(text) || !strings.EqualFold(text[i:end], phrase) || !wordEdge(text, i, end) {
			continue
		}
		if d := max(i-want, want-i); d < distance {
			best, distance = i, d
		}
	}
	return Span{Start: best, End: best + len(phrase)}, best >= 0
}

// wordStart returns the offset of a word of text, cut at single spaces as
// Python's str.split does it with runs of spaces.
func wordStart(text string, index int) int {
	inWord, n := false, -1
	for i, c := range text {
		space := c == ' ' || c == '\n' || c == '\t'
		if !space && !inWord {
			n++
			if n == index {
				return i
			}
		}
		inWord = !space
	}
	return len(text)
}

// wordEdge reports whether [from, to) of text is not a part of longer words.
func wordEdge(text string, from, to int) bool {
	letter := func(b byte) bool {
		return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b >= utf8.RuneSelf
	}
	return (from == 0 || !letter(text[from-1])) && (to == len(text) || !letter(text[to]))
}
