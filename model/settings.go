package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// settings reads config.json key by key. The first wrong value is kept in err,
// so that a family's file is a plain list of assignments.
type settings struct {
	path string
	keys map[string]json.RawMessage
	err  error
}

// readSettings reads dir's config.json.
func readSettings(dir string) (*settings, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &formats.Error{Path: path, Reason: "there is no configuration beside the model's tensors", Hint: "a model directory holds config.json; copy it there", Err: formats.ErrNotFound}
	}
	if err != nil {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "check the file and its permissions", Err: err}
	}
	return parseSettings(path, data)
}

func parseSettings(path string, data []byte) (*settings, error) {
	s := &settings{path: path}
	if err := json.Unmarshal(data, &s.keys); err != nil {
		return nil, &formats.Error{Path: path, Reason: fmt.Sprintf("not a JSON object: %v", err), Err: formats.ErrMalformed}
	}
	return s, nil
}

// malformed records that key has a value of the wrong form.
func (s *settings) malformed(key, format string, args ...any) {
	if s.err == nil {
		s.err = &formats.Error{Path: s.path, Reason: key + ": " + fmt.Sprintf(format, args...), Err: formats.ErrMalformed}
	}
}

// unsupported records that key asks for something that no block here computes.
func (s *settings) unsupported(key, format string, args ...any) {
	if s.err == nil {
		s.err = &formats.Error{Path: s.path, Reason: key + ": " + fmt.Sprintf(format, args...), Err: ErrUnsupported}
	}
}

// raw returns the value of key; null counts as absent.
func (s *settings) raw(key string) (json.RawMessage, bool) {
	v, ok := s.keys[key]
	if !ok || string(v) == "null" {
		return nil, false
	}
	return v, true
}

// read decodes key into dst and reports whether it was there.
func (s *settings) read(key string, dst any) bool {
	v, ok := s.raw(key)
	if !ok {
		return false
	}
	if err := json.Unmarshal(v, dst); err != nil {
		s.malformed(key, "%s is not a %s", clip(string(v)), kindOf(dst))
		return false
	}
	return true
}

func kindOf(dst any) string {
	switch dst.(type) {
	case *int:
		return "whole number"
	case *float64:
		return "number"
	case *bool:
		return "boolean"
	case *string:
		return "string"
	}
	return "value of the expected form"
}

// clip shortens a value for a message.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// size returns a positive whole number that must be there.
func (s *settings) size(key string) int {
	n := 0
	if !s.read(key, &n) {
		s.malformed(key, "missing")
		return 1
	}
	return s.positive(key, n)
}

// sizeOr is size with a default.
func (s *settings) sizeOr(key string, n int) int {
	s.read(key, &n)
	return s.positive(key, n)
}

// maxSize bounds every size of a configuration; products of two of them still
// fit an int.
const maxSize = 1 << 30

func (s *settings) positive(key string, n int) int {
	if n < 1 || n > maxSize {
		s.malformed(key, "%d is not a positive size", n)
		return 1
	}
	return n
}

func (s *settings) intOr(key string, n int) int { s.read(key, &n); return n }

func (s *settings) boolOr(key string, b bool) bool { s.read(key, &b); return b }

func (s *settings) textOr(key, t string) string { s.read(key, &t); return t }

// numberOr returns a finite number above low.
func (s *settings) numberOr(key string, x, low float64) float64 {
	s.read(key, &x)
	if math.IsInf(x, 0) || math.IsNaN(x) || x <= low {
		s.malformed(key, "%v must be a finite number above %v", x, low)
		return 1
	}
	return x
}

// probability returns a dropout probability, 0 ≤ p < 1.
func (s *settings) probability(key string, p float64) float64 {
	s.read(key, &p)
	if !(p >= 0 && p < 1) {
		s.malformed(key, "%v is not a probability in [0, 1)", p)
		return 0
	}
	return p
}

// activations are transformers' names of the functions that the engines have.
var activations = map[string]graph.Act{
	"gelu":              graph.ActGELU,
	"gelu_python":       graph.ActGELU,
	"gelu_new":          graph.ActGELUTanh,
	"gelu_fast":         graph.ActGELUTanh,
	"gelu_pytorch_tanh": graph.ActGELUTanh,
	"gelu_python_tanh":  graph.ActGELUTanh,
	"relu":              graph.ActReLU,
	"silu":              graph.ActSiLU,
	"swish":             graph.ActSiLU,
	"tanh":              graph.ActTanh,
}

// activation reads the name of an activation function.
func (s *settings) activation(key, name string) graph.Act {
	name = s.textOr(key, name)
	act, ok := activations[name]
	if !ok {
		known := make([]string, 0, len(activations))
		for k := range activations {
			known = append(known, k)
		}
		slices.Sort(known)
		s.unsupported(key, "activation %q is not known; known are %s", name, strings.Join(known, ", "))
	}
	return act
}

// refuse records an unsupported setting when key is a boolean that is true.
func (s *settings) refuse(key, why string) {
	if s.boolOr(key, false) {
		s.unsupported(key, "true: %s", why)
	}
}
