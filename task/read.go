package task

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Split is a part of a task's data.
type Split uint8

// The splits. Only Test may lack answers.
const (
	Train Split = iota
	Dev
	Test
)

// String returns "train", "dev" or "test".
func (s Split) String() string { return [...]string{"train", "dev", "test"}[s] }

// stems are the file names of a split, without extension.
func (s Split) stems() []string {
	switch s {
	case Dev:
		return []string{"dev", "val", "valid", "validation"}
	case Test:
		return []string{"test"}
	}
	return []string{"train"}
}

// ReadOptions change how a file is read.
type ReadOptions struct {
	// Labels replaces the names and the order of the task's labels, as a model
	// that was trained with another order needs.
	Labels []string
	// TextColumn, PairColumn and LabelColumn name columns of tsv and csv files
	// or keys of JSON objects. Numbers count the columns of a file without a
	// header from 1. Empty means to recognise the usual names.
	TextColumn, PairColumn, LabelColumn string
	// Unlabelled accepts examples without an answer in every split.
	Unlabelled bool
	// Lines makes each line of a plain text file one example; otherwise the file
	// is one text.
	Lines bool
	// Chat lays out {"messages"}; the zero value is ChatML.
	Chat ChatTemplate
	// Limit stops after so many examples; 0 means no limit.
	Limit int
}

// layout says which files a task has and how to read one.
type layout struct {
	extensions []string // in the order of preference
	suffix     string   // of the stems of dev and test, as "_matched"
	read       func(*reader) error
}

// Read reads one split of a task from path, a file or a directory.
//
// Errors in the data wrap ErrBadData and name file, line and column. A missing
// file wraps fs.ErrNotExist as well.
func Read(spec Spec, path string, split Split, o ReadOptions) (*Data, error) {
	file, err := find(spec, path, split)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s data: %w", split, err)
	}
	return parse(spec, data, file, extension(file), split, o)
}

// ReadFrom reads from r what Read reads from a file. Name is used in errors;
// format is "tsv", "csv", "jsonl" or "txt".
func ReadFrom(spec Spec, r io.Reader, name, format string, split Split, o ReadOptions) (*Data, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return parse(spec, data, name, format, split, o)
}

func extension(path string) string {
	e := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	if e == "json" || e == "ndjson" {
		return "jsonl"
	}
	return e
}

// find returns the file of a split.
func find(spec Spec, path string, split Split) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", &Error{Path: path, Reason: "no such data", Err: err}
	}
	if !info.IsDir() {
		return path, nil
	}
	stems := split.stems()
	if suffix := spec.layout.suffix; suffix != "" && split != Train {
		var with []string
		for _, s := range stems {
			with = append(with, s+suffix)
		}
		stems = append(with, stems...)
	}
	var found []string
	for _, stem := range stems {
		for _, ext := range spec.layout.extensions {
			f := filepath.Join(path, stem+ext)
			if i, err := os.Stat(f); err == nil && i.Mode().IsRegular() {
				found = append(found, f)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	switch len(found) {
	case 0:
		return "", &Error{Path: path, Reason: fmt.Sprintf("no %s data for task %s: looked for %s with %s",
			split, spec.Name, list(stems), list(spec.layout.extensions)), Err: fs.ErrNotExist}
	case 1:
		return found[0], nil
	}
	return "", badf(path, 0, 0, "%s: name the file to use", strings.Join(baseNames(found), " and "))
}

func baseNames(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Base(p))
	}
	return out
}

// reader collects the examples of one file.
type reader struct {
	path   string
	format string
	text   string
	split  Split
	spec   *Spec
	o      *ReadOptions
	index  map[string]int // label name, and in lower case where that is one's alone -> index; nil to collect
	names  []string       // label of each example, while collecting
	out    []Example
	notes  []string
}

