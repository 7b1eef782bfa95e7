package task

import (
	"slices"
	"strconv"
	"strings"
)

var tableExtensions = []string{".tsv", ".csv", ".jsonl", ".json"}

// glue is the layout of a GLUE task with a header: named columns for text,
// pair, label and identifier; pair and identifier may be "".
func glue(text, pair, label, id string) layout {
	return tabbed(columns{text: text, pair: pair, label: label, id: id}, "")
}

// tabbed reads tsv by c and other formats by their usual names.
func tabbed(c columns, suffix string) layout {
	return layout{extensions: tableExtensions, suffix: suffix, read: func(r *reader) error {
		if r.format != "tsv" || r.o.TextColumn != "" {
			return readGeneric(r)
		}
		return readTSV(r, c)
	}}
}

// glueCoLA: train and dev have four columns and no header (source, label, the
// author's mark, sentence); test has the header "index, sentence".
var glueCoLA = layout{extensions: tableExtensions, read: func(r *reader) error {
	if r.format != "tsv" || r.o.TextColumn != "" {
		return readGeneric(r)
	}
	first, _, _ := strings.Cut(r.text, "\n")
	if slices.Contains(strings.Split(strings.TrimSuffix(first, "\r"), "\t"), "sentence") {
		return readTSV(r, columns{text: "sentence", label: "label"})
	}
	return readTSV(r, columns{text: "4", label: "2", count: 4})
}}

// glueQQP: some rows of the released train.tsv are cut short; the usual
// readers leave them out, and so does this one, with a warning.
var glueQQP = tabbed(columns{text: "question1", pair: "question2", label: "is_duplicate", id: "id", skipShort: true}, "")

// glueMNLI: rows on whose label the annotators did not agree carry "-".
func glueMNLI(genres string) layout {
	return tabbed(columns{text: "sentence1", pair: "sentence2", label: "gold_label", id: "pairID", skipLabel: "-"}, "_"+genres)
}

// rte is GLUE's RTE as tsv and SuperGLUE's as JSON lines: the same examples.
var rte = layout{extensions: tableExtensions, read: func(r *reader) error {
	switch {
	case r.o.TextColumn != "":
		return readGeneric(r)
	case r.format == "tsv":
		return readTSV(r, columns{text: "sentence1", pair: "sentence2", label: "label", id: "index"})
	case r.format == "jsonl":
		return readRecords(r, rteRecord)
	}
	return readGeneric(r)
}}

// columns says where a table keeps what. Names are those of the header, or
// numbers from 1 where there is none.
type columns struct {
	text, pair, label, id string
	count                 int    // columns of a table without header; 0 means that there is a header
	skipShort             bool   // leave rows out that lack columns
	skipLabel             string // leave rows out that carry this label
}

// place is columns resolved to indices, -1 for what the table lacks.
type place struct{ text, pair, label, id, count int }

// resolve finds c in a header.
func (r *reader) resolve(c columns, header []string) (place, error) {
	at := func(name string) int {
		if name == "" {
			return -1
		}
		if c.count > 0 {
			if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= c.count {
				return n - 1
			}
			return -1
		}
		return slices.Index(header, name)
	}
	p := place{text: at(c.text), pair: at(c.pair), label: at(c.label), id: at(c.id), count: len(header)}
	if c.count > 0 {
		p.count = c.count
	}
	missing := ""
	switch {
	case p.text < 0:
		missing = c.text
	case c.pair != "" && p.pair < 0:
		missing = c.pair
	case p.label < 0 && r.needsAnswer():
		missing = c.label
	}
	if missing != "" {
		return p, r.bad(1, 0, "no column %s; the file has %s", quoted(missing), columnNames(header))
	}
	return p, nil
}

func columnNames(header []string) string {
	var q []string
	for _, h := range header {
		q = append(q, quoted(h))
	}
	return strings.Join(q, ", ")
}

// readTSV reads a table cut at tabs, without quoting.
func readTSV(r *reader, c columns) error {
	var p place
	started, short, unsure := false, 0, 0
	err := r.lines(func(line int, s string) error {
		if s == "" {
			return nil
		}
		f := strings.Split(s, "\t")
		if !started {
			started = true
			var err error
			if p, err = r.resolve(c, f); err != nil || c.count == 0 {
				return err
			}
		}
		if len(f) != p.count {
			if c.skipShort && len(f) < p.count {
				short++
				return nil
			}
			return r.bad(line, 0, "%d columns, but the table has %d", len(f), p.count)
		}
		if c.skipLabel != "" && p.label >= 0 && f[p.label] == c.skipLabel {
			unsure++
			return nil
		}
		return r.row(line, f, p, func(i int) int { return 1 + len(strings.Join(f[:i], "\t")) + min(i, 1) })
	})
	if short > 0 {
		r.note("%d rows with too few columns were left out", short)
	}
	if unsure > 0 {
		r.note("%d rows with the label %q were left out", unsure, c.skipLabel)
	}
	return err
}

// row adds the example of one row of a table; column gives the place of a field
// in its line.
func (r *reader) row(line int, f []string, p place, column func(int) int) error {
	e := Example{Line: line, Text: f[p.text]}
	if strings.TrimSpace(e.Text) == "" {
		return r.bad(line, column(p.text), "empty text")
	}
	if p.pair >= 0 {
		e.Pair = f[p.pair]
	}
	if p.id >= 0 {
		e.ID = f[p.id]
	}
	if p.label < 0 {
		return r.add(e, "", false, 0)
	}
	return r.add(e, f[p.label], f[p.label] != "" || r.needsAnswer(), column(p.label))
}
