package safetensors

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Parse parses the JSON text of a header. It is a scanner of just the JSON that
// the format allows: strict UTF-8, no duplicate key anywhere, no unknown
// field, integers without sign, fraction or exponent. Offsets are checked
// against dtype and shape, not against the file; see ReadHeader.
func Parse(text []byte) (*Header, error) {
	p := &parser{b: text}
	if !utf8.Valid(text) {
		return nil, p.fail("header is not valid UTF-8")
	}
	h := &Header{}
	if len(text) == 0 || text[0] != '{' {
		return nil, p.fail("header does not start with {")
	}
	seen := make(map[string]struct{}, len(text)/120)
	err := p.object(func(key string) error {
		if _, dup := seen[key]; dup {
			return &Error{Tensor: key, Offset: int64(8 + p.i), Reason: "the name appears twice in the header"}
		}
		seen[key] = struct{}{}
		if key == "__metadata__" {
			return p.metadata(h)
		}
		e := Entry{Name: key}
		if err := p.entry(&e); err != nil {
			if x, ok := err.(*Error); ok && x.Tensor == "" {
				x.Tensor = key
			}
			return err
		}
		h.Tensors = append(h.Tensors, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for p.i < len(p.b) {
		if c := p.b[p.i]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return nil, p.fail("text after the header's closing brace")
		}
		p.i++
	}
	return h, nil
}

type parser struct {
	b []byte
	i int
	// shapes is the backing of all shapes, so that a header of 200,000 tensors
	// makes few allocations.
	shapes []int
}

func (p *parser) fail(format string, args ...any) error {
	return &Error{Offset: int64(8 + p.i), Reason: fmt.Sprintf(format, args...) + fmt.Sprintf(" (byte %d)", 8+p.i), Hint: "the header is damaged or not safetensors: fetch the file again"}
}

func (p *parser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// next consumes c after white space.
func (p *parser) next(c byte) error {
	p.space()
	if p.i >= len(p.b) {
		return p.fail("header ends where %q is due", c)
	}
	if p.b[p.i] != c {
		return p.fail("%q where %q is due", p.b[p.i], c)
	}
	p.i++
	return nil
}

// peek returns the next byte after white space, or 0.
func (p *parser) peek() byte {
	p.space()
	if p.i >= len(p.b) {
		return 0
	}
	return p.b[p.i]
}

// object parses {key: value, ...}; value is parsed by f.
func (p *parser) object(f func(key string) error) error {
	if err := p.next('{'); err != nil {
		return err
	}
	if p.peek() == '}' {
		p.i++
		return nil
	}
	for {
		p.space()
		key, err := p.str()
		if err != nil {
			return err
		}
		if err := p.next(':'); err != nil {
			return err
		}
		p.space()
		if err := f(key); err != nil {
			return err
		}
		if p.peek() == ',' {
			p.i++
			continue
		}
		return p.next('}')
	}
}

// metadata parses __metadata__, which MLX writes as null where there is none, as
// the reference implementation allows.
func (p *parser) metadata(h *Header) error {
	const null = "null"
	if p.peek() == 'n' && strings.HasPrefix(string(p.b[p.i:min(p.i+len(null), len(p.b))]), null) {
		p.i += len(null)
		return nil
	}
	seen := map[string]bool{}
	return p.object(func(key string) error {
		if seen[key] {
			return p.fail("__metadata__ has the key %q twice", key)
		}
		seen[key] = true
		if p.peek() != '"' {
			return p.fail("__metadata__ value of %q is not a string", key)
		}
		v, err := p.str()
		if err != nil {
			return err
		}
		h.Metadata = append(h.Metadata, KV{key, v})
		return nil
	})
}

func (p *parser) entry(e *Entry) error {
	const dtype, shape, offsets = 1, 2, 4
	have := 0
	once := func(bit int, name string) error {
		if have&bit != 0 {
			return p.fail("field %q appears twice", name)
		}
		have |= bit
		return nil
	}
	err := p.object(func(key string) error {
		switch key {
		case "dtype":
			if err := once(dtype, key); err != nil {
				return err
			}
			s, err := p.str()
			if err != nil {
				return err
			}
			d, ok := tensor.ParseDType(s)
			if !ok {
				return &Error{Offset: int64(8 + p.i), Reason: fmt.Sprintf("unknown dtype %q", s), Hint: "a newer version of lsrsurgeon may know it"}
			}
			e.DType = d
			return nil
		case "shape":
			if err := once(shape, key); err != nil {
				return err
			}
			from := len(p.shapes)
			wide := false // on a 32-bit machine
			if err := p.array(func(n int64) {
				wide = wide || int64(int(n)) != n
				p.shapes = append(p.shapes, int(n))
			}); err != nil {
				return err
			}
			if wide {
				return p.fail("a dimension is too large for this machine")
			}
			e.Shape = p.shapes[from:len(p.shapes):len(p.shapes)]
			return nil
		case "data_offsets":
			if err := once(offsets, key); err != nil {
				return err
			}
			k := 0
			if err := p.array(func(n int64) {
				if k == 0 {
					e.Begin = n
				} else {
					e.End = n
				}
				k++
			}); err != nil {
				return err
			}
			if k != 2 {
				return p.fail("data_offsets has %d numbers, not 2", k)
			}
			return nil
		}
		return p.fail("unknown field %q", key)
	})
	if err != nil {
		return err
	}
	if have != dtype|shape|offsets {
		return p.fail("dtype, shape or data_offsets is missing")
	}
	n, err := tensor.ByteSize(e.DType, e.Shape)
	if err != nil {
		return &Error{Offset: int64(8 + p.i), Reason: err.Error()}
	}
	if e.End < e.Begin || e.End-e.Begin != n {
		return &Error{Offset: int64(8 + p.i), Reason: fmt.Sprintf("data_offsets [%d, %d] do not fit %v %v, which takes %d bytes", e.Begin, e.End, e.DType, e.Shape, n), Hint: "the header is damaged: fetch the file again"}
	}
	return nil
}

// array parses [n, n, ...] of non-negative integers.
func (p *parser) array(f func(int64)) error {
	if err := p.next('['); err != nil {
		return err
	}
	if p.peek() == ']' {
		p.i++
		return nil
	}
	for {
		n, err := p.number()
		if err != nil {
			return err
		}
		f(n)
		if p.peek() == ',' {
			p.i++
			continue
		}
		return p.next(']')
	}
}

func (p *parser) number() (int64, error) {
	p.space()
	start, n := p.i, int64(0)
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		d := int64(p.b[p.i] - '0')
		if n > (1<<63-1-d)/10 {
			return 0, p.fail("number is too large")
		}
		n = n*10 + d
		p.i++
	}
	if p.i == start {
		return 0, p.fail("not a non-negative integer")
	}
	if p.b[start] == '0' && p.i-start > 1 {
		return 0, p.fail("number with a leading zero")
	}
	if p.i < len(p.b) && (p.b[p.i] == '.' || p.b[p.i] == 'e' || p.b[p.i] == 'E') {
		return 0, p.fail("not an integer")
	}
	return n, nil
}

// str parses a JSON string.
func (p *parser) str() (string, error) {
	if p.i >= len(p.b) || p.b[p.i] != '"' {
		return "", p.fail("a string is due")
	}
	p.i++
	start := p.i
	for p.i < len(p.b) {
		switch c := p.b[p.i]; {
		case c == '"':
			p.i++
			return string(p.b[start : p.i-1]), nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.fail("control character in a string")
		}
		p.i++
	}
	return "", p.fail("string without end")
}

// escaped goes on with a string that has escapes; start is its first byte.
func (p *parser) escaped(start int) (string, error) {
	out := append([]byte(nil), p.b[start:p.i]...)
	for p.i < len(p.b) {
		c := p.b[p.i]
		p.i++
		switch {
		case c == '"':
			return string(out), nil
		case c < 0x20:
			return "", p.fail("control character in a string")
		case c != '\\':
			out = append(out, c)
			continue
		}
		if p.i >= len(p.b) {
			break
		}
		c = p.b[p.i]
		p.i++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", p.fail("unknown escape \\%c", c)
		}
	}
	return "", p.fail("string without end")
}

// unicode parses the digits after \u, and the second half of a surrogate pair.
func (p *parser) unicode() (rune, error) {
	r, err := p.hex4()
	if err != nil {
		return 0, err
	}
	if r < 0xd800 || r > 0xdfff {
		return r, nil
	}
	if r > 0xdbff || p.i+2 > len(p.b) || p.b[p.i] != '\\' || p.b[p.i+1] != 'u' {
		return 0, p.fail("lone surrogate in a string")
	}
	p.i += 2
	lo, err := p.hex4()
	if err != nil {
		return 0, err
	}
	if lo < 0xdc00 || lo > 0xdfff {
		return 0, p.fail("lone surrogate in a string")
	}
	return 0x10000 + (r-0xd800)<<10 + (lo - 0xdc00), nil
}

func (p *parser) hex4() (rune, error) {
	if p.i+4 > len(p.b) {
		return 0, p.fail("short \\u escape")
	}
	var r rune
	for _, c := range p.b[p.i : p.i+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, p.fail("bad digit in a \\u escape")
		}
	}
	p.i += 4
	return r, nil
}
