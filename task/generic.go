package task

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// generic is the layout of the tasks classification and regression.
var generic = layout{extensions: tableExtensions, read: readGeneric}

// textNames are the usual names of the input, each with those of its second
// text, the likeliest first.
var textNames = []struct {
	text  string
	pairs []string
}{
	{"text", []string{"text_pair", "text2", "pair"}},
	{"sentence1", []string{"sentence2"}},
	{"text_a", []string{"text_b"}},
	{"text1", []string{"text2"}},
	{"premise", []string{"hypothesis"}},
	{"question1", []string{"question2"}},
	{"question", []string{"passage", "context", "sentence", "answer"}},
	{"query", []string{"passage", "document"}},
	{"sentence", nil},
	{"content", nil},
	{"review", nil},
	{"document", nil},
	{"input", nil},
}

var labelNames = []string{"label", "labels", "class", "gold_label", "score", "target", "category", "is_duplicate"}
var idNames = []string{"id", "idx", "index", "guid"}

// detect finds the columns among names, which a header or the keys of a JSON
// object give. What the options name is taken as it is.
func (r *reader) detect(names []string, line int) (columns, error) {
	has := func(n string) bool { return n != "" && slices.Contains(names, n) }
	c := columns{text: r.o.TextColumn, pair: r.o.PairColumn, label: r.o.LabelColumn}
	for _, want := range []string{c.text, c.pair} {
		if want != "" && !has(want) {
			return c, r.bad(line, 0, "no column %s; there are %s", quoted(want), columnNames(names))
		}
	}
	if c.text == "" {
		for _, t := range textNames {
			if !has(t.text) {
				continue
			}
			c.text = t.text
			for _, p := range t.pairs {
				if c.pair == "" && has(p) && p != c.label {
					c.pair = p
				}
			}
			break
		}
	}
	if c.text == "" {
		return c, r.bad(line, 0, "no text column among %s: name the one to use", columnNames(names))
	}
	for _, n := range labelNames {
		if c.label == "" && has(n) && n != c.text && n != c.pair {
			c.label = n
		}
	}
	if r.needsAnswer() && !has(c.label) {
		if c.label != "" {
			return c, r.bad(line, 0, "no column %s; there are %s", quoted(c.label), columnNames(names))
		}
		return c, r.bad(line, 0, "no label column among %s: name the one to use", columnNames(names))
	}
	for _, n := range idNames {
		if c.id == "" && has(n) && n != c.text && n != c.label {
			c.id = n
		}
	}
	return c, nil
}

// readGeneric reads a table or JSON lines by the usual names.
func readGeneric(r *reader) error {
	switch r.format {
	case "jsonl":
		return readGenericJSON(r)
	case "csv":
		return readCSV(r)
	}
	first, _, _ := strings.Cut(r.text, "\n")
	header := strings.Split(strings.TrimSuffix(first, "\r"), "\t")
	c, err := r.tableColumns(header)
	if err != nil {
		return err
	}
	return readTSV(r, c)
}

// tableColumns finds the columns of a table by its first row. Column names that
// are numbers say that there is no header.
func (r *reader) tableColumns(first []string) (columns, error) {
	if len(first) == 1 && strings.TrimSpace(first[0]) == "" {
		return columns{}, r.bad(1, 0, "no header")
	}
	if _, err := strconv.Atoi(r.o.TextColumn); err == nil && !slices.Contains(first, r.o.TextColumn) {
		c := columns{text: r.o.TextColumn, pair: r.o.PairColumn, label: r.o.LabelColumn, count: len(first)}
		if c.label == "" && r.needsAnswer() {
			return c, r.bad(1, 0, "the number of the label column is needed, from 1 to %d", c.count)
		}
		for _, n := range []string{c.text, c.pair, c.label} {
			if i, err := strconv.Atoi(n); n != "" && (err != nil || i < 1 || i > c.count) {
				return c, r.bad(1, 0, "no column %s; there are %d", n, c.count)
			}
		}
		return c, nil
	}
	return r.detect(first, 1)
}

// readCSV reads comma-separated values with quotes (RFC 4180).
func readCSV(r *reader) error {
	d := csv.NewReader(strings.NewReader(r.text))
	var p place
	for row := 0; !r.full(); row++ {
		f, err := d.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			var pe *csv.ParseError
			if errors.As(err, &pe) {
				if errors.Is(pe.Err, csv.ErrFieldCount) {
					return r.bad(pe.Line, 0, "%d columns, but the table has %d", len(f), d.FieldsPerRecord)
				}
				return r.bad(pe.Line, pe.Column, "%v", pe.Err)
			}
			return fmt.Errorf("read %s: %w", r.path, err)
		}
		if row == 0 {
			c, err := r.tableColumns(f)
			if err != nil {
				return err
			}
			if p, err = r.resolve(c, f); err != nil {
				return err
			}
			if c.count == 0 {
				continue
			}
		}
		line, _ := d.FieldPos(0)
		if err := r.row(line, f, p, func(i int) int { _, col := d.FieldPos(i); return col }); err != nil {
			return err
		}
	}
	return nil
}

// readGenericJSON reads JSON objects; the keys of the first decide the columns.
func readGenericJSON(r *reader) error {
	var c columns
	started := false
	return readRecords(r, func(r *reader, o *object) error {
		if !started {
			var err error
			if c, err = r.detect(o.keys(), o.line); err != nil {
				return err
			}
			started = true
		}
		e := Example{Line: o.line}
		var err error
		if e.Text, err = o.text(c.text); err != nil {
			return err
		}
		if c.pair != "" {
			if e.Pair, err = o.text(c.pair); err != nil {
				return err
			}
		}
		if c.id != "" {
			e.ID, _ = o.scalar(c.id)
		}
		answer, has := o.scalar(c.label)
		return r.add(e, answer, has, o.column(c.label))
	})
}
