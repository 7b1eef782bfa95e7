package task

import (
	"errors"
	"fmt"
	"strings"
)

// ErrBadData is wrapped by every error that is the fault of a data file.
var ErrBadData = errors.New("bad data")

// OptionError is an option that cannot be, whatever the data are.
type OptionError struct{ Reason string }

func (e *OptionError) Error() string { return e.Reason }

// Error is a fault in a data file, and where it is.
type Error struct {
	Path   string
	Line   int // from 1; 0 where the fault is the whole file
	Column int // bytes, from 1; 0 where the fault is the whole line
	Reason string
	Err    error // a cause other than the file's contents, or nil
}

// Error returns "path:line:column: reason", without what is not known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	b.WriteString(": ")
	b.WriteString(e.Reason)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrBadData) true, and finds the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{ErrBadData, e.Err}
	}
	return []error{ErrBadData}
}

// badf returns an *Error for a place in a file.
func badf(path string, line, column int, format string, args ...any) *Error {
	return &Error{Path: path, Line: line, Column: column, Reason: fmt.Sprintf(format, args...)}
}

// quoted shortens s for a message.
func quoted(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// list joins names for a message, the last with "or".
func list(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
}
