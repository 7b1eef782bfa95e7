package task

import "strings"

// lmLayout reads text for language models.
//
// A txt file is one text, or one a line with ReadOptions.Lines. A JSON object
// has "text", all of which carries loss; or "prompt" and "completion", of which
// the completion does; or "messages", of which what the assistant says does.
var lmLayout = layout{extensions: []string{".jsonl", ".json", ".txt"}, read: readLM}

func readLM(r *reader) error {
	if r.format == "jsonl" {
		return readRecords(r, lmRecord)
	}
	if r.o.Lines {
		return r.lines(func(line int, s string) error {
			if strings.TrimSpace(s) == "" {
				return nil
			}
			return r.addLM(Example{Line: line, Text: s, Segments: []Segment{{Text: s, Loss: true}}})
		})
	}
	if strings.TrimSpace(r.text) == "" {
		return nil
	}
	return r.addLM(Example{Line: 1, Segments: []Segment{{Text: r.text, Loss: true}}})
}

// addLM adds a text, which is its own answer.
func (r *reader) addLM(e Example) error { return r.add(e, "", false, 0) }

type message struct {
	Role    string
	Content string
}

func lmRecord(r *reader, o *object) error {
	e := o.example()
	text := r.o.TextColumn
	if text == "" {
		text = "text"
	}
	switch {
	case o.has("messages"):
		var m []message
		if err := o.decode("messages", &m); err != nil {
			return err
		}
		if len(m) == 0 {
			return o.bad("messages", "no messages")
		}
		s, err := r.o.Chat.segments(m)
		if err != nil {
			return o.bad("messages", "%v", err)
		}
		e.Segments = s
	case o.has("prompt"), o.has("completion"):
		var prompt string
		if err := o.decode("prompt", &prompt); err != nil {
			return err
		}
		completion, err := o.text("completion")
		if err != nil {
			return err
		}
		e.Segments = []Segment{{Text: prompt}, {Text: completion, Loss: true}}
	case o.has(text):
		s, err := o.text(text)
		if err != nil {
			return err
		}
		e.Segments = []Segment{{Text: s, Loss: true}}
	default:
		return r.bad(o.line, 0, "none of the keys %s, \"prompt\" and \"completion\", or \"messages\"; there are %s",
			quoted(text), columnNames(o.order))
	}
	return r.addLM(e)
}
