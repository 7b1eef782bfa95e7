// Package recipe reads recipes and studies: YAML files that say which commands of
// lsrsurgeon are to run, one after the other, or which configurations are to be
// trained with which seeds.
//
// It parses and checks them, fills in their variables, spreads their grids out and
// keeps the statistics of repeated runs and the journal of finished steps. It runs
// nothing and touches no file.
//
// Of YAML it takes mappings, sequences and scalars. Scalars are kept as they are
// written, so that 1e-3, 2x2 and no mean what they mean on a command line. Anchors,
// aliases, tags, merge keys, complex keys and several documents are refused, and so
// is whatever is nested deeply or very long: a recipe can never be larger than it
// looks.
package recipe

import (
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by the errors of files that are no recipe or study.
var ErrMalformed = errors.New("malformed recipe")

// ErrVariable is wrapped where a value is given for a variable that a file lacks.
var ErrVariable = errors.New("unknown variable")

// Pos is a place in a file, counted from 1. Columns count characters.
type Pos struct{ Line, Col int }

// Text is a scalar of a file, its variables filled in.
type Text struct {
	Value string
	Pos   Pos
}

// Error is a fault of a file at a place.
type Error struct {
	Path   string
	Pos    Pos // the zero Pos for the file as a whole
	Reason string
	Hint   string // what to do about it, or ""
	Err    error  // ErrMalformed, or what else errors.Is is to find
}

func (e *Error) Error() string {
	if e.Pos == (Pos{}) {
		return fmt.Sprintf("%s: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.Path, e.Pos.Line, e.Pos.Col, e.Reason)
}

func (e *Error) Unwrap() error { return e.Err }
