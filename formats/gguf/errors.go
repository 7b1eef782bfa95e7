package gguf

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	// ErrMalformed is wrapped by every error about the bytes of a file.
	ErrMalformed = errors.New("malformed GGUF file")
	// ErrUnsupported is wrapped by errors about valid files that are not read.
	ErrUnsupported = errors.New("unsupported GGUF file")
)

// Error says what is wrong with which part of a file.
type Error struct {
	Tensor string // the tensor concerned, or ""
	Key    string // the metadata entry concerned, or ""
	Offset int64  // in the file
	Reason string
	Hint   string
	Err    error // what it wraps
}

func (e *Error) Error() string {
	switch {
	case e.Tensor != "":
		return fmt.Sprintf("tensor %q: %s", e.Tensor, e.Reason)
	case e.Key != "":
		return fmt.Sprintf("metadata %q: %s", e.Key, e.Reason)
	}
	return e.Reason
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

const damaged = "the file is truncated, damaged or not a GGUF file: fetch it again"

// malformed is an error about the bytes at an offset.
func malformed(off int64, format string, args ...any) *Error {
	return &Error{Offset: off, Reason: fmt.Sprintf(format, args...) + fmt.Sprintf(" (byte %d)", off), Hint: damaged, Err: ErrMalformed}
}
