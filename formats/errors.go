package formats

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	ErrMalformed   = errors.New("malformed file")
	ErrNotFound    = errors.New("no checkpoint found")
	ErrUnsupported = errors.New("unsupported")
)

// Error is an error about a file, and about a tensor where there is one.
type Error struct {
	Path   string
	Tensor string
	Offset int64 // in the file, 0 when unknown
	Reason string
	Hint   string // what to do
	Err    error  // what it wraps: a sentinel, or the cause
}

func (e *Error) Error() string {
	s := e.Path + ": "
	if e.Tensor != "" {
		s += fmt.Sprintf("tensor %q: ", e.Tensor)
	}
	return s + e.Reason
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