func parse(spec Spec, data []byte, path, format string, split Split, o ReadOptions) (*Data, error) {
	if !slices.Contains(spec.layout.extensions, "."+format) {
		return nil, badf(path, 0, 0, "task %s reads %s files", spec.Name, list(spec.layout.extensions))
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if line, col := invalidUTF8(text); line > 0 {
		return nil, badf(path, line, col, "not UTF-8 (byte 0x%02x): convert the file", badByte(text))
	}
	if o.Labels != nil {
		spec.Labels = slices.Clone(o.Labels)
	}
	r := &reader{path: path, format: format, text: text, split: split, spec: &spec, o: &o}
	if spec.Labels != nil {
		r.index = labelIndex(spec.Labels)
		if unique := slices.Compact(slices.Sorted(slices.Values(spec.Labels))); spec.Kind == Classification && len(unique) < len(spec.Labels) {
			return nil, &OptionError{fmt.Sprintf("a class is named twice among %s", list(spec.Labels))}
		}
	}
	if err := spec.layout.read(r); err != nil {
		return nil, err
	}
	if len(r.out) == 0 {
		return nil, badf(path, 0, 0, "no examples")
	}
	if err := r.collectLabels(); err != nil {
		return nil, err
	}
	return &Data{Spec: spec, Split: split, Path: path, Layout: format, Examples: r.out, Warnings: r.notes}, nil
}

// labelIndex finds labels by their spelling, and in any case where no two differ by
// case alone.
func labelIndex(labels []string) map[string]int {
	index, folded := map[string]int{}, map[string]int{}
	for i, l := range labels {
		index[l] = i
		folded[strings.ToLower(l)]++
	}
	for i, l := range labels {
		low := strings.ToLower(l)
		if _, taken := index[low]; !taken && folded[low] == 1 {
			index[low] = i
		}
	}
	return index
}

func invalidUTF8(s string) (line, column int) {
	if utf8.ValidString(s) {
		return 0, 0
	}
	return position(s, badOffset(s))
}

func badOffset(s string) int {
	for i, c := range s {
		if c == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return len(s)
}

func badByte(s string) byte { return s[badOffset(s)] }

// position returns line and column of an offset, from 1.
func position(s string, offset int) (line, column int) {
	before := s[:min(offset, len(s))]
	return 1 + strings.Count(before, "\n"), len(before) - strings.LastIndexByte(before, '\n')
}

// lines calls f with each line, without its ending, until f returns an error
// or the limit on examples is reached.
func (r *reader) lines(f func(line int, s string) error) error {
	line := 0
	for s := range strings.Lines(r.text) {
		line++
		s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
		if err := f(line, s); err != nil {
			return err
		}
		if r.full() {
			break
		}
	}
	return nil
}

func (r *reader) full() bool { return r.o.Limit > 0 && len(r.out) >= r.o.Limit }

// needsAnswer reports whether an example without an answer is an error.
func (r *reader) needsAnswer() bool { return r.split != Test && !r.o.Unlabelled }

// bad returns an error for a place in the file.
func (r *reader) bad(line, column int, format string, args ...any) error {
	return badf(r.path, line, column, format, args...)
}

// add appends an example whose answer was read as text; has is false where the
// file has none.
func (r *reader) add(e Example, answer string, has bool, column int) error {
	if r.full() {
		return nil
	}
	e.Label, e.Target = Unlabelled, float32(math.NaN())
	if e.ID == "" {
		e.ID = strconv.Itoa(e.Line)
	}
	name := ""
	switch {
	case r.spec.Kind == LM:
	case !has && r.needsAnswer():
		return r.bad(e.Line, column, "no label, and the %s split needs one", r.split)
	case !has:
	case r.spec.Kind == Regression:
		v, err := strconv.ParseFloat(strings.TrimSpace(answer), 32)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return r.bad(e.Line, column, "%s is not a finite number", quoted(answer))
		}
		e.Target = float32(v)
	case r.index == nil:
		name = strings.TrimSpace(answer)
		if name == "" {
			return r.bad(e.Line, column, "empty label")
		}
	default:
		label, err := r.label(e.Line, column, answer)
		if err != nil {
			return err
		}
		e.Label = label
	}
	r.out = append(r.out, e)
	r.names = append(r.names, name)
	return nil
}

// label returns the index of a label given by name or by number. -1 means
// unlabelled, as public datasets mark their test splits.
func (r *reader) label(line, column int, s string) (int, error) {
	s = strings.TrimSpace(s)
	if i, ok := r.index[s]; ok {
		return i, nil
	}
	if i, ok := r.index[strings.ToLower(s)]; ok {
		return i, nil
	}
	i, err := strconv.Atoi(s)
	switch {
	case err == nil && i >= 0 && i < len(r.spec.Labels):
		return i, nil
	case err == nil && i == -1 && !r.needsAnswer():
		return Unlabelled, nil
	}
	return 0, r.bad(line, column, "unknown label %s: task %s has %s", quoted(s), r.spec.Name, list(r.spec.Labels))
}

// collectLabels numbers the labels found in a file whose task has none:
// numbers by value, other names by spelling.
func (r *reader) collectLabels() error {
	if r.spec.Kind != Classification || r.index != nil {
		return nil
	}
	var labels []string
	for _, n := range r.names {
		if n != "" && !slices.Contains(labels, n) {
			if len(labels) == maxLabels {
				return r.bad(0, 0, "more than %d different labels: is this a regression, or the wrong column", maxLabels)
			}
			labels = append(labels, n)
		}
	}
	if len(labels) == 0 {
		return nil
	}
	if len(labels) == 1 && r.split == Train {
		return r.bad(0, 0, "every example has the label %s: nothing to learn", quoted(labels[0]))
	}
	slices.SortFunc(labels, compareLabels)
	for i, n := range r.names {
		if n != "" {
			r.out[i].Label = slices.Index(labels, n)
		}
	}
	r.spec.Labels = labels
	return nil
}

// maxLabels is far above the classes of the usual tasks and far below the
// number of values in a column of texts or scores.
const maxLabels = 1000

func compareLabels(a, b string) int {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil && x != y {
		if x < y {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

// note keeps a warning about what was left out.
func (r *reader) note(format string, args ...any) {
	r.notes = append(r.notes, r.path+": "+fmt.Sprintf(format, args...))
}
