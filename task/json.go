package task

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

var jsonExtensions = []string{".jsonl", ".json"}

// records is a layout of JSON objects, one a line.
func records(f func(*reader, *object) error) layout {
	return layout{extensions: jsonExtensions, read: func(r *reader) error { return readRecords(r, f) }}
}

// object is a JSON object of a file, with the place of its values.
type object struct {
	r      *reader
	line   int // of its start
	order  []string
	values map[string]value
}

type value struct {
	raw          json.RawMessage
	line, column int
}

// readRecords calls f with each object: one a line, or those of one array.
func readRecords(r *reader, f func(*reader, *object) error) error {
	if strings.HasPrefix(strings.TrimLeft(r.text, " \t\r\n"), "[") {
		return readArray(r, f)
	}
	return r.lines(func(line int, s string) error {
		if strings.TrimSpace(s) == "" {
			return nil
		}
		o, err := r.parseObject(s, line, 1)
		if err != nil {
			return err
		}
		return f(r, o)
	})
}

// readArray calls f with the objects of a JSON array, on any number of lines.
func readArray(r *reader, f func(*reader, *object) error) error {
	d := json.NewDecoder(strings.NewReader(r.text))
	if _, err := d.Token(); err != nil {
		return r.jsonError(err, r.text, 0, 1, 1)
	}
	at, line, start := 0, 1, 0 // start is the offset of the line's first byte
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return r.jsonError(err, r.text, int(d.InputOffset()), 1, 1)
		}
		from := int(d.InputOffset()) - len(raw)
		line += strings.Count(r.text[at:from], "\n")
		if i := strings.LastIndexByte(r.text[at:from], '\n'); i >= 0 {
			start = at + i + 1
		}
		at = from
		o, err := r.parseObject(string(raw), line, 1+from-start)
		if err != nil {
			return err
		}
		if err := f(r, o); err != nil {
			return err
		}
		if r.full() {
			return nil
		}
	}
	if _, err := d.Token(); err != nil {
		return r.jsonError(err, r.text, int(d.InputOffset()), 1, 1)
	}
	if tail := r.text[d.InputOffset():]; strings.TrimSpace(tail) != "" {
		line, col := position(r.text, int(d.InputOffset()))
		return r.bad(line, col, "something follows the JSON array")
	}
	return nil
}

// parseObject parses s, which starts at the given place of the file.
func (r *reader) parseObject(s string, line, column int) (*object, error) {
	place := func(offset int) (int, int) {
		l, c := position(s, offset)
		if l == 1 {
			c += column - 1
		}
		return line + l - 1, c
	}
	d := json.NewDecoder(strings.NewReader(s))
	t, err := d.Token()
	if err != nil {
		return nil, r.jsonError(err, s, 0, line, column)
	}
	if t != json.Delim('{') {
		return nil, r.bad(line, column, "not a JSON object")
	}
	o := &object{r: r, line: line, values: map[string]value{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, r.jsonError(err, s, int(d.InputOffset()), line, column)
		}
		key := t.(string) // the decoder accepts nothing else as a key
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, r.jsonError(err, s, int(d.InputOffset()), line, column)
		}
		l, c := place(int(d.InputOffset()) - len(raw))
		if _, ok := o.values[key]; ok {
			return nil, r.bad(l, c, "key %s twice", quoted(key))
		}
		o.order = append(o.order, key)
		o.values[key] = value{raw: raw, line: l, column: c}
	}
	if _, err := d.Token(); err != nil {
		return nil, r.jsonError(err, s, int(d.InputOffset()), line, column)
	}
	if end := int(d.InputOffset()); strings.TrimSpace(s[end:]) != "" {
		l, c := place(end)
		return nil, r.bad(l, c, "something follows the JSON object")
	}
	return o, nil
}

// jsonError turns a decoder's error into ours. s starts at line, column; offset
// is where the decoder stood if the error does not say.
func (r *reader) jsonError(err error, s string, offset, line, column int) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset > 0 {
		// The decoder counts up to the bad character when it fails between
		// tokens, and past it when it fails within a value.
		offset = int(syntax.Offset)
		if offset >= len(s) || !strings.HasPrefix(err.Error(), fmt.Sprintf("invalid character '%c'", s[offset])) {
			offset--
		}
	}
	reason := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		offset, reason = len(strings.TrimRight(s, " \t\r\n")), "it ends too early"
	}
	l, c := position(s, offset)
	if l == 1 {
		c += column - 1
	}
	return r.bad(line+l-1, c, "not JSON: %s", reason)
}

func (o *object) keys() []string { return o.order }

func (o *object) has(key string) bool {
	v, ok := o.values[key]
	return ok && !bytes.Equal(v.raw, []byte("null"))
}

// column returns the place of a value in its line, 0 if it is not there.
func (o *object) column(key string) int { return o.values[key].column }

// bad returns an error at the value of key, or at the object's line.
func (o *object) bad(key, format string, args ...any) error {
	if v, ok := o.values[key]; ok {
		return o.r.bad(v.line, v.column, "%s: %s", key, fmt.Sprintf(format, args...))
	}
	return o.r.bad(o.line, 0, "%s: %s", key, fmt.Sprintf(format, args...))
}

// decode unmarshals the value of key, which must be there.
func (o *object) decode(key string, to any) error {
	if !o.has(key) {
		return o.r.bad(o.line, 0, "no key %s; there are %s", quoted(key), columnNames(o.order))
	}
	if err := json.Unmarshal(o.values[key].raw, to); err != nil {
		var t *json.UnmarshalTypeError
		if errors.As(err, &t) {
			where := ""
			if t.Field != "" {
				where = " in " + t.Field
			}
			return o.bad(key, "a %s%s, where a %s is needed", t.Value, where, kindName(t.Type.Kind().String()))
		}
		return o.bad(key, "%v", err)
	}
	return nil
}

func kindName(k string) string {
	switch k {
	case "slice":
		return "list"
	case "struct", "map":
		return "object"
	case "int", "float64":
		return "number"
	}
	return k
}

// text returns a string that must not be blank.
func (o *object) text(key string) (string, error) {
	var s string
	if err := o.decode(key, &s); err != nil {
		return "", err
	}
	if strings.TrimSpace(s) == "" {
		return "", o.bad(key, "empty text")
	}
	return s, nil
}

// scalar returns a string, a number's spelling, or "true" or "false"; false if
// the value is absent, null, a list or an object.
func (o *object) scalar(key string) (string, bool) {
	if !o.has(key) {
		return "", false
	}
	raw := o.values[key].raw
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return "", false
		}
		return s, true
	case '[', '{':
		return "", false
	}
	return string(raw), true
}
