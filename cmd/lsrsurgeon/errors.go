package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/decompose"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/recipe"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/text"
	"github.com/lsrsurgeon/lsrsurgeon/train"
)

// Exit codes. 2 is left out: it is what a crashed Go program returns.
const (
	exitOK          = 0
	exitFailed      = 1
	exitRefused     = 3
	exitResource    = 4
	exitUsage       = 64
	exitInterrupted = 130
)

// usageError is a mistake on the command line.
type usageError struct{ msg, hint string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// hinted adds a remedy to an error.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func withHint(err error, format string, args ...any) error {
	return &hinted{error: err, hint: fmt.Sprintf(format, args...)}
}

// resourceError is a missing device, memory or disk.
type resourceError struct{ error }

func (e *resourceError) Unwrap() error { return e.error }

// verdict is what one error means to the user: the only place that maps
// errors to codes, for text and JSON alike.
func verdict(err error) (code int, msg, hint string) {
	msg = strings.Join(strings.Fields(err.Error()), " ")
	var u *usageError
	var h *hinted
	var f *formats.Error
	var r *resourceError
	var option *task.OptionError
	var rec *recipe.Error
	if errors.As(err, &h) {
		hint = h.hint
	} else if errors.As(err, &f) {
		hint = f.Hint
	} else if errors.As(err, &rec) {
		hint = rec.Hint
	}
	switch {
	case errors.As(err, &u):
		return exitUsage, msg, cmp.Or(u.hint, hint)
	case errors.As(err, &option), errors.Is(err, recipe.ErrVariable):
		return exitUsage, msg, hint
	case errors.Is(err, atomicfile.ErrExists):
		return exitUsage, msg, "give another name, or --force to replace it"
	case errors.Is(err, atomicfile.ErrLocked):
		return exitFailed, msg, "wait until it has ended, or give another output"
	case errors.Is(err, train.ErrInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted, strings.ReplaceAll(msg, context.Canceled.Error(), "interrupted"), hint
	case errors.As(err, &r), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.ENOMEM), errors.Is(err, merge.ErrSpace):
		return exitResource, msg, hint
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return exitFailed, msg, cmp.Or(hint, "check the permissions of the file and its directory, or give another place")
	case refused(err):
		return exitRefused, msg, hint
	}
	return exitFailed, msg, hint
}

// refused says that the input is at fault.
func refused(err error) bool {
	for _, e := range []error{
		formats.ErrMalformed, formats.ErrNotFound, formats.ErrUnsupported, onnx.ErrMalformed, onnx.ErrUnsupported, adapter.ErrMismatch,
		manifest.ErrDamaged, merge.ErrMismatch, merge.ErrInPlace, merge.ErrNonFinite, merge.ErrUnchanged, merge.ErrOverflow,
		decompose.ErrMismatch, task.ErrBadData, text.ErrNoTokenizer, text.ErrMalformed, train.ErrDiverged, train.ErrStateMismatch, recipe.ErrMalformed, fs.ErrNotExist,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// report writes err on stderr and returns the exit code.
func (a *app) report(err error) int {
	code, msg, hint := verdict(err)
	if a.json {
		doc := map[string]any{"schema": schemaVersion, "message_type": "exit_error", "code": code, "message": msg}
		if hint != "" {
			doc["hint"] = hint
		}
		b, _ := json.Marshal(doc) // a map of strings and ints always encodes
		fmt.Fprintln(a.err, string(b))
		return code
	}
	fmt.Fprintf(a.err, "lsrsurgeon: error: %s\n", msg)
	if hint != "" {
		fmt.Fprintf(a.err, "lsrsurgeon: hint: %s\n", hint)
	}
	return code
}
