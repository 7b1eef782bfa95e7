package onnx

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	// ErrMalformed is wrapped by every error about the bytes of a file.
	ErrMalformed = errors.New("malformed ONNX model")
	// ErrUnsupported is wrapped by errors about valid models that cannot be
	// handled.
	ErrUnsupported = errors.New("unsupported ONNX model")
)

// Error says what is wrong with which part of a model.
type Error struct {
	Path   string // of the file, "" for a model that is not read from one
	Tensor string // the tensor concerned, or ""
	Node   string // the node concerned, or ""
	Offset int64  // in the model file
	Reason string
	Hint   string
	Err    error // what it wraps
}

func (e *Error) Error() string {
	s := e.Reason
	switch {
	case e.Tensor != "":
		s = fmt.Sprintf("tensor %q: %s", e.Tensor, s)
	case e.Node != "":
		s = fmt.Sprintf("node %q: %s", e.Node, s)
	}
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

const damaged = "the file is truncated, damaged or not an ONNX model: fetch it again"

// malformedAt is an error about the bytes at an offset.
func malformedAt(off int64, format string, args ...any) *Error {
	return &Error{Offset: off, Reason: fmt.Sprintf(format, args...) + fmt.Sprintf(" (byte %d)", off), Hint: damaged, Err: ErrMalformed}
}
