package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// Limits of a file.
const (
	MaxBytes = 256 << 10 // of the file
	maxDepth = 16        // of collections within each other
	maxText  = 64 << 10  // bytes of a value whose variables are filled in
)

type kind int

const (
	scalar kind = iota
	sequence
	mapping
)

func (k kind) String() string {
	return [...]string{"a single value", "a list", "a mapping"}[k]
}

// node is a value of a file.
type node struct {
	kind  kind
	pos   Pos
	text  string  // of a scalar, as it is written
	null  bool    // a scalar that is missing, or written ~ or null
	items []*node // of a sequence
	pairs []pair  // of a mapping, in the order of the file
}

type pair struct {
	key   Text
	value *node
}

// file is one that is being read: its name, for errors, and its variables.
type file struct {
	path string
	vars map[string]*variable
	text []byte
}

func (f *file) errorf(p Pos, format string, args ...any) *Error {
	return &Error{Path: f.path, Pos: p, Reason: fmt.Sprintf(format, args...), Err: ErrMalformed}
}

// parse reads the file's text into nodes.
func (f *file) parse() (n *node, err error) {
	if len(f.text) > MaxBytes {
		return nil, f.errorf(Pos{}, "it has %d bytes, and %d are the most", len(f.text), MaxBytes)
	}
	f.text = bytes.TrimPrefix(f.text, []byte("\xef\xbb\xbf")) // the mark that some editors begin files with
	if !utf8.Valid(f.text) || bytes.IndexByte(f.text, 0) >= 0 {
		return nil, f.errorf(Pos{}, "it is no text in UTF-8")
	}
	// Line breaks are made one kind: the library counts some of \r\n twice.
	f.text = bytes.ReplaceAll(bytes.ReplaceAll(f.text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	defer func() { // the text comes from anywhere, and the library that reads it has faults
		if r := recover(); r != nil {
			n, err = nil, f.errorf(Pos{}, "it cannot be read as YAML")
		}
	}()
	tokens := lexer.Tokenize(string(f.text))
	if err := f.shallow(tokens); err != nil {
		return nil, err
	}
	tree, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, f.syntax(err)
	}
	var body ast.Node
	for _, d := range tree.Docs {
		switch {
		case d.Body == nil:
		case body != nil:
			return nil, f.errorf(posOf(d.Body), "a second document begins here, and a file is one")
		default:
			body = d.Body
		}
	}
	if body == nil {
		return nil, f.errorf(Pos{}, "it is empty")
	}
	return f.node(body, 1)
}

// shallow refuses texts that are nested deeply before the parser, which calls itself
// for every level and takes quadratic time, sees them.
func (f *file) shallow(tokens token.Tokens) error {
	flow, dashes, line := 0, 0, 0
	for _, t := range tokens {
		p := Pos{t.Position.Line, t.Position.Column}
		if p.Line != line {
			dashes, line = 0, p.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		case token.MappingKeyType:
			return f.errorf(p, "keys are plain names; \"? \" is not used here")
		}
		if flow+dashes > maxDepth {
			return f.errorf(p, "it is nested more than %d deep", maxDepth)
		}
	}
	return nil
}

// syntax turns an error of the parser into one of ours.
func (f *file) syntax(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil || y.GetToken().Position == nil {
		return f.errorf(Pos{}, "it cannot be read as YAML")
	}
	at := y.GetToken().Position
	out := f.errorf(Pos{at.Line, at.Column}, "%s", y.GetMessage())
	lines := strings.Split(string(f.text), "\n")
	if i := at.Line - 1; i >= 0 && i < len(lines) && strings.Contains(lines[i], "${") {
		out.Hint = `within [ ] and { } a variable stands in quotes: "${name}"`
	}
	return out
}

func posOf(n ast.Node) Pos {
	switch v := n.(type) {
	case *ast.MappingValueNode:
		return posOf(v.Key)
	case *ast.MappingNode:
		if len(v.Values) > 0 && !v.IsFlowStyle {
			return posOf(v.Values[0])
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return Pos{t.Position.Line, t.Position.Column}
	}
	return Pos{}
}

// node turns a node of the library into one of ours, or refuses it.
func (f *file) node(a ast.Node, depth int) (*node, error) {
	n := &node{pos: posOf(a)}
	if depth > maxDepth {
		return nil, f.errorf(n.pos, "it is nested more than %d deep", maxDepth)
	}
	switch v := a.(type) {
	case *ast.StringNode:
		n.text = v.Value
	case *ast.LiteralNode:
		n.text = v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		n.text = a.GetToken().Value
	case *ast.NullNode:
		n.null = true
	case *ast.SequenceNode:
		n.kind = sequence
		for _, x := range v.Values {
			item, err := f.node(x, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case *ast.MappingValueNode: // a mapping of one pair
		n.kind = mapping
		return n, f.pair(n, v, depth)
	case *ast.MappingNode:
		n.kind = mapping
		for _, x := range v.Values {
			if err := f.pair(n, x, depth); err != nil {
				return nil, err
			}
		}
	default:
		return nil, f.errorf(n.pos, "%s", unused(a))
	}
	return n, nil
}

// pair adds a pair to a mapping.
func (f *file) pair(n *node, v *ast.MappingValueNode, depth int) error {
	key, ok := v.Key.(*ast.StringNode)
	if !ok {
		if s, scalar := v.Key.(ast.ScalarNode); !scalar || s.Type() == ast.MergeKeyType {
			return f.errorf(posOf(v.Key), "%s", unused(v.Key))
		}
		return f.errorf(posOf(v.Key), "a key is a name, and %s is none", v.Key.GetToken().Value)
	}
	k := Text{key.Value, posOf(key)}
	for _, p := range n.pairs {
		if p.key.Value == k.Value {
			return f.errorf(k.Pos, "%s stands here a second time; the first is in line %d", k.Value, p.key.Pos.Line)
		}
	}
	value, err := f.node(v.Value, depth+1)
	if err != nil {
		return err
	}
	if value.null {
		value.pos = k.Pos // there is nothing to point at
	}
	n.pairs = append(n.pairs, pair{k, value})
	return nil
}

// unused says what of YAML is not used here.
func unused(n ast.Node) string {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		return "anchors and aliases are not used here; vars: holds what is needed twice"
	case *ast.TagNode:
		return "tags are not used here: values are taken as they are written"
	case *ast.MergeKeyNode:
		return "merge keys are not used here"
	}
	return "this part of YAML is not used here"
}

// want refuses a node of another kind.
func (f *file) want(n *node, k kind, what string) error {
	switch {
	case n.null:
		return f.errorf(n.pos, "%s has no value", what)
	case n.kind != k:
		return f.errorf(n.pos, "%s is %v, and %v is wanted", what, n.kind, k)
	}
	return nil
}

// unknown is the error of a key that has no meaning.
func (f *file) unknown(key Text, what string, known []string) error {
	e := f.errorf(key.Pos, "%s has no key %q", what, key.Value)
	if near := suggest.Nearest(key.Value, known, 3); len(near) > 0 {
		e.Hint = "did you mean " + strings.Join(near, ", ") + "?"
	} else {
		e.Hint = "there are " + strings.Join(known, ", ")
	}
	return e
}
